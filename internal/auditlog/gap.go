package auditlog

import (
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
	Silence    GapKind = "silence"    // nothing was logged for long; this is no problem by itself
)

var gapKinds = []GapKind{Unreadable, Altered, NoAnswer, NoRequest, Devices, Uses, NoIssue, Disorder, Silence}

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
	why      string // what changed the audit devices just before

	done []stretch
	last string // the last change of the audit devices
	at   time.Time
}

func (s *stretch) add(c *collector, copies []*entry) {
	seen := map[handle]bool{}
	e := copies[0]
	for _, e := range copies {
		key := handle(e.place.source) // if it has no HMAC
		for _, hmac := range []string{e.Auth.Accessor, e.Request.ClientToken} {
			if hmac != "" {
				key = handleOf(hmac)
				break
			}
		}
		seen[key] = true
	}
	if e.Request.Path == "sys/audit/test" { // each device has its own
		return
	}
	if path := e.Request.Path; strings.HasPrefix(path, "sys/audit/") && e.Error == "" {
		verb := "enabled"
		if e.Request.Operation == "delete" {
			verb = "disabled"
		}
		s.last, s.at = path+" was "+verb+" by "+actorOf(e), e.Time
	}
	if len(seen) != s.devices {
		s.close()
		*s = stretch{devices: len(seen), from: e.Time, sources: map[int32]bool{}, done: s.done, last: s.last, at: s.at}
		if e.Time.Sub(s.at) < time.Second {
			s.why = s.last
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

// gaps returns the stretches that fewer devices have than others.
func (s *stretch) gaps(c *collector) (gaps []Gap) {
	s.close()
	most := 0
	for _, one := range s.done {
		most = max(most, one.devices)
	}
	for _, one := range s.done {
		if one.devices == most {
			continue
		}
		names := []string{}
		for source := range one.sources {
			names = append(names, c.in.files[source].Name)
		}
		slices.Sort(names)
		what := fmt.Sprintf("%d entries are on %d of %d devices", one.count, one.devices, most)
		if one.why != "" {
			what += ": " + one.why
		}
		gaps = append(gaps, Gap{Kind: Devices, From: one.from, To: one.to, Count: one.count, What: what, Where: names, Explained: one.why != ""})
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

func (b *bins) add(t time.Time, kind Kind) {
	i := min(max((t.UnixNano()-b.from)/b.width, 0), numBins-1)
	b.counts[i][min(int(kind), 2)]++
}
