package main

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// session is kept on the server, with its grant. The browser has only a random cookie.
type session struct {
	account
	Access access
	until  time.Time
}

// access is the right to one patient's recordings, which the login gave to a session. A session has at most
// one at a time.
type access struct {
	Grant   keys.Grant
	Whose   string // the patient's name, for the page's heading
	GivenUp bool
}

// Left returns how long the access still lasts, by the portal's clock. Pages show it. The keyring alone decides
// whether the grant still opens anything.
func (a access) Left() time.Duration {
	if a.GivenUp || a.Grant.IsZero() {
		return 0
	}
	return max(0, time.Until(a.Grant.Expires()))
}

// sessions holds all sessions, in memory. It can end a session's grant, which needs the grant itself and no
// other right.
type sessions struct {
	vault *vault.Vault // which serves recordings

	mu       sync.Mutex
	byCookie map[string]session
}

func newSessions(v *vault.Vault) *sessions {
	return &sessions{vault: v, byCookie: map[string]session{}}
}

const (
	cookieName = "portal-session"
	sessionTTL = time.Hour

	// maxSessions bounds the memory, and the grants at the keyring, that sign-ins take. At the bound, further
	// sign-ins are refused until a session ends. To end the oldest session would let anybody who signs in often
	// enough sign out a clinician at work. A real login also bounds the sign-ins of one account and one address.
	maxSessions = 1000
)

var errTooManySessions = errors.New("too many sessions")

// start begins a session with the access that issue returns, and sets its cookie. If the browser had a session,
// that one ends. If there are maxSessions others, start returns errTooManySessions and does not call issue.
func (s *sessions) start(w http.ResponseWriter, r *http.Request, who account, issue func() (access, error)) error {
	if err := s.stop(w, r); err != nil {
		return err
	}
	cookie := rand.Text() // the browser gets it when the session has its access
	if !s.add(cookie, session{account: who, until: time.Now().Add(sessionTTL)}) {
		return errTooManySessions
	}
	granted, err := issue()
	if err == nil {
		err = s.replace(r.Context(), cookie, func(access) access { return granted })
	}
	if err != nil {
		s.remove(cookie)
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil, // the example itself speaks plain HTTP, on loopback
	})
	return nil
}

// add forgets the sessions that have expired, and adds one. It returns false if there are too many.
func (s *sessions) add(cookie string, added session) bool {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byCookie, func(_ string, had session) bool { return now.After(had.until) })
	if len(s.byCookie) >= maxSessions {
		return false
	}
	s.byCookie[cookie] = added
	return true
}

// remove removes a session and returns it.
func (s *sessions) remove(cookie string) session {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.byCookie[cookie]
	delete(s.byCookie, cookie)
	return had
}

// of returns the session of a request.
func (s *sessions) of(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.byCookie[cookie.Value]
	return found, ok && time.Now().Before(found.until)
}

// give replaces the access of a request's session, and ends the previous one.
func (s *sessions) give(r *http.Request, a access) error {
	return s.replaceOf(r, func(access) access { return a })
}

// giveUp ends the access of a request's session. The session keeps the grant, so that a further attempt is
// refused by the keyring and not by the portal.
func (s *sessions) giveUp(r *http.Request) error {
	return s.replaceOf(r, func(had access) access {
		had.GivenUp = true
		return had
	})
}

// replaceOf changes the access of a request's session, and ends the previous one.
func (s *sessions) replaceOf(r *http.Request, change func(access) access) error {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return err
	}
	return s.replace(r.Context(), cookie.Value, change)
}

// replace changes the access of a session, and ends the previous one.
func (s *sessions) replace(ctx context.Context, cookie string, change func(access) access) error {
	s.mu.Lock()
	session, ok := s.byCookie[cookie]
	had := session.Access
	if ok {
		session.Access = change(had)
		s.byCookie[cookie] = session
	}
	s.mu.Unlock()
	if !ok {
		// The session has ended since. The access that it should have got ends too.
		return errors.Join(errNoSession, s.end(ctx, change(access{})))
	}
	return s.end(ctx, had)
}

var errNoSession = errors.New("the session has ended")

// close ends every session and its access.
func (s *sessions) close(ctx context.Context) error {
	s.mu.Lock()
	all := s.byCookie
	s.byCookie = map[string]session{}
	s.mu.Unlock()
	var failed []error
	for _, session := range all {
		failed = append(failed, s.end(ctx, session.Access))
	}
	return errors.Join(failed...)
}

// stop ends a request's session and its access.
func (s *sessions) stop(w http.ResponseWriter, r *http.Request) error {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return nil // it has none
	}
	had := s.remove(cookie.Value)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return s.end(r.Context(), had.Access)
}

// end ends an access early. No copy of its grant opens anything after that.
func (s *sessions) end(ctx context.Context, a access) error {
	if a.Grant.IsZero() {
		return nil
	}
	if err := s.vault.EndGrant(ctx, a.Grant); !errors.Is(err, keys.ErrInvalidGrant) { // which says that it had ended already
		return err
	}
	return nil
}
