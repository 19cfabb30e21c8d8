package fhir

// The elements of https://hl7.org/fhir/R4/auditevent.html that are used. FHIR allows no empty strings, arrays or objects.

type auditEvent struct {
	ResourceType   string             `json:"resourceType"`
	ID             string             `json:"id,omitempty"`
	Meta           *meta              `json:"meta,omitempty"`
	Contained      []operationOutcome `json:"contained,omitempty"`
	Type           coding             `json:"type"`
	Subtype        []coding           `json:"subtype"`
	Action         string             `json:"action"`
	Period         *period            `json:"period,omitempty"`
	Recorded       string             `json:"recorded"`
	Outcome        string             `json:"outcome"`
	OutcomeDesc    string             `json:"outcomeDesc,omitempty"`
	PurposeOfEvent []concept          `json:"purposeOfEvent,omitempty"`
	Agent          []agent            `json:"agent"`
	Source         source             `json:"source"`
	Entity         []entity           `json:"entity,omitempty"`
}

type meta struct {
	Profile []string `json:"profile"`
}

type operationOutcome struct {
	ResourceType string  `json:"resourceType"`
	ID           string  `json:"id"`
	Issue        []issue `json:"issue"`
}

type issue struct {
	Severity    string `json:"severity"`
	Code        string `json:"code"`
	Diagnostics string `json:"diagnostics,omitempty"`
}

type coding struct {
	System  string `json:"system"`
	Code    string `json:"code"`
	Display string `json:"display,omitempty"`
}

type concept struct {
	Coding []coding `json:"coding,omitempty"`
	Text   string   `json:"text,omitempty"`
}

type period struct {
	Start string `json:"start,omitempty"`
	End   string `json:"end,omitempty"`
}

type reference struct {
	Reference  string      `json:"reference,omitempty"`
	Type       string      `json:"type,omitempty"`
	Identifier *identifier `json:"identifier,omitempty"`
}

type identifier struct {
	System string `json:"system,omitempty"`
	Value  string `json:"value"`
}

// ref returns a logical reference.
func ref(resourceType, system, value string) *reference {
	return &reference{Type: resourceType, Identifier: &identifier{system, value}}
}

type agent struct {
	Type         concept    `json:"type"`
	Who          *reference `json:"who"`
	Requestor    bool       `json:"requestor"`
	Network      *network   `json:"network,omitempty"`
	PurposeOfUse []concept  `json:"purposeOfUse,omitempty"`
}

type network struct {
	Address string `json:"address"`
	Type    string `json:"type"`
}

type source struct {
	Observer *reference `json:"observer"`
	Type     []coding   `json:"type"`
}

type entity struct {
	What   *reference `json:"what,omitempty"`
	Type   *coding    `json:"type"`
	Role   *coding    `json:"role,omitempty"`
	Name   string     `json:"name,omitempty"`
	Query  string     `json:"query,omitempty"`
	Detail []detail   `json:"detail,omitempty"`
}

type detail struct {
	Type  string `json:"type"`
	Value string `json:"valueString"`
}
