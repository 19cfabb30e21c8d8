// Package session keeps a session in a cookie that is encrypted and authenticated, so that the processes of the service
// share sessions without a database. They share the cookie's keys instead.
package session

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/recvault/recvault/keys"
)

// Session is who has signed in, and the grant that they have at the moment.
type Session struct {
	ID      string // the same for as long as the user is signed in
	Start   time.Time
	Account string
	Grant   keys.Grant // zero for a clinician who has not asked for access yet
}

// sealed is what the cookie holds. A browser's cookie has at most 4,096 bytes; this one takes about 600.
type sealed struct {
	ID      string
	Start   time.Time
	Account string
	Grant   string
}

// Cookies seals and opens sessions.
type Cookies struct {
	cookies *securecookie.SecureCookie
	name    string
	secure  bool
	maxAge  time.Duration
}

// keyBytes is the length of the key file: 32 bytes for HMAC-SHA-256, and 32 for AES-256.
const keyBytes = 64

// New returns the cookies of the service. The file has 64 random bytes in hexadecimal. Sessions end after maxAge. Plain is
// for development without TLS: a browser would not send the cookie otherwise.
func New(keyFile string, maxAge time.Duration, plain bool) (*Cookies, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("the cookies' key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keyBytes {
		return nil, fmt.Errorf("the cookies' key: %s does not have %d bytes in hexadecimal", keyFile, keyBytes)
	}
	c := &Cookies{cookies: securecookie.New(key[:32], key[32:]), name: "__Host-session", secure: true, maxAge: maxAge}
	if plain {
		c.name, c.secure = "session", false
	}
	c.cookies.SetSerializer(securecookie.JSONEncoder{})
	c.cookies.MaxAge(int(maxAge.Seconds()))
	return c, nil
}

// Set gives the browser a session.
func (c *Cookies) Set(w http.ResponseWriter, s Session) error {
	held := sealed{ID: s.ID, Start: s.Start, Account: s.Account}
	if !s.Grant.IsZero() {
		held.Grant = s.Grant.Reveal()
	}
	value, err := c.cookies.Encode(c.name, held)
	if err != nil {
		return err
	}
	http.SetCookie(w, c.cookie(value, int(c.maxAge.Seconds())))
	return nil
}

// Clear takes the session from the browser. Whoever has a copy of the cookie still has the session, so login
// remembers which ones have ended.
func (c *Cookies) Clear(w http.ResponseWriter) {
	http.SetCookie(w, c.cookie("", -1))
}

func (c *Cookies) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: c.name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteStrictMode,
	}
}

// ErrNone says that a request has no session: it has no cookie, or one that was altered or is too old.
var ErrNone = errors.New("no session")

// Of returns the session of a request, or ErrNone.
func (c *Cookies) Of(r *http.Request) (Session, error) {
	cookie, err := r.Cookie(c.name)
	if err != nil {
		return Session{}, ErrNone
	}
	var held sealed
	if err := c.cookies.Decode(c.name, cookie.Value, &held); err != nil {
		return Session{}, ErrNone
	}
	s := Session{ID: held.ID, Start: held.Start, Account: held.Account}
	if held.Grant != "" {
		if s.Grant, err = keys.ParseGrant(held.Grant); err != nil {
			return Session{}, ErrNone
		}
	}
	return s, nil
}
