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
// streams of several processes are not in one order, so each use waits until all are read: about 100 bytes.
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
}

// addAlone keeps an event of which there is no log.
func (c *collector) addAlone(e *events.Event, began time.Time) {
	kind, used := useKinds[e.Kind]
	switch {
	case e.Kind == events.Overflow:
		c.gap(Gap{Kind: Counted, From: began, To: e.Time, Count: e.Count, What: "the stream had too many events of one kind, and only counted: " + string(e.Of)})
	case e.Kind == events.Listed || e.Kind == events.Stored: // they show nobody a recording; what was described has events of its own
	case e.Kind == events.GrantIssued:
		g := c.grants.at(c.grantOf(e.Grant))
		g.seenIssued, g.issued, g.reason = true, e.Time.UnixNano(), c.texts.index(e.Grant.Reason)
	case e.Kind == events.GrantRevoked:
		if known, ok := c.alone.revoked[e.Grant.Accessor]; !ok || e.Time.Before(known) {
			c.alone.revoked[e.Grant.Accessor] = e.Time
		}
	case !used:
		c.changeAlone(e)
	case !e.Recording.IsZero():
		c.alone.waiting = append(c.alone.waiting, waiting{
			began: began.UnixNano(), last: e.Time.UnixNano(), count: int32(min(e.Count, math.MaxInt32)), grant: c.grantOf(e.Grant), kind: kind,
			keyID: c.texts.index(e.Recording.KeyID().String()), recording: c.texts.index(e.Recording.Rec()),
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
			expires: details.Expires.UnixNano(), maxUses: int32(details.MaxUses), remaining: -1,
		})
		c.alone.grants[details] = g
	}
	return g
}

func (c *collector) changeAlone(e *events.Event) {
	if !c.inPeriod(e.Time) || len(c.options.KeyIDs) > 0 && !slices.Contains(c.options.KeyIDs, e.KeyID) {
		return
	}
	what := e.KeyID.String()
	if !e.Recording.IsZero() {
		what = e.Recording.String()
	}
	if !e.To.IsZero() {
		what += " to " + e.To.String()
	}
	key := changeKey{c.texts.index(e.Grant.Subject), c.texts.index(string(e.Kind)), c.texts.index(what), e.Error != ""}
	found := c.changes[key]
	if found == nil {
		found = &change{changeKey: key, first: e.Time.UnixNano()}
		c.changes[key] = found
	}
	found.count += e.Count
	found.first, found.last = min(found.first, e.Time.UnixNano()), max(found.last, e.Time.UnixNano())
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
		g.presented += w.count
		keyID, _ := keys.ParseKeyID(c.texts.of[w.keyID])
		recording, _ := keys.ParseRecordingID(c.recording(w.keyID, w.recording))
		if !c.selected(at(w.began), g, keyID, recording) {
			continue
		}
		kind := w.kind
		switch {
		case kind != Refused:
		case g.revoked && w.last > g.ended:
			kind = Revoked
		case g.expires != 0 && w.last >= g.expires:
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
	"The stream does not have who issued a grant, from which address it was used, and changes of policies and keys.",
	"The event of an opening comes when the recording is closed. What was open when the stream ended, or when a process was killed, is missing.",
	"A process may go on with a key that it keeps for a minute (vault.WithKeyCache) after another one has revoked the grant.",
	"Subject, purpose, reason and the patient of a grant are what its issuer wrote. Of an attempt that was refused, they are what the grant says of " +
		"itself: it may be forged.",
	"Who could read the ciphertext is in the log of the storage server. A listing that leaks IDs is seen here only when somebody uses one.",
	"Patients are named by KeyID. The application knows who they are.",
}

// sectionsAlone returns the parts of a report from the events alone.
func (c *collector) sectionsAlone(sections []Section) []Section {
	kept := sections[:0]
	for _, s := range sections {
		switch s.Name {
		case "outside", "granters":
			continue
		case "patients":
			s.Note = strings.TrimSuffix(s.Note, unansweredNote)
		case "after_revocation":
			s.Note = "It began after the event of the revocation. At most 1,000 are listed."
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
			all = append(all, delivered{Delivery{
				First: sum.first, Last: sum.last, Who: id.subject, Purpose: id.purpose, RequestID: id.requestID, Recording: id.recording,
				InEvents: sum.unwraps, Played: sum.played, Cached: sum.cached, Bytes: sum.bytes, Ranges: sum.delivered.Ranges,
			}})
		}
	}
	slices.SortFunc(all, func(a, b delivered) int {
		return cmp.Or(a.First.Compare(b.First), strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	return all
}

// delivered is a Delivery that is compared with nothing.
type delivered struct{ Delivery }

var deliveredColumns = []string{"first", "last", "who", "purpose", "request", "recording", "played", "from the cache", "bytes delivered", "ranges"}

// Cells implements Row.
func (d delivered) Cells() []string {
	return []string{
		stamp(d.First), stamp(d.Last), d.Who, d.Purpose, d.RequestID, d.Recording, fmt.Sprint(d.Played), fmt.Sprint(d.Cached), fmt.Sprint(d.Bytes),
		d.ranges(),
	}
}
