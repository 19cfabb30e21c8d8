package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// recordingResult describes a recording that was opened.
type recordingResult struct {
	ID string `json:"id"`
	metadata
	Size      int64     `json:"size"` // of the whole plaintext, in bytes
	CreatedAt time.Time `json:"created_at"`
	File      string    `json:"file"`
	Range     string    `json:"range,omitempty"` // of bytes that were written, the first and the last
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

--range writes a part: "0-1023" the first 1,024 bytes, "1024-" all from there,
"-1024" the last 1,024. Only the segments of 64 KiB that hold it are fetched.

Role: none.`,
		Example: `  recvault get --grant-file grant --out visit.webm "$id"
  recvault get --grant-file grant --out first-mebibyte --range 0-1048575 "$id"
  RECVAULT_GRANT=$(cat grant) recvault get --out - "$id" | ffprobe -`,
		Args: oneArg("a recording's ID"),
	}
	var (
		grant grantFlag
		out   string
		force bool
		part  byteRange
	)
	grant.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`file` to write, - for standard output; required")
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if it exists")
	cmd.Flags().StringVar(&part.text, "range", "", "write only the `bytes` FIRST-LAST, counted from 0")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if err := part.parse(); err != nil {
			return err
		}
		id, err := vault.ParseID(args[0])
		if err != nil {
			return err
		}
		if err := c.checkOut(cmd, out, "--out FILE", "a recording"); err != nil {
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
		if out == dash {
			_, err := c.copyRecording(ctx, v, g, id, &part, c.stdout)
			return err
		}
		file, err := createPartial(out, force) // before the grant is used
		if err != nil {
			return offerForce(err)
		}
		defer file.discard()
		info, err := c.copyRecording(ctx, v, g, id, &part, file)
		if err != nil {
			return err
		}
		if err := file.commit(); err != nil {
			return offerForce(err)
		}
		return c.print(recordingResult{id.String(), metadataOf(info.Metadata), info.Size, info.CreatedAt, out, part.of(info.Size)})
	}
	return cmd
}

// offerForce names --force if a file exists.
func offerForce(err error) error {
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%w; --force overwrites it", err)
	}
	return err
}

// copyRecording writes a range of a recording's plaintext. It returns no error only if all of it was authenticated and
// written.
func (c *cli) copyRecording(ctx context.Context, v *vault.Vault, g keys.Grant, id vault.ID, part *byteRange, w io.Writer) (vault.Info, error) {
	recording, err := v.Open(ctx, g, id)
	if err != nil {
		return vault.Info{}, err
	}
	defer recording.Close()
	first, n, err := part.in(recording.Size())
	if err != nil {
		return vault.Info{}, err
	}
	p := c.startProgress("get")
	defer p.end()
	if part.text == "" {
		_, err = recording.WriteTo(p.writer(w, n))
	} else if _, err = recording.Seek(first, io.SeekStart); err == nil {
		_, err = io.CopyN(p.writer(w, n), recording, n)
	}
	if err != nil {
		return vault.Info{}, err
	}
	return recording.Info(), nil
}

// byteRange is a range of bytes as HTTP writes it, or everything.
type byteRange struct {
	text        string
	first, last int64 // -1 if it is left out
}

func (r *byteRange) parse() error {
	if r.text == "" {
		return nil
	}
	first, last, _ := strings.Cut(r.text, "-")
	number := func(text string) (n int64, ok bool) {
		if text == "" {
			return -1, true
		}
		parsed, err := strconv.ParseUint(text, 10, 63)
		return int64(parsed), err == nil
	}
	var ok1, ok2 bool
	r.first, ok1 = number(first)
	r.last, ok2 = number(last)
	if !ok1 || !ok2 || !strings.Contains(r.text, "-") || r.first < 0 && r.last < 1 || r.last >= 0 && r.first > r.last {
		return usagef("--range must be FIRST-LAST, FIRST- or -COUNT, such as 0-1023")
	}
	return nil
}

// in returns where the range begins in a recording of this size, and how many bytes it has.
func (r *byteRange) in(size int64) (first, n int64, err error) {
	switch {
	case r.text == "":
		return 0, size, nil
	case r.first < 0:
		first = max(0, size-r.last)
		return first, size - first, nil
	case r.first >= size:
		return 0, 0, usagef("the recording has %d bytes, and --range begins behind them", size)
	case r.last < 0:
		return r.first, size - r.first, nil
	}
	return r.first, min(r.last, size-1) - r.first + 1, nil
}

// of returns the first and the last byte of the range, or "" for everything.
func (r *byteRange) of(size int64) string {
	first, n, err := r.in(size)
	if r.text == "" || err != nil || n == 0 {
		return ""
	}
	return fmt.Sprintf("%d-%d", first, first+n-1)
}

func (r recordingResult) writeText(w io.Writer) {
	table(w, [][]string{
		{"file", r.File},
		{"range", cmp.Or(r.Range, "everything")},
		{"size", humanBytes(r.Size)},
		{"type", orDash(r.ContentType)},
		{"title", orDash(printable(r.Title))},
		{"recorded", humanTime(r.RecordedAt)},
	})
}
