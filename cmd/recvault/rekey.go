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
	New    string `json:"new,omitempty"` // empty for a dry run
}

func (c *cli) rekey() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rekey ID",
		Short:   "Encrypt a recording again, after its key may have leaked",
		GroupID: groupRotation,
		Long: `Encrypt a recording again under a fresh recording key, and remove the old one.
The recording gets a new ID, which is printed. Use rekey when a recording key
may have leaked: rotating envelope keys does not help then. Copies of the old
recording, for example in backups, still open with the old key.

An interrupted rekey leaves the old recording, the new one, or both. It never
loses the recording.

Role: writer, and a grant for the patient. It takes two or more uses of the
grant.`,
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
		k, err := c.openKeyring(ctx, "writer, and a grant for the patient")
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
		// Even with an error, the new recording exists. The caller must learn its ID.
		return errors.Join(err, c.printDone(result, "the recording was encrypted again, with the new ID "+result.New))
	}
	return cmd
}

func (r rekeyResult) writeText(w io.Writer) {
	if r.DryRun {
		fmt.Fprintln(w, "would encrypt again under a new ID, and remove", r.Old)
		return
	}
	fmt.Fprintln(w, r.New)
}
