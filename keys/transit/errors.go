package transit

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

var (
	// ErrNotSetUp: what [Setup] makes is missing in Vault, or was changed, or the options name
	// another mount or prefix. The error is [keys.ErrUnavailable] as well.
	ErrNotSetUp = fmt.Errorf("%w: Vault is not set up for recvault", keys.ErrUnavailable)

	// ErrUnsafeKey: there is a key with the name of a patient's envelope key that does not tie wrapped
	// keys to their recordings, or that can be taken out of Vault. Somebody else made it.
	ErrUnsafeKey = errors.New("the patient's envelope key is not of the kind that Enrol makes")
)

// refusal is an error that Vault answered with. It holds nothing of the request: no token, no key, no
// patient identifier.
type refusal struct {
	status int
	reason string
	raw    bool // it does not come from Vault's own words, but perhaps from a proxy
}

const maxReasonLen = 300

func newRefusal(err *api.ResponseError) *refusal {
	if err.RawError {
		return &refusal{err.StatusCode, "the answer is not in Vault's form", true} // what a proxy says is not repeated
	}
	text := strings.Join(err.Errors, "; ")
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxReasonLen {
		text = strings.ToValidUTF8(text[:maxReasonLen], "") + "..."
	}
	return &refusal{status: err.StatusCode, reason: text}
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v: Vault answered %d: %s", r.Unwrap(), r.status, r.reason)
}

// Unwrap sorts the answer by its cause. Those that only the operation can explain, because they are
// about what it sent, are told from others by [missing] and [badRequest].
func (r *refusal) Unwrap() error {
	switch {
	case r.status == http.StatusForbidden:
		return keys.ErrDenied
	case r.status == http.StatusNotFound && strings.Contains(r.reason, "no handler for route"):
		return ErrNotSetUp
	}
	return keys.ErrUnavailable
}

// missing tells whether Vault answered that there is no such key, which it says in many ways.
func missing(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
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

// badRequest tells whether Vault found fault with what it was sent.
func badRequest(err error) bool {
	var r *refusal
	return errors.As(err, &r) && r.status == http.StatusBadRequest && !r.raw
}

// ofCiphertext sorts what Vault finds wrong with a wrapped key.
func ofCiphertext(reason string) error {
	if strings.Contains(reason, "disallowed by policy (too old)") {
		return keys.ErrRetired
	}
	return keys.ErrIntegrity
}

// reason returns Vault's own words, or "" if it gave none.
func reason(err error) string {
	var r *refusal
	if !errors.As(err, &r) {
		return ""
	}
	return r.reason
}
