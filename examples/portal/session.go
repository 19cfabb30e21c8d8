package main

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
)

// session is what a browser's cookie stands for. It is kept on the server, and so is the grant.
type session struct {
	account
	Access access
	until  time.Time
}

// access is what the login gave a session: the right to one patient's recordings. A session has at
// most one at a time.
type access struct {
	Grant   keys.Grant
	Whose   string // the patient's name, for the page's heading
	GivenUp bool
}

// Left returns how long the access lasts, as far as the portal knows, which is what pages show. Whether
// it opens anything is up to the keyring.
func (a access) Left() time.Duration {
	if a.GivenUp || a.Grant.IsZero() {
		return 0
	}
	return max(0, time.Until(a.Grant.Expires()))
}

// sessions holds all sessions, in memory. It can end a session's grant: that takes the grant and no
// right besides.
type sessions struct {
	ender interface {
		RevokeSelf(ctx context.Context, grant keys.Grant) error
	}

	mu       sync.Mutex
	byCookie map[string]session
}

func newSessions(keyring keys.Unwrapper) *sessions {
	return &sessions{ender: keyring, byCookie: map[string]session{}}
}

const (
	cookieName = "portal-session"
	sessionTTL = time.Hour
)

// start begins a session and sets its cookie. A session that the browser had ends.
func (s *sessions) start(w http.ResponseWriter, r *http.Request, who account, a access) error {
	err := s.stop(w, r)
	cookie := rand.Text()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, session := range s.byCookie {
		if now.After(session.until) {
			delete(s.byCookie, other)
		}
	}
	s.byCookie[cookie] = session{account: who, Access: a, until: now.Add(sessionTTL)}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookie, Path: "/",
		HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil, // the example itself speaks plain HTTP, on loopback
	})
	return err
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

// give replaces the access of a request's session, and ends the one that it had.
func (s *sessions) give(r *http.Request, a access) error {
	return s.replace(r, func(access) access { return a })
}

// giveUp ends the access of a request's session. The session keeps the grant: whoever tries it again is
// refused by the keyring, not by the portal's own bookkeeping.
func (s *sessions) giveUp(r *http.Request) error {
	return s.replace(r, func(had access) access {
		had.GivenUp = true
		return had
	})
}

func (s *sessions) replace(r *http.Request, change func(access) access) error {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return err
	}
	s.mu.Lock()
	session, ok := s.byCookie[cookie.Value]
	had := session.Access
	if ok {
		session.Access = change(had)
		s.byCookie[cookie.Value] = session
	}
	s.mu.Unlock()
	if !ok {
		// The session ended meanwhile, and what it was to be given ends with it.
		return errors.Join(errNoSession, s.end(r.Context(), change(access{})))
	}
	return s.end(r.Context(), had)
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
	s.mu.Lock()
	had := s.byCookie[cookie.Value]
	delete(s.byCookie, cookie.Value)
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return s.end(r.Context(), had.Access)
}

// end ends an access before its time, for everybody who holds a copy of the grant.
func (s *sessions) end(ctx context.Context, a access) error {
	if a.Grant.IsZero() {
		return nil
	}
	if err := s.ender.RevokeSelf(ctx, a.Grant); !errors.Is(err, keys.ErrInvalidGrant) { // it had ended by itself
		return err
	}
	return nil
}
