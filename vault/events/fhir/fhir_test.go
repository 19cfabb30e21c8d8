package fhir_test

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

// at is when everything in these tests happens.
var at = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

var site = fhir.Site{
	Patients: "https://hospital.example/patients", Recordings: "https://hospital.example/recordings",
	Users: "https://hospital.example/users", Grants: "urn:oid:2.999.1", Purposes: "https://hospital.example/purposes",
	Application: fhir.Party{Name: "portal", Address: "portal.hospital.example"},
	Server:      fhir.Party{Name: "recordings", Address: "https://s3.hospital.example/recordings"},
}

func encoder(t *testing.T) *fhir.Encoder {
	t.Helper()
	e, err := fhir.New(site)
	require.NoError(t, err)
	return e
}

func keyID(n byte) keys.KeyID {
	mac := make([]byte, keys.KeyIDBytes)
	mac[0] = n
	return keys.NewKeyID(mac)
}

var (
	recording = keystest.NewRecordingID(keyID(1))
	copied    = keystest.NewRecordingID(keyID(2))
	rekeyed   = keystest.NewRecordingID(keyID(1))
)

// kinds has every kind, in the order of package events.
var kinds = []events.Kind{
	events.Opened, events.Described, events.Listed,
	events.WrongPatient, events.Refused, events.Exhausted, events.Damaged, events.Unsupported, events.Gone, events.Failed,
	events.Stored, events.Updated, events.Copied, events.Reassigned, events.Rekeyed, events.Deleted, events.Erased,
	events.HoldSet, events.HoldCleared, events.Held, events.GrantIssued, events.GrantRevoked, events.Overflow,
}

// eventOf returns an event as the vault, an erasure or a login emits it.
func eventOf(kind events.Kind) events.Event {
	e := events.Event{
		Kind: kind, Time: at, Count: 1, KeyID: recording.KeyID(), Recording: recording, Unwraps: 1,
		Grant: keys.GrantDetails{
			KeyID: recording.KeyID(), Accessor: "accessor-1", Expires: at.Add(time.Hour), Subject: "dr-lee", Purpose: keys.Treatment,
			RequestID: "case-7", MaxUses: 3,
		},
	}
	switch kind {
	case events.Opened:
		e.Began, e.Ended = at.Add(-time.Minute), at
		e.Deliver(0, 100)
		e.Deliver(200, 50)
	case events.Listed:
		e.Recording, e.Unwraps, e.Entries = keys.RecordingID{}, 0, 4
	case events.WrongPatient:
		e.Grant.KeyID, e.Error = copied.KeyID(), "the cause"
	case events.Refused, events.Exhausted, events.Damaged, events.Unsupported, events.Gone:
		e.Error = "the cause"
	case events.Failed:
		e.Status, e.Error = 503, "keyring is unavailable"
	case events.Stored, events.Deleted, events.Erased:
		e.Grant, e.Unwraps = keys.GrantDetails{}, 0
		if kind == events.Erased {
			e.Operator = "m.okafor"
		}
	case events.HoldSet, events.HoldCleared:
		e.Recording, e.Grant, e.Unwraps, e.Operator, e.Reason = keys.RecordingID{}, keys.GrantDetails{}, 0, "m.okafor", "case 7 of 2026"
	case events.Held:
		e.Grant, e.Unwraps, e.Of, e.Error = keys.GrantDetails{}, 0, events.Deleted, "patient is on hold"
	case events.Copied, events.Reassigned:
		e.To = copied
	case events.Rekeyed:
		e.To = rekeyed
	case events.GrantIssued, events.GrantRevoked:
		e.Recording, e.Unwraps = keys.RecordingID{}, 0
	case events.Overflow:
		e = events.Event{Kind: kind, Of: events.Opened, Time: at, Count: 12, Bytes: 3000, Unwraps: 2}
	}
	return e
}

// cases has every kind of event, and forms of them that become something else.
func cases() map[string]events.Event {
	all := map[string]events.Event{}
	for _, kind := range kinds {
		all[string(kind)] = eventOf(kind)
	}
	add := func(name string, kind events.Kind, change func(*events.Event)) {
		e := eventOf(kind)
		change(&e)
		all[name] = e
	}
	add("listed without a grant", events.Listed, func(e *events.Event) { e.Grant = keys.GrantDetails{} })
	add("opened often", events.Opened, func(e *events.Event) { e.Count, e.Coarse = 12, true })
	add("opened for a purpose of the site", events.Opened, func(e *events.Event) { e.Grant.Purpose = "X-CIRCLE" })
	add("opened by breaking the glass", events.Opened, breakGlass)
	add("described with a grant that can only describe", events.Described, func(e *events.Event) { e.Grant.DescribeOnly = true })
	add("failed, not found", events.Failed, func(e *events.Event) { e.Status = 404 })
	add("failed, bad request", events.Failed, func(e *events.Event) { e.Status = 400 })
	add("failed in mid-stream", events.Failed, func(e *events.Event) { e.Status = 0 })
	add("patient erased", events.Erased, func(e *events.Event) { e.Recording = keys.RecordingID{} })
	add("update refused by a hold", events.Held, func(e *events.Event) {
		e.Of, e.Grant = events.Updated, eventOf(events.Updated).Grant
	})
	add("erasure refused by a hold", events.Held, func(e *events.Event) {
		e.Of, e.Recording, e.Operator = events.Erased, keys.RecordingID{}, "m.okafor"
	})
	add("hold cleared, perhaps", events.HoldCleared, func(e *events.Event) { e.Error = "store is unavailable" })
	add("refusals by holds counted", events.Overflow, func(e *events.Event) { e.Of = events.Held })
	add("reassigned in part", events.Reassigned, func(e *events.Event) { e.Error = "the original may exist" })
	add("copied, perhaps", events.Copied, func(e *events.Event) { e.To, e.Error = keys.RecordingID{}, "unknown" })
	add("glass broken", events.GrantIssued, breakGlass)
	add("glass mended", events.GrantRevoked, breakGlass)
	add("grant revoked by accessor", events.GrantRevoked, func(e *events.Event) {
		*e = events.Event{Kind: e.Kind, Time: at, Count: 1, Grant: keys.GrantDetails{Accessor: "accessor-1"}}
	})
	add("wrong patient, in a log", events.WrongPatient, func(e *events.Event) { e.Grant.Accessor = "" })
	add("refusals counted", events.Overflow, func(e *events.Event) { e.Of = events.Refused })
	add("listings counted", events.Overflow, func(e *events.Event) { e.Of = events.Listed })
	add("a kind of a later release", "later", func(*events.Event) {})
	return all
}

func breakGlass(e *events.Event) {
	e.Grant.Purpose, e.Grant.Reason = keys.BreakTheGlass, "found unconscious"
}

// Every kind is tried: a new one needs a row in the table.
func TestAllKindsAreThere(t *testing.T) {
	source, err := os.ReadFile("../events.go")
	require.NoError(t, err)
	var all []events.Kind
	for _, found := range regexp.MustCompile(`\bKind += "([a-z-]+)"`).FindAllSubmatch(source, -1) {
		all = append(all, events.Kind(found[1]))
	}
	assert.Equal(t, all, kinds)
}

func TestAnOpeningAsAuditEvent(t *testing.T) {
	event := cases()["opened by breaking the glass"]
	all := encoder(t).Encode(event)
	require.Len(t, all, 1)
	var id struct{ ID string }
	require.NoError(t, json.Unmarshal(all[0], &id))
	assert.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, id.ID)
	purpose := `[{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "BTG"}], "text": "found unconscious"}]`
	assert.JSONEq(t, `{
		"resourceType": "AuditEvent", "id": "`+id.ID+`",
		"meta": {"profile": ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"]},
		"type": {"system": "http://terminology.hl7.org/CodeSystem/audit-event-type", "code": "rest", "display": "RESTful Operation"},
		"subtype": [
			{"system": "http://hl7.org/fhir/restful-interaction", "code": "read", "display": "read"},
			{"system": "`+fhir.Kinds+`", "code": "opened"}
		],
		"action": "R", "outcome": "0", "recorded": "2026-03-01T12:00:00.123456Z",
		"period": {"start": "2026-03-01T11:59:00.123456Z", "end": "2026-03-01T12:00:00.123456Z"},
		"purposeOfEvent": `+purpose+`,
		"agent": [
			{"type": {"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110152", "display": "Destination Role ID"}]},
				"who": {"identifier": {"value": "portal"}}, "requestor": false, "network": {"address": "portal.hospital.example", "type": "1"}},
			{"type": {"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110153", "display": "Source Role ID"}]},
				"who": {"identifier": {"value": "recordings"}}, "requestor": false,
				"network": {"address": "https://s3.hospital.example/recordings", "type": "5"}},
			{"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP", "display": "information recipient"}]},
				"who": {"identifier": {"system": "https://hospital.example/users", "value": "dr-lee"}}, "requestor": true, "purposeOfUse": `+purpose+`}
		],
		"source": {"observer": {"identifier": {"value": "portal"}},
			"type": [{"system": "http://terminology.hl7.org/CodeSystem/security-source-type", "code": "4", "display": "Application Server"}]},
		"entity": [
			{"what": {"type": "Patient", "identifier": {"system": "https://hospital.example/patients", "value": "`+event.KeyID.String()+`"}},
				"type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "1", "display": "Person"},
				"role": {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "1", "display": "Patient"}},
			{"what": {"identifier": {"system": "https://hospital.example/recordings", "value": "`+event.Recording.String()+`"}},
				"type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "2", "display": "System Object"},
				"role": {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "4", "display": "Domain Resource"}},
			{"what": {"identifier": {"system": "urn:oid:2.999.1", "value": "accessor-1"}},
				"type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "4", "display": "Other"},
				"role": {"system": "http://terminology.hl7.org/CodeSystem/object-role", "code": "13", "display": "Security Resource"},
				"detail": [{"type": "expires", "valueString": "2026-03-01T13:00:00.123456Z"}, {"type": "max_uses", "valueString": "3"}]},
			{"what": {"identifier": {"value": "case-7"}},
				"type": {"system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", "code": "XrequestId"}},
			{"type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "4", "display": "Other"}, "name": "event",
				"detail": [{"type": "bytes", "valueString": "150"}, {"type": "ranges", "valueString": "0-100 200-250"}, {"type": "unwraps", "valueString": "1"}]}
		]
	}`, string(all[0]))
}

func TestAGrantWithoutItsAccessorKeepsItsLimits(t *testing.T) {
	event := cases()["wrong patient, in a log"]
	var grants []object
	for _, e := range list(decoded(t, encoder(t).Encode(event)[0]), "entity") {
		if token(child(e, "role")) == terminology+"object-role|13" {
			grants = append(grants, e)
		}
	}
	require.Len(t, grants, 1)
	assert.NotContains(t, grants[0], "what")
	assert.Contains(t, grants[0]["detail"], object{"type": "key_id", "valueString": event.Grant.KeyID.String()})
}

func TestAnEventAlwaysBecomesTheSame(t *testing.T) {
	ids := map[string]string{}
	for name, event := range cases() {
		first, second := encoder(t).Encode(event), encoder(t).Encode(event)
		assert.Equal(t, first, second, name)
		for _, r := range first {
			var resource struct{ ID string }
			require.NoError(t, json.Unmarshal(r, &resource))
			assert.Empty(t, ids[resource.ID], "%s has the ID of another", name)
			ids[resource.ID] = name
		}
	}
}

func TestAHoldAsAuditEvent(t *testing.T) {
	for kind, code := range map[events.Kind]string{events.HoldSet: "hold", events.HoldCleared: "unhold"} {
		r := decoded(t, encoder(t).Encode(eventOf(kind))[0])
		assert.Equal(t, terminology+"iso-21089-lifecycle|"+code, token(child(r, "type")))
		assert.Equal(t, "U", r["action"])
		assert.Equal(t, "0", r["outcome"])
		assert.Equal(t, "case 7 of 2026", list(r, "purposeOfEvent")[0]["text"])
		assert.Equal(t, "m.okafor", child(list(r, "agent")[2], "who", "identifier")["value"])
		assert.Equal(t, recording.KeyID().String(), child(list(r, "entity")[0], "what", "identifier")["value"])
	}
	for name, action := range map[string]string{"held": "D", "update refused by a hold": "U", "erasure refused by a hold": "D"} {
		event := cases()[name]
		r := decoded(t, encoder(t).Encode(event)[0])
		assert.Equal(t, action, r["action"], name)
		assert.Equal(t, "4", r["outcome"], name)
		assert.Len(t, list(r, "subtype"), 2, "none says that it was made: %s", name)
		entities := list(r, "entity")
		assert.Contains(t, list(entities[len(entities)-1], "detail"), object{"type": "of", "valueString": string(event.Of)}, name)
	}
}

// A question about one patient is not answered with another patient's pseudonym.
func TestEachPatientHasAResource(t *testing.T) {
	for _, kind := range []events.Kind{events.Copied, events.Reassigned} {
		all := encoder(t).Encode(eventOf(kind))
		require.Len(t, all, 2, kind)
		for i, own := range []keys.RecordingID{recording, copied} {
			another := []keys.RecordingID{copied, recording}[i]
			assert.Contains(t, string(all[i]), own.String())
			assert.NotContains(t, string(all[i]), another.KeyID().String())
		}
	}
}

func TestAWrongPatientNamesThePatientOfTheGrant(t *testing.T) {
	event := eventOf(events.WrongPatient)
	entities := list(decoded(t, encoder(t).Encode(event)[0]), "entity")
	patients := typed(entities, terminology+"audit-entity-type|1")
	require.Len(t, patients, 1)
	assert.Equal(t, event.KeyID.String(), child(patients[0], "what", "identifier")["value"])
	assert.Contains(t, list(entities[2], "detail"), object{"type": "key_id", "valueString": event.Grant.KeyID.String()})
}

func TestABundle(t *testing.T) {
	type bundle struct {
		ResourceType, Type string
		Entry              []struct {
			FullURL  string
			Resource json.RawMessage
		}
	}
	var out bytes.Buffer
	require.NoError(t, fhir.WriteBundle(&out, slices.Values([]json.RawMessage(nil))))
	assert.JSONEq(t, `{"resourceType": "Bundle", "type": "collection"}`, out.String(), "FHIR has no empty arrays")

	var want []json.RawMessage
	for _, kind := range kinds {
		want = append(want, encoder(t).Encode(eventOf(kind))...)
	}
	out.Reset()
	require.NoError(t, fhir.WriteBundle(&out, slices.Values(want)))
	var read bundle
	require.NoError(t, json.Unmarshal(out.Bytes(), &read))
	assert.Equal(t, "Bundle", read.ResourceType)
	assert.Equal(t, "collection", read.Type)
	require.Len(t, read.Entry, len(want))
	for i, entry := range read.Entry {
		assert.Equal(t, want[i], entry.Resource)
		var resource struct{ ID string }
		require.NoError(t, json.Unmarshal(entry.Resource, &resource))
		assert.Equal(t, "urn:uuid:"+resource.ID, entry.FullURL)
	}
	assert.Error(t, fhir.WriteBundle(full{}, slices.Values(want)))
	assert.Error(t, fhir.WriteBundle(&out, slices.Values([]json.RawMessage{[]byte("{")})))
}

// changes has changes of the keyring's setup, by the action that they become.
var changes = map[string]fhir.Change{
	"C": {First: at, Last: at, Count: 1, By: "admin", Operation: "create", Path: "transit/keys/<KeyID>"},
	"U": {First: at.Add(-time.Hour), Last: at, Count: 3, By: "admin", Operation: "update", Path: "sys/policies/acl/recvault-server"},
	"D": {First: at, Last: at, Count: 1, By: "root", Operation: "delete", Path: "sys/audit/file", Failed: true},
	"E": {First: at, Last: at, Count: 1, Operation: "list", Path: "auth/token/accessors"},
}

func TestAChangeAsAuditEvent(t *testing.T) {
	for action, change := range changes {
		r := decoded(t, encoder(t).EncodeChange(change))
		assert.Equal(t, action, r["action"])
		assert.Equal(t, map[bool]string{false: "0", true: "8"}[change.Failed], r["outcome"])
		assert.Equal(t, change.Last.Format(time.RFC3339Nano), r["recorded"])
		assert.Equal(t, change.First.Format(time.RFC3339Nano), child(r, "period")["start"])
		assert.Equal(t, dicom+"110129", token(list(r, "subtype")[0]))
		what := list(r, "entity")[0]
		assert.Equal(t, change.Path, what["name"])
		assert.Equal(t, change.Operation, list(what, "detail")[0]["valueString"])
		if user := list(r, "agent")[2:]; change.By == "" {
			assert.Empty(t, user)
		} else {
			assert.Equal(t, change.By, child(user[0], "who", "identifier")["value"])
		}
	}
}

// inLog has events as an audit log shows them.
func inLog() map[string]fhir.Logged {
	outside := eventOf(events.Opened)
	outside.Grant = keys.GrantDetails{Subject: "root [root]"}
	unanswered := outside
	unanswered.Error = "no answer"
	return map[string]fhir.Logged{
		"outside":    {Event: outside, Address: "192.0.2.1", Outside: true},
		"unanswered": {Event: unanswered, Outside: true},
		"wrapped":    {Event: eventOf(events.Described), Address: "2001:db8::1", Outside: true, Wrapped: true},
		"issued":     {Event: eventOf(events.GrantIssued), By: "portal [issuer]", Address: "192.0.2.2"},
		"revoked":    {Event: eventOf(events.GrantRevoked), By: "desk [revoker]"},
	}
}

func TestAUseOutsideAGrantIsMarked(t *testing.T) {
	marked := func(r object) bool {
		return child(r, "type")["code"] == "rest" && slices.ContainsFunc(list(r, "subtype"), func(o object) bool {
			return token(o) == dicom+"110132"
		})
	}
	for name, event := range inLog() {
		for _, text := range encoder(t).EncodeLogged(event) {
			r := decoded(t, text)
			assert.Equal(t, event.Outside, marked(r), name)
			assert.Equal(t, event.Outside, strings.Contains(string(text), `{"type":"outside_grant","valueString":"true"}`), name)
			assert.Equal(t, event.Wrapped, strings.Contains(string(text), `{"type":"wrapped","valueString":"true"}`), name)
			assert.Equal(t, event.Outside && event.Error == "", profileOf(t, r) == "PatientRead", name)
		}
	}
	for name, event := range cases() {
		for _, text := range encoder(t).Encode(event) {
			assert.False(t, marked(decoded(t, text)), name)
		}
	}
}

// FHIR has one initiator at most: of a grant, whoever issued or revoked it.
func TestWhoIssuedOrRevokedAGrant(t *testing.T) {
	all := inLog()
	for _, name := range []string{"issued", "revoked"} {
		agents := list(decoded(t, encoder(t).EncodeLogged(all[name])[0]), "agent")
		initiators := map[any]any{}
		for _, a := range agents {
			initiators[child(a, "who", "identifier")["value"]] = a["requestor"]
		}
		by := all[name].By
		assert.Equal(t, map[any]any{"portal": false, "recordings": false, "dr-lee": false, by: true}, initiators)
		assert.Equal(t, participation+"AUT", token(child(agents[3], "type")))
	}
	unnamed := fhir.Logged{Event: events.Event{Kind: events.GrantRevoked, Time: at, Count: 1}, By: "desk [revoker]"}
	agents := list(decoded(t, encoder(t).EncodeLogged(unnamed)[0]), "agent")
	require.Len(t, agents, 3)
	assert.Equal(t, false, agents[0]["requestor"])
}

func TestARequestHasTheAddressOfTheLog(t *testing.T) {
	for name, want := range map[string]object{
		"outside": {"address": "192.0.2.1", "type": "2"}, "wrapped": {"address": "2001:db8::1", "type": "2"},
		"issued": {"address": "192.0.2.2", "type": "2"}, "revoked": {"address": site.Application.Address, "type": "1"},
	} {
		agents := list(decoded(t, encoder(t).EncodeLogged(inLog()[name])[0]), "agent")
		assert.Equal(t, want, agents[0]["network"], name)
	}
}

// full is a Writer to a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, assert.AnError }

func TestASiteIsChecked(t *testing.T) {
	for name, change := range map[string]func(*fhir.Site){
		"no system of patients":        func(s *fhir.Site) { s.Patients = "" },
		"a relative system":            func(s *fhir.Site) { s.Recordings = "recordings" },
		"a system with a space":        func(s *fhir.Site) { s.Users = "https://hospital.example/our users" },
		"no system of grants":          func(s *fhir.Site) { s.Grants = "" },
		"no system of purposes":        func(s *fhir.Site) { s.Purposes = "" },
		"an application without name":  func(s *fhir.Site) { s.Application.Name = " " },
		"a server without its address": func(s *fhir.Site) { s.Server.Address = "" },
	} {
		t.Run(name, func(t *testing.T) {
			bad := site
			change(&bad)
			_, err := fhir.New(bad)
			assert.Error(t, err)
		})
	}
}
