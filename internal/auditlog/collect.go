package auditlog

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
)

const (
	answerTime   = 5 * time.Minute  // after which a request is taken for one without an answer; Vault gives up after 90 seconds
	incidentGap  = 10 * time.Minute // between two attempts of different incidents
	maxListed    = 1000             // gaps of each kind that are listed; all are counted
	maxAddresses = 16               // that are listed for one who issues grants
)

// Kind is what became of a use of a patient's key.
type Kind uint8

const (
	Opened       Kind = iota // the recording key was unwrapped: the recording could be played
	Described                // the metadata key was unwrapped: title and times were shown, and nothing could be played
	WrongPatient             // refused: the grant is for another patient
	Refused                  // refused for another reason, such as a grant that can only describe
	Revoked                  // refused: the grant was revoked before
	UsedUp                   // refused: the grant had no use left
	Expired                  // refused: the grant had expired
	UnknownToken             // refused: the token is none that the log shows alive
	NoGrant                  // refused: the token is not a grant
	Failed                   // allowed by the policy, and failed in Vault: the key was erased, or the wrapped key was altered
	Unanswered               // the log has the request and no answer
	kinds
)

var kindNames = [kinds]string{
	"opened", "described", "wrong_patient", "refused", "revoked", "used_up", "expired", "unknown_token", "no_grant", "failed",
	"unanswered",
}

func (k Kind) String() string { return kindNames[k] }

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kindNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("no kind of use: %q", text)
	}
	*k = Kind(i)
	return nil
}

// index numbers a text, an arena's element or a grant. 0 stands for none.
type index = uint32

// texts numbers texts that repeat.
type texts struct {
	of   []string
	seen map[string]index
}

func newTexts() texts { return texts{of: []string{""}, seen: map[string]index{"": 0}} }

func (t *texts) index(text string) index {
	i, ok := t.seen[text]
	if !ok {
		i = index(len(t.of))
		text = strings.Clone(text)
		t.of, t.seen[text] = append(t.of, text), i
	}
	return i
}

// arena is a list that grows without being copied.
type arena[T any] struct {
	chunks [][]T
	n      int
}

const chunk = 1024

func (a *arena[T]) add(value T) index {
	if a.n%chunk == 0 {
		a.chunks = append(a.chunks, make([]T, 0, chunk))
	}
	last := &a.chunks[len(a.chunks)-1]
	*last = append(*last, value)
	a.n++
	return index(a.n - 1)
}

func (a *arena[T]) at(i index) *T { return &a.chunks[i/chunk][i%chunk] }

// grant is what the log shows of a grant.
type grant struct {
	issued, expires, ended             int64 // in Unix nanoseconds; 0 if not known
	subject, purpose, reason, keyID    index
	issuer, endedBy, address, entityID index
	requestID                          string
	presented                          int32 // requests with its token
	maxUses                            int32 // 0 without a limit
	remaining                          int32 // the least number of uses that a request found; -1 if none did
	limited                            int32 // requests that had a number of uses left
	describeOnly, seenIssued           bool
	revoked                            bool
}

// usage is what a grant, or another token, did with one recording.
type usage struct {
	usageKey
	count       int32
	compared    int32 // of these, those of a time that the events cover
	early       int32 // those of just before it, which may have an event
	first, last int64
	address     index // of the first
}

type usageKey struct {
	grant     index // 0 if it was none
	actor     index // who, if it was no grant
	keyID     index
	recording index // the part of the ID after the dot; 0 if the context is not one of ours
	kind      Kind
	wrapped   bool
}

// change is a kind of write to what decides who can open what.
type change struct {
	changeKey
	count       int
	first, last int64
}

type changeKey struct {
	actor, operation, path index
	failed                 bool
}

// collector counts what the entries show.
type collector struct {
	options Options
	in      *input

	entries, copies int
	ours            int // requests to the engine
	first, last     time.Time

	texts   texts
	grants  arena[grant]
	handles map[handle]index // of grants: by their accessor or their token, on each device
	usages  arena[usage]
	byUsage map[usageKey]index
	changes map[changeKey]*change
	issuers map[index]*issuer

	pending   map[string]*entry // requests without their answer so far, by ID
	forgotten time.Time         // when the old ones among them were handled

	incidents []*incident
	open      map[string]*incident

	afterEnd       []afterEnd // at most maxListed that were refused, and as many that were allowed
	afterEndOf     [2]int     // how often after its revocation a grant was refused, and how often it was allowed
	afterEndListed [2]int     // how many rows that would be
	gaps           map[GapKind][]Gap
	gapCount       map[GapKind]int
	stretch        stretch
	bins           bins
	events         *eventStream // nil without one
	alone          *alone       // nil with a log
}

type issuer struct {
	addresses []index
	refused   int
	tokens    map[handle]bool
}

// incident is a group of attempts that were refused.
type incident struct {
	wrong       bool // attempts on other patients' recordings
	key         string
	first, last int64
	count       int
	kinds       [kinds]int
	subjects    map[index]bool
	keyIDs      map[index]bool
	recordings  map[[2]index]bool
	addresses   map[index]bool
	purposes    map[index]bool
}

// afterEnd is a use of a grant after its revocation.
type afterEnd struct {
	grant, keyID, recording, address index
	at                               int64
	count                            int32
	allowed                          bool
}

func newCollector(options Options, in *input) *collector {
	c := &collector{
		options: options, in: in, texts: newTexts(), handles: map[handle]index{},
		byUsage: map[usageKey]index{}, changes: map[changeKey]*change{}, issuers: map[index]*issuer{},
		pending: map[string]*entry{}, open: map[string]*incident{}, gaps: map[GapKind][]Gap{}, gapCount: map[GapKind]int{},
	}
	c.grants.add(grant{}) // so that 0 stands for none
	first, last := options.Since, options.Until
	for _, file := range in.files {
		if options.Since.IsZero() && !file.First.IsZero() && (first.IsZero() || file.First.Before(first)) {
			first = file.First
		}
		if options.Until.IsZero() && file.Last.After(last) {
			last = file.Last
		}
	}
	c.bins = newBins(first, last)
	return c
}

// add implements handler.
func (c *collector) add(copies []*entry) {
	e := copies[0]
	c.entries++
	c.copies += len(copies) - 1
	if c.first.IsZero() {
		c.first = e.Time
	} else if quiet := e.Time.Sub(c.last); c.options.Silence > 0 && quiet >= c.options.Silence {
		c.gap(Gap{Kind: Silence, From: c.last, To: e.Time, Count: 1, What: "nothing was logged for " + quiet.Round(time.Second).String()})
	}
	if e.Time.Before(c.last) {
		c.gap(Gap{Kind: Disorder, From: e.Time, To: e.Time, Count: 1, What: "the entry is older than those before it", Where: c.where(e.place)})
	} else {
		c.last = e.Time
	}
	whole := e.digest(true)
	for _, other := range copies[1:] {
		if other.digest(true) != whole {
			c.gap(Gap{
				Kind: Altered, From: e.Time, To: e.Time, Count: 1,
				What: "copies of one entry differ: request " + e.Request.ID + " to " + e.Request.Path, Where: c.where(e.place, other.place),
			})
		}
	}
	c.stretch.add(c, copies)
	if !c.here(e) {
		return
	}
	c.holder(e)
	for _, other := range copies[1:] {
		c.alias(e, other)
	}
	if e.Time.Sub(c.forgotten) > answerTime/4 {
		c.forgotten = e.Time
		c.forget(e.Time.Add(-answerTime))
	}
	if e.limited() {
		c.process(e, e.Time, true)
		return
	}
	if e.Type == "request" {
		c.pending[e.Request.ID] = e
		return
	}
	asked, ok := c.pending[e.Request.ID]
	delete(c.pending, e.Request.ID)
	switch {
	case ok && (!e.answers(asked) || e.decrypts() && e.denied() != asked.denied()):
		c.gap(Gap{
			Kind: Altered, From: asked.Time, To: e.Time, Count: 1,
			What: "request and answer differ: request " + e.Request.ID + " to " + e.Request.Path, Where: c.where(asked.place, e.place),
		})
	case !ok && !strings.HasPrefix(e.Request.Path, "sys/audit/"): // the answer to enabling a device is its first entry
		c.gap(Gap{
			Kind: NoRequest, From: e.Time, To: e.Time, Count: 1,
			What: "an answer without its request: " + e.Request.ID + ", " + e.Request.Operation + " " + e.Request.Path, Where: c.where(e.place),
		})
	}
	began := e.Time
	if ok {
		began = asked.Time
	}
	c.process(e, began, true)
}

// unreadable implements handler.
func (c *collector) unreadable(at place, why string) {
	c.gap(Gap{Kind: Unreadable, Count: 1, What: why, Where: c.where(at)})
}

func (c *collector) where(places ...place) (lines []string) {
	for _, p := range places {
		lines = append(lines, fmt.Sprintf("%s:%d", c.in.files[p.source].Name, p.line))
	}
	return lines
}

func (c *collector) gap(g Gap) {
	c.gapCount[g.Kind] += g.Count
	if len(c.gaps[g.Kind]) < maxListed {
		c.gaps[g.Kind] = append(c.gaps[g.Kind], g)
	}
}

// here reports whether an entry belongs to the namespace of the options.
func (c *collector) here(e *entry) bool {
	return strings.Trim(e.Request.Namespace.Path, "/") == c.options.Namespace
}

// forget handles the requests from before a time that have no answer.
func (c *collector) forget(before time.Time) {
	var old []*entry
	for id, e := range c.pending {
		if e.Time.Before(before) {
			old = append(old, e)
			delete(c.pending, id)
		}
	}
	slices.SortFunc(old, (*entry).compare)
	for _, e := range old {
		if path := e.Request.Path; path == "sys/audit/test" || path == "sys/seal" || path == "sys/step-down" {
			continue // Vault logs no answer to these
		}
		c.gap(Gap{
			Kind: NoAnswer, From: e.Time, To: e.Time, Count: 1,
			What: "a request without its answer: " + e.Request.ID + ", " + e.Request.Operation + " " + e.Request.Path, Where: c.where(e.place),
		})
		c.process(e, e.Time, false)
	}
}

// alias notes that the HMACs in two copies of an entry stand for the same tokens.
func (c *collector) alias(e, other *entry) {
	same := func(a, b string) {
		if g := cmp.Or(c.handles[handleOf(a)], c.handles[handleOf(b)]); g != 0 {
			c.link(a, g)
			c.link(b, g)
		}
	}
	same(e.Auth.Accessor, other.Auth.Accessor)
	same(e.Request.ClientToken, other.Request.ClientToken)
	if e.Response.Auth != nil && other.Response.Auth != nil {
		// The grant is made when this entry is processed, which is after its copies were compared.
		if c.grantRole(e) != "" {
			c.link(other.Response.Auth.Accessor, c.made(e))
			c.link(other.Response.Auth.ClientToken, c.made(e))
		}
	}
}

// link notes that an HMAC stands for a grant's accessor or token.
func (c *collector) link(hmac string, g index) {
	if h := handleOf(hmac); h != 0 {
		c.handles[h] = g
	}
}

// grantRole returns "grant" or "describe" for a request that issues a grant, and "" for any other.
func (c *collector) grantRole(e *entry) string {
	role, ok := strings.CutPrefix(e.Request.Path, "auth/token/create/"+c.options.Prefix+"-")
	if ok && (role == "grant" || role == "describe") {
		return role
	}
	return ""
}

// made returns the grant that an answer brought, which is new unless a copy of the entry was seen.
func (c *collector) made(e *entry) index {
	a := e.Response.Auth
	h := handleOf(a.Accessor)
	if g, ok := c.handles[h]; ok {
		return g
	}
	g := c.newGrant(a, c.grantRole(e) == "describe")
	grant := c.grants.at(g)
	grant.seenIssued = true
	grant.issued = e.Time.UnixNano()
	grant.expires = e.Time.Add(time.Duration(a.TTL) * time.Second).UnixNano()
	grant.maxUses = int32(a.NumUses)
	grant.issuer = c.actor(e)
	grant.address = c.texts.index(e.Request.Address)
	c.link(a.ClientToken, g) // the token itself, if Vault's tokens have the older form
	return g
}

func (c *collector) newGrant(a *auth, describeOnly bool) index {
	meta := a.Metadata
	g := c.grants.add(grant{
		subject: c.texts.index(meta["subject"]), purpose: c.texts.index(meta["purpose"]), reason: c.texts.index(meta["reason"]),
		keyID: c.texts.index(meta["key_id"]), requestID: meta["request_id"], describeOnly: describeOnly, remaining: -1,
		entityID: c.texts.index(a.EntityID),
	})
	c.link(a.Accessor, g)
	return g
}

// actor names the token of a request.
func (c *collector) actor(e *entry) index { return c.texts.index(actorOf(e)) }

func actorOf(e *entry) string {
	if e.Auth.Accessor == "" {
		return "unknown token"
	}
	name := e.Auth.DisplayName
	if role := cmp.Or(e.Auth.Metadata["role_name"], e.Auth.Metadata["role"]); role != "" {
		name += " " + role
	}
	return name + " [" + strings.Join(e.Auth.Policies, " ") + "]"
}

// holder returns the grant whose token a request has, or 0 if it is none.
func (c *collector) holder(e *entry) index {
	h := handleOf(e.Auth.Accessor)
	if h == 0 { // the token has ended, or never was one
		return c.handles[handleOf(e.Request.ClientToken)]
	}
	g := c.handles[h]
	if g == 0 {
		describe := slices.Equal(e.Auth.Policies, []string{c.options.Prefix + "-describe"})
		if !describe && !slices.Equal(e.Auth.Policies, []string{c.options.Prefix + "-grant"}) {
			return 0
		}
		g = c.newGrant(&e.Auth, describe)
		c.grants.at(g).issued = e.Auth.IssueTime.UnixNano()
		c.grants.at(g).expires = e.Auth.IssueTime.Add(time.Duration(e.Auth.TTL) * time.Second).UnixNano()
	}
	c.link(e.Request.ClientToken, g) // how an attempt after its end is recognised
	return g
}

// presented notes a request with a grant's token, and returns the grant, or 0 if the token is none.
func (c *collector) presented(e *entry) index {
	g := c.holder(e)
	if g == 0 || e.Auth.Accessor == "" {
		return g
	}
	grant := c.grants.at(g)
	grant.presented++
	if left := e.Auth.RemainingUses; left != nil {
		grant.limited++
		if grant.remaining < 0 || int32(*left) < grant.remaining {
			grant.remaining = int32(*left)
		}
	}
	return g
}

// process counts what a request did. Without an answer, only what it attempted is known.
func (c *collector) process(e *entry, began time.Time, answered bool) {
	path := e.Request.Path
	g := c.presented(e)
	inside, ours := strings.CutPrefix(path, c.options.Mount+"/")
	switch {
	case ours && strings.HasPrefix(inside, "decrypt/"):
		c.decrypt(e, g, began, answered)
	case c.grantRole(e) != "":
		c.issue(e)
	case path == "auth/token/revoke-self" && g != 0 && e.Error == "" && answered:
		c.end(g, e)
	case path == revokeAccessor && e.Error == "" && answered:
		if g := c.handles[handleOf(e.field("accessor"))]; g != 0 {
			c.end(g, e)
		}
	case strings.HasPrefix(path, "sys/leases/revoke-") && e.Error == "" && answered:
		c.endAll(e)
	case strings.HasPrefix(path, "identity/entity/id/") && e.Request.Operation == "delete" && e.Error == "" && answered:
		entity := c.texts.index(strings.TrimPrefix(path, "identity/entity/id/"))
		c.endIf(e, func(g *grant) bool { return g.entityID == entity })
	}
	if c.inPeriod(e.Time) {
		c.change(e, inside, ours)
	}
	if ours {
		c.ours++
	}
}

func (c *collector) inPeriod(t time.Time) bool {
	return !t.Before(c.options.Since) && (c.options.Until.IsZero() || t.Before(c.options.Until))
}

func (c *collector) issue(e *entry) {
	actor := c.actor(e)
	i := c.issuers[actor]
	if i == nil {
		i = &issuer{tokens: map[handle]bool{}}
		c.issuers[actor] = i
	}
	if address := c.texts.index(e.Request.Address); len(i.addresses) < maxAddresses && !slices.Contains(i.addresses, address) {
		i.addresses = append(i.addresses, address)
	}
	if len(i.tokens) < maxAddresses {
		i.tokens[handleOf(e.Auth.Accessor)] = true
	}
	switch {
	case e.Response.Auth != nil && e.Error == "":
		c.made(e)
	case c.inPeriod(e.Time):
		i.refused++
	}
}

func (c *collector) end(g index, e *entry) {
	if grant := c.grants.at(g); grant.ended == 0 {
		grant.ended, grant.endedBy, grant.revoked = e.Time.UnixNano(), c.actor(e), true
	}
}

// endAll handles a revocation of leases by their prefix. A grant's lease starts with the path that issued it.
func (c *collector) endAll(e *entry) {
	prefix, ok := strings.CutPrefix(e.Request.Path, "sys/leases/revoke-prefix/")
	if !ok {
		prefix, ok = strings.CutPrefix(e.Request.Path, "sys/leases/revoke-force/")
	}
	if !ok {
		return
	}
	under := func(path string) bool { return strings.HasPrefix(path+"/", strings.TrimSuffix(prefix, "/")+"/") }
	create := "auth/token/create/" + c.options.Prefix
	grants, describes := under(create+"-grant"), under(create+"-describe")
	if grants || describes {
		c.endIf(e, func(g *grant) bool { return g.describeOnly && describes || !g.describeOnly && grants })
	}
}

// endIf ends the grants that are alive and fit.
func (c *collector) endIf(e *entry, fits func(*grant) bool) {
	now := e.Time.UnixNano()
	for i := 1; i < c.grants.n; i++ {
		if g := c.grants.at(index(i)); g.expires > now && fits(g) {
			c.end(index(i), e)
		}
	}
}

// decrypt counts a use of a patient's key, or an attempt.
func (c *collector) decrypt(e *entry, g index, began time.Time, answered bool) {
	name := strings.TrimPrefix(e.Request.Path, c.options.Mount+"/decrypt/")
	text, isKey := strings.CutSuffix(name, "-kek")
	keyID, err := keys.ParseKeyID(text)
	if err != nil || !isKey {
		text = name // no patient's key
	}
	grant := c.grants.at(g)
	for _, binding := range e.contexts() {
		recording, described := recordingOf(binding)
		kind := c.kindOf(e, g, text, answered)
		if kind == Opened && described {
			kind = Described
		}
		if !c.selected(e.Time, grant, keyID, recording) {
			continue
		}
		key := usageKey{grant: g, keyID: c.texts.index(text), kind: kind, wrapped: e.wrapped()}
		if recording.KeyID() == keyID && !recording.IsZero() {
			key.recording = c.texts.index(recording.Rec())
		}
		if g == 0 {
			key.actor = c.actor(e)
		}
		c.use(key, sighting{at: e.Time, began: began, count: 1, address: c.texts.index(e.Request.Address), allowed: e.Error == ""})
	}
}

// kindOf returns what became of a request to decrypt. Allowed is Opened.
func (c *collector) kindOf(e *entry, g index, keyID string, answered bool) Kind {
	grant := c.grants.at(g)
	switch {
	case e.Error == "" && !answered:
		return Unanswered
	case e.Error == "":
		return Opened
	case !e.denied():
		return Failed
	case e.Auth.Accessor == "":
		at := e.Time.UnixNano()
		switch {
		case g == 0:
			return UnknownToken
		case grant.revoked:
			return Revoked
		case grant.maxUses > 0 && grant.remaining <= 1 && grant.remaining >= 0:
			return UsedUp
		case grant.expires <= at+int64(time.Second): // the TTL is in whole seconds
			return Expired
		}
		return UnknownToken
	case g == 0:
		return NoGrant
	case c.texts.of[grant.keyID] != keyID:
		return WrongPatient
	}
	return Refused
}

// selected reports whether the filters select a use.
func (c *collector) selected(t time.Time, g *grant, keyID keys.KeyID, recording keys.RecordingID) bool {
	o := &c.options
	return c.inPeriod(t) && (len(o.KeyIDs) == 0 || slices.Contains(o.KeyIDs, keyID)) &&
		(len(o.Recordings) == 0 || slices.Contains(o.Recordings, recording)) && c.bySubject(g)
}

func (c *collector) bySubject(g *grant) bool {
	o := &c.options
	return (len(o.Subjects) == 0 || slices.Contains(o.Subjects, c.texts.of[g.subject])) &&
		(len(o.Purposes) == 0 || slices.Contains(o.Purposes, c.texts.of[g.purpose]))
}

// sighting is when and from where a patient's key was used, or was attempted to be. They are handed over in the order of time.
type sighting struct {
	at, began time.Time
	count     int32
	address   index
	allowed   bool
}

func (c *collector) use(key usageKey, s sighting) *usage {
	i, ok := c.byUsage[key]
	if !ok {
		i = c.usages.add(usage{usageKey: key, first: s.at.UnixNano(), address: s.address})
		c.byUsage[key] = i
	}
	u := c.usages.at(i)
	u.count = plus(u.count, s.count)
	switch c.events.covers(s.at) {
	case covered:
		u.compared = plus(u.compared, s.count)
	case atStart:
		u.early = plus(u.early, s.count)
	}
	u.last = max(u.last, s.at.UnixNano())
	c.bins.add(s.at, key.kind, int(s.count))
	grant := c.grants.at(key.grant)
	if grant.revoked && s.began.UnixNano() > grant.ended {
		c.afterItsEnd(key, s)
	}
	if key.kind >= WrongPatient && key.kind <= NoGrant {
		c.attempt(key, s)
	}
	return u
}

// plus adds numbers that a file may have made up.
func plus(a, b int32) int32 { return int32(min(int64(a)+int64(b), math.MaxInt32)) }

// afterItsEnd adds a use of a grant that began after its revocation. Many refused ones do not hide one that was allowed.
func (c *collector) afterItsEnd(key usageKey, s sighting) {
	kind := 0
	if s.allowed {
		kind = 1
	}
	c.afterEndOf[kind] += int(s.count)
	if c.afterEndListed[kind]++; c.afterEndListed[kind] <= maxListed {
		c.afterEnd = append(c.afterEnd, afterEnd{
			grant: key.grant, at: s.at.UnixNano(), keyID: key.keyID, recording: key.recording, address: s.address, count: s.count, allowed: s.allowed,
		})
	}
}

// attempt adds a refused attempt to its incident.
func (c *collector) attempt(key usageKey, s sighting) {
	grant := c.grants.at(key.grant)
	wrong := key.kind == WrongPatient
	group := "wrong patient" // one listing that leaks shows itself to many
	if !wrong {
		group = "by " + cmp.Or(c.texts.of[grant.subject], c.texts.of[key.actor]+" at "+c.texts.of[s.address])
	}
	now := s.at.UnixNano()
	in := c.open[group]
	if in == nil || now-in.last > int64(incidentGap) {
		in = &incident{
			wrong: wrong, key: group, first: now, subjects: map[index]bool{}, keyIDs: map[index]bool{}, recordings: map[[2]index]bool{},
			addresses: map[index]bool{}, purposes: map[index]bool{},
		}
		c.open[group] = in
		c.incidents = append(c.incidents, in)
	}
	in.last = now
	in.count += int(s.count)
	in.kinds[key.kind] += int(s.count)
	in.keyIDs[key.keyID] = true
	in.recordings[[2]index{key.keyID, key.recording}] = true
	if s.address != 0 {
		in.addresses[s.address] = true
	}
	if key.grant != 0 {
		in.subjects[grant.subject] = true
		in.purposes[grant.purpose] = true
	} else {
		in.subjects[key.actor] = true
	}
}

// change counts a write to what decides who can open what, allowed or refused.
func (c *collector) change(e *entry, inside string, ours bool) {
	path, op := e.Request.Path, e.Request.Operation
	if op != "create" && op != "update" && op != "patch" && op != "delete" && !strings.HasPrefix(inside, "export/") && !strings.HasPrefix(inside, "backup/") {
		return
	}
	under := func(path string, prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
	}
	switch {
	case ours && strings.HasPrefix(inside, "keys/"):
		name, rest, _ := strings.Cut(strings.TrimPrefix(inside, "keys/"), "/")
		text, isKey := strings.CutSuffix(name, "-kek")
		keyID, err := keys.ParseKeyID(strings.TrimPrefix(text, "erased-"))
		if isKey && err == nil {
			if len(c.options.KeyIDs) > 0 && !slices.Contains(c.options.KeyIDs, keyID) {
				return
			}
			if op != "delete" { // routine, and as many as patients
				path = strings.TrimSuffix(c.options.Mount+"/keys/"+strings.TrimSuffix(text, keyID.String())+"<KeyID>-kek/"+rest, "/")
			}
		}
	case ours && under(inside, "config/", "cache-config", "export/", "backup/", "restore/", "datakey/", "byok-export/", "wrapping_key"),
		under(path, "sys/audit/"):
		if path == "sys/audit/test" {
			return
		}
	case under(path, "sys/policies/", "sys/policy/", "sys/auth/", "sys/mounts/", "sys/remount", "sys/config/", "sys/seal", "sys/step-down",
		"sys/rekey", "sys/generate-root", "sys/rotate", "sys/raw/", "sys/plugins/", "sys/storage/", "sys/quotas/", "sys/leases/revoke-"):
	case under(path, "identity/") && !under(path, "identity/lookup/"):
	case under(path, "auth/token/roles/"):
	case under(path, "auth/") && !under(path, "auth/token/") && !strings.Contains(path, "/login") && !strings.Contains(path, "/secret-id"):
	default:
		return
	}
	c.countChange(changeKey{c.actor(e), c.texts.index(op), c.texts.index(path), e.Error != ""}, e.Time, 1)
}

func (c *collector) countChange(key changeKey, t time.Time, n int) {
	found := c.changes[key]
	if found == nil {
		found = &change{changeKey: key, first: t.UnixNano()}
		c.changes[key] = found
	}
	found.count += n
	found.first, found.last = min(found.first, t.UnixNano()), max(found.last, t.UnixNano())
}
