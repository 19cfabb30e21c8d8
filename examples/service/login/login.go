package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

const (
	sessionTTL = 8 * time.Hour // a working day; the grants in it last minutes
	maxForm    = 16 << 10      // bytes
	maxReason  = 500           // characters
)

// granter issues grants, which takes the role, and ends them, which takes the grant alone.
type granter interface {
	keys.Granter
	RevokeSelf(ctx context.Context, grant keys.Grant) error
}

type login struct {
	log      *slog.Logger
	granter  granter
	accounts accounts
	cookies  *session.Cookies
	grantTTL time.Duration
	grants   *prometheus.CounterVec
	ended    ended
}

func (l *login) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", l.home)
	mux.HandleFunc("POST /login", l.signIn)
	mux.HandleFunc("POST /access", l.access)
	mux.HandleFunc("POST /logout", l.signOut)
	return mux
}

//go:embed login.html
var html string

var page = template.Must(template.New("login").Parse(html))

// view is what the page shows: the form to sign in, or a clinician's to ask for access.
type view struct {
	Account string // "" if nobody has signed in
	Message string
}

func (l *login) show(w http.ResponseWriter, status int, v view) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := page.Execute(w, v); err != nil {
		l.log.Warn("page", "error", err)
	}
}

// clinician returns the account of the session if it is a clinician's and has not ended.
func (l *login) clinician(r *http.Request) (account, session.Session, bool) {
	s, err := l.cookies.Of(r)
	who, known := l.accounts[s.Account]
	return who, s, err == nil && known && who.clinician() && !l.ended.has(s)
}

func (l *login) home(w http.ResponseWriter, r *http.Request) {
	v := view{}
	if who, _, ok := l.clinician(r); ok {
		v.Account = who.Account
	}
	l.show(w, http.StatusOK, v)
}

// signIn starts a session. A patient gets a grant for the own recordings at once, a clinician none. A real login also bounds
// how often one account and one address may try.
func (l *login) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	who, ok := l.accounts.signIn(r.PostFormValue("account"), r.PostFormValue("password"))
	if !ok {
		l.show(w, http.StatusUnauthorized, view{Message: "Account or password is wrong."})
		return
	}
	s := session.Session{ID: rand.Text(), Start: time.Now(), Account: who.Account}
	if who.clinician() {
		l.give(w, r, s, "/")
		return
	}
	l.grant(w, r, s, who, keys.PatientRequest, "")
}

// signOut ends the session, its grant and every copy of both, at once.
func (l *login) signOut(w http.ResponseWriter, r *http.Request) {
	if s, err := l.cookies.Of(r); err == nil {
		l.ended.add(s)
		if !l.end(r.Context(), s.Grant) {
			http.Error(w, "Signing out failed. Please try again.", http.StatusServiceUnavailable)
			return
		}
	}
	l.cookies.Clear(w)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// end ends a grant, and reports whether it has ended.
func (l *login) end(ctx context.Context, grant keys.Grant) bool {
	if grant.IsZero() {
		return true
	}
	err := l.granter.RevokeSelf(ctx, grant)
	if err != nil && !errors.Is(err, keys.ErrInvalidGrant) { // which says that it had ended already
		l.log.Error("end of a grant", "accessor", grant.Accessor(), "error", err)
		return false
	}
	return true
}

// access gives a clinician a grant for one patient: for treatment if the patient is in the clinician's care, and otherwise
// for breaking the glass, with a reason that is reviewed. The grant before it ends.
func (l *login) access(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	who, had, ok := l.clinician(r)
	if !ok {
		l.show(w, http.StatusUnauthorized, view{Message: "Sign in again."})
		return
	}
	patient, known := l.accounts[r.PostFormValue("patient")]
	purpose, reason := keys.Purpose(r.PostFormValue("purpose")), strings.TrimSpace(r.PostFormValue("reason"))
	refuse := func(status int, message string) { l.show(w, status, view{Account: who.Account, Message: message}) }
	switch {
	case !known || patient.clinician():
		refuse(http.StatusNotFound, "There is no such patient.")
		return
	case purpose == keys.Treatment && !who.caresFor(patient):
		refuse(http.StatusForbidden, "This patient is not in your care. In an emergency, break the glass.")
		return
	case purpose == keys.BreakTheGlass && reason == "":
		refuse(http.StatusBadRequest, "To break the glass, give a reason. It will be reviewed.")
		return
	case purpose != keys.Treatment && purpose != keys.BreakTheGlass:
		refuse(http.StatusBadRequest, "Choose a purpose.")
		return
	case utf8.RuneCountInString(reason) > maxReason || !utf8.ValidString(reason):
		refuse(http.StatusBadRequest, "The reason is too long.")
		return
	}
	l.end(r.Context(), had.Grant) // or it ends by its TTL
	l.grant(w, r, had, patient, purpose, reason)
}

// grant issues a grant and redirects to the recordings. The request ID leads from Vault's audit log to this line of the log,
// which has the reason. Neither has the patient's number.
func (l *login) grant(w http.ResponseWriter, r *http.Request, s session.Session, patient account, purpose keys.Purpose, reason string) {
	requestID := strings.ToLower(rand.Text())
	grant, err := l.granter.Issue(r.Context(), keys.Patient(patient.Patient), keys.GrantOptions{
		TTL: l.grantTTL, Subject: s.Account, Purpose: purpose, RequestID: requestID,
	})
	if err != nil {
		l.log.Error("grant", "account", s.Account, "purpose", purpose, "request_id", requestID, "error", err)
		status, text := vault.HTTPStatus(err)
		l.show(w, status, view{Message: text})
		return
	}
	if l.ended.has(s) { // the user signed out while Vault issued the grant
		l.end(r.Context(), grant)
		l.show(w, http.StatusUnauthorized, view{Message: "Sign in again."})
		return
	}
	l.grants.WithLabelValues(string(purpose)).Inc()
	l.log.Info("grant", "account", s.Account, "key_id", grant.KeyID(), "purpose", purpose, "reason", reason,
		"request_id", requestID, "accessor", grant.Accessor(), "expires", grant.Expires())
	s.Grant = grant
	l.give(w, r, s, "/recordings")
}

// give gives the browser the session, and sends it to the next page.
func (l *login) give(w http.ResponseWriter, r *http.Request, s session.Session, next string) {
	if err := l.cookies.Set(w, s); err != nil {
		l.log.Error("cookie", "error", err)
		http.Error(w, "The session could not be started.", http.StatusInternalServerError)
		return
	}
	http.Redirect(w, r, next, http.StatusSeeOther)
}
