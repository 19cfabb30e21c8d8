package keystest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/recvault/recvault/keys"
)

// watch records the secrets that the suite gave to a keyring or got from it, and the texts of the
// errors that the keyring returned.
type watch struct {
	mu      sync.Mutex
	secrets map[string]string   // printed form of a secret -> what it is
	texts   map[string]struct{} // of errors
}

func newWatch() *watch {
	return &watch{secrets: make(map[string]string), texts: make(map[string]struct{})}
}

// secret records a secret in every form in which a text could contain it.
func (w *watch) secret(what string, secret []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, form := range []string{
		string(secret),
		hex.EncodeToString(secret),
		base64.RawStdEncoding.EncodeToString(secret),
		base64.RawURLEncoding.EncodeToString(secret),
		url.PathEscape(string(secret)),
		url.QueryEscape(string(secret)),
		strings.Trim(fmt.Sprintf("%q", secret), `"`),
	} {
		w.secrets[form] = what
	}
}

// note records the text of an error and returns the error.
func (w *watch) note(err error) error {
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.texts[err.Error()] = struct{}{}
		w.texts[fmt.Sprintf("%+v", err)] = struct{}{}
	}
	return err
}

// leaks returns the error texts that contain a secret, each after the kind of secret.
func (w *watch) leaks() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var leaks []string
	for text := range w.texts {
		for form, what := range w.secrets {
			if strings.Contains(text, form) {
				leaks = append(leaks, what+": "+text)
				break
			}
		}
	}
	slices.Sort(leaks)
	return leaks
}

// tokenPart is the length of a token's end that counts as a secret by itself, because a parser may
// quote the part that it failed on. It is long enough to be unique.
const tokenPart = 20

// watched is a keyring that records its secrets and errors in a watch.
type watched struct {
	keyring keys.Keyring
	watch   *watch
}

func (k *watched) Enrol(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.keyring.Enrol(ctx, patient)
	return id, k.watch.note(err)
}

func (k *watched) KeyID(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.keyring.KeyID(ctx, patient)
	return id, k.watch.note(err)
}

func (k *watched) ClaimStore(ctx context.Context, store keys.StoreID) error {
	return k.watch.note(k.keyring.ClaimStore(ctx, store))
}

func (k *watched) CheckStore(ctx context.Context, store keys.StoreID) error {
	return k.watch.note(k.keyring.CheckStore(ctx, store))
}

func (k *watched) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	wrapped, err := k.keyring.Wrap(ctx, binding, key)
	return wrapped, k.watch.note(err)
}

func (k *watched) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	key, err := k.keyring.Unwrap(ctx, grant, binding, wrapped)
	return key, k.watch.note(err)
}

func (k *watched) CheckGrant(ctx context.Context, grant keys.Grant) error {
	return k.watch.note(k.keyring.CheckGrant(ctx, grant))
}

func (k *watched) RevokeSelf(ctx context.Context, grant keys.Grant) error {
	return k.watch.note(k.keyring.RevokeSelf(ctx, grant))
}

func (k *watched) Issue(ctx context.Context, patient keys.Patient, options keys.GrantOptions) (keys.Grant, error) {
	grant, err := k.keyring.Issue(ctx, patient, options)
	if err == nil {
		token := grant.Token()
		k.watch.secret("grant token", []byte(token))
		k.watch.secret("part of a grant token", []byte(token[len(token)-min(len(token), tokenPart):]))
		k.watch.secret("revealed grant", []byte(grant.Reveal()))
	}
	return grant, k.watch.note(err)
}

func (k *watched) Revoke(ctx context.Context, accessor string) error {
	return k.watch.note(k.keyring.Revoke(ctx, accessor))
}

func (k *watched) Rotate(ctx context.Context, id keys.KeyID) error {
	return k.watch.note(k.keyring.Rotate(ctx, id))
}

func (k *watched) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	versions, err := k.keyring.Versions(ctx, id)
	return versions, k.watch.note(err)
}

func (k *watched) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := k.keyring.Rewrap(ctx, id, items)
	for _, result := range results {
		_ = k.watch.note(result.Err)
	}
	return results, k.watch.note(err)
}

func (k *watched) Retire(ctx context.Context, id keys.KeyID, oldest int) error {
	return k.watch.note(k.keyring.Retire(ctx, id, oldest))
}

func (k *watched) Reinstate(ctx context.Context, id keys.KeyID, oldest int) error {
	return k.watch.note(k.keyring.Reinstate(ctx, id, oldest))
}

func (k *watched) Trim(ctx context.Context, id keys.KeyID, oldest int) error {
	return k.watch.note(k.keyring.Trim(ctx, id, oldest))
}

func (k *watched) Erase(ctx context.Context, id keys.KeyID) error {
	return k.watch.note(k.keyring.Erase(ctx, id))
}
