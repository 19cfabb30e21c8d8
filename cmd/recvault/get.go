package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// recordingResult is what is known of a recording to whoever may open it.
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
		Short:   "Open a recording with a grant",
		GroupID: groupRecordings,
		Long: `get decrypts a recording with a grant for its patient, and with nothing else:
in Vault it uses the grant's right and not VAULT_TOKEN. The file appears when
every byte was authenticated, readable for its owner alone, and not at all if
anything was wrong. It replaces no file without --force. If the command is
killed, part of the recording may stay beside it in a file .recvault-*.

With --out - the recording goes to standard output as it is decrypted. Each
byte was authenticated, but that the recording is whole is only told by the
exit code.`,
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
			return usagef("say where to: --out FILE, or --out - for standard output")
		case out == dash && isTerminal(c.stdout):
			return usagef("a recording is not written to a terminal: redirect standard output")
		case out == dash && c.output == outputJSON:
			return usagef("--out - and --output json both want standard output")
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
		file, err := createPartial(out, force) // before a use of the grant is taken
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

// copyRecording writes a recording's plaintext. It returns nil only if all of it was authenticated and
// written.
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
