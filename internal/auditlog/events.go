package auditlog

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/vault/events"
)

// line is a line of the event stream: an event, alone or as the attribute "event" of a line of slog.
type line struct {
	events.Event
	Logged *events.Event `json:"event"`
}

// isTime reports whether a time can be one of an event: Unix nanoseconds have it.
func isTime(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 2262 }

// useID is what the log and the events say alike of who used what.
type useID struct {
	subject, purpose, requestID, grantKeyID string
	recording                               string
}

func (s *eventSum) ranges() []events.Range {
	if s.delivered == nil {
		return []events.Range{}
	}
	return s.delivered.Ranges
}

func (u useID) compare(other useID) int {
	return cmp.Or(strings.Compare(u.recording, other.recording), strings.Compare(u.subject, other.subject), strings.Compare(u.purpose, other.purpose),
		strings.Compare(u.requestID, other.requestID), strings.Compare(u.grantKeyID, other.grantKeyID))
}

// eventSum is what the events say of one useID.
type eventSum struct {
	unwraps, played, cached int
	bytes                   int64
	delivered               *events.Event // has the ranges; nil if nothing was
	first, last             time.Time
}

// eventStream is what was read of the event stream.
type eventStream struct {
	sums        map[useID]*eventSum
	first, last time.Time     // that it covers
	margin      time.Duration // before the first, if that is the end of a use
	lines       int
	overflowed  int // events that were only counted
}

// unwrapTime is how long before its event a key may have been unwrapped, if the event does not say when it began.
const unwrapTime = time.Second

// readEvents reads the event stream, before the log.
func (c *collector) readEvents(ctx context.Context, sources []Source) error {
	c.events = &eventStream{sums: map[useID]*eventSum{}}
	in := &input{sources: sources, progress: c.options.Progress, files: make([]File, len(sources))}
	if c.alone != nil {
		c.in.files = in.files
	}
	for i, source := range sources {
		file := &in.files[i]
		file.Name = source.Name
		l, err := in.open(i)
		if err != nil {
			return err
		}
		for {
			text, err := l.next()
			if err == io.EOF {
				break
			}
			file.Lines++
			if err == nil && l.number%1024 == 0 {
				if ctx.Err() != nil {
					_ = l.closer.Close()
					return ctx.Err()
				}
			}
			if err == nil && len(text) == 0 {
				continue
			}
			var e line
			malformed := err
			if malformed == nil {
				malformed = json.Unmarshal(text, &e)
			}
			if malformed == nil && e.Logged != nil {
				e.Event = *e.Logged
			}
			if malformed == nil && (e.Kind == "" || !isTime(e.Time) || !e.Began.IsZero() && !isTime(e.Began) || e.Count < 1) {
				malformed = errNotEvent
			}
			if malformed != nil {
				file.Unreadable++
				c.gap(Gap{Kind: Unreadable, Count: 1, What: malformed.Error(), Where: []string{fmt.Sprintf("%s:%d", source.Name, l.number)}})
			} else {
				c.addEvent(&e.Event)
			}
			if err != nil {
				break
			}
		}
		if err := l.closer.Close(); err != nil {
			return err
		}
	}
	if c.events.lines == 0 {
		return ErrNoEvents
	}
	return nil
}

func (c *collector) addEvent(e *events.Event) {
	s := c.events
	s.lines++
	began, margin := e.Began, time.Duration(0)
	if began.IsZero() {
		began, margin = e.Time, unwrapTime
	}
	if s.first.IsZero() || began.Before(s.first) {
		s.first, s.margin = began, margin
	}
	if e.Time.After(s.last) {
		s.last = e.Time
	}
	if c.alone != nil {
		c.addAlone(e, began)
	}
	if e.Kind == events.Overflow {
		s.overflowed += e.Count
		return
	}
	selected := c.inPeriod(began) && (len(c.options.KeyIDs) == 0 || slices.Contains(c.options.KeyIDs, e.Recording.KeyID())) &&
		(len(c.options.Recordings) == 0 || slices.Contains(c.options.Recordings, e.Recording)) &&
		(len(c.options.Subjects) == 0 || slices.Contains(c.options.Subjects, e.Grant.Subject)) &&
		(len(c.options.Purposes) == 0 || slices.Contains(c.options.Purposes, string(e.Grant.Purpose)))
	if e.Recording.IsZero() || !selected {
		return
	}
	id := useID{e.Grant.Subject, string(e.Grant.Purpose), e.Grant.RequestID, e.Grant.KeyID.String(), e.Recording.String()}
	sum := s.sums[id]
	if sum == nil {
		sum = &eventSum{first: began}
		s.sums[id] = sum
	}
	sum.unwraps += e.Unwraps
	if e.Kind == events.Opened {
		sum.played += e.Count
		sum.cached += max(0, e.Count-e.Unwraps)
		sum.bytes += e.Bytes
		for _, r := range e.Ranges {
			if sum.delivered == nil {
				sum.delivered = new(events.Event)
			}
			sum.delivered.Deliver(r.Start, r.End-r.Start)
		}
	}
	if began.Before(sum.first) {
		sum.first = began
	}
	if e.Time.After(sum.last) {
		sum.last = e.Time
	}
}

// coverage is whether the event stream has the event of a use.
type coverage int

const (
	outside coverage = iota
	covered
	atStart // perhaps: the stream begins just after the use
)

// covers returns whether the events are of a time. An event comes after the use.
func (s *eventStream) covers(t time.Time) coverage {
	switch {
	case s == nil || t.After(s.last) || t.Before(s.first.Add(-s.margin)):
		return outside
	case t.Before(s.first):
		return atStart
	}
	return covered
}

// Delivery compares what the log and the events say of one recording under one grant, or under grants that differ in nothing that
// both show.
type Delivery struct {
	Verdict    string         `json:"verdict"` // "equal", "only_in_log", "only_in_events"
	First      time.Time      `json:"first"`
	Last       time.Time      `json:"last"`
	Who        string         `json:"who"`
	Purpose    string         `json:"purpose,omitempty"`
	RequestID  string         `json:"request_id,omitempty"`
	Recording  string         `json:"recording"`
	InLog      int            `json:"in_log"`    // uses of the patient's key, and attempts
	InEvents   int            `json:"in_events"` // the same, as the events count them
	Played     int            `json:"played"`    // how often it was open
	Cached     int            `json:"cached"`    // of these, with a key that was unwrapped before
	Bytes      int64          `json:"bytes"`     // that were delivered
	Ranges     []events.Range `json:"ranges"`    // where they lie
	NamedAfter bool           `json:"named_by_events,omitempty"`
}

// Cells implements Row.
func (d Delivery) Cells() []string {
	verdict := strings.ReplaceAll(d.Verdict, "_", " ")
	if d.NamedAfter {
		verdict += ", whose it was is in the events alone"
	}
	return []string{
		verdict, stamp(d.First), stamp(d.Last), d.Who, d.Purpose, d.RequestID, d.Recording, fmt.Sprint(d.InLog), fmt.Sprint(d.InEvents),
		fmt.Sprint(d.Played), fmt.Sprint(d.Cached), fmt.Sprint(d.Bytes), rangesText(d.Ranges),
	}
}

func rangesText(ranges []events.Range) string {
	texts := []string{}
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}

var deliveryColumns = []string{
	"verdict", "first", "last", "who", "purpose", "request", "recording", "in the log", "in the events", "played", "from the cache",
	"bytes delivered", "ranges",
}

// reconcile compares the events with the uses in the log at the times that the events cover.
func (c *collector) reconcile(r *Report) []Delivery {
	rows := map[useID]*Delivery{}
	row := func(id useID, who string, first, last time.Time) *Delivery {
		d := rows[id]
		if d == nil {
			d = &Delivery{First: first, Last: last, Who: who, Purpose: id.purpose, RequestID: id.requestID, Recording: id.recording, Ranges: []events.Range{}}
			rows[id] = d
		}
		if first.Before(d.First) {
			d.First = first
		}
		if last.After(d.Last) {
			d.Last = last
		}
		return d
	}
	for id, sum := range c.events.sums {
		d := row(id, id.subject, sum.first, sum.last)
		d.InEvents, d.Played, d.Cached, d.Bytes = sum.unwraps, sum.played, sum.cached, sum.bytes
		d.Ranges = sum.ranges()
	}
	unknown := map[string]*Delivery{} // by recording: attempts with tokens that the log cannot name
	for i := range c.usages.n {
		u := c.usages.at(index(i))
		if u.compared+u.early == 0 {
			continue
		}
		g, text := c.grants.at(u.grant), c.texts.of
		id := useID{text[g.subject], text[g.purpose], g.requestID, text[g.keyID], c.recording(u.keyID, u.recording)}
		if u.grant == 0 {
			id = useID{subject: text[u.actor], recording: id.recording}
		}
		if u.compared == 0 && c.events.sums[id] == nil {
			continue
		}
		d := row(id, id.subject, at(u.first), at(u.last))
		d.InLog += int(u.compared)
		d.InLog += max(0, min(int(u.early), d.InEvents-d.InLog))
		if u.kind == UnknownToken {
			unknown[id.recording] = d
		}
	}
	for _, d := range rows { // the events know whose tokens these were
		other := unknown[d.Recording]
		if other == nil || other == d || d.InEvents <= d.InLog {
			continue
		}
		named := min(other.InLog-other.InEvents, d.InEvents-d.InLog)
		if named > 0 {
			d.InLog, other.InLog, d.NamedAfter = d.InLog+named, other.InLog-named, true
		}
	}
	all := []Delivery{}
	for _, id := range slices.SortedFunc(maps.Keys(rows), func(a, b useID) int {
		return cmp.Or(rows[a].First.Compare(rows[b].First), a.compare(b))
	}) {
		d := rows[id]
		switch {
		case d.InLog > d.InEvents:
			d.Verdict = "only_in_log"
			r.Totals.OnlyInLog += d.InLog - d.InEvents
		case d.InLog < d.InEvents:
			d.Verdict = "only_in_events"
			r.Totals.OnlyInEvents += d.InEvents - d.InLog
		case d.InLog+d.Played == 0:
			continue // what was attempted is in the row of whose token it was
		default:
			d.Verdict = "equal"
		}
		all = append(all, *d)
	}
	slices.SortStableFunc(all, func(a, b Delivery) int { return -strings.Compare(a.Verdict, b.Verdict) })
	return all
}
