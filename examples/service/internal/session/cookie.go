// Package session keeps what a browser holds in cookies that are encrypted and authenticated, so that the service needs no
// database of sessions. There are two, under different keys: login alone can make and read a Session, so no other process can
// sign anybody in. Login and play share the key of an Access, which is worth what the grant in it is.
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

// Session is who has signed in.
type Session struct {
	ID      string
	Start   time.Time
	Account string
}

// Access is the right to one patient's recordings that a session has at the moment.
type Access struct {
	Grant   keys.Grant
	Patient string // the patient's account, to show
}

// sealedAccess is what an Access's cookie holds: a grant does not encode itself.
type sealedAccess struct{ Grant, Patient string }

// ErrNone says that a request has no such cookie, or one that was altered or is too old.
var ErrNone = errors.New("no session")

// Cookie seals and opens the cookies of one name.
type Cookie struct {
	name   string
	secure bool
	maxAge time.Duration
	codecs []securecookie.Codec // the first seals
}

// keyBytes is the length of a key: 32 bytes for HMAC-SHA-256, and 32 for AES-256.
const keyBytes = 64

// New returns the cookies of a name. Each line of the file has a key: 64 random bytes in hexadecimal. The first key seals, and
// all of them open, so a new key is put first, and the old one removed after maxAge. Plain is for development without TLS: a
// browser would not send the cookie otherwise.
func New(name, keyFile string, maxAge time.Duration, plain bool) (*Cookie, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("the key of the cookie %s: %w", name, err)
	}
	c := &Cookie{name: "__Host-" + name, secure: true, maxAge: maxAge}
	if plain {
		c.name, c.secure = name, false
	}
	for line := range strings.FieldsSeq(string(text)) {
		key, err := hex.DecodeString(line)
		if err != nil || len(key) != keyBytes {
			return nil, fmt.Errorf("the key of the cookie %s: a line of %s is not %d bytes in hexadecimal", name, keyFile, keyBytes)
		}
		codec := securecookie.New(key[:32], key[32:]).MaxAge(int(maxAge.Seconds()))
		c.codecs = append(c.codecs, codec.SetSerializer(securecookie.JSONEncoder{}))
	}
	if len(c.codecs) == 0 {
		return nil, fmt.Errorf("the key of the cookie %s: %s is empty", name, keyFile)
	}
	return c, nil
}

// SetSession gives the browser a session.
func (c *Cookie) SetSession(w http.ResponseWriter, s Session) error { return c.set(w, s) }

// Session returns the session of a request, or ErrNone.
func (c *Cookie) Session(r *http.Request) (s Session, err error) { return s, c.get(r, &s) }

// SetAccess gives the browser an access. A browser keeps 4,096 bytes of a cookie; this one takes about 600.
func (c *Cookie) SetAccess(w http.ResponseWriter, a Access) error {
	return c.set(w, sealedAccess{a.Grant.Reveal(), a.Patient})
}

// Access returns the access of a request, or ErrNone. The keyring alone knows whether its grant is still good.
func (c *Cookie) Access(r *http.Request) (Access, error) {
	var held sealedAccess
	if err := c.get(r, &held); err != nil {
		return Access{}, err
	}
	grant, err := keys.ParseGrant(held.Grant)
	if err != nil {
		return Access{}, ErrNone
	}
	return Access{Grant: grant, Patient: held.Patient}, nil
}

// Clear takes the cookie from the browser. Copies of it stay as good as they were.
func (c *Cookie) Clear(w http.ResponseWriter) { http.SetCookie(w, c.cookie("", -1)) }

func (c *Cookie) set(w http.ResponseWriter, held any) error {
	value, err := securecookie.EncodeMulti(c.name, held, c.codecs[0])
	if err != nil {
		return err
	}
	http.SetCookie(w, c.cookie(value, int(c.maxAge.Seconds())))
	return nil
}

func (c *Cookie) get(r *http.Request, held any) error {
	cookie, err := r.Cookie(c.name)
	if err != nil {
		return ErrNone
	}
	if err := securecookie.DecodeMulti(c.name, cookie.Value, held, c.codecs...); err != nil {
		return ErrNone
	}
	return nil
}

func (c *Cookie) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: c.name, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteStrictMode,
	}
}
