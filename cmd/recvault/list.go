package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

type listResult struct {
	KeyID      keys.KeyID    `json:"key_id"`
	Recordings []listedEntry `json:"recordings"` // in the order of their IDs; with a grant, the newest first

	Unsupported int64 `json:"unsupported"` // of these, those that need a newer release

	described bool // with the metadata
}

// listedEntry is a recording as the store's listing shows it and, with a grant, its metadata.
type listedEntry struct {
	ID      string    `json:"id"`
	Size    int64     `json:"size"`    // of the plaintext, in bytes; -1 if the media is missing or cannot be media
	Written time.Time `json:"written"` // when the envelope was last written
	metadata
	Error string `json:"error,omitempty"` // why there is no metadata: a code as in "help exit-codes"
}

func (c *cli) list() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List a patient's recordings",
		GroupID: groupRecordings,
		Long: `List a patient's recordings with their IDs, sizes and times of writing. With a
grant, list also shows titles and types, and the recordings that were made last
come first. The grant names the patient, and each recording takes one use of it,
and so does an empty list. A recording that needs a newer release is listed
without them, and is not damaged.

Role: none with a grant, or with --key-id, which needs no Vault at all. With the
patient's identifier: writer, enroller, granter or eraser.`,
		Example: `  recvault list --key-id "$key_id"
  recvault list --grant-file grant --output json | jq -r '.recordings[].title'`,
		Args: noArgs,
	}
	var (
		patient patientFlag
		grant   grantFlag
	)
	patient.addKeyID(cmd)
	grant.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("grant-file", "key-id", "patient-file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if patient.file == "" && patient.keyID == "" && grant.given(c) {
			g, err := grant.read(ctx, c)
			if err != nil {
				return err
			}
			return c.listGranted(ctx, g)
		}
		keyID, err := patient.findKeyID(ctx, c, c.keyringLater(ctx))
		if err != nil {
			return err
		}
		store, err := c.openStore()
		if err != nil {
			return err
		}
		result := listResult{KeyID: keyID, Recordings: []listedEntry{}}
		for entry, err := range vault.ListByKeyID(ctx, store, c.prefix(), keyID) {
			if err != nil {
				return err
			}
			result.Recordings = append(result.Recordings, listedEntry{ID: entry.ID.String(), Size: entry.Size, Written: entry.Written})
		}
		return c.print(result)
	}
	return cmd
}

// listGranted lists the recordings of a grant's patient, with their metadata.
func (c *cli) listGranted(ctx context.Context, g keys.Grant) error {
	v, err := c.openGrantVault()
	if err != nil {
		return err
	}
	recordings, err := v.ListInfo(ctx, g)
	if err != nil {
		return err
	}
	result := listResult{KeyID: g.KeyID(), Recordings: []listedEntry{}, described: true}
	damaged := 0
	for _, recording := range recordings {
		listed := listedEntry{ID: recording.ID.String(), Size: recording.Size, Written: recording.Written}
		switch {
		case recording.Err == nil:
			listed.metadata = metadataOf(recording.Info.Metadata)
		case errors.Is(recording.Err, vault.ErrUnsupported):
			listed.Error = classify(ctx, recording.Err).Code
			result.Unsupported++
		default:
			listed.Error = classify(ctx, recording.Err).Code
			damaged++
		}
		result.Recordings = append(result.Recordings, listed)
	}
	err = c.print(result)
	if err == nil && damaged > 0 {
		err = fmt.Errorf("%w: %d recordings cannot be opened", errIncomplete, damaged)
	}
	return err
}

func (r listResult) writeText(w io.Writer) {
	rows := [][]string{{"ID", "SIZE", "WRITTEN"}}
	if r.described {
		rows[0] = append(rows[0], "RECORDED", "TYPE", "TITLE")
	}
	for _, entry := range r.Recordings {
		size := "missing"
		if entry.Size >= 0 {
			size = humanBytes(entry.Size)
		}
		row := []string{entry.ID, size, humanTime(entry.Written)}
		switch {
		case entry.Error != "":
			row = append(row, "-", "-", "("+entry.Error+")")
		case r.described:
			row = append(row, humanTime(entry.RecordedAt), orDash(entry.ContentType), orDash(printable(entry.Title)))
		}
		rows = append(rows, row)
	}
	table(w, rows)
	if r.Unsupported > 0 {
		fmt.Fprintln(w, "\n"+unsupportedLine(r.Unsupported))
	}
}
