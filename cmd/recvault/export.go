package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// exporting is how many recordings an export to a folder decrypts at a time.
const exporting = 4

type exportResult struct {
	Out        string              `json:"out"`
	Complete   bool                `json:"complete"`
	Recordings int                 `json:"recordings"` // that are in the export
	Bytes      int64               `json:"bytes"`      // of these
	Continued  int                 `json:"continued"`  // of these, those that an interrupted run had written
	Missing    []exportedRecording `json:"missing"`
}

func (c *cli) export() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "export --out FOLDER|FILE.zip",
		Short:   "Give a patient a copy of all their recordings",
		GroupID: groupRecordings,
		Long: `Decrypt all recordings of a grant's patient into a folder or a zip that the
patient can keep (GDPR, Art. 15 and 20). The grant is the only right in use, and
each recording takes one use of it, or two if it cannot be opened. A patient
without recordings takes one, and the copy says that there are none.

    index.html      the recordings with a player for each; opens without a network
    recordings/     one file for each recording, named by date and title
    metadata.json   everything that is known of each recording, for programs
    SHA256SUMS      the sums of these files, for "sha256sum -c SHA256SUMS"

A recording that is damaged, that needs a newer release or that was deleted in
the process does not stop the others. metadata.json lists it under "missing",
index.html says so, and the exit code is 6.

A folder is written under the name FOLDER.partial and gets its own name when all
is on disk. After an interruption or an error, the same command goes on with
what is left, also with a new grant for the same patient. A recording that was
written before keeps the metadata of that time.

A zip is written in one pass, recording by recording, and starts from the
beginning each time. After an error there is no file, and with --out - no zip
that a program can open. If a recording turns out to be damaged in the middle,
the part before that stays in the zip, and metadata.json names it as "partial".

Nothing that exists is replaced, and only the owner can read what is written.
Memory does not depend on the size of a recording.

Role: none. VAULT_TOKEN is ignored.`,
		Example: `  recvault export --grant-file grant --out copy
  recvault export --grant-file grant --out copy.zip --output json
  RECVAULT_GRANT=$(cat grant) recvault export --out - | age -r "$recipient" > copy.zip.age`,
		Args: noArgs,
	}
	var (
		grant grantFlag
		out   string
	)
	grant.add(cmd)
	cmd.Flags().StringVar(&out, "out", "", "`folder` to make, or FILE.zip, or - for a zip on standard output; required")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if err := c.checkOut(cmd, out, "--out FOLDER, --out FILE.zip", "a zip"); err != nil {
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
		result, err := c.exportAll(ctx, v, g, out)
		if err != nil {
			return err
		}
		if out == dash {
			for _, missing := range result.Missing {
				c.note("missing: %s (%s)", missing.ID, missing.Error)
			}
		} else if err := c.printDone(result, "the export is written"); err != nil {
			return err
		}
		if !result.Complete {
			return fmt.Errorf("%w: %d recordings are not in the export", errIncomplete, len(result.Missing))
		}
		return nil
	}
	return cmd
}

func (r exportResult) writeText(w io.Writer) {
	fmt.Fprintf(w, "exported %d recordings, %s, to %s\n", r.Recordings, humanBytes(r.Bytes), printable(r.Out))
	if r.Continued > 0 {
		fmt.Fprintf(w, "%d of them were written by an interrupted run\n", r.Continued)
	}
	if len(r.Missing) == 0 {
		if r.Recordings == 0 {
			fmt.Fprintln(w, noRecordings)
		}
		return
	}
	rows := [][]string{{"MISSING", "REASON", "TITLE"}}
	for _, m := range r.Missing {
		rows = append(rows, []string{m.ID, m.Error, orDash(printable(m.Title))})
	}
	fmt.Fprintln(w)
	table(w, rows)
}

// exportDocument is an export's metadata.json.
type exportDocument struct {
	Format     string              `json:"format"`
	ExportedAt time.Time           `json:"exported_at"`
	Complete   bool                `json:"complete"`
	Recordings []exportedRecording `json:"recordings"` // the newest first
	Missing    []exportedRecording `json:"missing"`
}

// exportFormat is the format of metadata.json. Within it, fields are added and never renamed.
const exportFormat = "recvault-export-1"

// exportedRecording is a recording in metadata.json. One that is missing has its metadata if that can be read.
type exportedRecording struct {
	ID string `json:"id"`
	metadata
	Seconds   float64   `json:"duration_seconds,omitzero"`
	Size      int64     `json:"size"` // of the whole recording, in bytes; -1 if unknown
	CreatedAt time.Time `json:"created_at,omitzero"`
	Revision  int64     `json:"revision,omitzero"`
	File      string    `json:"file,omitempty"`
	SHA256    string    `json:"sha256,omitempty"`
	Error     string    `json:"error,omitempty"`   // why it is missing: a code as in "help exit-codes"
	Partial   string    `json:"partial,omitempty"` // a file with the part of a missing recording that was read
}

func exportedOf(info vault.Info) exportedRecording {
	return exportedRecording{
		ID: info.ID.String(), metadata: metadataOf(info.Metadata), Seconds: info.Duration.Seconds(),
		Size: info.Size, CreatedAt: info.CreatedAt, Revision: info.Revision,
	}
}

// When returns when the recording was made, as far as that is known.
func (r exportedRecording) When() time.Time { return cmp.Or(r.RecordedAt, r.CreatedAt) }

// exportOutput is where an export goes. Only create and note are called concurrently.
type exportOutput interface {
	// earlier returns what an interrupted run noted, by ID, but for what is not in the listing any more.
	earlier(ctx context.Context, listed map[string]bool) (map[string]exportedRecording, error)
	create(name string) (exportFile, error)
	note(exportedRecording) error // a recording whose file is committed
	finish() error                // makes the export visible as complete
	close() error                 // without finish, leaves nothing that looks complete
}

// exportFile is a file of an export.
type exportFile interface {
	io.Writer
	commit() error
	discard() (kept bool) // reports whether a part of the file stays in the output
}

// export is one run.
type export struct {
	c     *cli
	v     *vault.Vault
	grant keys.Grant
	out   exportOutput

	mu         sync.Mutex
	failed     error // that ends the export when the recordings that have begun are written
	transfer   transfer
	recordings []exportedRecording
	missing    []exportedRecording
}

// exportAll exports all recordings of the grant's patient.
func (c *cli) exportAll(ctx context.Context, v *vault.Vault, g keys.Grant, out string) (_ exportResult, err error) {
	var entries []vault.Entry
	listed := map[string]bool{}
	for entry, err := range v.ListByKeyID(ctx, g.KeyID()) {
		if err != nil {
			return exportResult{}, err
		}
		entries = append(entries, entry)
		listed[entry.ID.String()] = true
	}
	if len(entries) == 0 {
		if _, err := v.ListInfo(ctx, g); err != nil { // nothing else presents the grant
			return exportResult{}, err
		}
	}
	x := &export{c: c, v: v, grant: g}
	concurrency := 1
	switch {
	case out == dash:
		x.out = newExportZip(c.stdout, nil)
	case strings.HasSuffix(strings.ToLower(out), ".zip"):
		file, err := createPartial(out, false)
		if err != nil {
			return exportResult{}, err
		}
		x.out = newExportZip(file, file)
	default:
		folder, err := openExportFolder(out, g.KeyID())
		if err != nil {
			return exportResult{}, err
		}
		x.out = folder
		concurrency = exporting
	}
	defer func() { err = errors.Join(err, x.out.close()) }()

	earlier, err := x.out.earlier(ctx, listed)
	if err != nil {
		return exportResult{}, err
	}
	x.recordings = slices.Collect(maps.Values(earlier))
	left := slices.DeleteFunc(entries, func(e vault.Entry) bool {
		_, done := earlier[e.ID.String()]
		return done
	})
	p := c.startProgress("export")
	defer p.end()
	x.transfer = transfer{p: p}
	for _, entry := range left {
		x.transfer.total += max(0, entry.Size)
	}
	err = objects.Each(ctx, x.until(left), concurrency, func(ctx context.Context, entry vault.Entry) error {
		if err := x.one(ctx, entry); err != nil {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.failed = cmp.Or(x.failed, err)
		}
		return nil
	})
	if err := cmp.Or(err, x.failed); err != nil {
		if _, isFolder := x.out.(*exportFolder); isFolder && len(x.recordings) > 0 {
			err = fmt.Errorf("%w; %d of %d recordings are written, and the same command goes on with the rest",
				err, len(x.recordings), len(listed))
		}
		return exportResult{}, err
	}
	document := x.document()
	if err := x.describe(document); err != nil {
		return exportResult{}, err
	}
	if err := x.out.finish(); err != nil {
		return exportResult{}, err
	}
	result := exportResult{
		Out: out, Complete: document.Complete, Recordings: len(document.Recordings),
		Continued: len(earlier), Missing: document.Missing,
	}
	for _, r := range document.Recordings {
		result.Bytes += r.Size
	}
	return result, nil
}

// until yields the entries until one of them has failed.
func (x *export) until(entries []vault.Entry) iter.Seq2[vault.Entry, error] {
	return func(yield func(vault.Entry, error) bool) {
		for _, entry := range entries {
			x.mu.Lock()
			err := x.failed
			x.mu.Unlock()
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// ofOneRecording reports whether an error concerns one recording, and others may be fine.
func ofOneRecording(err error) bool {
	return errors.Is(err, vault.ErrDamaged) || errors.Is(err, vault.ErrUnsupported) || errors.Is(err, vault.ErrNotFound) ||
		errors.Is(err, keys.ErrRetired)
}

// one exports one recording.
func (x *export) one(ctx context.Context, entry vault.Entry) error {
	recording, err := x.v.Open(ctx, x.grant, entry.ID)
	if ofOneRecording(err) {
		return x.miss(ctx, entry, err)
	}
	if err != nil {
		return err
	}
	defer recording.Close()
	r := exportedOf(recording.Info())
	name := exportName(r)
	file, err := x.out.create(name)
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := recording.WriteTo(io.MultiWriter(file, sum, (*exportProgress)(x))); err != nil {
		kept := file.discard()
		if !ofOneRecording(err) {
			return err
		}
		r.Error = classify(ctx, err).Code
		if kept {
			r.Partial = name
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.missing = append(x.missing, r)
		return nil
	}
	if err := file.commit(); err != nil {
		return err
	}
	r.File, r.SHA256 = name, hexOf(sum)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.recordings = append(x.recordings, r)
	return x.out.note(r)
}

// miss lists a recording that cannot be opened, with its metadata if that can be read.
func (x *export) miss(ctx context.Context, entry vault.Entry, cause error) error {
	r := exportedRecording{ID: entry.ID.String(), Size: entry.Size}
	info, err := x.v.Stat(ctx, x.grant, entry.ID)
	switch {
	case err == nil:
		r = exportedOf(info)
	case !ofOneRecording(err):
		return err
	}
	r.Error = classify(ctx, cause).Code
	x.mu.Lock()
	defer x.mu.Unlock()
	x.missing = append(x.missing, r)
	return nil
}

// exportProgress counts what is written, for the progress.
type exportProgress export

func (x *exportProgress) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.transfer.add(len(b))
	return len(b), nil
}

func (x *export) document() exportDocument {
	newestFirst := func(a, b exportedRecording) int {
		return cmp.Or(b.When().Compare(a.When()), cmp.Compare(a.ID, b.ID))
	}
	slices.SortFunc(x.recordings, newestFirst)
	slices.SortFunc(x.missing, newestFirst)
	return exportDocument{
		Format: exportFormat, ExportedAt: time.Now().UTC().Truncate(time.Second), Complete: len(x.missing) == 0,
		Recordings: append([]exportedRecording{}, x.recordings...), Missing: append([]exportedRecording{}, x.missing...),
	}
}

// The files of an export beside the recordings.
const (
	exportPage     = "index.html"
	exportMetadata = "metadata.json"
	exportSums     = "SHA256SUMS"
	exportMedia    = "recordings" // the folder
)

// describe writes the files that describe the recordings.
func (x *export) describe(document exportDocument) error {
	var sums strings.Builder
	write := func(name string, text []byte) error {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(text), name)
		file, err := x.out.create(name)
		if err != nil {
			return err
		}
		if _, err := file.Write(text); err != nil {
			file.discard()
			return err
		}
		return file.commit()
	}
	for _, r := range document.Recordings {
		fmt.Fprintf(&sums, "%s  %s\n", r.SHA256, r.File)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil {
		return err
	}
	page, err := document.page()
	if err != nil {
		return err
	}
	return cmp.Or(write(exportMetadata, text.Bytes()), write(exportPage, page), write(exportSums, []byte(sums.String())))
}

func hexOf(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }
