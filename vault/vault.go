// Package vault stores and opens recordings. It is the package that applications start with.
//
// A [Vault] joins a keyring (package keys/transit or keys/local) and a store (package storage/s3 or
// storage/dir). [Vault.Put] and [Vault.Create] encrypt a recording for one patient; [Vault.Open] opens
// it with a grant for that patient, and with nothing else; [Vault.ServeRecording] does so over HTTP;
// [Vault.Stat], [Vault.List] and [Vault.Delete] do what their names say, and [Vault.Rekey] encrypts anew.
// Package vault/erasure erases patients.
//
// # What a recording is
//
// Two objects: the media, which is ciphertext, and the envelope, which carries the recording's
// wrapped key and its metadata, encrypted. The envelope is written last and removed first: a
// recording exists if and only if its envelope does. Everything that is handed to a caller was
// authenticated, and is bound to this patient and this recording.
//
// # Who needs which right
//
// Put and Create need the writer's role at the keyring and may write to the store. Open and Stat use
// the grant's right at the keyring, so a process that only serves needs no credentials there at all.
// List by KeyID needs none either. The process that issues grants should be another one.
//
// # Errors
//
// Every error can be tested with errors.Is against the sentinels of this package and those of
// packages keys and storage. No error text holds a key, a token or a patient identifier.
package vault

import (
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// ID names a recording. It is not a secret: without a grant for its patient it opens nothing.
type ID = keys.RecordingID

// ParseID reads the text of an ID. It returns [keys.ErrInvalidRecordingID] for anything else.
func ParseID(text string) (ID, error) { return keys.ParseRecordingID(text) }

// Test for these with errors.Is, beside those of packages keys and storage.
var (
	// ErrNotFound: there is no such recording.
	ErrNotFound = errors.New("recording does not exist")

	// ErrDamaged: the recording's envelope or media is not what was written for this ID: altered,
	// cut, extended, reordered, exchanged or missing. Nothing that failed authentication was handed
	// out.
	ErrDamaged = errors.New("recording is damaged")

	// ErrHeld: the patient is on legal hold, so nothing of what there is may be removed.
	// Package vault/erasure sets and clears holds.
	ErrHeld = errors.New("patient is on hold")

	// ErrInvalidMetadata: the metadata is out of bounds. Nothing was written.
	ErrInvalidMetadata = errors.New("invalid metadata")

	// ErrAborted: the Writer was aborted. Nothing was written.
	ErrAborted = errors.New("recording was aborted")

	// ErrClosed: the Recording or Writer was closed.
	ErrClosed = errors.New("recording is closed")
)

// Keyring is what a Vault asks of its keyring. Those of packages keys/transit and keys/local
// have it.
type Keyring interface {
	keys.Wrapper
	keys.Unwrapper
}

// Vault stores recordings. It is safe for concurrent use. Close it when it is no longer needed.
type Vault struct {
	keyring   Keyring
	prefix    string
	objects   *objects.Objects
	freshness time.Duration
	keyCache  *keyCache
	events    *events
	now       func() time.Time

	commitTimeout time.Duration
}

const (
	// DefaultFreshness is how old a recording's wrapped key may be when its commit begins.
	DefaultFreshness = 5 * time.Minute
	// DefaultCommitTimeout is how long a recording's commit may take.
	DefaultCommitTimeout = 30 * time.Second
	// MaxCommitTimeout is the longest that may be configured.
	MaxCommitTimeout = 10 * time.Minute
)

// New makes a Vault of a keyring and a store. It touches neither.
func New(keyring Keyring, store storage.Store, options ...Option) (*Vault, error) {
	if keyring == nil || store == nil {
		return nil, errors.New("vault: New needs a keyring and a store")
	}
	v := &Vault{
		keyring:   keyring,
		freshness: DefaultFreshness,
		keyCache:  newKeyCache(DefaultKeyCacheTTL, DefaultKeyCacheSize),
		events:    new(events),
		now:       time.Now,

		commitTimeout: DefaultCommitTimeout,
	}
	for _, option := range options {
		if err := option(v); err != nil {
			return nil, fmt.Errorf("vault: %w", err)
		}
	}
	var err error
	if v.objects, err = objects.New(store, v.prefix); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return v, nil
}

// Close wipes the keys that are kept, keeps none from then on, and waits until security events that are
// pending have been told. What is open stays open. It returns nil, and must not be called by an event
// hook.
func (v *Vault) Close() error {
	v.keyCache.close()
	v.events.close()
	return nil
}

// Option changes what most callers leave alone.
type Option func(*Vault) error

// WithPrefix puts all objects under a prefix of their names, such as "consultations/". It must end
// in "/" and otherwise pass [storage.ValidateName], with at most 512 bytes.
func WithPrefix(prefix string) Option {
	return func(v *Vault) error {
		if prefix == "" {
			return fmt.Errorf("%w: a prefix must not be empty", storage.ErrInvalidName)
		}
		v.prefix = prefix
		return nil
	}
}

// WithFreshness sets how old a recording's wrapped key may be when its commit begins. An upload that takes
// longer wraps its key again just before, under what is the newest version of the envelope key then. The
// default is [DefaultFreshness]; it must be positive.
//
// A retirement of old key versions must wait longer than the freshness window and the commit timeout of
// every writer together: package vault/rotation takes both, and refuses a shorter grace period.
func WithFreshness(d time.Duration) Option {
	return func(v *Vault) error {
		if d <= 0 {
			return fmt.Errorf("a freshness window of %v is not positive", d)
		}
		v.freshness = d
		return nil
	}
}

// WithCommitTimeout sets how long a recording's commit may take: the writing of its envelope, after which
// the recording exists. Cancelling a Put does not interrupt it, because its outcome must be known. The default
// is [DefaultCommitTimeout]; it must be positive and at most [MaxCommitTimeout]. See [WithFreshness] for
// what else depends on it.
func WithCommitTimeout(d time.Duration) Option {
	return func(v *Vault) error {
		if d <= 0 || d > MaxCommitTimeout {
			return fmt.Errorf("a commit timeout of %v is not between 0 and %v", d, MaxCommitTimeout)
		}
		v.commitTimeout = d
		return nil
	}
}
