package fhir_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

// No registry of packages has BALP, so its rules stand here, as they are in version 1.1.5-current of
// https://github.com/IHE/ITI.BasicAudit, input/fsh/Patient*.fsh and their parents. What FHIR itself requires is checked
// against its definitions in definitions_test.go.

const (
	terminology   = "http://terminology.hl7.org/CodeSystem/"
	dicom         = "http://dicom.nema.org/resources/ontology/DCM|"
	interactions  = "http://hl7.org/fhir/restful-interaction|"
	participation = terminology + "v3-ParticipationType|"
	balp          = "https://profiles.ihe.net/ITI/BALP/"
)

// profile is what one of BALP's profiles fixes.
type profile struct {
	action         string
	subtypes       []string // one of the event's is one of these
	client, server string   // exactly one agent of each
	users          []string // at most one agent is one of these
}

var authors = []string{participation + "AUT", participation + "INF", participation + "CST"}

var profiles = map[string]profile{
	"PatientRead": {
		"R",
		[]string{interactions + "read", interactions + "vread"},
		dicom + "110152", dicom + "110153",
		[]string{participation + "IRCP"},
	},
	"PatientQuery": {
		"E",
		[]string{interactions + "search", interactions + "search-type", interactions + "search-system"},
		dicom + "110153", dicom + "110152",
		[]string{participation + "IRCP"},
	},
	"PatientCreate": {"C", []string{interactions + "create"}, dicom + "110153", dicom + "110152", authors},
	"PatientUpdate": {
		"U", []string{interactions + "update", interactions + "patch"}, dicom + "110153", dicom + "110152", authors,
	},
	"PatientDelete": {
		"D", []string{interactions + "delete"}, dicom + "110150", terminology + "provenance-participant-type|custodian", authors,
	},
}

// object is a JSON object.
type object = map[string]any

// list returns the objects of an array, or none.
func list(o object, name string) (all []object) {
	array, _ := o[name].([]any)
	for _, v := range array {
		all = append(all, v.(object))
	}
	return all
}

// child returns the object at a path, or nil.
func child(o object, path ...string) object {
	for _, name := range path {
		o, _ = o[name].(object)
	}
	return o
}

// token returns "system|code" of a Coding, or of the first Coding of a CodeableConcept.
func token(o object) string {
	if codings := list(o, "coding"); len(codings) > 0 {
		o = codings[0]
	}
	return fmt.Sprint(o["system"], "|", o["code"])
}

// typed returns the agents or entities of these types.
func typed(all []object, types ...string) []object {
	return slices.DeleteFunc(slices.Clone(all), func(o object) bool {
		return !slices.Contains(types, token(child(o, "type")))
	})
}

// violations returns what a resource has against a profile.
func violations(r object, name string) (all []string) {
	p, known := profiles[name]
	if !known {
		return []string{"the profile does not exist"}
	}
	must := func(ok bool, rule string) {
		if !ok {
			all = append(all, rule)
		}
	}
	lacks := func(o object, rule string, names ...string) {
		for _, n := range names {
			_, has := o[n]
			must(!has, rule+"."+n+" 0..0")
		}
	}
	must(token(child(r, "type")) == terminology+"audit-event-type|rest", "type = rest")
	matching := 0
	for _, subtype := range list(r, "subtype") {
		if slices.Contains(p.subtypes, token(subtype)) {
			matching++
		}
	}
	must(matching == 1, "subtype[any] 1..1")
	must(r["action"] == p.action, "action = "+p.action)
	must(r["outcome"] == "0", "outcome = 0")

	agents := list(r, "agent")
	must(len(agents) >= 2, "agent 2..")
	for slice, code := range map[string]string{"client": p.client, "server": p.server} {
		found := typed(agents, code)
		must(len(found) == 1, "agent["+slice+"] 1..1")
		for _, a := range found {
			must(a["who"] != nil, "agent["+slice+"].who 1..1")
			must(a["network"] != nil, "agent["+slice+"].network 1..1")
			lacks(a, "agent["+slice+"]", "media")
		}
	}
	users := typed(agents, p.users...)
	must(len(users) <= 1, "agent[user] 0..1")
	for _, a := range users {
		must(a["who"] != nil, "agent[user].who 1..1")
		must(a["requestor"] == true, "agent[user].requestor = true")
		lacks(a, "agent[user]", "media", "network")
	}

	entities := list(r, "entity")
	must(len(entities) >= 2, "entity 2..")
	transactions := typed(entities, balp+"CodeSystem/BasicAuditEntityType|XrequestId")
	must(len(transactions) <= 1, "entity[transaction] 0..1")
	for _, e := range transactions {
		must(child(e, "what", "identifier")["value"] != nil, "entity[transaction].what.identifier.value 1..1")
	}
	data := typed(entities, terminology+"audit-entity-type|2")
	must(len(data) == 1, "entity[data] 1..1")
	for _, e := range data {
		role, ofObjects := strings.CutPrefix(token(child(e, "role")), terminology+"object-role|")
		if name == "PatientQuery" {
			must(ofObjects && role == "24", "entity[query].role = 24")
			must(e["query"] != nil, "entity[query].query 1..1")
			lacks(e, "entity[query]", "what", "lifecycle", "detail")
			continue
		}
		must(ofObjects && slices.Contains([]string{"3", "4", "20"}, role), "entity[data].role from RestObjectRoles")
		must(e["what"] != nil, "entity[data].what 1..1")
	}
	patients := typed(entities, terminology+"audit-entity-type|1")
	must(len(patients) == 1, "entity[patient] 1..1")
	for _, e := range patients {
		must(token(child(e, "role")) == terminology+"object-role|1", "entity[patient].role = 1")
		must(child(e, "what")["type"] == "Patient", "entity[patient].what only Reference(Patient)")
	}
	return all
}

func decoded(t *testing.T, text []byte) (r object) {
	t.Helper()
	require.NoError(t, json.Unmarshal(text, &r))
	return r
}

// profileOf returns the profile that a resource claims, or "".
func profileOf(t *testing.T, r object) string {
	t.Helper()
	claims, _ := child(r, "meta")["profile"].([]any)
	if len(claims) == 0 {
		return ""
	}
	require.Len(t, claims, 1)
	name, ok := strings.CutPrefix(claims[0].(string), balp+"StructureDefinition/IHE.BasicAudit.")
	require.True(t, ok, claims)
	return name
}

// A case has a line for each resource: profile, type, subtypes, action, outcome and the code of its issue.
func TestEachKindHasTheCodesOfTheTable(t *testing.T) {
	const (
		read, create, remove = "PatientRead rest read R 0", "PatientCreate rest create C 0", "PatientDelete rest delete D 0"
		refused              = " 110113 110132 R 4 forbidden"
		grant                = " 110113 110137 E 0"
		held                 = " rest delete D 4 business-rule"
	)
	want := map[string][]string{
		"opened": {read}, "described": {read}, "listed": {"PatientQuery rest search-type E 0"},
		"opened often": {read}, "opened for a purpose of the site": {read}, "opened by breaking the glass": {read},
		"described with a grant that can only describe": {read},
		"listed without a grant":                        {"PatientQuery rest search-type E 0"},

		"wrong-patient": {refused}, "wrong patient, in a log": {refused}, "refused": {refused}, "exhausted": {refused},
		"damaged":     {" 110113  R 8 exception"},
		"unsupported": {" rest read R 4 not-supported"},
		"gone":        {" rest read R 4 deleted"},
		"failed":      {" rest read R 8 exception"}, "failed in mid-stream": {" rest read R 8 exception"},
		"failed, not found": {" rest read R 4 not-found"}, "failed, bad request": {" rest read R 4 processing"},

		"stored":  {create},
		"updated": {"PatientUpdate rest update U 0"}, "rekeyed": {"PatientUpdate rest update U 0"},
		"deleted": {remove}, "erased": {remove}, "patient erased": {remove},
		"copied": {read, create}, "reassigned": {remove, create},
		"reassigned in part": {" rest delete D 8 exception", " rest create C 8 exception"},
		"copied, perhaps":    {" rest read R 8 exception"},

		"hold-set": {" hold  U 0"}, "hold-cleared": {" unhold  U 0"}, "hold cleared, perhaps": {" unhold  U 8 exception"},
		"held": {held}, "erasure refused by a hold": {held}, "refusals by holds counted": {held},
		"update refused by a hold": {" rest update U 4 business-rule"},

		"grant-issued": {grant}, "grant-revoked": {grant}, "grant revoked by accessor": {grant},
		"glass broken": {" 110113 110127 E 0"}, "glass mended": {" 110113 110138 E 0"},

		"overflow": {" rest read R 0"}, "listings counted": {" rest search-type E 0"}, "refusals counted": {refused},
		"a kind of a later release": {" 110100  E 0"},
	}
	all := cases()
	require.ElementsMatch(t, slices.Collect(maps.Keys(all)), slices.Collect(maps.Keys(want)))
	for name, event := range all {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, text := range encoder(t).Encode(event) {
				r := decoded(t, text)
				var subtypes []string
				own := map[string]bool{}
				for _, subtype := range list(r, "subtype") {
					if subtype["system"] == fhir.Kinds {
						own[subtype["code"].(string)] = true
					} else {
						subtypes = append(subtypes, subtype["code"].(string))
					}
				}
				assert.True(t, own[string(event.Kind)])
				assert.True(t, event.Kind != events.Overflow || own[string(event.Of)])
				line := fmt.Sprintf("%s %s %s %s %s",
					profileOf(t, r), child(r, "type")["code"], strings.Join(subtypes, ","), r["action"], r["outcome"])
				for _, outcome := range list(r, "contained") {
					line += " " + list(outcome, "issue")[0]["code"].(string)
				}
				got = append(got, line)
			}
			assert.Equal(t, want[name], got)
		})
	}
}

func TestEachResourceHoldsItsProfile(t *testing.T) {
	checked := map[string]int{}
	all := inLog()
	for name, event := range cases() {
		all[name] = fhir.Logged{Event: event}
	}
	for name, event := range all {
		for _, text := range encoder(t).EncodeLogged(event) {
			r := decoded(t, text)
			claimed := profileOf(t, r)
			checked[claimed]++
			if claimed != "" {
				assert.Empty(t, violations(r, claimed), name)
			}
		}
	}
	for name := range profiles {
		assert.NotZero(t, checked[name], name)
	}
}

// The rules find what is broken on purpose.
func TestTheRulesOfTheProfilesCanFail(t *testing.T) {
	agent := func(i int) func(object) object { return func(r object) object { return list(r, "agent")[i] } }
	entity := func(i int) func(object) object { return func(r object) object { return list(r, "entity")[i] } }
	whole := func(r object) object { return r }
	systemObject := object{"system": terminology + "audit-entity-type", "code": "2"}
	for rule, c := range map[string]struct {
		kind  events.Kind
		of    func(object) object
		name  string
		value any // nil removes it
	}{
		"type = rest":                                    {events.Opened, whole, "type", object{"code": "rest"}},
		"subtype[any] 1..1":                              {events.Opened, whole, "subtype", nil},
		"action = C":                                     {events.Stored, whole, "action", "U"},
		"outcome = 0":                                    {events.Opened, whole, "outcome", "4"},
		"agent[client] 1..1":                             {events.Listed, agent(0), "type", nil},
		"agent[client].network 1..1":                     {events.Opened, agent(0), "network", nil},
		"agent[server].who 1..1":                         {events.Deleted, agent(1), "who", nil},
		"agent[user].requestor = true":                   {events.Updated, agent(2), "requestor", false},
		"agent[user].network 0..0":                       {events.Described, agent(2), "network", object{}},
		"entity[patient].what only Reference(Patient)":   {events.Opened, entity(0), "what", object{"type": "Person"}},
		"entity[patient].role = 1":                       {events.Erased, entity(0), "role", nil},
		"entity[data] 1..1":                              {events.Rekeyed, entity(2), "type", systemObject},
		"entity[data].what 1..1":                         {events.Updated, entity(1), "what", nil},
		"entity[query].query 1..1":                       {events.Listed, entity(1), "query", nil},
		"entity[query].what 0..0":                        {events.Listed, entity(1), "what", object{}},
		"entity[transaction].what.identifier.value 1..1": {events.Opened, entity(3), "what", nil},
	} {
		t.Run(rule, func(t *testing.T) {
			r := decoded(t, encoder(t).Encode(eventOf(c.kind))[0])
			o := c.of(r)
			delete(o, c.name)
			if c.value != nil {
				o[c.name] = c.value
			}
			assert.Contains(t, violations(r, profileOf(t, r)), rule)
		})
	}
}
