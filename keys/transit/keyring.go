// Package transit is a keyring in HashiCorp Vault's Transit engine. Envelope keys are used inside
// Vault and never leave it.
//
// [Setup] prepares Vault once: the mount, the key that makes pseudonyms, one policy for each role,
// and the token role of grants. [New] makes a [Keyring] over the caller's Vault client. A Keyring
// has the methods of every role in package keys, and the policies of the client's token decide which
// of them succeed: the process that records has a writer's token, the login has a granter's, and so
// on. The process that serves recordings needs no token of its own, because Unwrap and RevokeSelf
// use only the grant's token.
//
// # What is in Vault
//
// A patient's envelope key is an AES-256-GCM key named "<KeyID>-kek" with key derivation. The
// binding is the derivation context: each recording has its own derived wrapping key, and a wrapped
// key decrypts and rewraps only for one patient and one recording. For an erased patient there is a
// key named "erased-<KeyID>-kek", which encrypts nothing and marks the erasure. An HMAC key named
// "pseudonym" makes the KeyIDs.
//
// A grant is a Vault token. All grants have the same policy, which names the one key that the token
// may decrypt with by the token's entity alias, the name of that key. A patient's first grant leaves an
// entity in Vault's identity store, under that pseudonym. Vault's audit log shows each use of a key,
// allowed or refused: the key in request.path, the binding, in base64, in request.data.context, and in
// auth.metadata the grant's subject, purpose, request_id and key_id. The metadata is what the issuer
// wrote. Whose recording it was, only the path and the binding show.
//
// # Precautions
//
//   - A token that can make pseudonyms can find the patient of a KeyID by trying identifiers. Each
//     attempt is one logged request.
//   - A Vault Agent or Proxy between this package and Vault must not force its own token
//     (use_auto_auth_token = "force"), because it would replace the grant's.
//   - Compare grants by the accessors that Vault reports, never by their tokens. Vault does not check
//     the signature inside a token, so different texts can be the same token.
//
// The package is written for and tested with Vault 1.21. It accepts the tokens of OpenBao, which start with "s.", and was
// not run on OpenBao.
package transit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// Options set where in Vault the keys are, and the limits of requests to it. Most callers can leave
// them at zero.
type Options struct {
	// Mount is the path of the Transit engine. It may have slashes. Default "recordings".
	Mount string

	// Prefix is the first part of the names of the policies ("<Prefix>-writer", ...) and of the token
	// role ("<Prefix>-grant"): lower-case letters, digits, "-" and "_". Default "recvault".
	Prefix string

	// CacheSize is the number of patients' pseudonyms that are kept in memory. Default 10,000.
	CacheSize int

	// Timeout is the limit for one request to Vault with all its retries. Most calls make one or two
	// requests, or up to four to find out why a key is missing. Rewrap makes one for every 256 items.
	// Retire, Reinstate and Trim make two, or up to 20 if the versions change in between. Default 10 s.
	Timeout time.Duration

	// MaxRetries is how often a request is sent again after a failure that may be temporary: no
	// connection, a sealed or overloaded Vault, an internal error. Negative means never. Default 3.
	MaxRetries int

	// Refresh is called when Vault does not know the client's token: it has ended, or was revoked. It gives the client
	// another one, or returns why not. refused is the token that Vault did not know; the client may have another
	// by now. The request is then sent once more, with another Timeout, which is safe, because Vault did nothing. It is
	// never called for a grant's token. Package login has such a function; nil means that the call fails with [keys.ErrUnauthenticated],
	// unless the client got another token while the request was under way.
	Refresh func(ctx context.Context, refused string) error
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
	// Mount and prefix become part of policies, where "+", "*" and quotes have a meaning.
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

// Keyring has all roles of package keys, with the keys in Vault. It is safe for concurrent use and
// need not be closed.
type Keyring struct {
	vault      *requester
	own        credential // the token of the caller's client
	mount      string
	prefix     string
	pseudonyms *lru.Cache[keys.Patient, keys.KeyID]
}

var _ keys.Keyring = (*Keyring)(nil)

// New returns a Keyring over the caller's client. It copies the client's address, namespace, TLS
// settings and other headers as they are now. Each call uses the client's token at that time, so a
// renewed token takes effect. New does not change the client and sends no request.
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
	return &Keyring{vault, credential{client.Token, options.Refresh}, options.Mount, options.Prefix, pseudonyms}, nil
}

// Enrol implements [keys.Enroller], for the enroller's role. In addition to that interface's errors
// it returns [ErrUnsafeKey] and [ErrNotSetUp].
func (k *Keyring) Enrol(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.KeyID(ctx, patient)
	if err != nil {
		return keys.KeyID{}, err
	}
	// If the key exists, Vault leaves it as it is and answers with its settings.
	secret, err := k.vault.write(ctx, k.own, k.envelopeKeyPath(id), map[string]any{
		"type":    envelopeKeyType,
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
	if key.Type != envelopeKeyType || !key.Derived || key.Convergent || key.Exportable || key.Backup {
		return keys.KeyID{}, fmt.Errorf("transit: enrol: %w", ErrUnsafeKey)
	}
	return id, nil
}

const envelopeKeyType = "aes256-gcm96"

// Wrap implements [keys.Wrapper], for the writer's role.
func (k *Keyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	wrapped, err := k.wrap(ctx, binding, key)
	if err != nil {
		return "", fmt.Errorf("transit: wrap: %w", err)
	}
	return wrapped, nil
}

func (k *Keyring) wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	id := binding.KeyID()
	if id.IsZero() {
		return "", keys.ErrInvalidKeyID
	}
	encrypt := func() (*api.Secret, error) {
		return k.vault.write(ctx, k.own, k.mount+"/encrypt/"+envelopeKey(id), map[string]any{
			"plaintext": base64.StdEncoding.EncodeToString(key.Bytes()),
			"context":   vaultContext(binding),
		})
	}
	secret, err := encrypt()
	if errors.Is(err, keys.ErrDenied) {
		// Vault treats encrypting with a missing key as an attempt to make the key, which a writer may
		// not do. Reading the key shows whether it is missing.
		_, _, readErr := k.readKey(ctx, id)
		switch {
		case readErr == nil:
			secret, err = encrypt() // the patient may have been enrolled since; if not, Vault refuses again
		case !errors.Is(readErr, keys.ErrDenied):
			err = readErr
		}
	}
	if missing(err) {
		return "", k.noEnvelopeKey(ctx, k.own, id)
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

// Unwrap implements [keys.Unwrapper] with the grant's token only. If the envelope key is missing, it
// takes a second use of the grant to find out whether the patient was erased. If the grant has no use
// left, it returns [keys.ErrNotEnrolled] in both cases.
func (k *Keyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	key, err := k.unwrap(ctx, grant, binding, wrapped)
	if err != nil {
		return nil, fmt.Errorf("transit: unwrap: %w", err)
	}
	return key, nil
}

func (k *Keyring) unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	id := binding.KeyID()
	holder, err := ofHolder(grant)
	if err != nil {
		return nil, err
	}
	if id.IsZero() {
		return nil, keys.ErrInvalidKeyID
	}
	if err := checkWrapped(wrapped); err != nil {
		return nil, err
	}
	// Vault decides whether the grant is for this patient, and logs the attempt.
	secret, err := k.vault.write(ctx, holder, k.mount+"/decrypt/"+envelopeKey(id), map[string]any{
		"ciphertext": string(wrapped),
		"context":    vaultContext(binding),
	})
	switch {
	case missing(err):
		return nil, k.noEnvelopeKey(ctx, holder, id)
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
	return keys.KeyFromBytes(answer.Plaintext)
}

// keyringName is the label of keys that Transit wrapped.
const keyringName = "vault"

// checkWrapped returns an error for what Transit cannot have wrapped.
func checkWrapped(wrapped keys.WrappedKey) error {
	keyring, _, _, err := wrapped.Parse()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", keys.ErrIntegrity, err)
	case keyring != keyringName:
		return keys.ErrUnsupported
	}
	return nil
}

// noEnvelopeKey returns why there is no envelope key: the patient was erased, or never enrolled.
func (k *Keyring) noEnvelopeKey(ctx context.Context, by credential, id keys.KeyID) error {
	// The policy of the eraser requires the parameter, also for reads.
	secret, _, err := k.vault.readWith(ctx, by, k.erasedMarkPath(id), url.Values{"type": {markType}})
	var mark struct {
		Type string `json:"type"`
	}
	if err == nil {
		err = decode(secret, &mark)
	}
	switch {
	case err == nil && mark.Type != markType: // somebody made a key under this name
		return keys.ErrNotEnrolled
	case err == nil:
		return keys.ErrErased
	case missing(err):
		return keys.ErrNotEnrolled
	case errors.Is(err, keys.ErrDenied), errors.Is(err, keys.ErrUnauthenticated):
		return fmt.Errorf("%w (or was erased: the token may not read the mark)", keys.ErrNotEnrolled)
	}
	return err
}

// kekSuffix ends the name of every envelope key, and so the entity alias of every grant.
const kekSuffix = "-kek"

func envelopeKey(id keys.KeyID) string { return id.String() + kekSuffix }

func (k *Keyring) envelopeKeyPath(id keys.KeyID) string { return k.mount + "/keys/" + envelopeKey(id) }

func (k *Keyring) erasedMarkPath(id keys.KeyID) string {
	return k.mount + "/keys/erased-" + envelopeKey(id)
}

// vaultContext returns the binding in the form of Transit's key derivation context.
func vaultContext(binding keys.Binding) string {
	return base64.StdEncoding.EncodeToString(binding.Bytes())
}
