package auditlog

import (
	"cmp"
	"encoding/json"
	"io"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

// fhirKinds has what each kind of use is as an event, and the error of one that failed or may have.
var fhirKinds = [kinds]struct {
	kind events.Kind
	err  string
}{
	Opened:       {events.Opened, ""},
	Described:    {events.Described, ""},
	WrongPatient: {events.WrongPatient, "the grant is for another patient"},
	Refused:      {events.Refused, "the grant does not allow this"},
	Revoked:      {events.Refused, "the grant was revoked before"},
	UsedUp:       {events.Exhausted, "the grant had no use left"},
	Expired:      {events.Refused, "the grant had expired"},
	UnknownToken: {events.Refused, "the token is none that the log shows alive"},
	NoGrant:      {events.Refused, "the token is not a grant"},
	Failed:       {events.Failed, "it could not be opened, as with an erased key or an altered wrapped key"},
	Unanswered:   {events.Opened, "the log has no answer: the recording may have been opened"},
}

// WriteFHIR writes a Bundle of AuditEvents, row by row: one for each row of accesses, which is marked if it is a use outside a grant,
// one for each row of changes, and for each grant one of its issue and one of its revocation, with who did that, as far as they are
// in the log and in the period. Changes in a report from the events alone, and the rest of the report, have no such form.
func (r *Report) WriteFHIR(w io.Writer, encoder *fhir.Encoder) error {
	return fhir.WriteBundle(w, func(yield func(json.RawMessage) bool) {
		for _, section := range r.sections {
			switch section.Name {
			case "accesses", "grants", "changes":
			default: // these rows are among those, or have no FHIR form
				continue
			}
			for row := range section.Rows {
				for _, resource := range r.resources(encoder, row) {
					if !yield(resource) {
						return
					}
				}
			}
		}
	})
}

// resources returns the AuditEvents of a row.
func (r *Report) resources(encoder *fhir.Encoder, row Row) (all []json.RawMessage) {
	switch row := row.(type) {
	case Use:
		return encoder.EncodeLogged(row.event())
	case Change:
		if r.Alone() {
			return nil // a change of a recording is none of the configuration; the stream's own sink has it
		}
		return []json.RawMessage{encoder.EncodeChange(fhir.Change(row))}
	case Grant:
		if !row.NotLogged && r.Filter.covers(row.Issued) {
			issued := row.event(events.GrantIssued, row.Issued)
			issued.By, issued.Address = row.Issuer, row.Address
			all = encoder.EncodeLogged(issued)
		}
		if !row.Ended.IsZero() && r.Filter.covers(row.Ended) {
			revoked := row.event(events.GrantRevoked, row.Ended)
			revoked.By = row.EndedBy
			all = append(all, encoder.EncodeLogged(revoked)...)
		}
	}
	return all
}

// covers reports whether a time is in the period.
func (f *Filter) covers(t time.Time) bool {
	return !t.Before(f.Since) && (f.Until.IsZero() || t.Before(f.Until))
}

func (u Use) event() fhir.Logged {
	as := fhirKinds[u.Kind]
	e := fhir.Logged{
		Event: events.Event{
			Kind: as.kind, Time: u.Last, Began: u.First, Ended: u.Last, Count: u.Count, Error: as.err,
			Grant: keys.GrantDetails{Subject: u.Subject, Purpose: keys.Purpose(u.Purpose), Reason: u.Reason, RequestID: u.RequestID},
		},
		Address: u.Address, Wrapped: u.Wrapped, Outside: (u.By != "" || u.Wrapped) && best(u.Kind) != WrongPatient,
	}
	if u.Kind != UnknownToken {
		e.Grant.Subject = cmp.Or(u.Subject, u.By)
	}
	e.KeyID, _ = keys.ParseKeyID(u.KeyID) // as below, what is none is left out
	e.Recording, _ = keys.ParseRecordingID(u.Recording)
	e.Grant.KeyID, _ = keys.ParseKeyID(u.GrantKeyID)
	return e
}

func (g Grant) event(kind events.Kind, when time.Time) fhir.Logged {
	e := events.Event{
		Kind: kind, Time: when, Count: 1,
		Grant: keys.GrantDetails{
			Expires: g.Expires, Subject: g.Subject, Purpose: keys.Purpose(g.Purpose), Reason: g.Reason, RequestID: g.RequestID,
			MaxUses: g.MaxUses, DescribeOnly: g.DescribeOnly,
		},
	}
	e.KeyID, _ = keys.ParseKeyID(g.KeyID)
	e.Grant.KeyID = e.KeyID
	return fhir.Logged{Event: e}
}
