package auditlog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Unusual: a subject reached more patients than unusualTimes the median of all subjects with the same purpose, and at least
// unusualLeast.
const (
	unusualTimes = 3
	unusualLeast = 10
)

// What a report is made from.
const (
	FromLog    = "audit_log" // and from the events, if there are any
	FromEvents = "events"    // alone
)

// Report is what a log shows. It takes about as much memory as the log has distinct grants and uses of them.
type Report struct {
	Source  string    `json:"source"`
	Made    time.Time `json:"made"`
	Mount   string    `json:"mount,omitempty"`
	Prefix  string    `json:"policy_prefix,omitempty"`
	Filter  Filter    `json:"filter"`
	Files   []File    `json:"files"`
	Entries int       `json:"entries"`
	Copies  int       `json:"copies"` // of these entries, on other devices or in other files
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Totals  Totals    `json:"totals"`
	Limits  []string  `json:"limits"` // what the log cannot show

	sections []Section
	bins     bins
	marks    []mark
}

// Filter says what was selected. What is zero selects everything.
type Filter struct {
	Since      time.Time `json:"since,omitzero"`
	Until      time.Time `json:"until,omitzero"`
	KeyIDs     []string  `json:"key_ids,omitempty"`
	Recordings []string  `json:"recordings,omitempty"`
	Subjects   []string  `json:"subjects,omitempty"`
	Purposes   []string  `json:"purposes,omitempty"`
}

// Totals are counts over what was selected.
type Totals struct {
	Requests        int             `json:"requests"` // to the engine, in the whole log
	Uses            map[Kind]int    `json:"uses"`     // of patients' keys
	Patients        int             `json:"patients"` // with a recording that was opened or described
	Attempted       int             `json:"patients_attempted_only"`
	Incidents       int             `json:"incidents"`
	Grants          int             `json:"grants"`
	Unused          int             `json:"grants_unused"`
	Unnamed         int             `json:"grants_issue_not_logged"` // of those that opened or described something
	OverUsed        int             `json:"grants_over_used"`
	BreakGlass      int             `json:"break_glass"`
	Unusual         int             `json:"unusual_subjects"`
	Outside         int             `json:"outside_grants"`
	Wrapped         int             `json:"wrapped_answers"`
	AfterRevocation int             `json:"after_revocation"`
	AllowedAfter    int             `json:"allowed_after_revocation"`
	Changes         int             `json:"changes"`
	Gaps            map[GapKind]int `json:"gaps"`
	Unexplained     int             `json:"unexplained_gaps"`
	Events          int             `json:"events"`         // lines of the event stream
	Overflowed      int             `json:"events_counted"` // events that the stream only counted
	OnlyInLog       int             `json:"only_in_log"`
	OnlyInEvents    int             `json:"only_in_events"`
}

// Alone reports whether the report is made from the event stream alone, without a log.
func (r *Report) Alone() bool { return r.Source == FromEvents }

// Origin is what the report is made from, in words.
func (r *Report) Origin() string {
	if r.Alone() {
		return "the event stream alone"
	}
	return "the audit log of HashiCorp Vault"
}

// Problems reports whether the log shows what must not be: uses outside a grant, wrapped answers, uses after a revocation that Vault
// allowed, gaps that the log does not explain, or uses that are in the log and not in the events, or the reverse.
func (r *Report) Problems() bool {
	t := &r.Totals
	return t.Outside+t.Wrapped+t.AllowedAfter+t.Unexplained+t.OnlyInLog+t.OnlyInEvents > 0
}

// Section is a part of the report: a table.
type Section struct {
	Name    string // in JSON, and for CSV
	Title   string
	Note    string // the rule by which its rows were found
	Columns []string
	Len     int // rows
	Rows    iter.Seq[Row]
}

// Row is a row of a section. It can be encoded as JSON.
type Row interface{ Cells() []string }

// Sections returns the parts of the report, in the order in which they are read.
func (r *Report) Sections() []Section { return r.sections }

// WriteJSON writes the report as one JSON object, row by row.
func (r *Report) WriteJSON(w io.Writer) error {
	head, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	out := &firstError{w: w}
	out.print(strings.TrimSuffix(string(head), "\n}"))
	for _, section := range r.sections {
		out.print(",\n  \"" + section.Name + "\": [")
		separator := "\n    "
		for row := range section.Rows {
			text, err := json.Marshal(row)
			if err != nil {
				return err
			}
			out.print(separator + string(text))
			separator = ",\n    "
		}
		if section.Len > 0 {
			out.print("\n  ")
		}
		out.print("]")
	}
	out.print("\n}\n")
	return out.err
}

type firstError struct {
	w   io.Writer
	err error
}

func (f *firstError) print(text string) {
	if f.err == nil {
		_, f.err = io.WriteString(f.w, text)
	}
}

// Use is what somebody did with one recording under one grant.
type Use struct {
	Kind       Kind      `json:"kind"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
	Count      int       `json:"count"`
	Subject    string    `json:"subject,omitempty"`
	Purpose    string    `json:"purpose,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	KeyID      string    `json:"key_id"`
	Recording  string    `json:"recording,omitempty"`    // the whole ID; empty if the context is that of no recording
	GrantKeyID string    `json:"grant_key_id,omitempty"` // the patient of the grant, if another
	By         string    `json:"by,omitempty"`           // the token, if it is no grant
	Address    string    `json:"address"`
	Wrapped    bool      `json:"wrapped,omitempty"`
}

// Cells implements Row.
func (u Use) Cells() []string {
	who := cmp.Or(u.Subject, u.By)
	kind := u.Kind.String()
	if u.Wrapped {
		kind += " WRAPPED"
	}
	return []string{
		kind, stamp(u.First), stamp(u.Last), fmt.Sprint(u.Count), who, u.Purpose, u.Reason, u.RequestID, u.KeyID, u.Recording, u.GrantKeyID,
		u.Address,
	}
}

var useColumns = []string{
	"what", "first", "last", "count", "who", "purpose", "reason", "request", "patient (KeyID)", "recording", "grant for another", "address",
}

// Patient is what was seen of one patient.
type Patient struct {
	KeyID     string    `json:"key_id"`
	Opened    int       `json:"opened"`         // recordings
	Described int       `json:"described_only"` // recordings
	Attempted int       `json:"attempted_only"` // recordings
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Who       []string  `json:"who"` // opened or described; if nobody did, attempted
	Outside   bool      `json:"outside_grants,omitempty"`
}

// Cells implements Row.
func (p Patient) Cells() []string {
	effect := "nothing was disclosed"
	switch {
	case p.Opened > 0:
		effect = "content was disclosed"
	case p.Described > 0:
		effect = "titles and times were disclosed"
	}
	return []string{
		p.KeyID, effect, fmt.Sprint(p.Opened), fmt.Sprint(p.Described), fmt.Sprint(p.Attempted), stamp(p.First), stamp(p.Last),
		strings.Join(p.Who, ", "),
	}
}

// Subject is what one subject did under one purpose.
type Subject struct {
	Subject   string  `json:"subject"`
	Purpose   string  `json:"purpose"`
	Patients  int     `json:"patients"`
	Opened    int     `json:"opened"`         // recordings
	Described int     `json:"described_only"` // recordings
	Refused   int     `json:"refused"`        // attempts
	Median    float64 `json:"median_patients"`
	Unusual   bool    `json:"unusual,omitempty"`
}

// Cells implements Row.
func (s Subject) Cells() []string {
	remark := ""
	if s.Unusual {
		remark = fmt.Sprintf("unusual: the median is %g", s.Median)
	}
	return []string{s.Subject, s.Purpose, fmt.Sprint(s.Patients), fmt.Sprint(s.Opened), fmt.Sprint(s.Described), fmt.Sprint(s.Refused), remark}
}

// Incident is a group of refused attempts.
type Incident struct {
	Kind       string       `json:"kind"` // "wrong_patient" or "refused"
	First      time.Time    `json:"first"`
	Last       time.Time    `json:"last"`
	Attempts   int          `json:"attempts"`
	Kinds      map[Kind]int `json:"kinds"`
	Subjects   []string     `json:"subjects"`
	Purposes   []string     `json:"purposes"`
	KeyIDs     []string     `json:"key_ids"`
	Recordings []string     `json:"recordings"`
	Addresses  []string     `json:"addresses"`
}

// Cells implements Row.
func (i Incident) Cells() []string {
	kinds := []string{}
	for _, kind := range slices.Sorted(maps.Keys(i.Kinds)) {
		kinds = append(kinds, fmt.Sprintf("%d %v", i.Kinds[kind], kind))
	}
	return []string{
		i.Kind, stamp(i.First), stamp(i.Last), fmt.Sprint(i.Attempts), strings.Join(kinds, ", "), strings.Join(i.Subjects, ", "),
		strings.Join(i.Purposes, ", "), fmt.Sprint(len(i.KeyIDs)), fmt.Sprint(len(i.Recordings)), strings.Join(i.Addresses, ", "),
	}
}

// Grant is a grant.
type Grant struct {
	Issued       time.Time `json:"issued"`
	Expires      time.Time `json:"expires"`
	Ended        time.Time `json:"ended,omitzero"`
	EndedBy      string    `json:"ended_by,omitempty"`
	Subject      string    `json:"subject"`
	Purpose      string    `json:"purpose"`
	Reason       string    `json:"reason,omitempty"`
	RequestID    string    `json:"request_id,omitempty"`
	KeyID        string    `json:"key_id"`
	DescribeOnly bool      `json:"describe_only,omitempty"`
	MaxUses      int       `json:"max_uses,omitempty"`
	Presented    int       `json:"presented"` // requests with its token, refused ones and a logout included
	Opened       int       `json:"opened"`    // recordings
	Described    int       `json:"described"` // recordings
	Issuer       string    `json:"issuer,omitempty"`
	Address      string    `json:"address,omitempty"` // from which it was asked for
	Unused       bool      `json:"unused,omitempty"`
	OverUsed     bool      `json:"over_used,omitempty"`
	NotLogged    bool      `json:"issue_not_logged,omitempty"`
}

// Cells implements Row.
func (g Grant) Cells() []string {
	remarks := []string{}
	for remark, is := range map[string]bool{
		"unused": g.Unused, "over-used": g.OverUsed, "describe only": g.DescribeOnly, "issued before the log or not logged": g.NotLogged,
	} {
		if is {
			remarks = append(remarks, remark)
		}
	}
	slices.Sort(remarks)
	uses := fmt.Sprint(g.Presented)
	if g.MaxUses > 0 {
		uses += fmt.Sprintf(" of %d", g.MaxUses)
	}
	return []string{
		stamp(g.Issued), g.Subject, g.Purpose, g.Reason, g.RequestID, g.KeyID, uses, fmt.Sprint(g.Opened), fmt.Sprint(g.Described),
		stamp(g.Expires), stamp(g.Ended), g.EndedBy, g.Issuer, g.Address, strings.Join(remarks, ", "),
	}
}

var grantColumns = []string{
	"issued", "subject", "purpose", "reason", "request", "patient (KeyID)", "uses", "opened", "described", "expires", "ended", "ended by",
	"issued by", "address", "remarks",
}

// Granter is a holder of a right to issue grants.
type Granter struct {
	Granter    string   `json:"granter"`
	Issued     int      `json:"issued"`
	Refused    int      `json:"refused"`
	Unused     int      `json:"unused"`
	OverUsed   int      `json:"over_used"`
	BreakGlass int      `json:"break_glass"`
	Subjects   int      `json:"subjects"`
	Tokens     int      `json:"tokens"`    // at most 16 are counted
	Addresses  []string `json:"addresses"` // at most 16
}

// Cells implements Row.
func (g Granter) Cells() []string {
	return []string{
		g.Granter, fmt.Sprint(g.Issued), fmt.Sprint(g.Refused), fmt.Sprint(g.Unused), fmt.Sprint(g.OverUsed), fmt.Sprint(g.BreakGlass),
		fmt.Sprint(g.Subjects), fmt.Sprint(g.Tokens), strings.Join(g.Addresses, ", "),
	}
}

// AfterRevocation is a use of a grant that was revoked.
type AfterRevocation struct {
	At        time.Time `json:"at"`
	Allowed   bool      `json:"allowed"`
	Count     int       `json:"count"`
	Revoked   time.Time `json:"revoked"`
	RevokedBy string    `json:"revoked_by"`
	Subject   string    `json:"subject"`
	Purpose   string    `json:"purpose"`
	KeyID     string    `json:"key_id"`
	Recording string    `json:"recording,omitempty"`
	Address   string    `json:"address"`
}

// Cells implements Row.
func (a AfterRevocation) Cells() []string {
	outcome := "refused"
	if a.Allowed {
		outcome = "ALLOWED"
	}
	return []string{stamp(a.At), outcome, fmt.Sprint(a.Count), stamp(a.Revoked), a.RevokedBy, a.Subject, a.Purpose, a.KeyID, a.Recording, a.Address}
}

// Change is a kind of write to what decides who can open what.
type Change struct {
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Count     int       `json:"count"`
	By        string    `json:"by"`
	Operation string    `json:"operation"`
	Path      string    `json:"path"` // "<KeyID>" stands for any patient's
	Failed    bool      `json:"failed,omitempty"`
}

// Cells implements Row.
func (c Change) Cells() []string {
	outcome := "done"
	if c.Failed {
		outcome = "refused or failed"
	}
	return []string{stamp(c.First), stamp(c.Last), fmt.Sprint(c.Count), c.By, c.Operation, c.Path, outcome}
}

// stamp writes a time for people, or "" for none.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func at(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}
