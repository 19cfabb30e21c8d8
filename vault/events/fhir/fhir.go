// Package fhir encodes events as FHIR R4 AuditEvents after IHE's Basic Audit Log Patterns (BALP), and posts them to a FHIR
// server such as an audit record repository (IHE ATNA, ITI-20).
//
// What each kind becomes:
//
//	kind                          profile        type    subtype            action  outcome
//	opened, described             PatientRead    rest    read               R       0
//	listed                        PatientQuery   rest    search-type        E       0
//	stored                        PatientCreate  rest    create             C       0
//	updated, rekeyed              PatientUpdate  rest    update             U       0
//	deleted, erased               PatientDelete  rest    delete             D       0
//	copied                        PatientRead for the one patient, PatientCreate for the other
//	reassigned                    PatientDelete for the one patient, PatientCreate for the other
//	wrong-patient, refused,
//	exhausted                     none           110113  110132             R       4
//	damaged                       none           110113  none               R       8
//	unsupported, gone             none           rest    read               R       4
//	failed                        none           rest    read               R       4 if the status is 4xx, otherwise 8
//	hold-set, hold-cleared        none           (lifecycle, see below)     U       0
//	held                          none           rest    update or delete   U D     4
//	grant-issued, grant-revoked   none           110113  110137             E       0
//	the same, to break the glass  none           110113  110127 or 110138   E       0
//	overflow                      none           those of the kind that was counted
//	any other                     none           110100  none               E       0
//	a [Change]                    none           110113  110129             C U D   0, or 8 if it failed
//	a [Logged] outside a grant    that of its kind, with the subtype 110132 beside the kind's
//
// A hold has the type hold or unhold of http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle, and no subtype of others.
// A held has the action of what was refused, and the detail "of" its kind; those that were only counted have that of a delete.
//
// Each event also has its kind as a subtype, in the code system [Kinds]. An event of a change with an error, which was made in
// part, has outcome 8. An event with another outcome than 0 claims no profile, because BALP's are for success; it has the
// pattern of its action and an OperationOutcome. BALP's profile of authorization decisions requires a Consent and an
// organization, which no event has, so a grant is a security alert and claims no profile.
//
// Sources: https://profiles.ihe.net/ITI/BALP, version 1.1, for the profiles, and volume 1, 52.4.1.6, for one resource per
// patient; https://hl7.org/fhir/R4/auditevent.html for outcomes; DICOM PS3.16, CID 400 to 403, for the numbers:
// 110100 is Application Activity, 110113 Security Alert, 110129 Security Configuration, 110132 Use of Restricted Function,
// 110137 User security Attributes Changed, and 110127 and 110138 the start and the end of an Emergency Override.
//
// The patient is a logical reference to the pseudonym, the recording and the grant likewise. The user is the subject of the
// grant, or the operator, and purposeOfEvent the grant's purpose, with its reason as the text; of a hold it is the reason alone. Who
// issued or revoked a grant is an author. A resource has nothing that an event, a Logged or a Change does not have: no patient
// identifier, title, token or key.
package fhir

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// Kinds is the code system of the kinds of events. The codes are those of [events.Kind].
const Kinds = "https://pkg.go.dev/github.com/recvault/recvault/vault/events#Kind"

// Site names the parties of the events, and the systems of their identifiers. Each system is an absolute URI of the site's
// choice, such as "https://hospital.example/recvault/patients" or "urn:oid:2.999.1". Everything is required.
type Site struct {
	Patients   string // the system of patients' pseudonyms
	Recordings string // the system of recordings' IDs
	Users      string // the system of grants' subjects and of operators
	Grants     string // the system of grants' accessors
	Purposes   string // the code system of the site's own purposes, which start with [keys.OwnPurpose]

	Application Party // the program that uses the vault, and makes the AuditEvents
	Server      Party // what holds the recordings and their keys
}

// Party is a system that takes part. Its Address is an IP address, the name of a machine, or a URI.
type Party struct{ Name, Address string }

// Encoder encodes the events of a site. It is safe for concurrent use.
type Encoder struct{ site Site }

// New returns the Encoder of a site. It returns an error if something is missing, or a system is not an absolute URI.
func New(site Site) (*Encoder, error) {
	for name, system := range map[string]string{
		"Patients": site.Patients, "Recordings": site.Recordings, "Users": site.Users, "Grants": site.Grants,
		"Purposes": site.Purposes,
	} {
		if uri, err := url.Parse(system); err != nil || !uri.IsAbs() || strings.ContainsAny(system, " |") {
			return nil, fmt.Errorf("fhir: %s, the system %q, is not an absolute URI", name, system)
		}
	}
	for name, party := range map[string]Party{"Application": site.Application, "Server": site.Server} {
		if strings.TrimSpace(party.Name) == "" || strings.TrimSpace(party.Address) == "" {
			return nil, fmt.Errorf("fhir: the %s has no name or no address", name)
		}
	}
	return &Encoder{site}, nil
}

// Encode returns the AuditEvents of an event, as JSON: one, or one for each of the two patients of a Copied or Reassigned.
// The same event always becomes the same bytes. The ID is a UUID made of the content, by which a receiver that keeps it can
// recognize what it got twice.
func (e *Encoder) Encode(event events.Event) []json.RawMessage {
	return e.EncodeLogged(Logged{Event: event})
}

// Logged is an event as the keyring's audit log shows it, with what a vault does not know. Each field is optional.
type Logged struct {
	events.Event
	By      string // who issued or revoked the grant, in the system of users; the initiator, in place of the grant's subject
	Address string // an IP address: where the request came from, in place of that of the Application
	Outside bool   // a patient's key was used outside a grant, which must not be
	Wrapped bool   // the answer was left in the keyring for another token
}

// EncodeLogged is like Encode. A use outside a grant has the subtype 110132 and the detail outside_grant, whatever else it
// is: only such a use has this subtype and type rest.
func (e *Encoder) EncodeLogged(event Logged) (all []json.RawMessage) {
	for _, r := range e.resources(event) {
		all = append(all, r.encode())
	}
	return all
}

// Change is a write to what decides who can open what, such as a policy, a key or an audit device of Vault, or several
// that differ only in their times. It is no event of a vault; the keyring's audit log has it.
type Change struct {
	First, Last time.Time
	Count       int
	By          string // who, in the system of users
	Operation   string // such as "update"
	Path        string // what was written, such as "sys/policies/acl/recvault-server"
	Failed      bool
}

// EncodeChange returns the AuditEvent of a change.
func (e *Encoder) EncodeChange(c Change) json.RawMessage {
	p := configuration
	if action, ok := map[string]string{"create": "C", "update": "U", "patch": "U", "delete": "D"}[c.Operation]; ok {
		p.action = action
	}
	if c.Failed {
		p.outcome = serious
	}
	r := &auditEvent{
		ResourceType: "AuditEvent", Type: p.event, Subtype: p.subtypes, Action: p.action, Outcome: p.outcome,
		Recorded: instant(c.Last), Period: &period{instant(c.First), instant(c.Last)},
		Entity: []entity{{
			Type: &systemObject, Role: &securityRole, Name: c.Path,
			Detail: appendNumber([]detail{{"operation", c.Operation}}, "count", int64(c.Count)),
		}},
	}
	e.agents(r, p, Logged{Event: events.Event{Grant: keys.GrantDetails{Subject: c.By}}})
	return r.encode()
}

// WriteBundle writes AuditEvents that were encoded before as a Bundle of type collection. It holds one in memory at a time.
func WriteBundle(w io.Writer, resources iter.Seq[json.RawMessage]) error {
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(`{"resourceType":"Bundle","type":"collection"`) // Flush returns the error
	separator := `,"entry":[`                                              // an empty array is not allowed
	for resource := range resources {
		var r struct{ ID string }
		if err := json.Unmarshal(resource, &r); err != nil {
			return fmt.Errorf("fhir: a resource of the bundle: %w", err)
		}
		if _, err := fmt.Fprintf(out, "%s\n"+`{"fullUrl":"urn:uuid:%s","resource":%s}`, separator, r.ID, resource); err != nil {
			return fmt.Errorf("fhir: %w", err)
		}
		separator = ","
	}
	if separator == "," {
		_, _ = out.WriteString("\n]")
	}
	_, _ = out.WriteString("}\n")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("fhir: %w", err)
	}
	return nil
}

// pattern is what all events with the same row in the table have in common.
type pattern struct {
	profile              string // of BALP, or ""
	event                coding
	subtypes             []coding
	action               string
	client, server, user coding // how the agents take part
	outcome              string
	issue                string // of the OperationOutcome
}

const (
	success = "0"
	minor   = "4" // "often equivalent to an HTTP 400 response"
	serious = "8" // "often equivalent to an HTTP 500 response"
)

var (
	rest        = hl7("audit-event-type", "rest", "RESTful Operation")
	activity    = dicom("110100", "Application Activity")
	alert       = dicom("110113", "Security Alert")
	restricted  = dicom("110132", "Use of Restricted Function")
	application = dicom("110150", "Application")
	destination = dicom("110152", "Destination Role ID")
	origin      = dicom("110153", "Source Role ID")
	custodian   = hl7("provenance-participant-type", "custodian", "Custodian")
	authorizer  = hl7("extra-security-role-type", "authserver", "authorization server")
	recipient   = hl7("v3-ParticipationType", "IRCP", "information recipient")
	author      = hl7("v3-ParticipationType", "AUT", "author (originator)")
	server      = hl7("security-source-type", "4", "Application Server")

	hold   = hl7("iso-21089-lifecycle", "hold", "Add Legal Hold Record Lifecycle Event")
	unhold = hl7("iso-21089-lifecycle", "unhold", "Remove Legal Hold Record Lifecycle Event")

	person       = hl7("audit-entity-type", "1", "Person")
	systemObject = hl7("audit-entity-type", "2", "System Object")
	other        = hl7("audit-entity-type", "4", "Other")
	patientRole  = hl7("object-role", "1", "Patient")
	domainRole   = hl7("object-role", "4", "Domain Resource")
	securityRole = hl7("object-role", "13", "Security Resource")
	queryRole    = hl7("object-role", "24", "Query")
	request      = coding{System: "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", Code: "XrequestId"}
	outcomeType  = coding{"http://hl7.org/fhir/resource-types", "OperationOutcome", "OperationOutcome"}
)

var (
	read   = pattern{"PatientRead", rest, []coding{interaction("read")}, "R", destination, origin, recipient, success, ""}
	query  = pattern{"PatientQuery", rest, []coding{interaction("search-type")}, "E", origin, destination, recipient, success, ""}
	create = pattern{"PatientCreate", rest, []coding{interaction("create")}, "C", origin, destination, author, success, ""}
	update = pattern{"PatientUpdate", rest, []coding{interaction("update")}, "U", origin, destination, author, success, ""}
	remove = pattern{"PatientDelete", rest, []coding{interaction("delete")}, "D", application, custodian, author, success, ""}
	refuse = pattern{
		"", alert, []coding{restricted}, "R", destination, origin, recipient, minor, "forbidden",
	}
	grant = pattern{
		"", alert, []coding{dicom("110137", "User security Attributes Changed")}, "E", application, authorizer, recipient, success, "",
	}

	configuration = pattern{
		"", alert, []coding{dicom("110129", "Security Configuration")}, "E", application, authorizer, recipient, success, "",
	}
	unknown = pattern{"", activity, nil, "E", origin, destination, recipient, success, ""}

	overrideStarted = []coding{dicom("110127", "Emergency Override Started")}
	overrideStopped = []coding{dicom("110138", "Emergency Override Stopped")}
)

// patternOf returns the pattern of an event, for the recording that was asked for.
func patternOf(kind events.Kind, event events.Event) pattern {
	p := read
	failed := func(outcome, issue string) { p.profile, p.outcome, p.issue = "", outcome, issue }
	switch kind {
	case events.Opened, events.Described, events.Copied:
	case events.Listed:
		p = query
	case events.Stored:
		p = create
	case events.Updated, events.Rekeyed:
		p = update
	case events.Deleted, events.Erased, events.Reassigned:
		p = remove
	case events.WrongPatient, events.Refused, events.Exhausted:
		p = refuse
	case events.Damaged:
		p.event, p.subtypes = alert, nil
		failed(serious, "exception")
	case events.Unsupported:
		failed(minor, "not-supported")
	case events.Gone:
		failed(minor, "deleted")
	case events.Failed:
		switch {
		case event.Status == 404:
			failed(minor, "not-found")
		case 400 <= event.Status && event.Status < 500:
			failed(minor, "processing")
		default:
			failed(serious, "exception")
		}
	case events.HoldSet:
		p = update
		p.profile, p.event, p.subtypes = "", hold, nil
	case events.HoldCleared:
		p = update
		p.profile, p.event, p.subtypes = "", unhold, nil
	case events.Held:
		p = remove
		if event.Of == events.Updated || event.Of == events.Rekeyed {
			p = update
		}
		failed(minor, "business-rule")
	case events.GrantIssued:
		p = grant
		if event.Grant.Purpose == keys.BreakTheGlass {
			p.subtypes = overrideStarted
		}
	case events.GrantRevoked:
		p = grant
		if event.Grant.Purpose == keys.BreakTheGlass {
			p.subtypes = overrideStopped
		}
	default: // of a later release
		p = unknown
	}
	return p
}

// resources returns one AuditEvent for each patient.
func (e *Encoder) resources(event Logged) []*auditEvent {
	kind := event.Kind
	if kind == events.Overflow {
		kind = event.Of
	}
	first := e.resource(patternOf(kind, event.Event), event, event.KeyID, event.Recording)
	if event.Kind != events.Copied && event.Kind != events.Reassigned || event.To.IsZero() {
		return []*auditEvent{first}
	}
	return []*auditEvent{first, e.resource(create, event, event.To.KeyID(), event.To)}
}

// resource returns the AuditEvent about one patient, and one recording or all.
func (e *Encoder) resource(p pattern, event Logged, keyID keys.KeyID, recording keys.RecordingID) *auditEvent {
	if event.Error != "" && p.outcome == success {
		p.outcome, p.issue = serious, "exception"
	}
	r := &auditEvent{
		ResourceType: "AuditEvent", Type: p.event, Action: p.action, Recorded: instant(event.Time),
		Outcome: p.outcome, OutcomeDesc: strings.TrimSpace(event.Error),
		Subtype: append(p.subtypes[:len(p.subtypes):len(p.subtypes)], coding{System: Kinds, Code: string(event.Kind)}),
	}
	if event.Kind == events.Overflow {
		r.Subtype = append(r.Subtype, coding{System: Kinds, Code: string(event.Of)})
	}
	if event.Outside {
		r.Subtype = append(r.Subtype, restricted)
	}
	if !keyID.IsZero() && p.outcome == success && p.profile != "" {
		r.Meta = &meta{[]string{"https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit." + p.profile}}
	}
	if !event.Began.IsZero() || !event.Ended.IsZero() {
		r.Period = &period{instant(event.Began), instant(event.Ended)}
	}
	if event.Operator != "" {
		event.Grant.Subject, event.Grant.Reason = event.Operator, event.Reason
	}
	e.agents(r, p, event)

	if !keyID.IsZero() {
		patient := ref("Patient", e.site.Patients, keyID.String())
		r.Entity = append(r.Entity, entity{What: patient, Type: &person, Role: &patientRole})
		data := entity{Type: &systemObject, Role: &domainRole}
		switch {
		case p.profile == query.profile:
			data.Role = &queryRole
			data.Query = base64.StdEncoding.EncodeToString([]byte("patient:identifier=" + e.site.Patients + "|" + keyID.String()))
		case !recording.IsZero():
			data.What = ref("", e.site.Recordings, recording.String())
		default: // the key, and so all recordings
			data.What = ref("", e.site.Patients, keyID.String())
		}
		if p.event == rest || !recording.IsZero() {
			r.Entity = append(r.Entity, data)
		}
	}
	if event.Kind == events.Rekeyed && !event.To.IsZero() {
		r.Entity = append(r.Entity, entity{What: ref("", e.site.Recordings, event.To.String()), Type: &other, Role: &domainRole})
	}
	e.grant(r, event.Event)
	if p.outcome != success {
		r.Contained = []operationOutcome{{"OperationOutcome", "outcome", []issue{{"error", p.issue, r.OutcomeDesc}}}}
		r.Entity = append(r.Entity, entity{What: &reference{Reference: "#outcome"}, Type: &outcomeType})
	}
	if details := details(event); len(details) > 0 {
		r.Entity = append(r.Entity, entity{Type: &other, Name: "event", Detail: details})
	}
	return r
}

// agents adds who took part, and who observed it.
func (e *Encoder) agents(r *auditEvent, p pattern, event Logged) {
	g := event.Grant
	client := e.site.Application
	client.Address = cmp.Or(event.Address, client.Address)
	r.Agent = []agent{client.agent(p.client, g.Subject == "" && event.By == ""), e.site.Server.agent(p.server, false)}
	if g.Reason != "" {
		r.PurposeOfEvent = []concept{{Text: g.Reason}}
	}
	if g.Purpose != "" {
		system := "http://terminology.hl7.org/CodeSystem/v3-ActReason"
		if strings.HasPrefix(string(g.Purpose), keys.OwnPurpose) {
			system = e.site.Purposes
		}
		r.PurposeOfEvent = []concept{{Coding: []coding{{System: system, Code: string(g.Purpose)}}, Text: g.Reason}}
	}
	if g.Subject != "" {
		r.Agent = append(r.Agent, agent{
			Type: concept{Coding: []coding{p.user}}, Who: ref("", e.site.Users, g.Subject), Requestor: event.By == "",
			PurposeOfUse: r.PurposeOfEvent,
		})
	}
	if event.By != "" {
		r.Agent = append(r.Agent, agent{
			Type: concept{Coding: []coding{author}}, Who: ref("", e.site.Users, event.By), Requestor: true,
		})
	}
	r.Source = source{Observer: e.site.Application.ref(), Type: []coding{server}}
}

// grant adds the grant and the request that it belongs to.
func (e *Encoder) grant(r *auditEvent, event events.Event) {
	g := event.Grant
	var limits []detail
	if !g.KeyID.IsZero() && g.KeyID != event.KeyID { // of a WrongPatient: a search for that patient does not find this
		limits = append(limits, detail{"key_id", g.KeyID.String()})
	}
	if !g.Expires.IsZero() {
		limits = append(limits, detail{"expires", instant(g.Expires)})
	}
	limits = appendNumber(limits, "max_uses", int64(g.MaxUses))
	if g.DescribeOnly {
		limits = append(limits, detail{"describe_only", "true"})
	}
	var what *reference
	if g.Accessor != "" { // which Vault's audit log does not have
		what = ref("", e.site.Grants, g.Accessor)
	}
	if what != nil || len(limits) > 0 {
		r.Entity = append(r.Entity, entity{What: what, Type: &other, Role: &securityRole, Detail: limits})
	}
	if g.RequestID != "" {
		r.Entity = append(r.Entity, entity{What: ref("", "", g.RequestID), Type: &request})
	}
}

// details returns the figures of an event, by the names of its JSON form.
func details(event Logged) (all []detail) {
	if event.Outside {
		all = append(all, detail{"outside_grant", "true"})
	}
	if event.Wrapped {
		all = append(all, detail{"wrapped", "true"})
	}
	if event.Kind == events.Held {
		all = append(all, detail{"of", string(event.Of)})
	}
	if event.Count != 1 {
		all = appendNumber(all, "count", int64(event.Count))
	}
	all = appendNumber(all, "bytes", event.Bytes)
	if len(event.Ranges) > 0 {
		ranges := make([]string, len(event.Ranges))
		for i, r := range event.Ranges {
			ranges[i] = r.String()
		}
		all = append(all, detail{"ranges", strings.Join(ranges, " ")})
	}
	if event.Coarse {
		all = append(all, detail{"ranges_coarse", "true"})
	}
	all = appendNumber(all, "unwraps", int64(event.Unwraps))
	all = appendNumber(all, "entries", int64(event.Entries))
	return appendNumber(all, "status", int64(event.Status))
}

func appendNumber(all []detail, name string, n int64) []detail {
	if n == 0 {
		return all
	}
	return append(all, detail{name, strconv.FormatInt(n, 10)})
}

func (p Party) ref() *reference { return ref("", "", p.Name) }

func (p Party) agent(as coding, requestor bool) agent {
	const machineName, ipAddress, uri = "1", "2", "5" // http://hl7.org/fhir/network-type
	kind := machineName
	if _, err := netip.ParseAddr(p.Address); err == nil {
		kind = ipAddress
	} else if strings.Contains(p.Address, "://") {
		kind = uri
	}
	return agent{Type: concept{Coding: []coding{as}}, Who: p.ref(), Requestor: requestor, Network: &network{p.Address, kind}}
}

func dicom(code, display string) coding {
	return coding{"http://dicom.nema.org/resources/ontology/DCM", code, display}
}

func interaction(code string) coding {
	return coding{"http://hl7.org/fhir/restful-interaction", code, code}
}

func hl7(system, code, display string) coding {
	return coding{"http://terminology.hl7.org/CodeSystem/" + system, code, display}
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// encode sets the ID and returns the JSON.
func (r *auditEvent) encode() json.RawMessage {
	r.ID = ""
	sum := sha256.Sum256(r.marshal())
	sum[6] = sum[6]&0x0f | 0x80 // version 8 (RFC 9562): a hash of our own choice
	sum[8] = sum[8]&0x3f | 0x80
	r.ID = fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	return r.marshal()
}

func (r *auditEvent) marshal() []byte {
	text, err := json.Marshal(r)
	if err != nil {
		panic("fhir: internal error: " + err.Error()) // it has only strings and booleans
	}
	return text
}
