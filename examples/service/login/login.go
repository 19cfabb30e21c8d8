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
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

const (
	sessionTTL = 8 * time.Hour // a working day; grants last minutes
	formTime   = 10 * time.Second
	maxForm    = 16 << 10 // bytes
)

type login struct {
	log           *slog.Logger
	granter       events.Issuer // issues grants, which takes the role, and ends them, which takes the grant alone
	accounts      accounts
	grantTTL      time.Duration
	sessionCookie *session.Cookie
	accessCookie  *session.Cookie
	sessions      sessions
	signIns       *prometheus.CounterVec
	grants        *prometheus.CounterVec
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

// view is what the page shows: the form to sign in, or the one for access, filled as it was sent.
type view struct {
	Account account // zero if nobody has signed in
	Message string
	Patient string
	Purpose keys.Purpose
	Reason  string
}

func (l *login) show(w http.ResponseWriter, status int, v view) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := page.Execute(w, v); err != nil {
		l.log.Warn("page", "error", err)
	}
}

// session returns the session of a request, and whose it is, unless it has ended.
func (l *login) session(r *http.Request) (session.Session, account, bool) {
	s, err := l.sessionCookie.Session(r)
	if err != nil || !l.sessions.live(s) {
		return s, account{}, false
	}
	who, exists := l.accounts[s.Account]
	return s, who, exists
}

func (l *login) home(w http.ResponseWriter, r *http.Request) {
	_, who, _ := l.session(r)
	l.show(w, http.StatusOK, view{Account: who})
}

// signIn starts a session, and ends the one that the browser had. A patient gets a grant for their own recordings at once, a
// clinician none. A real login also bounds how often one account and one address may try.
func (l *login) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	who, ok := l.accounts.signIn(r.PostFormValue("account"), r.PostFormValue("password"))
	if !ok {
		l.signIns.WithLabelValues("refused").Inc()
		l.show(w, http.StatusUnauthorized, view{Message: "Account or password is wrong."})
		return
	}
	l.signIns.WithLabelValues("accepted").Inc()
	if had, err := l.sessionCookie.Session(r); err == nil {
		l.end(r.Context(), had)
	}
	s := session.Session{ID: rand.Text(), Start: time.Now(), Account: who.Account}
	if err := l.sessionCookie.SetSession(w, s); err != nil {
		l.failed(w, err)
		return
	}
	l.accessCookie.Clear(w)
	if who.Role == clinicianRole {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	l.grant(w, r, s, who, view{Account: who, Patient: who.Account, Purpose: keys.PatientRequest})
}

// signOut ends the session and all its grants, and so every copy of its cookies, at once.
func (l *login) signOut(w http.ResponseWriter, r *http.Request) {
	if s, err := l.sessionCookie.Session(r); err == nil && !l.end(r.Context(), s) {
		http.Error(w, "Signing out failed. Please try again.", http.StatusServiceUnavailable)
		return
	}
	l.sessionCookie.Clear(w)
	l.accessCookie.Clear(w)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// access gives a session a grant for one patient: a patient for themselves; a clinician for treatment of a patient in their
// care, and otherwise for breaking the glass, with a reason that is reviewed.
func (l *login) access(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	s, who, ok := l.session(r)
	if !ok {
		l.show(w, http.StatusUnauthorized, view{Message: "Sign in again."})
		return
	}
	if who.Role == patientRole {
		l.grant(w, r, s, who, view{Account: who, Patient: who.Account, Purpose: keys.PatientRequest})
		return
	}
	asked := view{
		Account: who,
		Patient: r.PostFormValue("patient"),
		Purpose: keys.Purpose(r.PostFormValue("purpose")),
		Reason:  strings.Join(strings.Fields(r.PostFormValue("reason")), " "), // in one line
	}
	patient, exists := l.accounts[asked.Patient]
	refuse := func(status int, message string) {
		asked.Message = message
		l.show(w, status, asked)
	}
	switch {
	case !exists || patient.Role != patientRole:
		refuse(http.StatusNotFound, "There is no such patient.")
	case asked.Purpose != keys.Treatment && asked.Purpose != keys.BreakTheGlass:
		refuse(http.StatusBadRequest, "Choose a purpose.")
	case asked.Purpose == keys.Treatment && !who.caresFor(patient):
		refuse(http.StatusForbidden, "This patient is not in your care. In an emergency, break the glass.")
	case asked.Purpose == keys.BreakTheGlass && asked.Reason == "":
		refuse(http.StatusBadRequest, "To break the glass, give a reason. It will be reviewed.")
	case len(asked.Reason) > keys.MaxReasonLen:
		refuse(http.StatusBadRequest, "The reason is too long.")
	case !utf8.ValidString(asked.Reason) || strings.ContainsFunc(asked.Reason, func(r rune) bool { return !unicode.IsPrint(r) }):
		refuse(http.StatusBadRequest, "The reason has characters that cannot be shown.")
	default:
		l.grant(w, r, s, patient, asked)
	}
}

// grant issues a grant and redirects to the recordings. The request ID leads from Vault's audit log to the
// event in this log, and to the line that is written before there is a grant. The session's grants from before end.
func (l *login) grant(w http.ResponseWriter, r *http.Request, s session.Session, patient account, asked view) {
	requestID := strings.ToLower(rand.Text())
	log := l.log.With("account", s.Account, "request_id", requestID)
	log.Info("grant requested", "patient", patient.Account, "purpose", asked.Purpose, "reason", asked.Reason)
	grant, err := l.granter.Issue(r.Context(), keys.Patient(patient.Patient), keys.GrantOptions{
		TTL: l.grantTTL, Subject: s.Account, Purpose: asked.Purpose, Reason: asked.Reason, RequestID: requestID,
	})
	if err != nil {
		log.Error("no grant", "error", err)
		asked.Message = "Access could not be given. Please try again."
		l.show(w, http.StatusServiceUnavailable, asked)
		return
	}
	l.grants.WithLabelValues(string(asked.Purpose)).Inc()
	had, live := l.sessions.add(s, grant)
	if !live { // the user signed out while Vault issued it
		l.revoke(r.Context(), s, grant)
		l.show(w, http.StatusUnauthorized, view{Message: "Sign in again."})
		return
	}
	l.revoke(r.Context(), s, had...)
	if err := l.accessCookie.SetAccess(w, session.Access{Grant: grant, Patient: patient.Account}); err != nil {
		l.failed(w, err)
		return
	}
	http.Redirect(w, r, "/recordings", http.StatusSeeOther)
}

// end ends a session and its grants, and reports whether all of them have ended.
func (l *login) end(ctx context.Context, s session.Session) bool {
	return l.revoke(ctx, s, l.sessions.end(s)...)
}

// revoke ends grants, also if the browser has left, and reports whether they have ended. Those that have not are kept for
// the session's end, and otherwise end by their TTL.
func (l *login) revoke(ctx context.Context, s session.Session, grants ...keys.Grant) bool {
	var alive []keys.Grant
	for _, grant := range grants {
		err := l.granter.RevokeSelf(context.WithoutCancel(ctx), grant)
		if err != nil && !errors.Is(err, keys.ErrInvalidGrant) { // which says that it had ended already
			l.log.Error("a grant was not ended", "accessor", grant.Accessor(), "error", err)
			alive = append(alive, grant)
		}
	}
	if len(alive) > 0 {
		l.sessions.keep(s, alive)
	}
	return len(alive) == 0
}

func (l *login) failed(w http.ResponseWriter, err error) {
	l.log.Error("cookie", "error", err)
	http.Error(w, "The session could not be started.", http.StatusInternalServerError)
}
