package auditlog

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// alone collects what a report is made of if there is no log, but only the event stream: keys in a directory have no log. The
// streams of several processes are not in one order, so each use waits until all are read.
type alone struct {
	grants  map[keys.GrantDetails]index
	waiting []waiting
	revoked map[string]time.Time // by accessor: when a grant was revoked first
}

// waiting is a use of a grant that is in the events.
type waiting struct {
	began, last      int64
	count            int32
	grant            index
	keyID, recording index
	kind             Kind
}

func newAlone() *alone {
	return &alone{grants: map[keys.GrantDetails]index{}, revoked: map[string]time.Time{}}
}

// useKinds has what each kind of event is as a use. Whether a grant that was refused had been revoked shows later.
var useKinds = map[events.Kind]Kind{
	events.Opened: Opened, events.Described: Described, events.WrongPatient: WrongPatient, events.Refused: Refused, events.Exhausted: UsedUp,
	events.Damaged: Failed, events.Unsupported: Failed, events.Gone: Failed, events.Failed: Failed,
	// These changes read what they change.
	events.Copied: Opened, events.Reassigned: Opened, events.Rekeyed: Opened, events.Updated: Described,
}

// addAlone keeps an event of which there is no log.
func (c *collector) addAlone(e *events.Event, began time.Time) {
	switch e.Kind {
	case events.Overflow:
		c.gap(Gap{Kind: Counted, From: began, To: e.Time, Count: e.Count, What: "the stream had too many events of one kind, and only counted: " + string(e.Of)})
		return
	case events.Listed, events.Stored: // they show nobody a recording; what was described has events of its own
		return
	case events.GrantIssued:
		if g := c.grantOf(e.Grant); g != 0 {
			grant := c.grants.at(g)
			grant.seenIssued, grant.issued, grant.reason = true, e.Time.UnixNano(), c.texts.index(e.Grant.Reason)
		}
		return
	case events.GrantRevoked:
		if known, ok := c.alone.revoked[e.Grant.Accessor]; e.Grant.Accessor != "" && (!ok || e.Time.Before(known)) {
			c.alone.revoked[e.Grant.Accessor] = e.Time
		}
		return
	}
	kind, used := useKinds[e.Kind]
	g := c.grantOf(e.Grant)
	changed := !used || !e.To.IsZero() || e.Kind == events.Updated
	if changed {
		c.changeAlone(e)
	}
	keyID := e.Recording.KeyID()
	if e.Recording.IsZero() {
		keyID = e.KeyID // a grant was refused before any recording was asked for
	}
	if used && !keyID.IsZero() && (g != 0 || !changed) { // a writer changes recordings without a grant
		c.alone.waiting = append(c.alone.waiting, waiting{
			began: began.UnixNano(), last: e.Time.UnixNano(), count: int32(min(e.Count, math.MaxInt32)), grant: g, kind: kind,
			keyID: c.texts.index(keyID.String()), recording: c.texts.index(e.Recording.Rec()),
		})
	}
}

// grantOf returns the grant with these details, or 0 for none. The reason is not one of them: some keyrings keep it apart.
func (c *collector) grantOf(details keys.GrantDetails) index {
	reason := details.Reason
	details.Reason, details.Expires = "", details.Expires.UTC().Truncate(time.Second)
	if details == (keys.GrantDetails{}) {
		return 0
	}
	g, ok := c.alone.grants[details]
	if !ok {
		g = c.grants.add(grant{
			subject: c.texts.index(details.Subject), purpose: c.texts.index(string(details.Purpose)), reason: c.texts.index(reason),
			keyID: c.texts.index(details.KeyID.String()), requestID: details.RequestID, describeOnly: details.DescribeOnly,
			maxUses: int32(min(max(details.MaxUses, 0), keys.MaxGrantUses)), remaining: -1,
		})
		if isTime(details.Expires) {
			c.grants.at(g).expires = details.Expires.UnixNano()
		}
		c.alone.grants[details] = g
	}
	return g
}

func (c *collector) changeAlone(e *events.Event) {
	selected := len(c.options.KeyIDs) == 0 || slices.ContainsFunc([]keys.KeyID{e.KeyID, e.Recording.KeyID(), e.To.KeyID()}, func(keyID keys.KeyID) bool {
		return slices.Contains(c.options.KeyIDs, keyID)
	})
	if !selected || !c.inPeriod(e.Time) {
		return
	}
	what := e.KeyID.String()
	if !e.Recording.IsZero() {
		what = e.Recording.String()
	}
	if !e.To.IsZero() {
		what += " to " + e.To.String()
	}
	key := changeKey{c.texts.index(cmp.Or(e.Grant.Subject, e.Operator)), c.texts.index(string(e.Kind)), c.texts.index(what), e.Error != ""}
	c.countChange(key, e.Time, e.Count)
}

// replay hands over what was kept, in the order of time.
func (c *collector) replay() {
	c.entries, c.first, c.last = c.events.lines, c.events.first, c.events.last
	c.bins = newBins(later(c.options.Since, c.first), earlier(c.options.Until, c.last))
	for details, g := range c.alone.grants {
		if at, ok := c.alone.revoked[details.Accessor]; ok {
			grant := c.grants.at(g)
			grant.ended, grant.revoked = at.UnixNano(), true
		}
	}
	slices.SortStableFunc(c.alone.waiting, func(a, b waiting) int { return cmp.Compare(a.began, b.began) })
	for _, w := range c.alone.waiting {
		g := c.grants.at(w.grant)
		g.presented = plus(g.presented, w.count)
		keyID, _ := keys.ParseKeyID(c.texts.of[w.keyID])
		recording, _ := keys.ParseRecordingID(c.recording(w.keyID, w.recording)) // or none
		if !c.selected(at(w.began), g, keyID, recording) {
			continue
		}
		kind := w.kind
		switch {
		case (kind == Refused || kind == UsedUp) && g.revoked && w.last > g.ended:
			kind = Revoked
		case kind == Refused && g.expires != 0 && w.last >= g.expires:
			kind = Expired
		}
		key := usageKey{grant: w.grant, keyID: w.keyID, recording: w.recording, kind: kind}
		if w.grant == 0 {
			key.actor = c.texts.index("no grant that can be read")
		}
		used := c.use(key, sighting{at: at(w.began), began: at(w.began), count: w.count, allowed: kind == Opened || kind == Described})
		used.last = max(used.last, w.last)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if !a.IsZero() && a.Before(b) {
		return a
	}
	return b
}

// aloneLimits is what no report from the events alone can show.
var aloneLimits = []string{
	"This report is made from the event stream alone, which has what the given processes say of themselves. Who used a key by another program, or " +
		"by a process that hides it, is in Vault's audit log and not here. Keys in a directory have no such log.",
	"The stream does not have who issued a grant, from which address it was used, or what was changed of policies and keys.",
	"Subject, purpose, reason and the patient of a grant are what its text says, which nobody signs: whoever holds a grant can change them, and it still " +
		"opens the recordings of its own patient. A grant whose issue is not in the stream is from before, or from a login that reports nothing, or " +
		"its text was changed.",
	"The event of an opening comes when the recording is closed. What was open when the stream ended, or when a process was killed, is missing.",
	"A process may go on with a key that it keeps for a minute (vault.WithKeyCache) after another one has revoked the grant. Openings that were added " +
		"up count as begun with the first of them.",
	"Failed is what could not be opened for another reason than a grant, or what broke off after a part was delivered.",
	"Who could read the ciphertext is in the log of the storage server. A listing that leaks IDs is seen here only when somebody uses one.",
	"Patients are named by KeyID. The application knows who they are.",
}

// sectionsAlone returns the parts of a report from the events alone.
func (c *collector) sectionsAlone(sections []Section) []Section {
	kept := sections[:0]
	for _, s := range sections {
		switch s.Name {
		case "granters":
			continue
		case "outside":
			if s.Len == 0 {
				continue
			}
			s.Title, s.Note = "Uses without a grant", "The event has no grant, so a process does not say whose use it was."
		case "incidents":
			s.Note = strings.Replace(s.Note, ", or for each token and address if the subject is not known", "", 1)
		case "patients":
			s.Note = strings.TrimSuffix(s.Note, unansweredNote)
		case "after_revocation":
			s.Note = strings.Replace(s.Note, "Vault had answered the revocation", "the event of the revocation", 1)
		case "changes":
			s.Title, s.Note = "Changes of recordings", "Filters by time and KeyID apply, and no others."
		case "gaps":
			s.Title, s.Note = "Gaps in the stream", "Over the whole stream, whatever is selected. At most 1,000 of each kind are listed."
		}
		kept = append(kept, s)
	}
	return append(kept, section("deliveries", "What was delivered",
		"One row for each recording and each grant, or several grants with the same subject, purpose and request. Bytes count again when they are "+
			"delivered again.",
		deliveredColumns, c.delivered()))
}

func (c *collector) delivered() []delivered {
	all := []delivered{}
	for id, sum := range c.events.sums {
		if sum.played > 0 {
			all = append(all, delivered{
				First: sum.first, Last: sum.last, Who: id.subject, Purpose: id.purpose, RequestID: id.requestID, Recording: id.recording,
				Played: sum.played, Cached: sum.cached, Bytes: sum.bytes, Ranges: sum.ranges(),
			})
		}
	}
	slices.SortFunc(all, func(a, b delivered) int {
		return cmp.Or(a.First.Compare(b.First), strings.Compare(a.Recording, b.Recording), strings.Compare(a.Who, b.Who))
	})
	return all
}

// delivered is what a Delivery is without a log.
type delivered struct {
	First     time.Time      `json:"first"`
	Last      time.Time      `json:"last"`
	Who       string         `json:"who"`
	Purpose   string         `json:"purpose,omitempty"`
	RequestID string         `json:"request_id,omitempty"`
	Recording string         `json:"recording"`
	Played    int            `json:"played"`
	Cached    int            `json:"cached"`
	Bytes     int64          `json:"bytes"`
	Ranges    []events.Range `json:"ranges"`
}

var deliveredColumns = []string{"first", "last", "who", "purpose", "request", "recording", "played", "from the cache", "bytes delivered", "ranges"}

// Cells implements Row.
func (d delivered) Cells() []string {
	return []string{
		stamp(d.First), stamp(d.Last), d.Who, d.Purpose, d.RequestID, d.Recording, fmt.Sprint(d.Played), fmt.Sprint(d.Cached), fmt.Sprint(d.Bytes),
		rangesText(d.Ranges),
	}
}
