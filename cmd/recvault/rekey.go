package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault"
)

type rekeyResult struct {
	DryRun bool   `json:"dry_run"`
	Old    string `json:"old"`
	New    string `json:"new,omitempty"` // none for a dry run
}

func (c *cli) rekey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rekey ID",
		Short:   "Encrypt a recording anew, after its key may have become known",
		GroupID: groupRotation,
		Long: `rekey encrypts a recording under a fresh recording key, and so under a new ID,
which it prints, and removes the old one: what is to be done where a recording
key may have leaked, which rotating envelope keys does not help against. Copies
of the old recording in backups still open with the old key.

Interrupted, it leaves the old recording, the new one, or both, and loses none.

Role: writer, and a grant for the patient, of which it takes two uses or more.`,
		Example: `  recvault rekey --grant-file grant "$id"`,
		Args:    oneArg("a recording's ID"),
	}
	var (
		grant  grantFlag
		dryRun = dryRunFlag(cmd)
	)
	grant.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := vault.ParseID(args[0])
		if err != nil {
			return err
		}
		g, err := grant.read(ctx, c)
		if err != nil {
			return err
		}
		k, err := c.openKeyring(ctx)
		if err != nil {
			return err
		}
		v, err := c.openVault(k)
		if err != nil {
			return err
		}
		result := rekeyResult{DryRun: *dryRun, Old: id.String()}
		if *dryRun {
			if _, err := v.Stat(ctx, g, id); err != nil {
				return err
			}
			return c.print(result)
		}
		renewed, err := v.Rekey(ctx, g, id)
		result.New = renewed.String()
		if result.New == "" {
			return err
		}
		// With an error too, the new one exists: whoever keeps IDs must know of it.
		return errors.Join(err, c.printDone(result, "the recording was encrypted anew, with the ID "+result.New))
	}
	return cmd
}

func (r rekeyResult) writeText(w io.Writer) {
	if r.DryRun {
		fmt.Fprintln(w, "would encrypt anew and remove", r.Old)
		return
	}
	fmt.Fprintln(w, r.New)
}
