package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault"
)

// statResult is what a grant shows of a recording without opening it.
type statResult struct {
	ID string `json:"id"`
	metadata
	Size      int64     `json:"size"` // of the plaintext, in bytes
	CreatedAt time.Time `json:"created_at"`
	Revision  int64     `json:"revision"` // how often the metadata was corrected
}

func statOf(id vault.ID, info vault.Info) statResult {
	return statResult{id.String(), metadataOf(info.Metadata), info.Size, info.CreatedAt, info.Revision}
}

func (c *cli) stat() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stat ID",
		Short:   "Show a recording's metadata",
		GroupID: groupRecordings,
		Long: `Show a recording's metadata with a grant for its patient, and change nothing.
The recording itself is not opened: a grant that can only describe is enough.
"revision" is how often the metadata was corrected. To correct it, use describe.

Role: none. VAULT_TOKEN is ignored.`,
		Example: `  recvault stat --grant-file grant "$id"
  recvault stat --grant-file grant --output json "$id" | jq -r .title`,
		Args: oneArg("a recording's ID"),
	}
	var grant grantFlag
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
		v, err := c.openGrantVault()
		if err != nil {
			return err
		}
		info, err := v.Stat(ctx, g, id)
		if err != nil {
			return err
		}
		return c.print(statOf(id, info))
	}
	return cmd
}

func (r statResult) writeText(w io.Writer) { r.writeRows(w, r.metadata) }
