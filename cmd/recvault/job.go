package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault/job"
)

// job returns a function that shows the progress of a job over many patients.
func (p *progress) job() func(job.Progress) {
	return func(done job.Progress) {
		p.show(done.Fraction, func() string { return describeProgress(done) }, done)
	}
}

// describeProgress describes a job's progress. What a job does not count is left out.
func describeProgress(done job.Progress) string {
	text := fmt.Sprintf("patients %d", done.Patients)
	if done.Done > 0 {
		text += fmt.Sprintf(", recordings %d of %d found", done.Done, done.Recordings)
	}
	if done.Bytes > 0 {
		text += ", " + humanBytes(done.Bytes)
	}
	if done.Findings > 0 {
		text += fmt.Sprintf(", findings %d", done.Findings)
	}
	return text
}

// expectation is the least number of recordings that a job must find. A wrong bucket or prefix has none, and a job over
// none has no findings.
type expectation struct{ least, found int }

func (e *expectation) add(cmd *cobra.Command) {
	cmd.Flags().IntVar(&e.least, "expect-min", 0, "end with code 6 if fewer than `n` recordings are found")
}

// watch returns a function that notes how many recordings a job has found, and shows its progress.
func (e *expectation) watch(show func(job.Progress)) func(job.Progress) {
	return func(done job.Progress) {
		e.found = done.Recordings
		show(done)
	}
}

// check returns an error if a job that has ended found fewer recordings than expected.
func (e *expectation) check() error {
	if e.found >= e.least {
		return nil
	}
	return fmt.Errorf("%w: found %d recordings, expected at least %d: is the bucket or prefix right?", errIncomplete, e.found, e.least)
}

// noRecordings is what a report says of a job that found none.
const noRecordings = "\nno recordings found: if there should be some, check the bucket and the prefix"

// unsupportedLine says how many recordings need a newer release.
func unsupportedLine(n int64) string {
	return fmt.Sprintf("unsupported: %d, which need a newer release or another kind of keyring, and are not damaged", n)
}

// writeHeading writes the first line of a report: what was done, for which patients, and how long it took.
func writeHeading(w io.Writer, r job.Report) {
	verb, scope := r.Verb, r.Scope
	if r.DryRun {
		verb += " (dry run: counts what would change)"
	}
	if scope == "all" {
		scope = "all patients"
	}
	fmt.Fprintf(w, "%s, %s, in %v\n", verb, scope, r.Finished.Sub(r.Started).Round(time.Millisecond))
}

// keyAges says how old the keys are that a job saw.
func keyAges(r job.Report) string {
	if r.Keys.Oldest.IsZero() {
		return "none"
	}
	days := func(t time.Time) int { return int(r.Finished.Sub(t).Hours() / 24) }
	return fmt.Sprintf("rotated %d to %d days ago, the first of them %s", days(r.Keys.Newest), days(r.Keys.Oldest), humanTime(r.Keys.Oldest))
}

// maxShown is how many findings of each kind the text of a report shows. Its JSON has up to [job.MaxListed].
const maxShown = 100

// writeFindings writes how many findings there are of each kind, and the findings themselves.
func writeFindings(w io.Writer, f job.Findings) {
	if len(f.Counts) == 0 {
		return
	}
	fmt.Fprintln(w, "\nfindings:")
	var rows [][]string
	for _, kind := range slices.Sorted(maps.Keys(f.Counts)) {
		rows = append(rows, []string{"  " + string(kind), fmt.Sprint(f.Counts[kind])})
	}
	table(w, rows)
	fmt.Fprintln(w)
	rows = nil
	shown := map[job.Kind]int{}
	for _, finding := range f.Listed {
		if shown[finding.Kind]++; shown[finding.Kind] <= maxShown {
			rows = append(rows, []string{"  " + string(finding.Kind), printable(findingName(finding)), printable(finding.Detail)})
		}
	}
	table(w, rows)
	if f.Total() > int64(len(rows)) {
		fmt.Fprintf(w, "\nonly the first %d findings of each kind are shown; --output json lists up to %d\n", maxShown, job.MaxListed)
	}
}

// findingName returns the name of the object, recording, upload or patient that a finding is about.
func findingName(f job.Finding) string {
	return cmp.Or(f.Object, f.ID.String(), f.Upload, f.KeyID.String())
}

// findingCounts returns how many findings there are of each kind, in one line.
func findingCounts(f job.Findings) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(f.Counts)) {
		all = append(all, fmt.Sprintf("%s (%d)", kind, f.Counts[kind]))
	}
	return strings.Join(all, ", ")
}
