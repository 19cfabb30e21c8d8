// Package rotation renews the envelope keys of many patients, and moves their recordings to the new
// versions, without seeing a key and without touching media.
//
// It is four verbs, to be run in this order, and a plan that tells beforehand what there is to do:
//
//	Rotate   adds a version to each patient's envelope key; new recordings use it
//	Rewrap   has each recording's wrapped key encrypted anew under the newest version
//	Retire   proves that no envelope needs the old versions, and ends their use; can be taken back
//	Trim     proves it again, and destroys them for good
//
// A [Rotation] works through the patients that have recordings, as the store lists them. The envelopes
// themselves say which version wraps them, so there is no other state: a run that was interrupted,
// whatever interrupted it, is just run again, and any number may run at once, on shards or on the same
// patients. Memory does not grow with the number of patients or recordings.
//
// # Why nothing is lost
//
// An envelope is replaced by one that differs in its wrapped key alone, and only if it is still the one
// that was read (If-Match). A race that is lost and an answer that is lost are both resolved by
// reading again, so an envelope that was deleted stays deleted, and a newer one stays.
//
// A writer may still commit an envelope under an old version when every other has been moved: it wraps
// first and uploads for an hour. Writers wrap again when their wrap is older than their freshness
// window, and bound the commit by a timeout; so once the newest version is older than both together,
// nobody commits under an older one. Retire and Trim wait that out ([Options.Grace]), then read every
// envelope of the patient, and only then raise the minimum, never beyond what was the newest version
// before they began to read.
//
// # One keyring for one bucket and prefix
//
// Retire and Trim read the envelopes of one store and one prefix, but the minimum that they raise holds
// wherever the patient's key was used. What lies under another prefix or in another bucket and was wrapped
// with the same key, they do not see: Retire ends its use all the same, and Trim destroys it for good. So
// give each bucket and prefix a keyring (at Vault, a mount) of its own. Where several share one, run
// Rewrap for all of them before Retire, and never Trim.
//
// # Who needs which right
//
// Plan, Rotate and Rewrap need the rotator's role at the keyring, Retire the retirer's and Trim the
// trimmer's; none of them may decrypt. At the store, Rewrap must list, read and write, the others list
// and read.
package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// ErrInvalidOptions: the options contradict each other or are out of bounds.
var ErrInvalidOptions = errors.New("invalid rotation options")

// Keyring is what a Rotation asks of its keyring. Those of packages keys/transit and keys/local have
// it; which of it they may do is decided by whoever keeps the keys.
type Keyring interface {
	keys.Rotator
	keys.Retirer
	keys.Trimmer
}

// MaxConcurrency is the greatest [Options.Concurrency].
const MaxConcurrency = 256

// Options say how a Rotation works. The zero Options are good for writers with the default settings.
type Options struct {
	// Prefix is that of the vault: see vault.WithPrefix.
	Prefix string

	// Concurrency is how many requests are under way at a time, listings aside. Default 8, at most
	// [MaxConcurrency].
	//
	// The clients of keyring and store must keep as many idle connections, or they make new ones all the time.
	// storage/s3.NewClient does. The default transport of Vault's client keeps about three for a host: set
	// MaxIdleConnsPerHost of api.Config.HttpClient.Transport.
	Concurrency int

	// KeyringRate and StorageRate bound the calls to the keyring and the reads and writes of
	// objects, in requests per second, spread evenly. The listing, one request for 1,000 objects,
	// does not count. 0 is no bound.
	KeyringRate, StorageRate float64

	// Freshness and CommitTimeout are the longest that any writer of these recordings is configured
	// with: see vault.WithFreshness and vault.WithCommitTimeout. Default: those of package vault.
	Freshness, CommitTimeout time.Duration

	// ClockSkew is how far the clock of the keyring and that of this host may be apart, and how late
	// the store may carry out a write that its writer has given up. Default 1 min.
	ClockSkew time.Duration

	// Grace is how old the newest version of a key must be before older ones are retired or trimmed. It
	// must be at least Freshness, CommitTimeout and ClockSkew together. Default 15 min.
	Grace time.Duration

	// OlderThan has Rotate leave alone a key whose newest version was made at this time or later, to
	// the second and by the keyring's clock. Give the time at which the first run began to resume one
	// that was interrupted, or yesterday to run the same job daily. Zero: every key is rotated.
	OlderThan time.Time

	// DryRun does everything, rewrapping at the keyring included, but changes nothing: no key, no
	// version, no object. What would be changed is counted as changed.
	DryRun bool

	// Progress, if not nil, receives how far a run has come, every 100 ms and at the end. It is never
	// called concurrently. The work does not wait for it, but the run returns only after the last call has.
	Progress func(job.Progress)
}

const (
	defaultConcurrency = 8
	defaultClockSkew   = time.Minute
	defaultGrace       = 15 * time.Minute
)

func (o Options) withDefaults() (Options, error) {
	o.Concurrency = cmp.Or(o.Concurrency, defaultConcurrency)
	o.Freshness = cmp.Or(o.Freshness, vault.DefaultFreshness)
	o.CommitTimeout = cmp.Or(o.CommitTimeout, vault.DefaultCommitTimeout)
	o.ClockSkew = cmp.Or(o.ClockSkew, defaultClockSkew)
	o.Grace = cmp.Or(o.Grace, defaultGrace)
	needed := o.Freshness + o.CommitTimeout + o.ClockSkew
	switch {
	case o.Concurrency < 0 || o.Concurrency > MaxConcurrency:
		return Options{}, fmt.Errorf("%w: a concurrency of %d, want 1 to %d", ErrInvalidOptions, o.Concurrency, MaxConcurrency)
	case !(o.KeyringRate >= 0 && o.StorageRate >= 0): // NaN is neither
		return Options{}, fmt.Errorf("%w: a rate that is no positive number", ErrInvalidOptions)
	case o.Freshness < 0 || o.CommitTimeout < 0 || o.ClockSkew < 0:
		return Options{}, fmt.Errorf("%w: a negative duration", ErrInvalidOptions)
	case o.Grace < needed:
		return Options{}, fmt.Errorf("%w: a grace period of %v, shorter than freshness window, commit timeout and clock skew together, %v",
			ErrInvalidOptions, o.Grace, needed)
	}
	return o, nil
}

// Rotation rotates, rewraps, retires and trims. It keeps nothing between runs and is safe for concurrent
// use.
//
// What fails for single patients and recordings ends no run: it is in the Report, and [Report.Complete]
// is false. The errors of the verbs are those that end one: the context's, those of the store's
// listing, and what the keyring or the store answers ten times in a row to one kind of request, each
// time after its own retries: [keys.ErrDenied], [keys.ErrUnavailable], [storage.ErrDenied], [storage.ErrUnavailable],
// [storage.ErrNoBucket], [storage.ErrFull]. With an error too, the Report tells what was done.
//
// When a run ends early, changes that were begun are finished, for up to five seconds, and nothing else
// is.
type Rotation struct {
	keyring Keyring
	store   storage.Store
	objects *objects.Objects
	options Options
}

// New makes a Rotation of a keyring and a store. It touches neither.
//
// Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for the prefix.
func New(keyring Keyring, store storage.Store, options Options) (*Rotation, error) {
	if keyring == nil || store == nil {
		return nil, errors.New("rotation: New needs a keyring and a store")
	}
	options, err := options.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("rotation: %w", err)
	}
	o, err := objects.New(store, options.Prefix)
	if err != nil {
		return nil, fmt.Errorf("rotation: %w", err)
	}
	return &Rotation{keyring, store, o, options}, nil
}

// Rotate adds a version to the envelope key of every patient in the scope who has recordings, or to
// those older than [Options.OlderThan]. It makes two keyring calls per patient.
//
// For the errors of this and the other verbs, see [Rotation].
func (r *Rotation) Rotate(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRotate, s, (*run).rotate)
}

// Rewrap has the wrapped key of every recording in the scope encrypted anew under the newest version of
// its patient's envelope key, unless it is so already. It makes one keyring call per patient, and for
// one with many recordings one for every 256 of them.
func (r *Rotation) Rewrap(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRewrap, s, (*run).rewrap)
}

// Retire ends the use of the versions that no envelope needs: for each patient whose newest version is
// older than the grace period, it reads every envelope, and if all are at the newest version, makes
// that the oldest that unwraps. Others are left, and the Report says why.
// The keyring can take it back.
//
// The versions end wherever the patient's key was used, and Retire reads one store and one prefix only:
// a keyring must be for one bucket and prefix. Where several share one, run Rewrap for all of them first.
func (r *Rotation) Retire(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRetire, s, (*run).retire)
}

// Trim destroys, for good, the versions that were retired, once it has read every envelope of the
// patient and found none that needs them. Nothing brings a trimmed version back but a backup of the
// keyring, and copies of envelopes from before their rewrap, such as in backups and older versions of
// objects, open nothing any more.
//
// Never trim where several buckets or prefixes share a keyring: Trim reads one store and one prefix only,
// and recordings elsewhere that still need a version which it destroys are lost for good.
func (r *Rotation) Trim(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbTrim, s, (*run).trim)
}
