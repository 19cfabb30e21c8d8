package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// formatVersion is the version of the recording format that this command knows.
const formatVersion = envelope.Version

// inspectResult is a recording as it is stored, and what was checked of it. What could not be read of a damaged or
// unsupported envelope is empty.
type inspectResult struct {
	FormatVersion int              `json:"format_version"`
	ID            keys.RecordingID `json:"id"`
	KeyID         keys.KeyID       `json:"key_id"`
	Binding       string           `json:"binding"`     // the context under which the key is wrapped, as in Vault's audit log
	Keyring       string           `json:"keyring"`     // the kind of keyring that wrapped the key, such as vault
	KeyVersion    int              `json:"key_version"` // of the envelope key, by the label
	WrappedKey    keys.WrappedKey  `json:"wrapped_key"`

	MetadataBinding    string          `json:"metadata_binding"`
	MetadataKeyring    string          `json:"metadata_keyring"`
	MetadataKeyVersion int             `json:"metadata_key_version"`
	WrappedMetadataKey keys.WrappedKey `json:"wrapped_metadata_key"`

	Commitment   string    `json:"commitment"`           // hex
	MetadataSize int       `json:"metadata_size"`        // sealed, in bytes
	EnvelopeSize int       `json:"envelope_size"`        // in bytes
	Written      time.Time `json:"written,omitzero"`     // of an envelope in the store
	MediaSize    *int64    `json:"media_size,omitempty"` // of the ciphertext, in bytes
	MediaMissing bool      `json:"media_missing,omitempty"`

	// What a size of the media implies. They are left out if no media has that size.
	PlaintextSize *int64 `json:"plaintext_size,omitempty"` // in bytes
	Segments      int64  `json:"segments,omitempty"`       // of 64 KiB

	Sealed *sealedResult     `json:"sealed,omitempty"` // once it is authenticated
	Fields []inspectedField  `json:"fields"`           // what each field shows
	Checks []*inspectedCheck `json:"checks"`           // in the order of docs/format.md, section 9
	Limits []string          `json:"limits"`           // what no check shows
}

// sealedResult is what the sealed metadata says of the media, and which of its fields are there. What a person wrote
// is left to stat, because this result is for reports.
type sealedResult struct {
	Fields      []string  `json:"fields"`
	Unknown     []string  `json:"unknown,omitempty"` // of a newer release
	CreatedAt   time.Time `json:"created_at"`
	MediaSize   int64     `json:"media_size"`
	MediaHeader string    `json:"media_header"` // hex
	Revision    int64     `json:"revision"`
	Truncated   bool      `json:"truncated"`
}

func (c *cli) inspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect FILE|ID|-",
		Short:   "Explain a recording: every field, and with a grant every check",
		GroupID: groupChecks,
		Long: `Explain one recording to an auditor: every field of its envelope, what it shows
and what it does not, both wrapped keys, and the sizes of both objects. It is read
from the store by the recording's ID; an envelope alone also from a file or from
standard input. A damaged or unsupported one is explained as far as possible.

Without a grant, nothing that is shown is secret, and none of it is
authenticated. With a grant, each check that a reader must make is listed, in the
order of docs/format.md, section 9, with its outcome: passed, failed with the
class of the failure, or not made, and why. Both wrapped keys are unwrapped, which
takes two uses of the grant. A grant that can only describe cannot unwrap the
recording key, so the media's segments are not checked.

Of the media, the header and the first and last segment are read, and with
--all-segments everything. Title, attributes and times are named and not shown:
stat shows them.

The exit code is that of the first check that failed: 7 for damage, 9 for what a
newer release is needed for, 3 for a grant that does not fit. Checks that were not
made do not change it.

Role: none. VAULT_TOKEN is ignored, and without a grant Vault is not used.`,
		Example: `  recvault inspect "$id"
  recvault inspect --grant-file grant --all-segments --output json "$id"
  mc cat minio/consultations/recordings/.../envelope | recvault inspect -`,
		Args: oneArg("a file, an ID or -"),
	}
	var grant grantFlag
	var all bool
	grant.add(cmd)
	cmd.Flags().BoolVar(&all, "all-segments", false, "read all of the media, and authenticate every segment")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, parseErr := vault.ParseID(args[0])
		i := &inspection{all: all}
		switch {
		case all && !grant.given(c):
			return usagef("--all-segments needs a grant: --grant-file or RECVAULT_GRANT")
		case all && parseErr != nil:
			return usagef("--all-segments needs a recording in the store, by its ID")
		case grant.given(c):
			var err error
			if i.grant, err = grant.read(ctx, c); err != nil {
				return err
			}
			if i.keyring, err = c.openGrantKeyring(); err != nil {
				return err
			}
		}
		if parseErr == nil {
			return c.inspectStored(ctx, id, i)
		}
		return c.inspectFile(ctx, args[0], i)
	}
	return cmd
}

// inspectFile explains an envelope in a file, or on standard input.
func (c *cli) inspectFile(ctx context.Context, path string, i *inspection) error {
	in, err := c.openInput(ctx, path, "envelope", "FILE")
	if err != nil {
		return fmt.Errorf("read the envelope: %w", err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, envelope.MaxSize+1))
	if err != nil {
		return fmt.Errorf("read the envelope: %w", err)
	}
	i.text = text
	return c.explain(ctx, i)
}

// inspectStored explains a recording in the store.
func (c *cli) inspectStored(ctx context.Context, id vault.ID, i *inspection) error {
	o, err := c.openObjects()
	if err != nil {
		return err
	}
	text, info, err := o.EnvelopeText(ctx, id)
	found, findErr := o.Find(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound) && findErr == nil && found.Media != nil:
		return fmt.Errorf("%w: there is media without an envelope, which is no recording (yet)", vault.ErrNotFound)
	case errors.Is(err, storage.ErrNotFound):
		return vault.ErrNotFound
	case err != nil || findErr != nil:
		return cmp.Or(err, findErr)
	case found.Envelope == nil:
		return vault.ErrNotFound // deleted in between
	}
	i.objects, i.id, i.text, i.stored, i.media = o, id, text, &info, found.Media
	return c.explain(ctx, i)
}

// explain makes the checks and prints what was found, and returns the error of the first check that failed.
func (c *cli) explain(ctx context.Context, i *inspection) error {
	if i.all && i.media != nil {
		i.progress = c.startProgress("inspect")
	}
	err := i.run(ctx)
	if i.progress != nil {
		i.progress.end()
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(c.print(i.result()), err)
}

// result describes what was found.
func (i *inspection) result() inspectResult {
	r := inspectResult{
		EnvelopeSize: len(i.text), Fields: inspectedFields, Checks: i.checks, Limits: inspectionLimits,
		FormatVersion: i.version, Sealed: sealedOf(i.metadata),
	}
	id := i.envelope.ID
	r.ID, r.KeyID = id, id.KeyID()
	if !id.IsZero() {
		r.Binding, r.MetadataBinding = id.Binding().String(), id.MetadataBinding().String()
	}
	r.WrappedKey, r.WrappedMetadataKey = i.envelope.WrappedKey, i.envelope.WrappedMetadataKey
	r.Keyring, r.KeyVersion, _, _ = r.WrappedKey.Parse() // empty if it is damaged
	r.MetadataKeyring, r.MetadataKeyVersion, _, _ = r.WrappedMetadataKey.Parse()
	if r.MetadataSize = len(i.envelope.Sealed); r.MetadataSize > 0 {
		r.Commitment = hex.EncodeToString(i.envelope.Commitment[:])
	}
	if i.stored != nil {
		r.Written, r.MediaMissing = i.stored.Modified, i.media == nil
	}
	if i.media != nil {
		r.MediaSize = &i.media.Size
		if size, err := segment.PlaintextSize(i.media.Size); err == nil && i.version == envelope.Version {
			r.PlaintextSize, r.Segments = &size, segment.Count(size)
		}
	}
	return r
}

func sealedOf(m *envelope.Metadata) *sealedResult {
	if m == nil {
		return nil
	}
	s := &sealedResult{
		Fields: []string{}, Unknown: m.Unknown(), CreatedAt: m.CreatedAt, MediaSize: m.MediaSize,
		MediaHeader: hex.EncodeToString(m.MediaHeader[:]), Revision: m.Revision, Truncated: m.Truncated,
	}
	for _, field := range []struct {
		name    string
		present bool
	}{
		{"content_type", m.ContentType != ""},
		{"title", m.Title != ""},
		{"recorded_at", !m.RecordedAt.IsZero()},
		{"duration_ms", m.Duration != 0},
		{"attributes", len(m.Attributes) > 0},
		{"truncated", m.Truncated},
		{"created_at", true},
		{"media_size", true},
		{"media_header", true},
		{"revision", true},
	} {
		if field.present {
			s.Fields = append(s.Fields, field.name)
		}
	}
	return s
}

// readable returns what can be read of an envelope that is not canonical, field by field.
func readable(text []byte) envelope.Envelope {
	var e envelope.Envelope
	var fields map[string]json.RawMessage
	// A decoder reads the first value, and leaves what follows.
	if json.NewDecoder(bytes.NewReader(text)).Decode(&fields) != nil {
		return e
	}
	_ = json.Unmarshal(fields["id"], &e.ID) // what has an error stays empty
	for name, wrapped := range map[string]*keys.WrappedKey{"wrapped_key": &e.WrappedKey, "wrapped_metadata_key": &e.WrappedMetadataKey} {
		var value keys.WrappedKey
		if json.Unmarshal(fields[name], &value) == nil {
			if _, err := value.Version(); err == nil {
				*wrapped = value
			}
		}
	}
	var commitment []byte
	if json.Unmarshal(fields["commitment"], &commitment) == nil && len(commitment) == envelope.CommitmentSize {
		e.Commitment = [envelope.CommitmentSize]byte(commitment)
	}
	_ = json.Unmarshal(fields["metadata"], &e.Sealed)
	return e
}

func (r inspectResult) writeText(w io.Writer) {
	media := "not checked"
	if r.MediaMissing {
		media = "missing"
	} else if r.MediaSize != nil {
		media = fmt.Sprintf("%s (%d bytes)", humanBytes(*r.MediaSize), *r.MediaSize)
	}
	implied := "-"
	if r.PlaintextSize != nil {
		implied = fmt.Sprintf("%s (%d bytes), segments: %d", humanBytes(*r.PlaintextSize), *r.PlaintextSize, r.Segments)
	}
	number := func(n int) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprint(n)
	}
	table(w, [][]string{
		{"format version", number(r.FormatVersion)},
		{"ID", orDash(r.ID.String())},
		{"KeyID", orDash(r.KeyID.String())},
		{"binding", orDash(r.Binding)},
		{"wrapped by", orDash(r.Keyring)},
		{"key version", number(r.KeyVersion)},
		{"wrapped key", orDash(string(r.WrappedKey))},
		{"metadata key, binding", orDash(r.MetadataBinding)},
		{"metadata key, wrapped by", orDash(r.MetadataKeyring)},
		{"metadata key, version", number(r.MetadataKeyVersion)},
		{"wrapped metadata key", orDash(string(r.WrappedMetadataKey))},
		{"commitment", orDash(r.Commitment)},
		{"metadata, sealed", humanBytes(int64(r.MetadataSize))},
		{"envelope", humanBytes(int64(r.EnvelopeSize))},
		{"written", humanTime(r.Written)},
		{"media", media},
		{"plaintext, by the media's size", implied},
	})
	if s := r.Sealed; s != nil {
		fmt.Fprintln(w, "\nSEALED METADATA, authenticated")
		table(w, [][]string{
			{"  fields", strings.Join(s.Fields, ", ")},
			{"  unknown fields", orDash(printable(strings.Join(s.Unknown, ", ")))},
			{"  created", humanTime(s.CreatedAt)},
			{"  media size", fmt.Sprint(s.MediaSize)},
			{"  media header", s.MediaHeader},
			{"  revision", fmt.Sprint(s.Revision)},
		})
	}
	fmt.Fprintln(w, "\nWHAT EACH FIELD SHOWS")
	for _, field := range r.Fields {
		fmt.Fprintf(w, "\n  %s\n    shows:         %s\n    does not show: %s\n", field.Name, field.Shows, field.DoesNotShow)
	}
	fmt.Fprintln(w, "\nCHECKS, in the order of docs/format.md, section 9")
	fmt.Fprintln(w)
	rows := [][]string{{"  STEP", "CHECK", "OUTCOME", "DETAIL"}}
	for _, check := range r.Checks {
		outcome := check.Outcome
		if check.Class != "" {
			outcome += ": " + check.Class
		}
		rows = append(rows, []string{fmt.Sprintf("  %d", check.Step), check.Name, outcome, printable(check.Detail)})
	}
	table(w, rows)
	fmt.Fprintln(w, "\nWHAT THE CHECKS THAT PASSED SHOW")
	fmt.Fprintln(w)
	for _, check := range r.Checks {
		if check.Shows != "" {
			fmt.Fprintf(w, "  - %d, %s: %s\n", check.Step, check.Name, check.Shows)
		}
	}
	fmt.Fprintln(w, "\nWHAT NO CHECK SHOWS")
	fmt.Fprintln(w)
	for _, limit := range r.Limits {
		fmt.Fprintln(w, "  - "+limit)
	}
}
