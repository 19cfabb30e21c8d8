package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/recvault/recvault/vault/job"
)

// job shows the progress of a job over many patients.
func (p *progress) job() func(job.Progress) {
	return func(done job.Progress) {
		p.show(done.Fraction, func() string {
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
		}, done)
	}
}

// maxShown is how many findings of each kind the text of a report shows. Its JSON has up to [job.MaxListed].
const maxShown = 100

// writeFindings writes how many findings there are of each kind, and then the findings themselves.
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
		if shown[finding.Kind]++; shown[finding.Kind] > maxShown {
			continue
		}
		rows = append(rows, []string{"  " + string(finding.Kind), printable(findingName(finding)), printable(finding.Detail)})
	}
	table(w, rows)
}

// findingName names what a finding is about: an object, or a recording, or an upload, or a patient.
func findingName(f job.Finding) string {
	switch {
	case f.Object != "":
		return f.Object
	case !f.ID.IsZero():
		return f.ID.String()
	case f.Upload != "":
		return f.Upload
	}
	return f.KeyID.String()
}

// findingCounts lists the kinds of findings in one line.
func findingCounts(f job.Findings) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(f.Counts)) {
		all = append(all, fmt.Sprintf("%s (%d)", kind, f.Counts[kind]))
	}
	return strings.Join(all, ", ")
}
