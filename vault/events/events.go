// Package events is the stream of what happens to recordings and grants: who opened which recording and what was
// delivered, who was refused, what was changed, and which grants were issued and ended.
//
// A [Stream] hands each [Event] to its sinks: [Log] for slog, [JSON] for a file of JSON lines, any function of the
// application, package vault/events/fhir for a FHIR server, and the module otelrecvault for OpenTelemetry. A vault emits
// to the stream of vault.WithEvents, an erasure to that of its Options, holds to that of erasure.NewHolds, and
// [Stream.Issuer] and [Stream.Revoker] emit what a login does to grants.
//
// An event has no patient identifier, no title, no token and no key. It does have pseudonyms, the subjects of grants, the
// names of operators and their reasons, so treat it as personal data.
package events

import (
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
)

// Kind is what happened.
type Kind string

// Access to recordings. These events have a grant, but for a Listed of a process without one.
const (
	// Opened: a recording was open, and is closed now. Bytes and Ranges are what the caller, or the HTTP response, was
	// given. A recording that is never closed leaves no event.
	Opened Kind = "opened"
	// Described: a recording's metadata was read, and none of its media.
	Described Kind = "described"
	// Listed: a patient's recordings were listed. Entries is how many.
	Listed Kind = "listed"
)

// What went wrong.
const (
	// WrongPatient: a grant for one patient was used on a recording of another patient, and was refused. It is the mark
	// of an application that mixes patients up, and worth an alarm at night.
	WrongPatient Kind = "wrong-patient"
	// Refused: a grant was refused for another reason: it is malformed, expired or revoked, or can only describe.
	Refused Kind = "refused"
	// Exhausted: a grant with a limit of uses was refused before its time. Its uses are spent, or it was revoked: the
	// keyring does not say which. A GrantRevoked with the same accessor does.
	Exhausted Kind = "exhausted"
	// Damaged: a recording failed authentication, or part of it is missing.
	Damaged Kind = "damaged"
	// Unsupported: a recording is of a version, or its key of a kind of keyring, that this release does not know.
	Unsupported Kind = "unsupported"
	// Gone: a recording was asked for whose patient was erased.
	Gone Kind = "gone"
	// Failed: ServeRecording answered with another error, or the answer broke off. Status is 0 if it had begun. Keyring
	// or store may be unavailable, or the recording may not exist. A client that leaves is not a failure.
	Failed Kind = "failed"
)

// Changes of recordings.
const (
	Stored     Kind = "stored"     // a recording was put or created
	Updated    Kind = "updated"    // its metadata was changed
	Copied     Kind = "copied"     // it was given to another patient as well, as To
	Reassigned Kind = "reassigned" // it was moved to another patient, as To
	Rekeyed    Kind = "rekeyed"    // it was encrypted again under a fresh key, as To
	Deleted    Kind = "deleted"    // it was removed from the store, or may have been if there is an Error
	Erased     Kind = "erased"     // it was erased, or the patient was if Recording is zero
)

// Legal holds on patients, with an Operator and, of the first two, a Reason.
const (
	HoldSet     Kind = "hold-set"     // a patient was put on hold, or may have been if there is an Error
	HoldCleared Kind = "hold-cleared" // a hold was ended, or may have been if there is an Error
	// Held: a change of a recording, or an erasure, was refused because the patient is on hold. Of is the kind of the event
	// that it would have made: Updated, Reassigned, Rekeyed, Deleted or Erased. Only that of an erasure has an Operator.
	Held Kind = "held"
)

// The life of grants.
const (
	GrantIssued  Kind = "grant-issued"
	GrantRevoked Kind = "grant-revoked" // before its time; of a revocation by accessor only the accessor is known
)

// Overflow: more than 10,000 different events of one kind came within a second, or while a sink took none. Those beyond
// are only counted. Of is their kind, Count their number, and Bytes, Unwraps and Entries their sums.
const Overflow Kind = "overflow"

// Event is one thing that happened, or several that differ in nothing but their times and sums: see Count. Its JSON form
// is one object with the names below. Fields that do not apply are left out.
type Event struct {
	Kind  Kind      `json:"kind"`
	Of    Kind      `json:"of,omitempty"` // of an Overflow: the kind of the events that were counted; of a Held: what was refused
	Time  time.Time `json:"time"`         // when it happened, the last time if Count is more than 1
	Count int       `json:"count"`        // how often it happened

	KeyID     keys.KeyID        `json:"key_id,omitzero"`    // the pseudonym of the patient whose recordings are concerned
	Recording keys.RecordingID  `json:"recording,omitzero"` // the recording that was asked for
	To        keys.RecordingID  `json:"to,omitzero"`        // of Copied, Reassigned and Rekeyed: the new recording
	Grant     keys.GrantDetails `json:"grant,omitzero"`     // as the grant states them: they are not authenticated

	Operator string `json:"operator,omitempty"` // of a hold and an erasure: who answers for it
	Reason   string `json:"reason,omitempty"`   // of HoldSet and HoldCleared: why

	Began   time.Time `json:"began,omitzero"`          // of Opened: when it was asked for, the first time
	Ended   time.Time `json:"ended,omitzero"`          // of Opened: when it was closed, the last time
	Bytes   int64     `json:"bytes,omitempty"`         // of Opened: the plaintext that was delivered; what was read twice counts twice
	Ranges  []Range   `json:"ranges,omitempty"`        // of Opened: where those bytes lie, in order, apart from each other
	Coarse  bool      `json:"ranges_coarse,omitempty"` // of Opened: Ranges has gaps closed, because there were more than [MaxRanges]
	Unwraps int       `json:"unwraps,omitempty"`       // how often the keyring was asked for a key; a cached key is not asked for
	Entries int       `json:"entries,omitempty"`       // of Listed: how many recordings

	Status int    `json:"status,omitempty"` // of ServeRecording's answer, if it is an error
	Error  string `json:"error,omitempty"`  // the cause of what went wrong, the last time; it has no secrets
}

// Level is how urgent an event is: slog.LevelWarn for what went wrong, and slog.LevelInfo for the rest, for what is
// Unsupported, Gone or Held, and for a Failed with a 4xx status.
func (e Event) Level() slog.Level {
	kind := e.Kind
	if kind == Overflow {
		kind = e.Of
	}
	switch kind {
	case WrongPatient, Refused, Exhausted, Damaged:
		return slog.LevelWarn
	case Failed:
		if e.Status < 400 || e.Status >= 500 {
			return slog.LevelWarn
		}
	}
	return slog.LevelInfo
}

// LogValue implements slog.LogValuer. It has the names of the JSON form.
func (e Event) LogValue() slog.Value {
	attrs := attrs{slog.String("kind", string(e.Kind)), slog.Time("time", e.Time), slog.Int("count", e.Count)}
	attrs.text("of", string(e.Of))
	attrs.text("key_id", e.KeyID.String())
	attrs.text("recording", e.Recording.String())
	attrs.text("to", e.To.String())
	if g := e.Grant; g != (keys.GrantDetails{}) {
		attrs = append(attrs, slog.Attr{Key: "grant", Value: grantValue(g)})
	}
	attrs.text("operator", e.Operator)
	attrs.text("reason", e.Reason)
	attrs.time("began", e.Began)
	attrs.time("ended", e.Ended)
	attrs.number("bytes", e.Bytes)
	if len(e.Ranges) > 0 {
		attrs = append(attrs, slog.Any("ranges", e.Ranges))
	}
	attrs.flag("ranges_coarse", e.Coarse)
	attrs.number("unwraps", int64(e.Unwraps))
	attrs.number("entries", int64(e.Entries))
	attrs.number("status", int64(e.Status))
	attrs.text("error", e.Error)
	return slog.GroupValue(attrs...)
}

func grantValue(g keys.GrantDetails) slog.Value {
	var attrs attrs
	attrs.text("key_id", g.KeyID.String())
	attrs.text("accessor", g.Accessor)
	attrs.time("expires", g.Expires)
	attrs.text("subject", g.Subject)
	attrs.text("purpose", string(g.Purpose))
	attrs.text("reason", g.Reason)
	attrs.text("request_id", g.RequestID)
	attrs.number("max_uses", int64(g.MaxUses))
	attrs.flag("describe_only", g.DescribeOnly)
	return slog.GroupValue(attrs...)
}

// attrs leaves out what is zero.
type attrs []slog.Attr

func (a *attrs) text(name, value string) {
	if value != "" {
		*a = append(*a, slog.String(name, value))
	}
}

func (a *attrs) number(name string, value int64) {
	if value != 0 {
		*a = append(*a, slog.Int64(name, value))
	}
}

func (a *attrs) time(name string, value time.Time) {
	if !value.IsZero() {
		*a = append(*a, slog.Time(name, value))
	}
}

func (a *attrs) flag(name string, value bool) {
	if value {
		*a = append(*a, slog.Bool(name, true))
	}
}

// Range is a part of a recording: the bytes of the plaintext from Start up to and without End.
type Range struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

// String returns the range in the form "0-65536".
func (r Range) String() string {
	return strings.Join([]string{strconv.FormatInt(r.Start, 10), strconv.FormatInt(r.End, 10)}, "-")
}
