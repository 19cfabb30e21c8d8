package transit

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

var (
	// ErrNotSetUp means that something that [Setup] makes is missing in Vault or was changed, or that
	// the options name another mount or prefix. The error is [keys.ErrUnavailable] as well.
	ErrNotSetUp = fmt.Errorf("%w: Vault is not set up for recvault", keys.ErrUnavailable)

	// ErrUnsafeKey means that a key with the name of the patient's envelope key exists but was not
	// made by Enrol: it does not tie wrapped keys to their recordings, or it can be exported.
	ErrUnsafeKey = errors.New("the patient's envelope key is not of the kind that Enrol makes")
)

// refusal is an error that Vault answered with. It contains nothing of the request: no token, no key,
// no patient identifier.
type refusal struct {
	status int
	reason string
	raw    bool // the answer does not have the form of Vault's; it may come from a proxy
}

const maxReasonLen = 300

func newRefusal(err *api.ResponseError, token string) *refusal {
	if err.RawError {
		return &refusal{err.StatusCode, "the answer does not have Vault's form", true} // without a proxy's text
	}
	return &refusal{status: err.StatusCode, reason: unframed(plain(strings.Join(err.Errors, "; "), token))}
}

// frame is what Vault writes before a list of errors. Each error begins with " * ".
var frame = regexp.MustCompile(`^[0-9]+ errors? occurred: \* `)

// unframed returns the errors of a list, separated by "; ". That permission was denied goes without saying where there
// is another reason.
func unframed(reason string) string {
	if framed := frame.FindString(reason); framed != "" {
		reason = strings.ReplaceAll(reason[len(framed):], " * ", "; ")
	}
	return strings.TrimPrefix(reason, bareDenial+"; ")
}

// bareDenial is Vault's reason where no policy of the token allows a request.
const bareDenial = "permission denied"

// plain returns a text that a server sent, or may have sent, as it can be shown: in one line, without the request's
// token and at most maxReasonLen bytes long. Control characters and bidirectional marks, which could change what a
// terminal shows, become "?".
func plain(text, token string) string {
	if token != "" {
		text = strings.ReplaceAll(text, token, "REDACTED")
	}
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(text), " "))
	if len(text) > maxReasonLen {
		text = strings.ToValidUTF8(text[:maxReasonLen], "") + "..."
	}
	return text
}

func (r *refusal) Error() string {
	if r.reason == bareDenial {
		return fmt.Sprintf("%v by Vault", r.Unwrap())
	}
	return fmt.Sprintf("%v: Vault answered %d: %s", r.Unwrap(), r.status, r.reason)
}

// Unwrap returns the class of the answer. Answers about the content of a request mean something else
// for each operation, which finds them with [missing] and [badRequest].
func (r *refusal) Unwrap() error {
	switch {
	case r.status == http.StatusForbidden && strings.Contains(r.reason, "invalid token"): // unknown to Vault, or ended
		return keys.ErrUnauthenticated
	case r.status == http.StatusForbidden:
		return keys.ErrDenied
	case r.status == http.StatusNotFound && strings.Contains(r.reason, "no handler for route"):
		return ErrNotSetUp
	}
	return keys.ErrUnavailable
}

// missing reports whether Vault answered that there is no such key. Each operation has its own form
// of that answer.
func missing(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return false
	}
	switch r.status {
	case http.StatusNotFound: // read
		return r.reason == ""
	case http.StatusBadRequest:
		return strings.Contains(r.reason, "key not found") || // encrypt, decrypt, rewrap, hmac, rotate
			strings.Contains(r.reason, "no existing key named") || // config
			strings.Contains(r.reason, "could not delete key; not found") // delete
	}
	return false
}

// badRequest reports whether Vault refused the content of the request.
func badRequest(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && r.status == http.StatusBadRequest && !r.raw
}

// ofCiphertext returns the error for Vault's reason to refuse a wrapped key.
func ofCiphertext(reason string) error {
	if strings.Contains(reason, "disallowed by policy (too old)") {
		return keys.ErrRetired
	}
	return keys.ErrIntegrity
}

// reason returns the error text in Vault's answer, or "" if there is none.
func reason(err error) string {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reason
	}
	return ""
}
