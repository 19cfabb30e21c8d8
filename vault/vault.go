// Package vault stores recordings encrypted and opens them with a grant. Applications start here.
//
// A [Vault] joins a keyring (package keys/transit or keys/local) and a store (package storage/s3 or
// storage/dir). [Vault.Put] and [Vault.Create] encrypt a recording for one patient. [Vault.Open] decrypts it,
// and [Vault.ServeRecording] serves it over HTTP; both need a grant for that patient. [Vault.Stat] describes a
// recording without opening it, and [Vault.Update] corrects the description. [Vault.List] and [Vault.Delete] do what
// their names say. [Vault.Copy] and [Vault.Reassign] give a recording to another patient. [Vault.Rekey] encrypts a
// recording again under a fresh key. Package vault/erasure erases patients.
//
// # Data flow
//
//	Put   vault     draws a fresh recording key, from which the metadata key and the ID follow
//	      keys      wraps both keys for the patient
//	      storage   stores the media: the plaintext, encrypted in segments of 64 KiB as it is read
//	      envelope  seals the metadata, and holds it beside the wrapped keys
//	      storage   stores the envelope: from now on the recording exists
//
//	Open  storage   returns the envelope, and the media segment by segment
//	      keys      unwraps the recording key, if the grant is for this patient
//	      envelope  checks key and ID, and opens the metadata
//	      segment   authenticates each segment before it returns a byte of it
//
//	Stat  storage   returns the envelope
//	      keys      unwraps the metadata key, which opens the metadata and never the media
//
// # Recordings
//
// A recording is two objects in the store: the media, which is ciphertext, and the envelope, which holds the two
// wrapped keys and the encrypted metadata. The envelope is written last and removed first, so a recording
// exists if and only if its envelope does. Every byte that a caller gets was authenticated and is bound to
// this patient and this recording.
//
// # Rights
//
// Put and Create need the writer's role at the keyring and write access to the store. Open, Stat and
// ServeRecording use the grant's right at the keyring and [Vault.ListByKeyID] uses none, so a process that
// only serves recordings needs no credentials at the keyring. Issue grants in another process.
//
// # Time
//
// The deadline of a context bounds every call. Without one, calls end by the limits of the keyring and the store. A
// Vault that is silent is given up after 10 seconds for each request (transit.Options.Timeout).
//
// A server of storage/s3 that refuses connections, or answers that it is overloaded, is asked again for about 15 seconds
// (s3.Config.MaxRetries). So Put, Open and playback survive a store that is away for ten seconds.
//
// A server of storage/s3 that is silent is given up after a minute for each request (s3.RequestTimeout). In the body of
// an object it is given up after 30 seconds, and also if it sends less than 64 KiB in that time (s3.IdleTimeout). A body
// that breaks off or falls silent is requested again: up to twice by Open, Stat and Update, and up to three times by the
// methods of a [Recording]. So without a deadline in the context:
//
//   - Put, and Close of a [Writer], end within 75 seconds after the server has last accepted data. While it joins a large
//     object's parts they may take ten minutes, if it has begun its answer. The commit takes at most the commit timeout
//     ([WithCommitTimeout]) and 12 seconds more to find out what became of it.
//   - Open reads the envelope, and then one segment. A server that answers nothing ends it after a minute. One that
//     falls silent in every body ends each of the two reads after 90 seconds. At worst, with each answer just in time, each
//     takes four and a half minutes. Stat reads the envelope only.
//   - Read, ReadAt and WriteTo of a Recording, and so ServeRecording once it has begun to answer, end after two minutes
//     of silence in bodies. At worst, with each answer just in time, they end after six.
//
// storage/dir has no limits of its own.
//
// # Events
//
// A vault emits what happens: who opened which recording and which bytes were delivered, who was refused, what is damaged,
// and what was changed. [WithEvents] and package [events] say where that goes. Without a stream, the vault logs what went
// wrong with slog.
//
// # Errors
//
// Every error can be tested with errors.Is against the sentinels of this package and of packages keys and
// storage. No error text contains a key, a token or a patient identifier.
package vault

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// ID names a recording. It is not a secret: it opens nothing without a grant for its patient.
type ID = keys.RecordingID

// ParseID parses the text of an ID. It returns [keys.ErrInvalidRecordingID] if the text is not one.
func ParseID(text string) (ID, error) { return keys.ParseRecordingID(text) }

// The errors of this package. Test for them with errors.Is.
var (
	// ErrNotFound: the recording does not exist.
	ErrNotFound = errors.New("recording does not exist")

	// ErrDamaged: the recording's envelope or media is not what was written for this ID. It was altered,
	// cut, extended, reordered or exchanged, or is missing. The caller got no byte that failed
	// authentication.
	ErrDamaged = errors.New("recording is damaged")

	// ErrUnsupported: the recording's envelope is of a version, or its key of a kind of keyring, that this
	// release does not know. It is not damaged.
	ErrUnsupported = errors.New("recording is of an unsupported version")

	// ErrHeld: the patient is on legal hold, so the patient's recordings must not be removed. Package
	// vault/erasure sets and clears holds.
	ErrHeld = errors.New("patient is on hold")

	// ErrInvalidMetadata: a field of [Metadata] is out of bounds. Nothing was written.
	ErrInvalidMetadata = errors.New("invalid metadata")

	// ErrAborted: [Writer.Abort] was called, or the upload was suspended for so long that a sweep removed its media.
	// Nothing was stored.
	ErrAborted = errors.New("recording was aborted")

	// ErrClosed: the [Recording] or [Writer] was closed.
	ErrClosed = errors.New("recording is closed")
)

// Keyring wraps and unwraps recording keys for a vault. The keyrings of packages keys/transit and keys/local
// implement it. Applications hand one to [New] and need not call it.
type Keyring interface {
	keys.Wrapper
	keys.Unwrapper
}

// Vault stores and opens recordings. It is safe for concurrent use. Close it when it is no longer needed.
type Vault struct {
	keyring   Keyring
	prefix    string
	objects   *objects.Objects
	freshness time.Duration
	keyCache  *keyCache
	events    *events.Stream
	now       func() time.Time
	claimed   atomic.Bool // the keyring serves the store

	problemsOnly  bool // emits only what went wrong
	commitTimeout time.Duration
}

const (
	// DefaultFreshness is the default of [WithFreshness].
	DefaultFreshness = 5 * time.Minute
	// DefaultCommitTimeout is the default of [WithCommitTimeout].
	DefaultCommitTimeout = 30 * time.Second
	// MaxCommitTimeout is the longest commit timeout that [WithCommitTimeout] accepts.
	MaxCommitTimeout = 10 * time.Minute
)

// New returns a vault that uses the keyring and the store. It sends no request to either.
func New(keyring Keyring, store storage.Store, options ...Option) (*Vault, error) {
	if keyring == nil || store == nil {
		return nil, errors.New("vault: New needs a keyring and a store")
	}
	v := &Vault{
		keyring:   keyring,
		freshness: DefaultFreshness,
		keyCache:  newKeyCache(DefaultKeyCacheTTL, DefaultKeyCacheSize),
		events:    events.New(events.Log(nil)),
		now:       time.Now,

		problemsOnly:  true,
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

// Close wipes the cached keys, ends the caching, and delivers what waits in the stream of events. Open recordings stay
// open. A sink must not call Close.
//
// Errors: [events.ErrUndelivered] if a sink has not taken all events within 5 seconds.
func (v *Vault) Close() error {
	v.keyCache.close()
	if err := v.flush(); err != nil {
		return fmt.Errorf("close vault: %w", err)
	}
	return nil
}

// Option configures a [Vault]. Most callers need none.
type Option func(*Vault) error

// WithPrefix sets a prefix for the names of all objects, such as "consultations/". It must end in "/", have at
// most 512 bytes, and pass [storage.ValidateName] without the final "/".
func WithPrefix(prefix string) Option {
	return func(v *Vault) error {
		if prefix == "" {
			return fmt.Errorf("%w: a prefix must not be empty", storage.ErrInvalidName)
		}
		v.prefix = prefix
		return nil
	}
}

// WithFreshness sets the freshness window: how old a recording's wrapped key may be when its commit begins. An
// upload that takes longer wraps its key again just before the commit, under the version of the envelope key
// that is the newest then. The default is [DefaultFreshness]. The window must be positive.
//
// Before old key versions are retired, a grace period must pass that is longer than the freshness window and
// the commit timeout of every writer together. Package vault/rotation takes both as options and refuses a
// shorter grace period.
func WithFreshness(d time.Duration) Option {
	return func(v *Vault) error {
		if d <= 0 {
			return fmt.Errorf("a freshness window of %v is not positive", d)
		}
		v.freshness = d
		return nil
	}
}

// WithCommitTimeout sets how long a recording's commit may take. The commit writes the envelope, and the
// recording exists from then on. Cancelling a Put does not interrupt the commit, because its outcome must be
// known. The default is [DefaultCommitTimeout]. The timeout must be positive and at most [MaxCommitTimeout].
// The grace period of a retirement depends on it: see [WithFreshness].
func WithCommitTimeout(d time.Duration) Option {
	return func(v *Vault) error {
		if d <= 0 || d > MaxCommitTimeout {
			return fmt.Errorf("a commit timeout of %v is not between 0 and %v", d, MaxCommitTimeout)
		}
		v.commitTimeout = d
		return nil
	}
}
