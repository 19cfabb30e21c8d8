package auditlog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// GapKind is a way in which a log can lack something.
type GapKind string

const (
	Unreadable GapKind = "unreadable" // a line is cut or is no entry
	Altered    GapKind = "altered"    // two lines that should be equal differ
	NoAnswer   GapKind = "no_answer"  // a request has no answer
	NoRequest  GapKind = "no_request" // an answer has no request
	Devices    GapKind = "devices"    // entries are on fewer devices than others are
	Uses       GapKind = "uses"       // a grant's number of uses fell by more than the entries show
	NoIssue    GapKind = "no_issue"   // a grant was used, and its issue is not in the log though the log covers it
	Disorder   GapKind = "disorder"   // a source goes back in time too often: an entry that is in it twice may be counted twice
	Counted    GapKind = "counted"    // the stream of events has only the number of some events
	Silence    GapKind = "silence"    // nothing was logged for long; this is no problem by itself
)

var gapKinds = []GapKind{Unreadable, Altered, NoAnswer, NoRequest, Devices, Uses, NoIssue, Disorder, Counted, Silence}

// Gap is something that the log lacks.
type Gap struct {
	Kind  GapKind   `json:"kind"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
	Count int       `json:"count"` // of entries or lines
	What  string    `json:"what"`
	Where []string  `json:"where,omitempty"` // file:line, or files

	// Explained means that the log shows why, so that it is no problem by itself.
	Explained bool `json:"explained,omitempty"`
}

// Cells implements Row.
func (g Gap) Cells() []string {
	return []string{string(g.Kind), stamp(g.From), stamp(g.To), fmt.Sprint(g.Count), g.What, strings.Join(g.Where, " ")}
}

// stretch is a run of entries that equally many devices have.
type stretch struct {
	devices  int
	from, to time.Time
	count    int
	sources  map[int32]bool
	why      []string // the changes of the audit devices with which it began and ended

	begins, ends bool // with such a change, which explains that there are fewer devices

	done []stretch
	last auditChange
}

type auditChange struct {
	what     string
	disabled bool
	at       time.Time
	entry    int // its number
}

// near reports whether the number of devices may have changed with this change. Other requests are logged before it is done.
func (a *auditChange) near(c *collector, e *entry) bool {
	return e.Time.Sub(a.at) < time.Second && c.entries-a.entry <= 64
}

// copyTime is how much later the file of one device may have been copied than that of another.
const copyTime = time.Minute

func (s *stretch) add(c *collector, copies []*entry) {
	e := copies[0]
	if e.Request.Path == "sys/audit/test" { // each device has its own
		return
	}
	seen := map[handle]bool{}
	for _, e := range copies {
		key := handle(e.place.source) // if it has no HMAC
		if hmac := cmp.Or(e.Auth.Accessor, e.Request.ClientToken); hmac != "" {
			key = handleOf(hmac)
		}
		seen[key] = true
	}
	if path := e.Request.Path; strings.HasPrefix(path, "sys/audit/") && e.Error == "" {
		s.last = auditChange{path + " was enabled by " + actorOf(e), e.Request.Operation == "delete", e.Time, c.entries}
		if s.last.disabled {
			s.last.what = path + " was disabled by " + actorOf(e)
		}
	}
	if len(seen) != s.devices {
		changed := s.last.near(c, e)
		if s.ends = changed && !s.last.disabled; s.ends {
			s.why = append(s.why, s.last.what)
		}
		s.close()
		*s = stretch{devices: len(seen), from: e.Time, sources: map[int32]bool{}, done: s.done, last: s.last, begins: changed && s.last.disabled}
		if s.begins {
			s.why = append(s.why, s.last.what)
		}
	}
	s.to = e.Time
	s.count++
	for _, e := range copies {
		s.sources[e.place.source] = true
	}
}

func (s *stretch) close() {
	if s.count > 0 && len(s.done) < 2*maxListed {
		ended := *s
		ended.done = nil
		s.done = append(s.done, ended)
	}
}

// gaps returns the stretches that fewer devices have than others. The log explains one that begins when a device was disabled, or
// with the log, and ends when one was enabled, or with the log.
func (s *stretch) gaps(c *collector) (gaps []Gap) {
	s.close()
	most := 0
	for _, one := range s.done {
		most = max(most, one.devices)
	}
	for i, one := range s.done {
		if one.devices == most {
			continue
		}
		names := []string{}
		for source := range one.sources {
			names = append(names, c.in.files[source].Name)
		}
		slices.Sort(names)
		isFirst, isLast := i == 0, i == len(s.done)-1
		what := fmt.Sprintf("%d entries are on %d of %d devices", one.count, one.devices, most)
		explained := (one.begins || isFirst) && (one.ends || isLast)
		if isLast && !explained && one.to.Sub(one.from) < copyTime {
			what, explained = what+": one file was copied later than another", true
		}
		if len(one.why) > 0 {
			what += ": " + strings.Join(one.why, "; ")
		}
		gaps = append(gaps, Gap{Kind: Devices, From: one.from, To: one.to, Count: one.count, What: what, Where: names, Explained: explained})
	}
	return gaps
}

// bins counts uses in equal parts of the period, for the timeline.
type bins struct {
	from, width int64 // in Unix nanoseconds, and nanoseconds
	counts      [numBins][3]int
}

const numBins = 96

func newBins(first, last time.Time) bins {
	return bins{from: first.UnixNano(), width: max(1, last.Sub(first).Nanoseconds()/numBins+1)}
}

func (b *bins) add(t time.Time, kind Kind, n int) {
	i := min(max((t.UnixNano()-b.from)/b.width, 0), numBins-1)
	b.counts[i][min(int(kind), 2)] += n
}
