package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// formatVersion is the version of the recording format that this command knows.
const formatVersion = envelope.Version

// inspectResult is what an envelope shows without a key.
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
}

func (c *cli) inspect() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect FILE|ID|-",
		Short:   "Show the contents of an envelope, without any key",
		GroupID: groupChecks,
		Long: `Show the contents of an envelope: from a file, from standard input, or from the
store by the recording's ID. Nothing that is shown is secret, and without the
key none of it is authenticated.

The exit code is 7 if the envelope is not in canonical form. For an envelope in
the store, it is also 7 if the envelope belongs to another recording or if the
media is missing.

Role: none. inspect does not use Vault.`,
		Example: `  recvault inspect "$id"
  mc cat minio/consultations/recordings/.../envelope | recvault inspect -`,
		Args: oneArg("a file, an ID or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if id, err := vault.ParseID(args[0]); err == nil {
				return c.inspectStored(cmd.Context(), id)
			}
			return c.inspectFile(cmd.Context(), args[0])
		},
	}
}

// inspectFile shows an envelope in a file, or on standard input.
func (c *cli) inspectFile(ctx context.Context, path string) error {
	in, err := c.openInput(ctx, path, "envelope", "FILE")
	if err != nil {
		return fmt.Errorf("read the envelope: %w", err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, envelope.MaxSize+1))
	if err != nil {
		return fmt.Errorf("read the envelope: %w", err)
	}
	parsed, err := envelope.Parse(text)
	if err != nil {
		return err
	}
	return c.print(inspectEnvelope(parsed))
}

func inspectEnvelope(e envelope.Envelope) inspectResult {
	keyring, version, _, _ := e.WrappedKey.Parse() // the envelope was parsed, so this succeeds
	metadataKeyring, metadataVersion, _, _ := e.WrappedMetadataKey.Parse()
	return inspectResult{
		FormatVersion: envelope.Version,
		ID:            e.ID,
		KeyID:         e.ID.KeyID(),
		Binding:       e.ID.Binding().String(),
		Keyring:       keyring,
		KeyVersion:    version,
		WrappedKey:    e.WrappedKey,

		MetadataBinding:    e.ID.MetadataBinding().String(),
		MetadataKeyring:    metadataKeyring,
		MetadataKeyVersion: metadataVersion,
		WrappedMetadataKey: e.WrappedMetadataKey,

		Commitment:   hex.EncodeToString(e.Commitment[:]),
		MetadataSize: len(e.Sealed),
		EnvelopeSize: len(e.Encode()),
	}
}

// inspectStored shows a recording's envelope in the store. It shows one that belongs to another recording, or whose media
// is missing, before it returns the error.
func (c *cli) inspectStored(ctx context.Context, id vault.ID) error {
	o, err := c.openObjects()
	if err != nil {
		return err
	}
	stored, damaged := o.Envelope(ctx, id)
	switch {
	case errors.Is(damaged, storage.ErrNotFound):
		return vault.ErrNotFound
	case damaged != nil && !errors.Is(damaged, objects.ErrMisplaced):
		return damaged
	}
	found, err := o.Find(ctx, id)
	switch {
	case err != nil:
		return err
	case found.Envelope == nil:
		return vault.ErrNotFound // deleted in between
	}
	result := inspectEnvelope(stored.Envelope)
	result.Written = stored.Info.Modified
	if found.Media != nil {
		result.MediaSize = &found.Media.Size
	} else {
		result.MediaMissing = true
		damaged = cmp.Or(damaged, fmt.Errorf("%w: its media is missing", vault.ErrDamaged))
	}
	return errors.Join(c.print(result), damaged)
}

func (r inspectResult) writeText(w io.Writer) {
	media := "not checked"
	if r.MediaMissing {
		media = "missing"
	} else if r.MediaSize != nil {
		media = humanBytes(*r.MediaSize)
	}
	table(w, [][]string{
		{"format version", fmt.Sprint(r.FormatVersion)},
		{"ID", r.ID.String()},
		{"KeyID", r.KeyID.String()},
		{"binding", r.Binding},
		{"wrapped by", r.Keyring},
		{"key version", fmt.Sprint(r.KeyVersion)},
		{"wrapped key", string(r.WrappedKey)},
		{"metadata key, binding", r.MetadataBinding},
		{"metadata key, wrapped by", r.MetadataKeyring},
		{"metadata key, version", fmt.Sprint(r.MetadataKeyVersion)},
		{"wrapped metadata key", string(r.WrappedMetadataKey)},
		{"commitment", r.Commitment},
		{"metadata, sealed", humanBytes(int64(r.MetadataSize))},
		{"envelope", humanBytes(int64(r.EnvelopeSize))},
		{"written", humanTime(r.Written)},
		{"media", media},
	})
}
