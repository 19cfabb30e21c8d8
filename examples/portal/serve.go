package main

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// server is the half of the portal that lists and plays. It has no right to any recording. It opens every
// recording with the grant of the session that asks, whatever the ID. It does not check whether the two
// fit: that check was missing in 2020, and here the keyring makes it.
type server struct {
	vault    *vault.Vault // its keyring has no credentials
	listings *listings
	sessions *sessions
	events   *panel
	reports  *reports
	pages    *pages
}

func (s *server) routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /consultations", s.signedIn(s.list))
	mux.HandleFunc("GET /consultations/{id}", s.signedIn(s.play))
	mux.HandleFunc("GET /recordings/{id}", s.signedIn(s.recording))
	mux.HandleFunc("GET /events", s.signedIn(s.watchEvents))
	mux.HandleFunc("GET /security", s.signedIn(s.security))
	mux.HandleFunc("GET /security/report", s.signedIn(s.report))
	mux.HandleFunc("GET /accesses", s.signedIn(s.accesses))
	mux.HandleFunc("POST /bug", s.signedIn(s.switchBug))
}

// signedIn calls next with the request's session. Without one it redirects to the sign-in page.
func (s *server) signedIn(next func(http.ResponseWriter, *http.Request, session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		session, ok := s.sessions.of(r)
		if !ok {
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		next(w, r, session)
	}
}

// listPage is the content of the page with a patient's consultations, and with others' if the bug is on.
type listPage struct {
	Items   []item
	Foreign int // how many of them are other patients', so that the vault refused to describe them
	Outcome outcome
	Events  panelView
}

type item struct {
	vault.Info
	Sealed bool // only its ID is known
}

func (s *server) list(w http.ResponseWriter, r *http.Request, session session) {
	grant := session.Access.Grant
	if grant.IsZero() {
		http.Redirect(w, r, homeOf(session.account), http.StatusSeeOther)
		return
	}
	ids, err := s.listings.of(r.Context(), grant.KeyID())
	if err != nil {
		s.pages.failed(w, err)
		return
	}
	list := listPage{Outcome: good}
	for _, id := range ids {
		info, err := s.vault.Stat(r.Context(), grant, id)
		switch found := outcomeOf(err); found {
		case good:
			list.Items = append(list.Items, item{Info: info})
		case refused:
			list.Items = append(list.Items, item{Info: vault.Info{ID: id}, Sealed: true})
			list.Foreign++
		case newer: // hides no other
			list.Items = append(list.Items, item{Info: vault.Info{ID: id}, Sealed: true})
		case missing: // deleted since the listing
		default:
			list.Outcome = found
		}
	}
	slices.SortStableFunc(list.Items, func(a, b item) int { return b.RecordedAt.Compare(a.RecordedAt) })
	title := "My consultations"
	if session.Role != patientRole {
		title = "Consultations of " + session.Access.Whose
	}
	list.Events, _ = s.events.view(session)
	s.pages.render(w, list.Outcome.status(), "consultations", page{Title: title, Session: session, Content: list})
}

// playPage is the content of the page with the player, and the reason if the recording does not open.
type playPage struct {
	vault.Info
	Outcome outcome
	Grant   keys.GrantDetails
	Events  panelView
}

func (s *server) play(w http.ResponseWriter, r *http.Request, session session) {
	id, err := vault.ParseID(r.PathValue("id"))
	if err != nil {
		s.pages.problem(w, http.StatusNotFound, "There is no such consultation", "The address is not that of a recording.")
		return
	}
	grant := session.Access.Grant
	if grant.IsZero() {
		http.Redirect(w, r, homeOf(session.account), http.StatusSeeOther)
		return
	}
	info, err := s.vault.Stat(r.Context(), grant, id)
	playing := playPage{Info: info, Outcome: outcomeOf(err), Grant: grant.Details()}
	playing.ID = id
	title := cmp.Or(info.Title, "A recording without a title")
	if playing.Outcome != good {
		title = "A sealed recording"
	}
	playing.Events, _ = s.events.view(session)
	s.pages.render(w, playing.Outcome.status(), "play", page{Title: title, Session: session, Content: playing})
}

// recording answers the player's requests, of which there are many, with ranges. It makes one call.
func (s *server) recording(w http.ResponseWriter, r *http.Request, session session) {
	id, err := vault.ParseID(r.PathValue("id"))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if session.Access.Grant.IsZero() {
		http.Error(w, "There is no access to any recording.", http.StatusForbidden)
		return
	}
	s.vault.ServeRecording(w, r, session.Access.Grant, id)
}

// outcome is the result of an attempt to open a recording. The pages show one text for each.
type outcome string

const (
	good        outcome = "good"
	refused     outcome = "refused" // the grant is for another patient
	ended       outcome = "ended"   // the grant has expired or was ended
	missing     outcome = "missing"
	unavailable outcome = "unavailable"
	newer       outcome = "newer" // it needs a newer release of the portal
	broken      outcome = "broken"
)

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return good
	case errors.Is(err, keys.ErrInvalidGrant): // which is ErrDenied as well
		return ended
	case errors.Is(err, keys.ErrDenied):
		return refused
	case errors.Is(err, vault.ErrNotFound), errors.Is(err, keys.ErrErased), errors.Is(err, keys.ErrNotEnrolled):
		return missing
	case errors.Is(err, keys.ErrUnavailable), errors.Is(err, storage.ErrUnavailable),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unavailable
	case errors.Is(err, vault.ErrUnsupported):
		return newer
	}
	return broken
}

// status returns the HTTP status of a page. The player's requests get theirs from the vault.
func (o outcome) status() int {
	switch o {
	case good:
		return http.StatusOK
	case refused, ended:
		return http.StatusForbidden
	case missing:
		return http.StatusNotFound
	case unavailable:
		return http.StatusServiceUnavailable
	case newer:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}
