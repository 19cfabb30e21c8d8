// Package transit keeps envelope keys in HashiCorp Vault's Transit engine, where they are used and
// never leave.
//
// [Setup] prepares a Vault once: the mount, the key that makes pseudonyms, one policy for each role
// and the token role that grants come from. [New] makes a [Keyring] over the caller's Vault client.
// A Keyring has the methods of every role in package keys; which of them succeed is decided by the
// policy of the client's token, so that a process that records holds a writer's token, the login a
// granter's, and so on. The process that serves recordings needs no token of its own: Unwrap and
// RevokeSelf use the grant's token and never the client's.
//
// # What is in Vault
//
// A patient's envelope key is an AES-256-GCM key named "<KeyID>-kek" with key derivation: the
// binding travels as its context, so that a wrapped key opens for one patient and one recording, in
// decrypt and rewrap alike, and so that every recording has its own derived wrapping key. An
// erased patient leaves a key named "<KeyID>-erased", which encrypts nothing and serves as a mark.
// KeyIDs are made by an HMAC key named "pseudonym".
//
// A grant is a Vault token with one policy for all patients, which names the one key it may decrypt
// with by the token's entity alias, the KeyID. A patient's first grant leaves an entity in Vault's
// identity store, under that pseudonym. Vault's audit log shows each use of a key, allowed or
// refused, with the grant's subject, purpose, request_id and key_id in auth.metadata, and the
// binding, in base64, in request.data.context.
//
// # What to mind
//
// Whoever may make pseudonyms can find out, with one logged request each, which patient a KeyID
// belongs to. A Vault Agent or Proxy between this package and Vault must not be set to force its own
// token (use_auto_auth_token = "force"): it would put it in the place of the grant's. A grant's token
// has many spellings, because Vault does not check the signature that is part of it: two grants are
// told apart by their accessors as Vault reports them, not by comparing tokens.
//
// It was written for and tested with Vault 1.21.
package transit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// Options say where in Vault the keys are, and how patiently it is asked. The zero Options are good
// for most.
type Options struct {
	// Mount is the path of the Transit engine; it may have slashes. Default "recordings".
	Mount string

	// Prefix starts the names of the policies ("<Prefix>-writer", ...) and is that of the token role
	// ("<Prefix>-grant"). Lower-case letters, digits, "-" and "_". Default "recvault".
	Prefix string

	// CacheSize is how many patients' pseudonyms are kept in memory. Default 10,000.
	CacheSize int

	// Timeout is how long one request to Vault may take, all its retries included. A call makes one
	// request, or up to four where it must find out why a key is missing; Rewrap makes one for every
	// 256 items; Retire, Reinstate and Trim make two, or up to seven if others change the versions
	// meanwhile. Default 10 s.
	Timeout time.Duration

	// MaxRetries is how often a request is sent again after a failure that may pass: no connection,
	// a sealed or overloaded Vault, an internal error. A negative number means never. Default 3.
	MaxRetries int
}

func (o Options) withDefaults() (Options, error) {
	o.Mount = strings.Trim(o.Mount, "/")
	if o.Mount == "" {
		o.Mount = "recordings"
	}
	if o.Prefix == "" {
		o.Prefix = "recvault"
	}
	if o.CacheSize == 0 {
		o.CacheSize = 10_000
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxRetries == 0 {
		o.MaxRetries = 3
	}
	switch {
	// Both stand in policies, where a "+", a "*" or a quote would mean something.
	case !validMount(o.Mount):
		return Options{}, fmt.Errorf("transit: the mount path %q has more than letters, digits, \".\", \"_\", \"-\" and \"/\"", o.Mount)
	case !consistsOf(o.Prefix, "abcdefghijklmnopqrstuvwxyz0123456789_-"):
		return Options{}, fmt.Errorf("transit: the prefix %q has more than lower-case letters, digits, \"_\" and \"-\"", o.Prefix)
	case o.CacheSize < 0 || o.Timeout < 0:
		return Options{}, errors.New("transit: a negative cache size or timeout")
	}
	return o, nil
}

func validMount(mount string) bool {
	for segment := range strings.SplitSeq(mount, "/") {
		if segment == "." || segment == ".." ||
			!consistsOf(segment, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") {
			return false
		}
	}
	return true
}

func consistsOf(text, characters string) bool {
	return text != "" && strings.Trim(text, characters) == ""
}

// Keyring uses the keys in Vault. It is safe for concurrent use and needs no closing.
type Keyring struct {
	vault      *requester
	client     *api.Client // the caller's, of which only the token is used
	mount      string
	prefix     string
	pseudonyms *lru.Cache[keys.Patient, keys.KeyID]
}

var _ interface {
	keys.Enroller
	keys.Wrapper
	keys.Unwrapper
	keys.Granter
	keys.Revoker
	keys.Rotator
	keys.Retirer
	keys.Trimmer
	keys.Eraser
} = (*Keyring)(nil)

// New makes a Keyring over the caller's client, which it does not change. The client's address,
// namespace, TLS settings and other headers are taken over as they are now; its token is looked up
// at each call, so that a renewed one is used. New does not talk to Vault.
func New(client *api.Client, options Options) (*Keyring, error) {
	if client == nil {
		return nil, errors.New("transit: no client")
	}
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	vault, err := newRequester(client, options.Timeout, options.MaxRetries)
	if err != nil {
		return nil, err
	}
	pseudonyms, err := lru.New[keys.Patient, keys.KeyID](options.CacheSize)
	if err != nil {
		return nil, fmt.Errorf("transit: pseudonym cache: %w", err)
	}
	return &Keyring{vault, client, options.Mount, options.Prefix, pseudonyms}, nil
}

// Enrol implements [keys.Enroller], for the enroller's role. In addition to the errors named there
// it returns [ErrUnsafeKey] and [ErrNotSetUp].
func (k *Keyring) Enrol(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.KeyID(ctx, patient)
	if err != nil {
		return keys.KeyID{}, err
	}
	// Vault leaves a key that exists as it is, and answers with it.
	secret, err := k.vault.write(ctx, k.client.Token(), k.envelopeKeyPath(id), map[string]any{
		"type":    "aes256-gcm96",
		"derived": true,
	})
	var key struct {
		Type       string `json:"type"`
		Derived    bool   `json:"derived"`
		Convergent bool   `json:"convergent_encryption"`
		Exportable bool   `json:"exportable"`
		Backup     bool   `json:"allow_plaintext_backup"`
	}
	if err == nil {
		err = decode(secret, &key)
	}
	if err != nil {
		return keys.KeyID{}, fmt.Errorf("transit: enrol: %w", err)
	}
	if key.Type != "aes256-gcm96" || !key.Derived || key.Convergent || key.Exportable || key.Backup {
		return keys.KeyID{}, fmt.Errorf("transit: enrol: %w", ErrUnsafeKey)
	}
	return id, nil
}

// Wrap implements [keys.Wrapper], for the writer's role.
func (k *Keyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.RecordingKey) (keys.WrappedKey, error) {
	wrapped, err := k.wrap(ctx, binding, key)
	if err != nil {
		return "", fmt.Errorf("transit: wrap: %w", err)
	}
	return wrapped, nil
}

func (k *Keyring) wrap(ctx context.Context, binding keys.Binding, key *keys.RecordingKey) (keys.WrappedKey, error) {
	id := binding.KeyID()
	if id.IsZero() {
		return "", keys.ErrInvalidKeyID
	}
	encrypt := func() (*api.Secret, error) {
		return k.vault.write(ctx, k.client.Token(), k.mount+"/encrypt/"+envelopeKey(id), map[string]any{
			"plaintext": base64.StdEncoding.EncodeToString(key.Bytes()),
			"context":   vaultContext(binding),
		})
	}
	secret, err := encrypt()
	if errors.Is(err, keys.ErrDenied) {
		// To Vault, encrypting with a key that does not exist is an attempt to make it, which a writer
		// may not do.
		_, readErr := k.readKey(ctx, k.client.Token(), k.envelopeKeyPath(id))
		switch {
		case readErr == nil:
			secret, err = encrypt() // it may have been enrolled meanwhile; if not, the refusal stands
		case !errors.Is(readErr, keys.ErrDenied):
			err = readErr
		}
	}
	if missing(err) {
		return "", k.noEnvelopeKey(ctx, k.client.Token(), id)
	}
	var answer struct {
		Ciphertext keys.WrappedKey `json:"ciphertext"`
	}
	if err == nil {
		err = decode(secret, &answer)
	}
	if err != nil {
		return "", err
	}
	if _, err := answer.Ciphertext.Version(); err != nil {
		return "", fmt.Errorf("%w: Vault answered with no wrapped key", keys.ErrUnavailable)
	}
	return answer.Ciphertext, nil
}

// Unwrap implements [keys.Unwrapper] with the grant's token and no other. Where the envelope key is
// missing it takes a second use of the grant, to find out whether the patient was erased; if that
// was the last one, the answer is [keys.ErrNotEnrolled] either way.
func (k *Keyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.RecordingKey, error) {
	key, err := k.unwrap(ctx, grant, binding, wrapped)
	if err != nil {
		return nil, fmt.Errorf("transit: unwrap: %w", err)
	}
	return key, nil
}

func (k *Keyring) unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.RecordingKey, error) {
	id := binding.KeyID()
	token, err := grantToken(grant)
	if err != nil {
		return nil, err
	}
	if id.IsZero() {
		return nil, keys.ErrInvalidKeyID
	}
	if _, err := wrapped.Version(); err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrIntegrity, err)
	}
	// Whether the grant is for this patient is not looked at here: Vault decides, and logs it.
	secret, err := k.vault.write(ctx, token, k.mount+"/decrypt/"+envelopeKey(id), map[string]any{
		"ciphertext": string(wrapped),
		"context":    vaultContext(binding),
	})
	switch {
	case missing(err):
		return nil, k.noEnvelopeKey(ctx, token, id)
	case badRequest(err):
		return nil, fmt.Errorf("%w: %s", ofCiphertext(reason(err)), reason(err))
	case err != nil:
		return nil, ofGrant(err)
	}
	var answer struct {
		Plaintext []byte `json:"plaintext"`
	}
	if err := decode(secret, &answer); err != nil {
		return nil, err
	}
	defer clear(answer.Plaintext)
	return keys.RecordingKeyFromBytes(answer.Plaintext)
}

// noEnvelopeKey tells why there is no envelope key: the patient was erased, or never enrolled.
func (k *Keyring) noEnvelopeKey(ctx context.Context, token string, id keys.KeyID) error {
	_, err := k.readKey(ctx, token, k.erasedMarkPath(id))
	switch {
	case err == nil:
		return keys.ErrErased
	case missing(err):
		return keys.ErrNotEnrolled
	case errors.Is(err, keys.ErrDenied):
		return fmt.Errorf("%w (or was erased: the token may not see that)", keys.ErrNotEnrolled)
	}
	return err
}

func envelopeKey(id keys.KeyID) string { return id.String() + "-kek" }

func erasedMark(id keys.KeyID) string { return id.String() + "-erased" }

func (k *Keyring) envelopeKeyPath(id keys.KeyID) string { return k.mount + "/keys/" + envelopeKey(id) }

func (k *Keyring) erasedMarkPath(id keys.KeyID) string { return k.mount + "/keys/" + erasedMark(id) }

// vaultContext is the binding as Transit wants its key derivation context.
func vaultContext(binding keys.Binding) string {
	return base64.StdEncoding.EncodeToString(binding.Bytes())
}
