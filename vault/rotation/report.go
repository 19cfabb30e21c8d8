package rotation

import (
	"errors"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// The verbs, as reports name them.
const (
	verbPlan   = "plan"
	verbRotate = "rotate"
	verbRewrap = "rewrap"
	verbRetire = "retire"
	verbTrim   = "trim"
)

// Report tells what a run did, and what it left and why. It names patients by their KeyIDs and holds no
// key.
type Report struct {
	Verb     string    `json:"verb"`
	Scope    string    `json:"scope"`
	DryRun   bool      `json:"dry_run"` // what was changed would be changed
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	Patients  Patients  `json:"patients"`
	Envelopes Envelopes `json:"envelopes"`

	// Before and After count, by version: for rotate, patients by the newest version of their key; for
	// rewrap, envelopes by the version that wraps them; for retire, patients by the oldest version that
	// unwraps, and for trim by the oldest that exists. What could not be told is in neither.
	Before map[int]int `json:"versions_before"`
	After  map[int]int `json:"versions_after"`

	// Left are the patients and recordings that were not brought to where they should be: at most
	// [MaxLeft] of them. Reasons counts all, by reason.
	Left    []Left         `json:"left"`
	Reasons map[string]int `json:"reasons"`

	Requests Requests `json:"requests"`
}

// MaxLeft is how many patients and recordings a report names.
const MaxLeft = 100

// Patients counts patients who have recordings. Each that a run has finished with is in one of the
// counts below Seen.
type Patients struct {
	Seen        int `json:"seen"`
	Changed     int `json:"changed"`      // rotated, retired, trimmed; with recordings that were rewrapped
	Unchanged   int `json:"unchanged"`    // there was nothing to do
	Left        int `json:"left"`         // not to be done yet, or at all: see Report.Left
	Erased      int `json:"erased"`       // the key was destroyed; the envelopes are waste
	NotEnrolled int `json:"not_enrolled"` // the keyring knows of no key: see Report.Left
	Failed      int `json:"failed"`       // with at least one failure
}

// Envelopes counts envelopes. Each that a run has finished with is in one of the counts below Seen.
type Envelopes struct {
	Seen      int `json:"seen"`
	Rewrapped int `json:"rewrapped"` // by this run
	Current   int `json:"current"`   // at the version that they should have, before it came
	Older     int `json:"older"`     // found at an older version by retire, trim or plan, which rewrap nothing
	Changed   int `json:"changed_meanwhile"`
	Deleted   int `json:"deleted_meanwhile"`
	Keyless   int `json:"keyless"` // the patient was erased or has no key
	Damaged   int `json:"damaged"` // no envelope of this recording, or it failed authentication; left alone
	Failed    int `json:"failed"`
}

// Left is a patient, or one recording, that was not brought to where it should be.
type Left struct {
	KeyID  keys.KeyID       `json:"key_id"`
	ID     keys.RecordingID `json:"id,omitzero"` // zero if it is about the patient
	Reason string           `json:"reason"`      // one of a few, by which Report.Reasons counts
	Detail string           `json:"detail"`
}

// Requests counts what was asked of others, whatever the answer.
type Requests struct {
	Keyring int `json:"keyring"`
	Reads   int `json:"reads"`
	Writes  int `json:"writes"`
}

// Complete tells whether nothing failed, was damaged or was left. Of a run that returned no error, it
// decides whether there is anything to see to.
//
// Recordings of a patient whom the keyring does not know are something to see to: they point to a keyring
// that was lost, or to the wrong one. Those of an erased patient are not: nothing opens them any more, and
// they are waste for package vault/erasure to remove.
func (r Report) Complete() bool {
	return r.Patients.Left == 0 && r.Patients.NotEnrolled == 0 && r.Patients.Failed == 0 &&
		r.Envelopes.Damaged == 0 && r.Envelopes.Failed == 0
}

// Progress tells how far a run has come.
type Progress struct {
	Verb      string        `json:"verb"`
	Scope     string        `json:"scope"`
	Elapsed   time.Duration `json:"elapsed_ns"`
	Patients  Patients      `json:"patients"`
	Envelopes Envelopes     `json:"envelopes"`

	// Fraction, from 0 to 1, is how much of the scope was listed. KeyIDs are uniform, so it grows
	// evenly, to within the few patients that a small scope has.
	Fraction float64 `json:"fraction"`

	// Final is set in the last call for a run, whether or not it came to its end.
	Final bool `json:"final"`
}

// outcome is what became of an envelope.
type outcome int

const (
	rewrapped outcome = iota
	current
	older
	changed
	deleted
	erased
	notEnrolled
	damaged
	failed

	outcomes // how many there are
)

func (e *Envelopes) count(o outcome) {
	*[outcomes]*int{
		rewrapped: &e.Rewrapped, current: &e.Current, older: &e.Older, changed: &e.Changed, deleted: &e.Deleted,
		erased: &e.Keyless, notEnrolled: &e.Keyless, damaged: &e.Damaged, failed: &e.Failed,
	}[o]++
}

// Reasons that come of what was found, and not of an error.
const (
	reasonGrace      = "grace period has not passed"
	reasonOlder      = "envelopes need older versions"
	reasonUnreadable = "envelopes could not be read"
)

// reasons are the errors by which others are counted.
var reasons = []error{
	keys.ErrErased, keys.ErrNotEnrolled, keys.ErrRetired, keys.ErrIntegrity, keys.ErrInvalidVersion, keys.ErrDenied, keys.ErrUnavailable,
	storage.ErrDenied, storage.ErrNoBucket, storage.ErrFull, storage.ErrUnavailable,
	errDamaged, errContended, errInterrupted,
}

func reasonOf(err error) string {
	for _, reason := range reasons {
		if errors.Is(err, reason) {
			return reason.Error()
		}
	}
	return "other"
}

// tally is a Report in the making.
type tally struct {
	mu       sync.Mutex
	report   Report
	fraction float64
}

func newTally(verb, scope string, dryRun bool) *tally {
	return &tally{report: Report{
		Verb: verb, Scope: scope, DryRun: dryRun, Started: time.Now(),
		Before: map[int]int{}, After: map[int]int{}, Left: []Left{}, Reasons: map[string]int{},
	}}
}

// record changes the Report.
func (t *tally) record(change func(*Report)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.report)
}

// leave records what was left and why.
func (r *Report) leave(left Left) {
	r.Reasons[left.Reason]++
	if len(r.Left) < MaxLeft {
		r.Left = append(r.Left, left)
	}
}

// listed records how far the listing has come.
func (t *tally) listed(fraction float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fraction = fraction
}

func (t *tally) progress() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Progress{
		Verb: t.report.Verb, Scope: t.report.Scope, Elapsed: time.Since(t.report.Started),
		Patients: t.report.Patients, Envelopes: t.report.Envelopes, Fraction: t.fraction,
	}
}

// result returns the Report of a run that has ended.
func (t *tally) result(requests Requests) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Finished, t.report.Requests = time.Now(), requests
	return t.report
}
