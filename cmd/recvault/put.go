package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// metadata is a recording's metadata in JSON, as read from --metadata-file and as printed.
type metadata struct {
	ContentType string            `json:"content_type,omitempty"`
	Title       string            `json:"title,omitempty"`
	RecordedAt  time.Time         `json:"recorded_at,omitzero"`
	Duration    duration          `json:"duration,omitzero"`
	Truncated   bool              `json:"truncated,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
}

func metadataOf(m vault.Metadata) metadata {
	return metadata{m.ContentType, m.Title, m.RecordedAt, duration(m.Duration), m.Truncated, m.Attributes}
}

func (m metadata) ofVault() vault.Metadata {
	return vault.Metadata{
		ContentType: m.ContentType, Title: m.Title, RecordedAt: m.RecordedAt,
		Duration: time.Duration(m.Duration), Truncated: m.Truncated, Attributes: m.Attributes,
	}
}

// over returns m with the fields of below where m has none.
func (m metadata) over(below metadata) metadata {
	return metadata{
		cmp.Or(m.ContentType, below.ContentType), cmp.Or(m.Title, below.Title), cmp.Or(m.RecordedAt, below.RecordedAt),
		cmp.Or(m.Duration, below.Duration), m.Truncated || below.Truncated, mergeAttributes(below.Attributes, m.Attributes),
	}
}

// equal reports whether both have the same fields.
func (m metadata) equal(other metadata) bool {
	return m.ContentType == other.ContentType && m.Title == other.Title && m.RecordedAt.Equal(other.RecordedAt) &&
		m.Duration == other.Duration && m.Truncated == other.Truncated && maps.Equal(m.Attributes, other.Attributes)
}

// mergeAttributes returns the attributes of both. The second takes precedence.
func mergeAttributes(below, above map[string]string) map[string]string {
	merged := map[string]string{}
	maps.Copy(merged, below)
	maps.Copy(merged, above)
	return merged
}

// duration is a time.Duration whose JSON is text such as "40m0s".
type duration time.Duration

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

type putResult struct {
	DryRun      bool       `json:"dry_run"`
	ID          string     `json:"id,omitempty"` // empty for a dry run
	KeyID       keys.KeyID `json:"key_id"`
	ContentType string     `json:"content_type,omitempty"`
}

func (c *cli) put() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "put FILE",
		Short:   "Encrypt and store a recording",
		GroupID: groupRecordings,
		Long: `Encrypt a recording for one patient, store it, and print its ID. FILE is a file,
or - for standard input.

The recording exists if the exit code is 0. Otherwise nothing was stored, with
two exceptions: after the error code "uncertain" the recording may exist, and
after "not_printed" it does. Both errors name its ID. An interrupted put stores
nothing.

The metadata is encrypted as well. Every user of the machine can see a title in
a flag while the command runs, so use --metadata-file instead: a JSON object
with any of content_type, title, recorded_at (RFC 3339), duration ("40m"),
truncated (true if the capture broke off) and attributes (an object of strings).
Flags take precedence over the file. By default, the content type follows from
the file's extension.

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
	cmd.Flags().StringVar(&flags.Title, "title", "", "`title`; other users of the machine can see it while put runs")
	cmd.Flags().StringVar(&recordedAt, "recorded-at", "", "`time` of the consultation (RFC 3339)")
	cmd.Flags().DurationVar(&length, "duration", 0, "length of the consultation, such as 40m")
	cmd.Flags().StringToStringVar(&flags.Attributes, "attribute", nil, "attribute of the application, as `name=value`; can be repeated")
	cmd.Flags().Int64Var(&size, "size", -1, "size of standard input in `bytes`; required above about 150 GiB")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if recordedAt != "" {
			var err error
			if flags.RecordedAt, err = time.Parse(time.RFC3339, recordedAt); err != nil {
				return usagef("--recorded-at must be a time such as 2026-03-01T10:30:00Z")
			}
		}
		flags.Duration = duration(length)
		described, err := c.metadataFor(ctx, metadataFile, flags, args[0])
		if err != nil {
			return err
		}
		who, err := patient.read(ctx, c)
		if err != nil {
			return err
		}
		k, err := c.openKeyring(ctx, "writer")
		if err != nil {
			return err
		}
		keyID, err := k.KeyID(ctx, who)
		if err != nil {
			return err
		}
		result := putResult{DryRun: *dryRun, KeyID: keyID, ContentType: described.ContentType}
		if *dryRun {
			// fails unless the patient is enrolled
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

// checkPut checks, for a dry run, that the file exists and the metadata is valid.
func checkPut(path string, m vault.Metadata) error {
	if path != dash {
		if _, err := statInput(path, "FILE"); err != nil {
			return fmt.Errorf("read the recording: %w", err)
		}
	}
	return m.Validate()
}

// metadataFor returns the metadata in the file and the flags. Flags take precedence.
func (c *cli) metadataFor(ctx context.Context, metadataFile string, flags metadata, path string) (vault.Metadata, error) {
	var file metadata
	if metadataFile != "" {
		var err error
		if file, err = c.readMetadata(ctx, metadataFile); err != nil {
			return vault.Metadata{}, err
		}
	}
	return flags.over(file).over(metadata{ContentType: contentType(path)}).ofVault(), nil
}

// readMetadata reads a file with metadata.
func (c *cli) readMetadata(ctx context.Context, metadataFile string) (m metadata, err error) {
	text, err := c.readSmallFile(ctx, metadataFile, "metadata", "--metadata-file")
	if err != nil {
		return metadata{}, fmt.Errorf("read the metadata: %w", err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return metadata{}, usagef("--metadata-file must be a JSON object of content_type, title, recorded_at, duration, truncated and attributes")
	}
	return m, nil
}

// contentType returns the media type for a file's extension. The types of recordings do not depend on the machine's
// own table.
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

// putFile stores a file, or standard input, as a recording.
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

// openVault opens a vault with a keyring and the store.
func (c *cli) openVault(k vault.Keyring) (*vault.Vault, error) {
	store, err := c.openStore()
	if err != nil {
		return nil, err
	}
	stream, err := c.stream()
	if err != nil {
		return nil, err
	}
	options := []vault.Option{vault.WithEvents(stream)}
	if prefix := c.prefix(); prefix != "" {
		options = append(options, vault.WithPrefix(prefix))
	}
	v, err := vault.New(k, store, options...)
	if err != nil {
		return nil, usagef("RECVAULT_PREFIX or --prefix: %v", err)
	}
	c.closers = append(c.closers, v.Close)
	return v, nil
}

func (r putResult) writeText(w io.Writer) {
	if r.DryRun {
		fmt.Fprintf(w, "would put a recording of type %s for %s\n", orDash(r.ContentType), r.KeyID)
		return
	}
	fmt.Fprintln(w, r.ID)
}
