package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// recordingResult describes a recording that was opened.
type recordingResult struct {
	ID string `json:"id"`
	metadata
	Size      int64     `json:"size"` // of the plaintext, in bytes
	CreatedAt time.Time `json:"created_at"`
	File      string    `json:"file"`
}

func (c *cli) get() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID --out FILE",
		Short:   "Decrypt a recording with a grant",
		GroupID: groupRecordings,
		Long: `Decrypt a recording with a grant for its patient, and write it to a file. The
grant is the only right in use: VAULT_TOKEN is ignored.

The file appears only after every byte was authenticated, and only its owner can
read it. After an error there is no file. An existing file is replaced only with
--force. If get is killed, a part of the recording may stay in a file
.recvault-* beside it.

With --out -, the recording goes to standard output while it is decrypted. Every
byte is authenticated before it is written, but only exit code 0 shows that the
recording is complete.

Role: none.`,
		Example: `  recvault get --grant-file grant --out visit.webm "$id"
  RECVAULT_GRANT=$(cat grant) recvault get --out - "$id" | ffprobe -`,
		Args: oneArg("a recording's ID"),
	}
	var (
		grant grantFlag
		out   string
		force bool
	)
	grant.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`file` to write, - for standard output; required")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := vault.ParseID(args[0])
		if err != nil {
			return err
		}
		switch {
		case out == "":
			return usagef("no output: set --out FILE, or --out - for standard output")
		case out == dash && isTerminal(c.stdout):
			return usagef("get does not write a recording to a terminal: redirect standard output")
		case out == dash && c.output == outputJSON:
			return usagef("--out - and --output json both write to standard output: use only one of the two")
		}
		g, err := grant.read(ctx, c)
		if err != nil {
			return err
		}
		v, err := c.openGrantVault()
		if err != nil {
			return err
		}
		if out == dash {
			_, err := c.copyRecording(ctx, v, g, id, c.stdout)
			return err
		}
		file, err := createPartial(out, force) // before the grant is used
		if err != nil {
			return err
		}
		defer file.discard()
		info, err := c.copyRecording(ctx, v, g, id, file)
		if err != nil {
			return err
		}
		if err := file.commit(); err != nil {
			return err
		}
		return c.print(recordingResult{id.String(), metadataOf(info.Metadata), info.Size, info.CreatedAt, out})
	}
	return cmd
}

// copyRecording writes a recording's plaintext. It returns no error only if all of it was authenticated and written.
func (c *cli) copyRecording(ctx context.Context, v *vault.Vault, g keys.Grant, id vault.ID, w io.Writer) (vault.Info, error) {
	recording, err := v.Open(ctx, g, id)
	if err != nil {
		return vault.Info{}, err
	}
	defer recording.Close()
	p := c.startProgress("get")
	defer p.end()
	if _, err := recording.WriteTo(p.writer(w, recording.Info().Size)); err != nil {
		return vault.Info{}, err
	}
	return recording.Info(), nil
}

func (r recordingResult) writeText(w io.Writer) {
	table(w, [][]string{
		{"file", r.File},
		{"size", humanBytes(r.Size)},
		{"type", orDash(r.ContentType)},
		{"title", orDash(printable(r.Title))},
		{"recorded", humanTime(r.RecordedAt)},
	})
}
