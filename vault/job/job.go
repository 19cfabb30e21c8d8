// Package job has the report and the progress that the jobs over many patients share. The jobs are in packages
// vault/rotation and vault/upkeep; package vault/scope selects the patients.
//
// Every job takes its scope as an argument. With DryRun set in its options, a job changes nothing, and counts what
// it would change as changed; the default is to change it. A failure of one patient or recording is a [Finding] and
// does not stop the rest. A job that ends early returns its report together with the error. Running it again does
// what is left.
package job

import (
	"cmp"
	"slices"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// Report is the part that all reports share. It names patients by their KeyIDs and holds no key.
type Report struct {
	Verb     string    `json:"verb"`
	Scope    string    `json:"scope"`
	DryRun   bool      `json:"dry_run"` // what is counted as changed would be
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	Keys     KeyAges  `json:"keys,omitzero"` // of the keys whose versions the job asked for; as they were left
	Findings Findings `json:"findings"`
}

// KeyAges says when the newest versions of envelope keys were made, by the keyring's clock: that of the key rotated
// longest ago, and that of the key rotated last. Both are zero if the job asked for no versions.
type KeyAges struct {
	Oldest time.Time `json:"oldest,omitzero"`
	Newest time.Time `json:"newest,omitzero"`
}

// Add adds a key whose newest version was made at this time. A time up to 1970 is unknown, and is not added.
func (a *KeyAges) Add(rotated time.Time) {
	if rotated.Unix() <= 0 {
		return
	}
	if a.Oldest.IsZero() || rotated.Before(a.Oldest) {
		a.Oldest = rotated.UTC()
	}
	if rotated.After(a.Newest) {
		a.Newest = rotated.UTC()
	}
}

// NewReport returns the report of a job that starts now.
func NewReport(verb, scope string, dryRun bool) Report {
	return Report{
		Verb: verb, Scope: scope, DryRun: dryRun, Started: time.Now().UTC(),
		Findings: Findings{Counts: map[Kind]int64{}, Listed: []Finding{}},
	}
}

// Finish completes the report of a job that ends now.
func (r *Report) Finish() {
	r.Finished = time.Now().UTC()
	r.Findings.sort()
}

// Kind says what a Finding is about. Each job documents its kinds.
type Kind string

// Finding is a patient, a recording or an object that a person should know of.
type Finding struct {
	Kind   Kind             `json:"kind"`
	KeyID  keys.KeyID       `json:"key_id,omitzero"`
	ID     keys.RecordingID `json:"id,omitzero"`      // of the recording; zero if it is about none
	Object string           `json:"object,omitempty"` // name of the object that it is about
	Upload string           `json:"upload,omitempty"` // the store's ID of the upload that it is about
	Bytes  int64            `json:"bytes,omitempty"`  // size of the object
	Since  time.Time        `json:"since,omitzero"`   // when it was written or begun, by the store's clock, in UTC
	Detail string           `json:"detail,omitempty"`
}

// About returns a Finding about one of a recording's objects, or about a stray one if the ID is zero.
func About(kind Kind, id keys.RecordingID, object storage.Info, detail string) Finding {
	return Finding{
		Kind: kind, KeyID: id.KeyID(), ID: id,
		Object: object.Name, Bytes: object.Size, Since: object.Modified.UTC(), Detail: detail,
	}
}

// MaxListed is how many findings of each kind a report lists.
const MaxListed = 1000

// Findings are all findings of a job.
type Findings struct {
	// Counts is how many there are of each kind.
	Counts map[Kind]int64 `json:"counts"`
	// Listed has the first [MaxListed] of each kind, in the order of their objects' names and their patients.
	Listed []Finding `json:"listed"`
}

// Add adds a finding.
func (f *Findings) Add(finding Finding) {
	f.Counts[finding.Kind]++
	if f.Counts[finding.Kind] <= MaxListed {
		f.Listed = append(f.Listed, finding)
	}
}

// Total returns how many findings there are of the kinds given, or of all kinds if none is given.
func (f Findings) Total(kinds ...Kind) (total int64) {
	for kind, n := range f.Counts {
		if len(kinds) == 0 || slices.Contains(kinds, kind) {
			total += n
		}
	}
	return total
}

// sort puts the findings into an order that does not depend on which worker was faster.
func (f *Findings) sort() {
	slices.SortStableFunc(f.Listed, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.Object, b.Object), cmp.Compare(a.Upload, b.Upload),
			cmp.Compare(a.KeyID.String(), b.KeyID.String()), cmp.Compare(a.ID.String(), b.ID.String()), cmp.Compare(a.Kind, b.Kind),
		)
	})
}

// Progress is how far a job has come.
type Progress struct {
	Verb    string        `json:"verb"`
	Scope   string        `json:"scope"`
	Elapsed time.Duration `json:"elapsed_ns"`

	// Fraction, from 0 to 1, is how much of the scope was listed. KeyIDs are uniform, so it grows
	// evenly, to within the few patients of a small scope.
	Fraction float64 `json:"fraction"`

	Patients   int   `json:"patients"`   // found so far
	Recordings int   `json:"recordings"` // found so far
	Done       int   `json:"done"`       // of these recordings, for a job that works through each
	Bytes      int64 `json:"bytes"`      // removed, or to be removed, by a sweep; authenticated by verify
	Findings   int64 `json:"findings"`

	// Final is set in the last call for a job, whether or not it came to its end.
	Final bool `json:"final"`
}
