package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// describeResult is a recording's metadata, as it is or as a correction leaves it.
type describeResult struct {
	DryRun bool `json:"dry_run"`
	statResult
	Changed bool      `json:"changed"`          // by this run; for a dry run, whether it would be
	Before  *metadata `json:"before,omitempty"` // what was corrected
}

func (c *cli) describe() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "describe ID",
		Short:   "Show or correct a recording's metadata",
		GroupID: groupRecordings,
		Long: `Show a recording's metadata with a grant for its patient. The recording itself
is not opened. "revision" is how often the metadata was corrected.

With --set, --attribute, --unset or --metadata-file, describe corrects the
metadata in place: ID, media and keys stay, and the revision grows by one. A
correction that changes nothing writes nothing. --unset removes a field, or the
attribute of that name; "attributes.title" is the attribute named title.

Every user of the machine can see flags while the command runs, so put a title
in --metadata-file: a JSON object as for put. Its fields are set, and the others
stay. Flags take precedence over the file.

Older envelopes may remain in backups and as older versions of the object. While
the patient is on hold, nothing is corrected, and the exit code is 8.

Role: none. VAULT_TOKEN is ignored. A correction needs a grant and a store that
may be read and written.`,
		Example: `  recvault describe --grant-file grant "$id"
  recvault describe --grant-file grant --metadata-file right.json --dry-run "$id"
  recvault describe --grant-file grant --set recorded_at=2026-03-01T10:30:00Z --attribute ward=3b --unset title "$id"`,
		Args: oneArg("a recording's ID"),
	}
	var (
		grant        grantFlag
		metadataFile string
		correction   correction
		set          []string
		dryRun       = dryRunFlag(cmd)
	)
	grant.add(cmd)
	cmd.Flags().StringArrayVar(&set, "set", nil, "set a field, as `name=value`: title, recorded_at, content_type or duration; can be repeated")
	cmd.Flags().StringToStringVar(&correction.attributes, "attribute", nil, "set an attribute of the application, as `name=value`; can be repeated")
	cmd.Flags().StringArrayVar(&correction.unset, "unset", nil, "remove the field or the attribute with this `name`; can be repeated")
	cmd.Flags().StringVar(&metadataFile, "metadata-file", "", "JSON `file` with the fields to set")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := vault.ParseID(args[0])
		if err != nil {
			return err
		}
		if metadataFile != "" {
			if correction.file, err = c.readMetadata(ctx, metadataFile); err != nil {
				return err
			}
		}
		if err := correction.parse(set); err != nil {
			return err
		}
		corrects := metadataFile != "" || len(set)+len(correction.attributes)+len(correction.unset) > 0
		if *dryRun && !corrects {
			return usagef("--dry-run shows a correction: use it with --set, --attribute, --unset or --metadata-file")
		}
		g, err := grant.read(ctx, c)
		if err != nil {
			return err
		}
		v, err := c.openGrantVault()
		if err != nil {
			return err
		}
		result := describeResult{DryRun: *dryRun}
		switch {
		case !corrects:
			info, err := v.Stat(ctx, g, id)
			if err != nil {
				return err
			}
			result.statResult = statOf(id, info)
			return c.print(result)
		case *dryRun:
			if err := c.rehearse(ctx, v, g, id, &correction, &result); err != nil {
				return err
			}
			return c.print(result)
		}
		if err := correction.update(ctx, v, g, id, &result); err != nil {
			return err
		}
		return c.printDone(result, fmt.Sprintf("the metadata has revision %d", result.Revision))
	}
	return cmd
}

// correction is what describe changes in metadata.
type correction struct {
	file       metadata // fields that are not empty are set
	set        metadata
	attributes map[string]string
	unset      []string
}

// The names of fields in --set and --unset are those in JSON.
const (
	fieldTitle       = "title"
	fieldRecordedAt  = "recorded_at"
	fieldContentType = "content_type"
	fieldDuration    = "duration"
)

// parse reads the values of --set.
func (x *correction) parse(set []string) error {
	for _, text := range set {
		name, value, _ := strings.Cut(text, "=")
		if value == "" {
			return usagef("--set takes name=value; to remove a field, use --unset")
		}
		var err error
		switch name {
		case fieldTitle:
			x.set.Title = value
		case fieldContentType:
			x.set.ContentType = value
		case fieldRecordedAt:
			if x.set.RecordedAt, err = time.Parse(time.RFC3339, value); err != nil {
				return usagef("recorded_at in --set must be a time such as 2026-03-01T10:30:00Z")
			}
		case fieldDuration:
			if err = x.set.Duration.UnmarshalText([]byte(value)); err != nil {
				return usagef("duration in --set must be a length of time such as 40m")
			}
		default:
			return usagef("--set knows title, recorded_at, content_type and duration; for an attribute, use --attribute")
		}
	}
	return nil
}

// apply corrects metadata.
func (x *correction) apply(m *vault.Metadata) {
	for _, name := range x.unset {
		switch name {
		case fieldTitle:
			m.Title = ""
		case fieldContentType:
			m.ContentType = ""
		case fieldRecordedAt:
			m.RecordedAt = time.Time{}
		case fieldDuration:
			m.Duration = 0
		default:
			delete(m.Attributes, strings.TrimPrefix(name, "attributes."))
		}
	}
	*m = x.set.over(x.file.over(metadataOf(*m))).ofVault()
	if len(x.attributes) > 0 {
		m.Attributes = mergeAttributes(m.Attributes, x.attributes)
	}
}

// errUnchanged: a correction would change nothing.
var errUnchanged = errors.New("the metadata is so already")

// update corrects a recording's metadata, and describes the outcome in the result.
func (x *correction) update(ctx context.Context, v *vault.Vault, g keys.Grant, id vault.ID, result *describeResult) error {
	info, err := v.Update(ctx, g, id, func(m *vault.Metadata) error {
		before := metadataOf(*m)
		before.Attributes = maps.Clone(before.Attributes)
		x.apply(m)
		if metadataOf(*m).equal(before) {
			return errUnchanged
		}
		result.Before, result.Changed = &before, true
		return nil
	})
	if errors.Is(err, errUnchanged) {
		result.Before, result.Changed = nil, false
		info, err = v.Stat(ctx, g, id)
	}
	if err != nil {
		return err
	}
	result.statResult = statOf(id, info)
	return nil
}

// rehearse describes, for a dry run, what update would do.
func (c *cli) rehearse(ctx context.Context, v *vault.Vault, g keys.Grant, id vault.ID, x *correction, result *describeResult) error {
	info, err := v.Stat(ctx, g, id)
	if err != nil {
		return err
	}
	before := metadataOf(info.Metadata)
	before.Attributes = maps.Clone(before.Attributes)
	x.apply(&info.Metadata)
	if !metadataOf(info.Metadata).equal(before) {
		if err := info.Metadata.Validate(); err != nil {
			return err
		}
		if err := c.refuseHeld(ctx, id.KeyID()); err != nil {
			return err
		}
		result.Before, result.Changed = &before, true
		info.Revision++
	}
	result.statResult = statOf(id, info)
	return nil
}

// refuseHeld returns [vault.ErrHeld], for a dry run, if the patient is on hold.
func (c *cli) refuseHeld(ctx context.Context, id keys.KeyID) error {
	o, err := c.openObjects()
	if err != nil {
		return err
	}
	hold, err := o.Held(ctx, id)
	if err == nil && hold != nil {
		err = vault.ErrHeld
	}
	return err
}

func (r describeResult) writeText(w io.Writer) {
	switch {
	case r.Changed && r.DryRun:
		fmt.Fprintln(w, "would correct:")
	case r.Changed:
		fmt.Fprintln(w, "corrected:")
	case r.DryRun:
		fmt.Fprintln(w, "nothing to correct")
	}
	before := r.metadata
	if r.Before != nil {
		before = *r.Before
	}
	r.writeRows(w, before)
}

// writeRows writes what is known of a recording, and how each field differs from before.
func (r statResult) writeRows(w io.Writer, before metadata) {
	row := func(name, was, is string) []string {
		if was != is {
			is = was + " -> " + is
		}
		return []string{name, is}
	}
	rows := [][]string{
		{"ID", r.ID},
		row("title", orDash(printable(before.Title)), orDash(printable(r.Title))),
		row("recorded", humanTime(before.RecordedAt), humanTime(r.RecordedAt)),
		row("duration", humanDuration(before.Duration), humanDuration(r.Duration)),
		row("type", orDash(before.ContentType), orDash(r.ContentType)),
	}
	if r.Truncated {
		rows = append(rows, []string{"truncated", "the capture broke off"})
	}
	names := maps.Clone(before.Attributes)
	for _, name := range slices.Sorted(maps.Keys(mergeAttributes(names, r.Attributes))) {
		rows = append(rows, row("attribute "+printable(name), orDash(printable(before.Attributes[name])), orDash(printable(r.Attributes[name]))))
	}
	table(w, append(rows, []string{"size", humanBytes(r.Size)}, []string{"created", humanTime(r.CreatedAt)},
		[]string{"revision", fmt.Sprint(r.Revision)}))
}

func humanDuration(d duration) string {
	if d == 0 {
		return "-"
	}
	return time.Duration(d).String()
}
