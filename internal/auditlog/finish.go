package auditlog

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
)

// mark is an event on the timeline.
type mark struct {
	at   time.Time
	what string
}

// limits is what no report from this log can show.
var limits = []string{
	"A recording's key may be kept for a minute (vault.WithKeyCache) after Vault unwrapped it. The log has one opening for all playing in that " +
		"minute, and does not show how much was played, which parts, or whether anything was.",
	"A use after a grant's end is recognised by the grant's token, which Vault logs only once the grant was used. With a token that was never " +
		"used before, the attempt is under unknown_token, and whose grant it was is not known.",
	"Subject, purpose, reason and the patient of a grant are what its issuer wrote. Whose recording was opened is in the path and the context, " +
		"which Vault enforces.",
	"Who could read the ciphertext is in the log of the storage server. A listing that leaks IDs is seen here only when somebody uses one.",
	"Patients are named by KeyID. The application knows who they are; so does Vault, from an identifier.",
	"The revocation of all grants of one patient by identity/entity/batch-delete names entities by HMACs only: it is listed under changes, and uses " +
		"of these grants afterwards are under unknown_token or refused.",
	"Vault numbers no entries. A gap shows as a request without its answer, as a device that lacks what another has, as a grant's number of uses, " +
		"or as silence. Entries that are missing in pairs on every device show in none of these.",
}

const unansweredNote = " A request whose answer is not in the log counts as opened."

// report finishes the collection.
func (c *collector) report() *Report {
	c.forget(endOfTime)
	r := &Report{
		Source: FromLog, Made: time.Now().UTC().Truncate(time.Second), Mount: c.options.Mount, Prefix: c.options.Prefix, Files: c.in.files, Entries: c.entries,
		Copies: c.copies, First: c.first, Last: c.last, Limits: limits, bins: c.bins,
		Filter: Filter{
			Since: c.options.Since, Until: c.options.Until, KeyIDs: textsOf(c.options.KeyIDs), Recordings: textsOf(c.options.Recordings),
			Subjects: c.options.Subjects, Purposes: c.options.Purposes,
		},
		Totals: Totals{Requests: c.ours, Uses: map[Kind]int{}, Gaps: map[GapKind]int{}},
	}
	c.byUsage = nil // to make room
	order := make([]index, c.usages.n)
	for i := range order {
		order[i] = index(i)
		u := c.usages.at(index(i))
		r.Totals.Uses[u.kind] += int(u.count)
		if best(u.kind) == WrongPatient {
			continue
		}
		if u.wrapped {
			r.Totals.Wrapped += int(u.count)
		}
		if u.grant == 0 {
			r.Totals.Outside += int(u.count)
		}
	}
	inTime := func(a, b index) int {
		one, two := c.usages.at(a), c.usages.at(b)
		return cmp.Or(cmp.Compare(one.first, two.first), cmp.Compare(a, b))
	}
	slices.SortFunc(order, inTime)
	perGrant := c.perGrant()
	listed := c.listed(perGrant)

	patients := c.patients(order, r)
	subjects := c.subjects(order, r)
	granters := c.granters(listed, perGrant, r)
	incidents := c.listIncidents(r)
	after := c.listAfterEnd(r)
	changes := c.listChanges(r)
	gaps := c.listGaps(r)
	if c.events != nil {
		r.Totals.Events, r.Totals.Overflowed = c.events.lines, c.events.overflowed
	}

	outside := func(u *usage) bool { return (u.grant == 0 || u.wrapped) && best(u.kind) != WrongPatient }
	emergency := func(g index) bool { return breakGlass(c.texts.of[c.grants.at(g).purpose]) }
	r.sections = []Section{
		section("patients", "Patients concerned",
			"Each patient with a recording that was opened, described or attempted in what was selected, those with the most opened first. For a "+
				"notification under Art. 33 and 34 of the GDPR, select what was unlawful, by subject and time. A recording that was opened counts "+
				"once, and not as described. What was attempted and refused disclosed nothing."+unansweredNote,
			[]string{"patient (KeyID)", "effect", "opened", "described only", "attempted only", "first", "last", "who"}, patients),
		section("outside", "Uses of patients' keys outside a grant",
			"There must be none. Vault unwrapped a key for a token that is not a grant, or left an unwrapped key in Vault under another token (WRAPPED).",
			useColumns, slices.Collect(c.uses(order, outside))),
		section("after_revocation", "Uses of a grant after its revocation",
			"The request began after Vault had answered the revocation. At most 1,000 that were refused are listed, and as "+
				"many that were allowed.",
			[]string{"time", "outcome", "count", "revoked", "revoked by", "subject", "purpose", "patient (KeyID)", "recording", "address"}, after),
		section("incidents", "Incidents: attempts that were refused",
			"Attempts on other patients' recordings are one incident as long as no ten minutes pass without one, whoever makes them: a listing that "+
				"leaks shows itself to many. Other refused attempts are grouped likewise for each subject, or for each token and address if the "+
				"subject is not known. Those on other patients' recordings come first.",
			[]string{"what", "first", "last", "attempts", "of these", "who", "purposes", "patients", "recordings", "addresses"}, incidents),
		section("unusual", "Subjects, and who of them reached unusually many patients",
			fmt.Sprintf("Unusual is who opened or described recordings of at least %d patients, and of more than %d times the median of all who did so "+
				"under the same purpose.", unusualLeast, unusualTimes),
			[]string{"subject", "purpose", "patients", "opened", "described only", "refused", "remark"}, subjects),
		lazy("break_glass", "Emergency access", "Grants with the purpose BTG or ETREAT. Somebody must review each.", grantColumns,
			len(filter(listed, emergency)), c.listGrants(filter(listed, emergency), perGrant)),
		section("granters", "Grants, by who issued them",
			"Unused is a grant that ended without any request. Over-used is one that was presented again after its last use. Tokens with the same name "+
				"and policies are one granter.",
			[]string{"granter", "issued", "refused", "unused", "over-used", "emergency", "subjects", "tokens", "addresses"}, granters),
		lazy("accesses", "Who opened and described what, and who attempted to",
			"One row for each recording under each grant, in the order of time. Opened: the recording could be played. Described: title and times were "+
				"shown, and nothing could be played.",
			useColumns, len(order), c.uses(order, func(*usage) bool { return true })),
		lazy("grants", "All grants", "", grantColumns, len(listed), c.listGrants(listed, perGrant)),
		section("changes", "Changes of policies, keys, audit devices and other settings",
			"Writes of the same token to the same path are one row. Filters by time and KeyID apply, and no others.",
			[]string{"first", "last", "count", "who", "operation", "path", "outcome"}, changes),
		section("gaps", "Gaps in the log",
			"Over the whole log, whatever is selected. At most 1,000 of each kind are listed.",
			[]string{"what", "from", "to", "count", "details", "where"}, gaps),
	}
	switch {
	case c.alone != nil:
		r.sections = c.sectionsAlone(r.sections)
		r.Source, r.Limits = FromEvents, aloneLimits
		r.Mount, r.Prefix = "", ""
	case c.events != nil:
		deliveries := c.reconcile(r)
		r.Limits = append([]string{
			"The log and the events are compared at the times that the events cover. An event comes when a recording is closed: what was open when " +
				"the stream ended, or when a process was killed, is in the log alone. So is what a process did whose events were not given. At the edges " +
				"of a selected period, a use may be on one side only.",
		}, limits[1:]...)
		r.sections = append(r.sections, section("deliveries", "What was delivered, and whether the log and the events agree",
			"One row for each recording and each grant, or several grants with the same subject, purpose and request. Only in the log: somebody used the "+
				"grant, or the patient's key, and no process reports it. Only in the events: the log lacks entries. Bytes count again when they "+
				"are delivered again.",
			deliveryColumns, deliveries))
	}
	for _, row := range incidents {
		r.marks = append(r.marks, mark{row.First, row.Kind})
	}
	return r
}

// section returns a section whose rows are in memory.
func section[R Row](name, title, note string, columns []string, rows []R) Section {
	return lazy(name, title, note, columns, len(rows), func(yield func(Row) bool) {
		for _, row := range rows {
			if !yield(row) {
				return
			}
		}
	})
}

// lazy returns a section whose rows are made when they are read.
func lazy(name, title, note string, columns []string, n int, rows iter.Seq[Row]) Section {
	return Section{Name: name, Title: title, Note: note, Columns: columns, Len: n, Rows: rows}
}

func textsOf[T fmt.Stringer](values []T) (texts []string) {
	for _, value := range values {
		texts = append(texts, value.String())
	}
	return texts
}

func filter(all []index, is func(index) bool) (some []index) {
	for _, i := range all {
		if is(i) {
			some = append(some, i)
		}
	}
	return some
}

func breakGlass(purpose string) bool {
	return purpose == string(keys.BreakTheGlass) || purpose == string(keys.EmergencyAccess)
}

// uses returns the usages that fit, as rows. It is read once or several times.
func (c *collector) uses(order []index, fits func(*usage) bool) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for _, i := range order {
			if u := c.usages.at(i); fits(u) && !yield(c.row(u)) {
				return
			}
		}
	}
}

func (c *collector) row(u *usage) Use {
	g := c.grants.at(u.grant)
	text := c.texts.of
	row := Use{
		Kind: u.kind, First: at(u.first), Last: at(u.last), Count: int(u.count), Subject: text[g.subject], Purpose: text[g.purpose],
		Reason: text[g.reason], RequestID: g.requestID, KeyID: text[u.keyID], Recording: c.recording(u.keyID, u.recording), By: text[u.actor],
		Address: text[u.address], Wrapped: u.wrapped,
	}
	if g.keyID != u.keyID {
		row.GrantKeyID = text[g.keyID]
	}
	return row
}

// recording returns the ID of a recording, or "" if it is not known.
func (c *collector) recording(keyID, rec index) string {
	if rec == 0 {
		return ""
	}
	return c.texts.of[keyID] + "." + c.texts.of[rec]
}

// counts are the recordings that a grant was used for.
type counts struct {
	opened, described int32
	usedUp, any       bool
}

func (c *collector) perGrant() []counts {
	all := make([]counts, c.grants.n)
	for i := range c.usages.n {
		u := c.usages.at(index(i))
		one := &all[u.grant]
		one.any = true
		switch u.kind {
		case Opened:
			one.opened++
		case Described:
			one.described++
		case UsedUp:
			one.usedUp = true
		}
	}
	return all
}

// listed returns the grants that the filters select, in the order in which they were issued: those that were used for what was
// selected, and without a filter by recording also those that were issued in the period.
func (c *collector) listed(perGrant []counts) (listed []index) {
	o := &c.options
	for i := 1; i < c.grants.n; i++ {
		g := c.grants.at(index(i))
		keyID, _ := keys.ParseKeyID(c.texts.of[g.keyID])
		if perGrant[i].any || len(o.Recordings) == 0 && c.selected(at(g.issued), g, keyID, keys.RecordingID{}) {
			listed = append(listed, index(i))
		}
	}
	slices.SortFunc(listed, func(a, b index) int {
		return cmp.Or(cmp.Compare(c.grants.at(a).issued, c.grants.at(b).issued), cmp.Compare(a, b))
	})
	return listed
}

func (c *collector) listGrants(listed []index, perGrant []counts) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for _, i := range listed {
			if !yield(c.grantRow(i, perGrant[i])) {
				return
			}
		}
	}
}

func (c *collector) grantRow(i index, used counts) Grant {
	g := c.grants.at(i)
	text := c.texts.of
	return Grant{
		Issued: at(g.issued), Expires: at(g.expires), Ended: at(g.ended), EndedBy: text[g.endedBy], Subject: text[g.subject],
		Purpose: text[g.purpose], Reason: text[g.reason], RequestID: g.requestID, KeyID: text[g.keyID], DescribeOnly: g.describeOnly,
		MaxUses: int(g.maxUses), Presented: int(g.presented), Opened: int(used.opened), Described: int(used.described), Issuer: text[g.issuer],
		Address: text[g.address], NotLogged: !g.seenIssued, OverUsed: used.usedUp,
		Unused: g.presented == 0 && g.seenIssued && (g.revoked || g.expires <= c.last.UnixNano()),
	}
}

func (c *collector) granters(listed []index, perGrant []counts, r *Report) []Granter {
	rows := map[index]*Granter{}
	subjects := map[[2]index]bool{}
	row := func(actor index) *Granter {
		if rows[actor] == nil {
			rows[actor] = &Granter{Granter: cmp.Or(c.texts.of[actor], "not in the log")}
			if issuer := c.issuers[actor]; issuer != nil {
				rows[actor].Refused, rows[actor].Tokens = issuer.refused, len(issuer.tokens)
				for _, address := range issuer.addresses {
					rows[actor].Addresses = append(rows[actor].Addresses, c.texts.of[address])
				}
			}
		}
		return rows[actor]
	}
	for _, i := range listed {
		g := c.grants.at(i)
		full := c.grantRow(i, perGrant[i])
		one := row(g.issuer)
		one.Issued++
		r.Totals.Grants++
		if full.Unused {
			one.Unused++
			r.Totals.Unused++
		}
		if full.NotLogged && full.Opened+full.Described > 0 {
			r.Totals.Unnamed++
		}
		if full.OverUsed {
			one.OverUsed++
			r.Totals.OverUsed++
		}
		if breakGlass(full.Purpose) {
			one.BreakGlass++
			r.Totals.BreakGlass++
		}
		if pair := [2]index{g.issuer, g.subject}; !subjects[pair] {
			subjects[pair] = true
			one.Subjects++
		}
	}
	for actor, issuer := range c.issuers {
		if issuer.refused > 0 {
			row(actor)
		}
	}
	all := []Granter{}
	for _, one := range rows {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Granter) int { return cmp.Or(b.Issued-a.Issued, strings.Compare(a.Granter, b.Granter)) })
	return all
}

// best returns what a use disclosed at most: Opened, Described, or WrongPatient for nothing. Without an answer in the log, it may
// have been an opening.
func best(kind Kind) Kind {
	if kind == Unanswered {
		return Opened
	}
	return min(kind, WrongPatient)
}

func (c *collector) patients(order []index, r *Report) []Patient {
	sorted := slices.Clone(order)
	slices.SortStableFunc(sorted, func(a, b index) int {
		one, two := c.usages.at(a), c.usages.at(b)
		return cmp.Or(cmp.Compare(one.keyID, two.keyID), cmp.Compare(one.recording, two.recording), cmp.Compare(best(one.kind), best(two.kind)))
	})
	all := []Patient{}
	for len(sorted) > 0 {
		keyID := c.usages.at(sorted[0]).keyID
		p := Patient{KeyID: c.texts.of[keyID]}
		who := [2]map[string]bool{{}, {}} // who reached something, and who only tried
		for last := index(0); len(sorted) > 0; sorted = sorted[1:] {
			u := c.usages.at(sorted[0])
			if u.keyID != keyID {
				break
			}
			if p.First.IsZero() || at(u.first).Before(p.First) {
				p.First = at(u.first)
			}
			if at(u.last).After(p.Last) {
				p.Last = at(u.last)
			}
			reached := best(u.kind)
			p.Outside = p.Outside || u.grant == 0 && reached != WrongPatient
			who[min(int(reached)/2, 1)][cmp.Or(c.texts.of[c.grants.at(u.grant).subject], c.texts.of[u.actor])] = true
			if u.recording == last && u.recording != 0 { // its best use came first
				continue
			}
			last = u.recording
			switch reached {
			case Opened:
				p.Opened++
			case Described:
				p.Described++
			default:
				p.Attempted++
			}
		}
		if p.Opened+p.Described > 0 {
			r.Totals.Patients++
			p.Who = slices.Sorted(maps.Keys(who[0]))
		} else {
			r.Totals.Attempted++
			p.Who = slices.Sorted(maps.Keys(who[1]))
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Patient) int {
		return cmp.Or(b.Opened-a.Opened, b.Described-a.Described, strings.Compare(a.KeyID, b.KeyID))
	})
	return all
}

func (c *collector) subjects(order []index, r *Report) []Subject {
	sorted := slices.DeleteFunc(slices.Clone(order), func(i index) bool { return c.usages.at(i).grant == 0 })
	slices.SortStableFunc(sorted, func(a, b index) int {
		one, two := c.usages.at(a), c.usages.at(b)
		g, h := c.grants.at(one.grant), c.grants.at(two.grant)
		return cmp.Or(cmp.Compare(g.purpose, h.purpose), cmp.Compare(g.subject, h.subject), cmp.Compare(one.keyID, two.keyID),
			cmp.Compare(one.recording, two.recording), cmp.Compare(best(one.kind), best(two.kind)))
	})
	all := []Subject{}
	var lastPurpose, lastSubject index
	var patient, recording index
	for _, i := range sorted {
		u := c.usages.at(i)
		g := c.grants.at(u.grant)
		if len(all) == 0 || g.purpose != lastPurpose || g.subject != lastSubject {
			lastPurpose, lastSubject, patient, recording = g.purpose, g.subject, 0, 0
			all = append(all, Subject{Subject: c.texts.of[g.subject], Purpose: c.texts.of[g.purpose]})
		}
		s := &all[len(all)-1]
		reached := best(u.kind)
		if reached == WrongPatient {
			s.Refused += int(u.count)
			continue
		}
		if u.keyID != patient {
			patient, recording = u.keyID, 0
			s.Patients++
		}
		if u.recording == recording && recording != 0 {
			continue
		}
		recording = u.recording
		if reached == Opened {
			s.Opened++
		} else {
			s.Described++
		}
	}
	for begin := 0; begin < len(all); {
		end := begin
		numbers := []int{}
		for ; end < len(all) && all[end].Purpose == all[begin].Purpose; end++ {
			if all[end].Patients > 0 {
				numbers = append(numbers, all[end].Patients)
			}
		}
		middle := median(numbers)
		for i := begin; i < end; i++ {
			all[i].Median = middle
			if n := all[i].Patients; n >= unusualLeast && float64(n) > unusualTimes*middle {
				all[i].Unusual = true
				r.Totals.Unusual++
			}
		}
		begin = end
	}
	slices.SortStableFunc(all, func(a, b Subject) int {
		return cmp.Or(b.Patients-a.Patients, strings.Compare(a.Subject, b.Subject), strings.Compare(a.Purpose, b.Purpose))
	})
	return all
}

func median(numbers []int) float64 {
	slices.Sort(numbers)
	n := len(numbers)
	if n == 0 {
		return 0
	}
	return float64(numbers[(n-1)/2]+numbers[n/2]) / 2
}

func (c *collector) listIncidents(r *Report) []Incident {
	all := []Incident{}
	for _, in := range c.incidents {
		row := Incident{
			Kind: "refused", First: at(in.first), Last: at(in.last), Attempts: in.count, Kinds: map[Kind]int{}, Subjects: c.sorted(in.subjects),
			Purposes: c.sorted(in.purposes), KeyIDs: c.sorted(in.keyIDs), Addresses: c.sorted(in.addresses), Recordings: []string{},
		}
		if in.wrong {
			row.Kind = WrongPatient.String()
		}
		for kind, n := range in.kinds {
			if n > 0 {
				row.Kinds[Kind(kind)] = n
			}
		}
		for pair := range in.recordings {
			if id := c.recording(pair[0], pair[1]); id != "" {
				row.Recordings = append(row.Recordings, id)
			}
		}
		slices.Sort(row.Recordings)
		all = append(all, row)
	}
	slices.SortStableFunc(all, func(a, b Incident) int { return cmp.Or(-strings.Compare(a.Kind, b.Kind), a.First.Compare(b.First)) })
	r.Totals.Incidents = len(all)
	return all
}

func (c *collector) sorted(set map[index]bool) []string {
	texts := []string{}
	for i := range set {
		texts = append(texts, c.texts.of[i])
	}
	slices.Sort(texts)
	return texts
}

func (c *collector) listAfterEnd(r *Report) []AfterRevocation {
	all := []AfterRevocation{}
	for _, a := range c.afterEnd {
		g := c.grants.at(a.grant)
		text := c.texts.of
		all = append(all, AfterRevocation{
			At: at(a.at), Allowed: a.allowed, Revoked: at(g.ended), RevokedBy: text[g.endedBy], Subject: text[g.subject], Purpose: text[g.purpose],
			KeyID: text[a.keyID], Recording: c.recording(a.keyID, a.recording), Address: text[a.address], Count: int(a.count),
		})
	}
	r.Totals.AfterRevocation, r.Totals.AllowedAfter = c.afterEndOf[0]+c.afterEndOf[1], c.afterEndOf[1]
	return all
}

func (c *collector) listChanges(r *Report) []Change {
	all := []Change{}
	for _, change := range c.changes {
		text := c.texts.of
		all = append(all, Change{
			First: at(change.first), Last: at(change.last), Count: change.count, By: text[change.actor], Operation: text[change.operation],
			Path: text[change.path], Failed: change.failed,
		})
		r.Totals.Changes += change.count
	}
	slices.SortFunc(all, func(a, b Change) int {
		return cmp.Or(a.First.Compare(b.First), strings.Compare(a.Path, b.Path), strings.Compare(a.By, b.By))
	})
	return all
}

func (c *collector) listGaps(r *Report) []Gap {
	for _, gap := range c.stretch.gaps(c) {
		c.gap(gap)
	}
	for i := 1; i < c.grants.n; i++ {
		g := c.grants.at(index(i))
		label := fmt.Sprintf("the grant of %s for %s, issued %s", c.texts.of[g.subject], c.texts.of[g.keyID], stamp(at(g.issued)))
		if missing := g.maxUses - g.remaining + 1 - g.limited; g.maxUses > 0 && g.remaining >= 0 && missing > 0 {
			c.gap(Gap{Kind: Uses, From: at(g.issued), To: at(g.expires), Count: int(missing), What: fmt.Sprintf("%d uses of %s are not in the log", missing, label)})
		}
		if !g.seenIssued && g.issued != 0 && g.issued >= c.first.UnixNano() { // it is in whole seconds, and never later than it was
			c.gap(Gap{Kind: NoIssue, From: at(g.issued), To: at(g.issued), Count: 1, What: "the issue of " + label + ", is not in the log"})
		}
	}
	all := []Gap{}
	for _, kind := range gapKinds {
		all = append(all, c.gaps[kind]...)
		if n := c.gapCount[kind]; n > 0 {
			r.Totals.Gaps[kind] = n
		}
	}
	for _, gap := range all {
		if gap.Kind != Silence && !gap.Explained {
			r.Totals.Unexplained++
		}
	}
	return all
}
