package rotation

import (
	"errors"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// The verbs, as reports name them.
const (
	verbPlan   = "plan"
	verbRotate = "rotate"
	verbRewrap = "rewrap"
	verbRetire = "retire"
	verbTrim   = "trim"
)

// Report says what a run did. Its Findings are the patients and recordings that need attention, and why.
type Report struct {
	job.Report

	Patients  Patients  `json:"patients"`
	Envelopes Envelopes `json:"envelopes"`

	// Before and After count by version: for rotate, patients by the newest version of their key; for rewrap,
	// envelopes by the version that wraps them; for retire, patients by the oldest version that unwraps; for
	// trim, by the oldest that exists. Neither counts those for which it is not known.
	Before map[int]int `json:"versions_before"`
	After  map[int]int `json:"versions_after"`

	Requests Requests `json:"requests"`
}

// Complete reports whether nothing needs attention: nothing failed, was damaged or is unresolved. It is for a run
// that returned no error.
//
// Recordings of a patient whom the keyring does not know need attention: they point to a keyring that was lost, or
// to the wrong one. Those of an erased patient do not: nothing opens them any more, and package vault/erasure
// removes them.
func (r Report) Complete() bool { return r.Findings.Total() == 0 }

// find adds a finding about a patient, or about a recording unless its ID is zero.
func (r *Report) find(id keys.KeyID, recording keys.RecordingID, kind job.Kind, detail string) {
	r.Findings.Add(job.Finding{Kind: kind, KeyID: id, ID: recording, Detail: detail})
}

func newReport(verb string, s scope.Scope, dryRun bool) Report {
	return Report{Report: job.NewReport(verb, s.String(), dryRun), Before: map[int]int{}, After: map[int]int{}}
}

// Patients counts patients who have recordings. Each patient whom a run has finished is in one of the counts below
// Seen.
type Patients struct {
	Seen        int `json:"seen"`
	Changed     int `json:"changed"`      // rotated, retired, trimmed; with recordings that were rewrapped
	Unchanged   int `json:"unchanged"`    // with nothing to do
	Unresolved  int `json:"unresolved"`   // cannot be done yet, or at all: see the Findings
	Erased      int `json:"erased"`       // the key was destroyed; nothing opens the envelopes
	NotEnrolled int `json:"not_enrolled"` // the keyring has no key: see the Findings
	Failed      int `json:"failed"`       // with at least one failure
}

// Envelopes counts envelopes. Each envelope that a run has finished is in one of the counts below Seen.
type Envelopes struct {
	Seen        int `json:"seen"`
	Rewrapped   int `json:"rewrapped"`   // by this run
	Current     int `json:"current"`     // need no change: at the newest version, or for trim at one that stays; proved, for retire and trim
	Older       int `json:"older"`       // need a rewrap, found by retire, trim or plan, which rewrap nothing
	Superseded  int `json:"superseded"`  // moved by another run or writer at the same time
	Deleted     int `json:"deleted"`     // by another, at the same time
	Keyless     int `json:"keyless"`     // the patient was erased or has no key
	Damaged     int `json:"damaged"`     // not the recording's envelope, or its wrapped key failed authentication; not changed
	Unsupported int `json:"unsupported"` // of another version of the format or kind of keyring: left alone, and not damaged
	Failed      int `json:"failed"`
}

// Requests counts the requests that were made, with any answer.
type Requests struct {
	Keyring int `json:"keyring"`
	Lists   int `json:"lists"` // of up to 1,000 objects each
	Reads   int `json:"reads"`
	Writes  int `json:"writes"`
}

// outcome is the outcome of handling an envelope.
type outcome int

const (
	rewrapped outcome = iota
	current
	older
	superseded
	deleted
	erased
	notEnrolled
	damaged
	unsupported
	failed

	outcomes // how many there are
)

func (e *Envelopes) count(o outcome) {
	*[outcomes]*int{
		rewrapped: &e.Rewrapped, current: &e.Current, older: &e.Older, superseded: &e.Superseded, deleted: &e.Deleted,
		erased: &e.Keyless, notEnrolled: &e.Keyless, damaged: &e.Damaged, unsupported: &e.Unsupported, failed: &e.Failed,
	}[o]++
}

// The kinds of findings.
const (
	// KindGrace: the newest version is not older than the grace period.
	KindGrace job.Kind = "grace_period"
	// KindOlder: envelopes need older versions. Rewrap moves them.
	KindOlder job.Kind = "older_versions_needed"
	// KindUnproved: the keyring cannot re-wrap wrapped keys of the patient, so no version is retired or trimmed. The
	// findings of the recordings say why.
	KindUnproved job.Kind = "unproved_keys"
	// KindUnsupported: recordings of the patient are of another version of the format or kind of keyring, so it is not
	// known which key versions they need.
	KindUnsupported job.Kind = "unsupported"
	// KindUnknownVersion: envelopes name versions that the key does not have: the keyring was restored from before a
	// rotation, or a label was edited.
	KindUnknownVersion job.Kind = "unknown_version"
	// KindUnreadable: envelopes of the patient could not be read.
	KindUnreadable job.Kind = "unreadable_envelopes"

	// KindMalformed: what is stored is not the recording's envelope.
	KindMalformed job.Kind = "malformed_envelope"
	// KindUnauthentic: the wrapped key fails authentication.
	KindUnauthentic job.Kind = "unauthentic"
	// KindRetired: the wrapped key is under a version that was retired.
	KindRetired job.Kind = "retired_version"
	// KindNotEnrolled: the keyring knows no key of the patient.
	KindNotEnrolled job.Kind = "not_enrolled"
	// KindContended: the envelope, or the key's versions, kept changing.
	KindContended job.Kind = "contended"
	// KindDenied: the keyring or the store refused.
	KindDenied job.Kind = "denied"
	// KindUnavailable: the keyring or the store did not answer, or is full.
	KindUnavailable job.Kind = "unavailable"
	// KindInterrupted: the run ended before the outcome was known.
	KindInterrupted job.Kind = "interrupted"
	// KindFailed: another failure.
	KindFailed job.Kind = "failed"
)

// kinds has the kind of finding for each error.
var kinds = []struct {
	err  error
	kind job.Kind
}{
	{keys.ErrUnsupported, KindUnsupported},
	{envelope.ErrUnsupported, KindUnsupported},
	{errUnknownVersion, KindUnknownVersion},
	{keys.ErrNotEnrolled, KindNotEnrolled},
	{keys.ErrRetired, KindRetired},
	{keys.ErrIntegrity, KindUnauthentic},
	{keys.ErrInvalidVersion, KindContended},
	{keys.ErrDenied, KindDenied},
	{keys.ErrUnauthenticated, KindDenied},
	{keys.ErrUnavailable, KindUnavailable},
	{storage.ErrDenied, KindDenied},
	{storage.ErrNoBucket, KindUnavailable},
	{storage.ErrFull, KindUnavailable},
	{storage.ErrUnavailable, KindUnavailable},
	{errDamaged, KindMalformed},
	{errContended, KindContended},
	{errInterrupted, KindInterrupted},
}

func kindOf(err error) job.Kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.kind
		}
	}
	return KindFailed
}
