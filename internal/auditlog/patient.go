package auditlog

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/recvault/recvault/keys"
)

// PatientView is what one patient is shown of the uses of the own recordings: who, when, which recording, why. It has no pseudonym, no
// request, no address and no text from a grant but its subject, and nothing of other patients: whoever was refused may be one.
type PatientView struct {
	Made     time.Time       `json:"made"`
	From     time.Time       `json:"from"`
	To       time.Time       `json:"to"`
	Accesses []PatientAccess `json:"accesses"` // in the order of time
	Attempts int             `json:"refused_attempts"`
	Notes    []string        `json:"notes"`
}

// PatientAccess is an access to one recording.
type PatientAccess struct {
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Times     int       `json:"times"`
	Who       string    `json:"who"`
	Why       string    `json:"why"`
	Purpose   string    `json:"purpose,omitempty"` // the code
	What      string    `json:"what"`
	Recording string    `json:"recording"`
}

// Names are what a patient view calls people and recordings. Both may be empty.
type Names struct {
	People     map[string]string           // by subject
	Recordings map[keys.RecordingID]string // such as title and date
}

var reasons = map[string]string{
	"TREAT": "your treatment", "ETREAT": "your treatment in an emergency", "BTG": "an emergency, without the usual permission",
	"PATRQT": "your own request", "FAMRQT": "a request of your family", "CAREMGT": "the coordination of your care",
	"HOPERAT": "the operation of the service", "HLEGAL": "legal reasons", "HRESCH": "research", "HPAYMT": "payment",
}

const (
	ownAccount       = "your own account"
	technicalAccount = "a technical account, outside the usual way"
)

var patientNotes = []string{
	"“Played” means that the recording could be watched. How much of it was watched, and whether it was, is not recorded here.",
	"“Title and time” means that these were shown in a list or on a page. The recording itself could not be watched.",
	"When an attempt was refused, nothing of your recordings was shown.",
	"This list ends with the time above. Ask again for what happened later.",
}

// PatientView returns what a patient is shown. The report must be one on this patient's KeyID.
func (r *Report) PatientView(keyID keys.KeyID, names Names) *PatientView {
	view := &PatientView{Made: r.Made, From: later(r.Filter.Since, r.First), To: earlier(r.Filter.Until, r.Last), Accesses: []PatientAccess{}, Notes: patientNotes}
	if r.Totals.Unexplained > 0 {
		view.Notes = append([]string{"Something is missing from the records that this list is made from, so the list may lack something too."}, patientNotes...)
	}
	numbers := map[string]int{}
	for row := range r.section("accesses").Rows {
		use := row.(Use)
		if use.KeyID != keyID.String() {
			continue
		}
		if best(use.Kind) == WrongPatient {
			if use.Kind != Failed {
				view.Attempts += use.Count
			}
			continue
		}
		if numbers[use.Recording] == 0 {
			numbers[use.Recording] = len(numbers) + 1
		}
		id, _ := keys.ParseRecordingID(use.Recording)
		access := PatientAccess{
			First: use.First, Last: use.Last, Times: use.Count, Who: cmp.Or(names.People[use.Subject], use.Subject),
			Why: reasons[use.Purpose], Purpose: use.Purpose, What: "played",
			Recording: cmp.Or(names.Recordings[id], fmt.Sprintf("recording %d", numbers[use.Recording])),
		}
		switch {
		case use.Subject == "":
			access.Who, access.Why = technicalAccount, "not known"
		case use.Purpose == string(keys.PatientRequest) && names.People[use.Subject] == "":
			access.Who = ownAccount
		}
		access.Why = cmp.Or(access.Why, "another purpose ("+use.Purpose+")")
		if use.Kind == Described {
			access.What = "title and time"
		}
		view.Accesses = append(view.Accesses, access)
	}
	return view
}

func (r *Report) section(name string) Section {
	for _, section := range r.sections {
		if section.Name == name {
			return section
		}
	}
	panic("auditlog: internal error: no section " + name)
}

// WriteJSON writes the view as a JSON object.
func (v *PatientView) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// WriteText writes the view for a terminal.
func (v *PatientView) WriteText(w io.Writer) error {
	out := &firstError{w: w}
	out.print(fmt.Sprintf("Who has seen your recordings, from %s to %s\n\n", stamp(v.From), stamp(v.To)))
	for _, a := range v.Accesses {
		out.print(printable(fmt.Sprintf("%s  %s: %s, %s; why: %s", stamp(a.First), a.Who, a.Recording, a.whatAndTimes(), a.Why)) + "\n")
	}
	if len(v.Accesses) == 0 {
		out.print("Nobody has.\n")
	}
	out.print(fmt.Sprintf("\nAttempts that were refused: %d\n\n", v.Attempts))
	for _, note := range v.Notes {
		out.print(note + "\n")
	}
	return out.err
}

func (a PatientAccess) whatAndTimes() string {
	if a.Times == 1 {
		return a.What
	}
	return fmt.Sprintf("%s, %d times, the last at %s", a.What, a.Times, stamp(a.Last))
}

//go:embed patient.html
var patientText string

var patientPage = template.Must(template.New("patient").Funcs(template.FuncMap{
	"day": func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04") + " UTC" },
}).Parse(patientText))

// WriteHTML writes the view as one page that needs no other file and no script.
func (v *PatientView) WriteHTML(w io.Writer) error { return patientPage.Execute(w, v) }
