package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/recvault/recvault/keys"
)

// login is the half of the portal that decides who may see what. Only it holds the granter's role. It
// lists nothing and plays nothing.
type login struct {
	granter   keys.Granter
	people    []person
	patient   func(number string) keys.Patient
	accessTTL time.Duration // how long a clinician's access lasts

	sessions *sessions
	register *register
	pages    *pages
}

// patientTTL is how long a patient's own access lasts. After it they sign in again.
const patientTTL = 15 * time.Minute

func (l *login) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", l.home)
	mux.HandleFunc("POST /login", l.signIn)
	mux.HandleFunc("POST /logout", l.signOut)
	mux.HandleFunc("GET /patients", l.patients)
	mux.HandleFunc("POST /access", l.askAccess)
	mux.HandleFunc("POST /access/end", l.endAccess)
}

// home shows the sign-in page. With a session, it redirects to the account's own page.
func (l *login) home(w http.ResponseWriter, r *http.Request) {
	if s, ok := l.sessions.of(r); ok {
		http.Redirect(w, r, homeOf(s.account), http.StatusSeeOther)
		return
	}
	l.pages.render(w, http.StatusOK, "login", page{Title: "Sign in", Content: l.people})
}

func homeOf(who account) string {
	switch who.Role {
	case clinicianRole:
		return "/patients"
	case securityRole:
		return "/security"
	}
	return "/consultations"
}

// signIn starts a session for the account that was chosen. It checks no password, which a real login must. As
// in a real one, patients then get a grant for their own recordings, and others get none.
func (l *login) signIn(w http.ResponseWriter, r *http.Request) {
	who, ok := find(l.people, r.PostFormValue("account"))
	if !ok {
		l.pages.problem(w, http.StatusBadRequest, "There is no such account", "Go back and choose one from the list.")
		return
	}
	err := l.sessions.start(w, r, who.account, func() (access, error) {
		if who.Role != patientRole {
			return access{}, nil
		}
		return l.issue(r.Context(), who, who.account, keys.PatientRequest, "", patientTTL)
	})
	switch {
	case errors.Is(err, errTooManySessions):
		l.pages.problem(w, http.StatusTooManyRequests, "Too many people are signed in", "Please try again in a few minutes.")
		return
	case err != nil:
		l.pages.failed(w, err)
		return
	}
	http.Redirect(w, r, homeOf(who.account), http.StatusSeeOther)
}

func (l *login) signOut(w http.ResponseWriter, r *http.Request) {
	if err := l.sessions.stop(w, r); err != nil {
		l.pages.failed(w, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// issue issues a grant for one patient's recordings to an account.
func (l *login) issue(ctx context.Context, of person, to account, purpose keys.Purpose, reason string, ttl time.Duration) (access, error) {
	grant, err := l.granter.Issue(ctx, l.patient(of.number), keys.GrantOptions{
		TTL:       ttl,
		Subject:   to.ID,
		Purpose:   purpose,
		Reason:    reason,
		RequestID: "request-" + strings.ToLower(rand.Text()[:8]),
	})
	return access{Grant: grant, Whose: of.Name}, err
}

// request is a clinician's request for access to a patient's recordings.
type request struct {
	Account string
	Purpose keys.Purpose
	Reason  string
}

// requestForm is the page on which a clinician asks for access.
type requestForm struct {
	Care, Others []person
	TTL          time.Duration
	Asked        request
	Problem      string
}

func (l *login) patients(w http.ResponseWriter, r *http.Request) {
	l.showForm(w, r, http.StatusOK, request{Purpose: keys.Treatment}, "")
}

func (l *login) showForm(w http.ResponseWriter, r *http.Request, status int, asked request, problem string) {
	s, who, ok := l.clinician(w, r)
	if !ok {
		return
	}
	form := requestForm{TTL: l.accessTTL, Asked: asked, Problem: problem}
	for _, p := range l.people {
		switch {
		case slices.Contains(who.care, p.ID):
			form.Care = append(form.Care, p)
		case p.Role == patientRole:
			form.Others = append(form.Others, p)
		}
	}
	l.pages.render(w, status, "patients", page{Title: "Patients", Session: s, Content: form})
}

// clinician returns the session and the person of a signed-in clinician. Otherwise it answers the request
// itself and returns false.
func (l *login) clinician(w http.ResponseWriter, r *http.Request) (session, person, bool) {
	s, ok := l.sessions.of(r)
	if !ok {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return session{}, person{}, false
	}
	who, ok := find(l.people, s.ID)
	if !ok || who.Role != clinicianRole {
		l.pages.problem(w, http.StatusForbidden, "This page is for clinicians", "Sign in as one to ask for access.")
		return session{}, person{}, false
	}
	return s, who, true
}

// askAccess checks a clinician's request, and gives access to the patient's recordings or says why not.
func (l *login) askAccess(w http.ResponseWriter, r *http.Request) {
	_, who, ok := l.clinician(w, r)
	if !ok {
		return
	}
	asked := request{
		Account: r.PostFormValue("patient"),
		Purpose: keys.Purpose(r.PostFormValue("purpose")),
		Reason:  strings.Join(strings.Fields(r.PostFormValue("reason")), " "),
	}
	of, problem := l.decide(who, asked)
	if problem != "" {
		l.showForm(w, r, http.StatusUnprocessableEntity, asked, problem)
		return
	}
	granted, err := l.issue(r.Context(), of, who.account, asked.Purpose, asked.Reason, l.accessTTL)
	if err != nil {
		l.pages.failed(w, err)
		return
	}
	l.register.add(registered{Time: time.Now(), Grant: granted.Grant.Details()})
	if err := l.sessions.give(r, granted); err != nil {
		l.pages.failed(w, err)
		return
	}
	http.Redirect(w, r, "/consultations", http.StatusSeeOther)
}

// decide checks the care relationship. It returns the patient, or the problem to show to the clinician. A
// mistake here gives a grant to the wrong person, and nothing after it can notice.
func (l *login) decide(who person, asked request) (of person, problem string) {
	of, ok := find(l.people, asked.Account)
	switch {
	case !ok || of.Role != patientRole:
		return person{}, "Choose a patient."
	case asked.Purpose == keys.Treatment && !slices.Contains(who.care, of.ID):
		return person{}, of.Name + " is not in your care. In an emergency, break the glass and say why."
	case asked.Purpose == keys.BreakTheGlass && asked.Reason == "":
		return person{}, "To break the glass, give a reason. It will be reviewed."
	case asked.Purpose != keys.Treatment && asked.Purpose != keys.BreakTheGlass:
		return person{}, "Choose a purpose."
	case len(asked.Reason) > keys.MaxReasonLen:
		return person{}, fmt.Sprintf("The reason is longer than %d bytes.", keys.MaxReasonLen)
	case !utf8.ValidString(asked.Reason) || strings.ContainsFunc(asked.Reason, func(r rune) bool { return !unicode.IsPrint(r) }):
		return person{}, "The reason has characters that cannot be shown."
	}
	return of, ""
}

// endAccess ends a clinician's access early.
func (l *login) endAccess(w http.ResponseWriter, r *http.Request) {
	if _, _, ok := l.clinician(w, r); !ok {
		return
	}
	if err := l.sessions.giveUp(r); err != nil {
		l.pages.failed(w, err)
		return
	}
	http.Redirect(w, r, "/patients", http.StatusSeeOther)
}
