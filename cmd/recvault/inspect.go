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
	"github.com/recvault/recvault/vault"
)

// formatVersion is the version of the recording format that this command knows.
const formatVersion = envelope.Version

type inspectResult struct {
	FormatVersion int              `json:"format_version"`
	ID            keys.RecordingID `json:"id"`
	KeyID         keys.KeyID       `json:"key_id"`
	Binding       string           `json:"binding"`     // the context under which the key is wrapped, as in Vault's audit log
	Keyring       string           `json:"keyring"`     // what wrapped the key: vault, or another
	KeyVersion    int              `json:"key_version"` // of the envelope key
	WrappedKey    keys.WrappedKey  `json:"wrapped_key"`
	Commitment    string           `json:"commitment"`           // hex
	MetadataSize  int              `json:"metadata_size"`        // sealed, in bytes
	EnvelopeSize  int              `json:"envelope_size"`        // in bytes
	Written       time.Time        `json:"written,omitzero"`     // of an envelope in the store
	MediaSize     *int64           `json:"media_size,omitempty"` // of the ciphertext, in bytes
	MediaMissing  bool             `json:"media_missing,omitempty"`
}

func (c *cli) inspect() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect FILE|ID|-",
		Short:   "Show what an envelope says, without any key",
		GroupID: groupChecks,
		Long: `inspect reads an envelope from a file, from standard input, or from the store
by the recording's ID, and shows what anybody can see in it: nothing of it is
secret, and nothing of it is authenticated without the key. It fails with code
7 unless the envelope is in its one canonical form; of one in the store also if
it is another recording's, or if the media is missing.`,
		Example: `  recvault inspect "$id"
  mc cat minio/consultations/r1/.../envelope | recvault inspect -`,
		Args: oneArg("a file, an ID or -"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if id, err := vault.ParseID(args[0]); err == nil {
				return c.inspectStored(cmd.Context(), id)
			}
			return c.inspectFile(cmd.Context(), args[0])
		},
	}
}

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
	keyring, version, _, _ := e.Wrapped.Parse() // has been parsed with the envelope
	return inspectResult{
		FormatVersion: envelope.Version,
		ID:            e.ID,
		KeyID:         e.ID.KeyID(),
		Binding:       e.ID.Binding().String(),
		Keyring:       keyring,
		KeyVersion:    version,
		WrappedKey:    e.Wrapped,
		Commitment:    hex.EncodeToString(e.Commitment[:]),
		MetadataSize:  len(e.Sealed),
		EnvelopeSize:  len(e.Encode()),
	}
}

func (c *cli) inspectStored(ctx context.Context, id vault.ID) error {
	o, err := c.openObjects()
	if err != nil {
		return err
	}
	stored, damaged := o.Envelope(ctx, id)
	if damaged != nil && !errors.Is(damaged, objects.ErrMisplaced) {
		return damaged
	}
	found, err := o.Find(ctx, id)
	if err != nil {
		return err
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
	media := "not looked at"
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
		{"commitment", r.Commitment},
		{"metadata, sealed", humanBytes(int64(r.MetadataSize))},
		{"envelope", humanBytes(int64(r.EnvelopeSize))},
		{"written", humanTime(r.Written)},
		{"media", media},
	})
}
