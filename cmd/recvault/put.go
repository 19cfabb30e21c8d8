package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// metadata is how a recording is described in JSON, in what is read and in what is printed.
type metadata struct {
	ContentType string            `json:"content_type,omitempty"`
	Title       string            `json:"title,omitempty"`
	RecordedAt  time.Time         `json:"recorded_at,omitzero"`
	Duration    duration          `json:"duration,omitzero"`
	Attributes  map[string]string `json:"attributes,omitempty"`
}

func metadataOf(m vault.Metadata) metadata {
	return metadata{m.ContentType, m.Title, m.RecordedAt, duration(m.Duration), m.Attributes}
}

func (m metadata) ofVault() vault.Metadata {
	return vault.Metadata{
		ContentType: m.ContentType, Title: m.Title, RecordedAt: m.RecordedAt,
		Duration: time.Duration(m.Duration), Attributes: m.Attributes,
	}
}

// duration is written as Go writes it: "40m0s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

type putResult struct {
	DryRun      bool       `json:"dry_run"`
	ID          string     `json:"id,omitempty"` // none for a dry run
	KeyID       keys.KeyID `json:"key_id"`
	ContentType string     `json:"content_type,omitempty"`
}

func (c *cli) put() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "put FILE",
		Short:   "Encrypt and store a recording",
		GroupID: groupRecordings,
		Long: `put encrypts a recording for one patient, stores it, and prints its ID. FILE is
a file, or - for standard input. The recording exists when the command has
ended with code 0; otherwise nothing was stored, save after the codes
"uncertain" and "not_printed", whose errors tell the ID.
Interrupted, it stores nothing.

The metadata are sealed in the recording. A title given as a flag is visible to
every user of the machine while the command runs; --metadata-file avoids that.
It is a JSON object with any of content_type, title, recorded_at (RFC 3339),
duration ("40m") and attributes (an object of strings). Flags go before it. The
content type is that of the file's extension unless it is given.

Role: writer.`,
		Example: `  recvault put --patient-file patient consultation.webm
  ffmpeg ... -f webm - | recvault put --patient-file patient --content-type video/webm -
  recvault put --patient-file patient --metadata-file about.json --recorded-at 2026-03-01T10:30:00Z visit.mp4`,
		Args: oneArg("a file or -"),
	}
	var (
		patient      patientFlag
		dryRun       = dryRunFlag(cmd)
		metadataFile string
		flags        metadata
		recordedAt   string
		size         int64
		length       time.Duration
	)
	patient.add(cmd)
	cmd.Flags().StringVar(&metadataFile, "metadata-file", "", "JSON `file` with the metadata")
	cmd.Flags().StringVar(&flags.ContentType, "content-type", "", "media `type`, such as video/webm")
	cmd.Flags().StringVar(&flags.Title, "title", "", "`title`; visible to other users of the machine while it runs")
	cmd.Flags().StringVar(&recordedAt, "recorded-at", "", "`time` of the consultation (RFC 3339)")
	cmd.Flags().DurationVar(&length, "duration", 0, "how long it took, such as 40m")
	cmd.Flags().StringToStringVar(&flags.Attributes, "attribute", nil, "`name=value` of the application's own; can be repeated")
	cmd.Flags().Int64Var(&size, "size", -1, "`bytes` that standard input will yield; needed for more than about 150 GiB")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if recordedAt != "" {
			var err error
			if flags.RecordedAt, err = time.Parse(time.RFC3339, recordedAt); err != nil {
				return usagef("--recorded-at is not a time such as 2026-03-01T10:30:00Z")
			}
		}
		flags.Duration = duration(length)
		described, err := c.describe(ctx, metadataFile, flags, args[0])
		if err != nil {
			return err
		}
		who, err := patient.read(ctx, c)
		if err != nil {
			return err
		}
		k, err := c.openKeyring(ctx)
		if err != nil {
			return err
		}
		keyID, err := k.KeyID(ctx, who)
		if err != nil {
			return err
		}
		result := putResult{DryRun: *dryRun, KeyID: keyID, ContentType: described.ContentType}
		if *dryRun {
			// A writer may see whether the patient is enrolled.
			if _, err := k.Versions(ctx, keyID); err != nil {
				return err
			}
			if err := checkPut(args[0], described); err != nil {
				return err
			}
			return c.print(result)
		}
		v, err := c.openVault(k)
		if err != nil {
			return err
		}
		id, err := c.putFile(ctx, v, who, args[0], size, described)
		if err != nil {
			return err
		}
		result.ID = id.String()
		return c.printDone(result, "the recording is stored, with the ID "+result.ID)
	}
	return cmd
}

// checkPut checks, for a dry run, that there is a file and that its metadata would be accepted.
func checkPut(path string, m vault.Metadata) error {
	if path != dash {
		if _, err := statInput(path, "FILE"); err != nil {
			return fmt.Errorf("read the recording: %w", err)
		}
	}
	return m.Validate()
}

// describe puts the metadata together.
func (c *cli) describe(ctx context.Context, metadataFile string, flags metadata, path string) (vault.Metadata, error) {
	var m metadata
	if metadataFile != "" {
		text, err := c.readSmallFile(ctx, metadataFile, "metadata", "--metadata-file")
		if err != nil {
			return vault.Metadata{}, fmt.Errorf("read the metadata: %w", err)
		}
		decoder := json.NewDecoder(strings.NewReader(string(text)))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&m); err != nil {
			return vault.Metadata{}, usagef("--metadata-file is not a JSON object of content_type, title, recorded_at, duration and attributes")
		}
	}
	if flags.ContentType != "" {
		m.ContentType = flags.ContentType
	}
	if flags.Title != "" {
		m.Title = flags.Title
	}
	if !flags.RecordedAt.IsZero() {
		m.RecordedAt = flags.RecordedAt
	}
	if flags.Duration != 0 {
		m.Duration = flags.Duration
	}
	for name, value := range flags.Attributes {
		if m.Attributes == nil {
			m.Attributes = map[string]string{}
		}
		m.Attributes[name] = value
	}
	if m.ContentType == "" {
		m.ContentType = contentType(path)
	}
	return m.ofVault(), nil
}

// contentType tells a file's media type by its extension. Those of recordings are known whatever the
// machine's own table says.
func contentType(path string) string {
	switch extension := strings.ToLower(filepath.Ext(path)); extension {
	case ".webm":
		return "video/webm"
	case ".mp4", ".m4v":
		return "video/mp4"
	case ".mov":
		return "video/quicktime"
	case ".mkv":
		return "video/x-matroska"
	case ".m4a":
		return "audio/mp4"
	case ".mp3":
		return "audio/mpeg"
	case ".ogg", ".opus":
		return "audio/ogg"
	case ".wav":
		return "audio/wav"
	default:
		return mime.TypeByExtension(extension)
	}
}

func (c *cli) putFile(ctx context.Context, v *vault.Vault, who keys.Patient, path string, size int64, m vault.Metadata) (vault.ID, error) {
	in, err := c.openInput(ctx, path, "recording", "FILE")
	if err != nil {
		return vault.ID{}, fmt.Errorf("read the recording: %w", err)
	}
	defer in.Close()
	if in.size >= 0 {
		size = in.size
	}
	p := c.startProgress("put")
	defer p.end()
	return v.Put(ctx, who, p.reader(in, size), m, vault.WithSize(size))
}

// openVault joins a keyring and the store.
func (c *cli) openVault(k vault.Keyring) (*vault.Vault, error) {
	store, err := c.openStore()
	if err != nil {
		return nil, err
	}
	// What is refused or damaged is the command's own error, so it is not logged as well.
	options := []vault.Option{vault.WithLogger(slog.New(slog.DiscardHandler))}
	if prefix := c.prefix(); prefix != "" {
		options = append(options, vault.WithPrefix(prefix))
	}
	v, err := vault.New(k, store, options...)
	if err != nil {
		return nil, usagef("RECVAULT_PREFIX or --prefix: %v", err)
	}
	c.opened = append(c.opened, v.Close)
	return v, nil
}

func (r putResult) writeText(w io.Writer) {
	if r.DryRun {
		fmt.Fprintf(w, "would put a recording of type %s for %s\n", orDash(r.ContentType), r.KeyID)
		return
	}
	fmt.Fprintln(w, r.ID)
}
