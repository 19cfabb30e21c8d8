// Package rotation rotates the envelope keys of many patients, and moves their recordings to the new versions. It
// sees no key and does not touch media.
//
// It has four verbs, to be run in this order, and a plan that shows beforehand what there is to do:
//
//	Rotate   adds a version to each patient's envelope key; new recordings use it
//	Rewrap   moves each recording's two wrapped keys to the newest version
//	Retire   proves that no envelope needs the old versions, and ends their use; can be taken back
//	Trim     proves it again, and destroys them for good
//
// A [Rotation] works through the patients that have recordings, as the store lists them. An envelope says which
// versions wrap its keys, and there is no other state. So a run that was interrupted can be run again, and any number
// of runs may work at the same time, on shards or on the same patients. An envelope is at a version when both of its
// wrapped keys are. Memory does not grow with the number of patients or recordings.
//
// # Why nothing is lost
//
// An envelope is replaced by one that differs in its wrapped keys only, and only if the stored one is still the one
// that was read (If-Match). After a lost race or a lost answer the envelope is read again. So an envelope that was
// deleted stays deleted, and a newer one stays.
//
// A writer may still commit an envelope under an old version after all others have been moved: it wraps first and
// uploads for an hour. Writers wrap again when their wrap is older than their freshness window, and bound the commit
// by a timeout. So once the newest version is older than both together, no writer commits under an older one. Retire
// and Trim read the keyring's clock, list the store, and work on patients whose newest version was old enough by that
// clock ([Options.Grace]): so the list has every envelope under an older version. They read every envelope of the patient,
// and only then raise the minimum, never beyond what was the newest version before they began to read.
//
// The version in a wrapped key's label is not authenticated: whoever writes to the bucket can edit it, and after a
// restore of the keyring from before a rotation it names another version. So labels only plan. Before Retire and Trim
// raise a minimum, the keyring has re-wrapped every wrapped key of the patient; the results are discarded. A key that
// it cannot re-wrap, a version that it does not have, and an envelope of a format or kind of keyring that this release
// does not know each leave the patient as it is. Rotate refuses a patient whose envelopes name versions that the key
// does not have: it would make a second version of the same number. Restore a newer backup of the keyring then, or the
// envelope if its label was edited. So an editor of the bucket can stop the rotation of a patient, and of no other.
//
// # One keyring for one bucket and prefix
//
// Retire and Trim read the envelopes of one store and one prefix, but the minimum that they raise holds wherever the
// patient's key was used. Therefore a keyring (at Vault, a mount) serves one store and prefix, and has its ID on record.
// Writers refuse to wrap for another one, and Retire and Trim refuse to run on another one: [keys.ErrForeignStore]. See
// vault.StoreID.
//
// A copy of a bucket has the same ID. Nothing may be written to such a copy, unless it takes the first one's place.
//
// # Rights
//
// Plan, Rotate and Rewrap need the rotator's role at the keyring, Retire the retirer's and Trim the trimmer's. All
// three may re-wrap, and none may decrypt. At the store, Rewrap must list, read and write, and the others list and
// read.
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

// Keyring is what a Rotation needs of its keyring. The keyrings of packages keys/transit and keys/local have it. The
// role at the key server decides which of it they may do.
type Keyring interface {
	keys.Rotator
	keys.Retirer
	keys.Trimmer
}

// MaxConcurrency is the greatest [Options.Concurrency].
const MaxConcurrency = 256

// Options say how a Rotation works. The zero Options suit writers with the default settings.
type Options struct {
	// Prefix is the vault's: see vault.WithPrefix.
	Prefix string

	// Concurrency is how many reads and keyring calls are under way at a time, and how many writes beside them.
	// Default 8, at most [MaxConcurrency].
	//
	// The clients of keyring and store must keep twice as many idle connections, or they open new ones all the time.
	// storage/s3.NewClient keeps enough. The default transport of Vault's client keeps about three for a host:
	// set MaxIdleConnsPerHost of api.Config.HttpClient.Transport.
	Concurrency int

	// KeyringRate and StorageRate bound the calls to the keyring and the lists, reads and writes of objects, in
	// requests per second, spread evenly. A list counts as one request for each 1,000 objects. 0 means no bound.
	KeyringRate, StorageRate float64

	// Freshness and CommitTimeout are the longest in the settings of any writer of these recordings: see
	// vault.WithFreshness and vault.WithCommitTimeout. Default: those of package vault.
	Freshness, CommitTimeout time.Duration

	// ClockSkew is the greatest difference between the clocks of the keyring's nodes, and how coarse they are (Vault's
	// is read to the second); also the longest time after which the store may still carry out a write that its writer
	// has given up. For a keyring that does not report its clock ([keys.Versions]), this host's clock is one of them.
	// Default 1 min.
	ClockSkew time.Duration

	// Grace is how old the newest version of a key must be, by the keyring's clock, before older ones are retired or
	// trimmed. It must be at least Freshness, CommitTimeout and ClockSkew together. Default 15 min.
	Grace time.Duration

	// OlderThan makes Rotate skip a key whose newest version was made at this time or later, to the second and
	// by the keyring's clock. To resume an interrupted run, give the time at which the first run began; to run
	// the same job daily, give yesterday. Zero: every key is rotated.
	OlderThan time.Time

	// DryRun does everything, including the rewrap calls at the keyring, but changes nothing: no key, no
	// version, no object. What would be changed is counted as changed. To see whether the keyring would rotate, Rotate
	// asks it once for the key of a made-up KeyID, which nobody has.
	DryRun bool

	// Progress, if not nil, is called every 100 ms and at the end with how far a run has come, and never
	// concurrently. The work does not wait for it, but the run returns only after the last call has returned.
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
		return Options{}, fmt.Errorf("%w: a rate that is not a positive number", ErrInvalidOptions)
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
// A failure of a single patient or recording does not end a run: it is in the Report, and [Report.Complete] is
// false. The verbs return the errors that end a run: the context's, those of the store's listing, and one that the
// keyring or the store answers ten times in a row, or every time, to one kind of request, each time after its own retries:
// [keys.ErrDenied], [keys.ErrUnauthenticated], [keys.ErrUnavailable], [storage.ErrDenied], [storage.ErrUnavailable],
// [storage.ErrNoBucket], [storage.ErrFull]. The Report that comes with an error says what was done.
//
// When a run ends early, changes that were begun are finished, for up to five seconds, and no others begin.
type Rotation struct {
	keyring Keyring
	store   storage.Store
	objects *objects.Objects
	options Options
}

// New returns a Rotation of a keyring and a store. It makes no request to either.
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

// Rotate adds a version to the envelope key of every patient in the scope who has recordings, or only to keys older
// than [Options.OlderThan]. It makes two keyring calls per patient. It reads every envelope of each key that it
// rotates, and refuses a patient whose envelopes name versions that the key does not have ([KindUnknownVersion]), or
// cannot be read because the store fails ([KindUnreadable]).
//
// For the errors of this and the other verbs, see [Rotation].
func (r *Rotation) Rotate(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRotate, s, (*run).rotate)
}

// Rewrap moves both wrapped keys of every recording in the scope to the newest version of its patient's envelope key,
// unless they are there already. It makes one keyring call per patient, or one for every 128 recordings of a patient.
// What is unsupported is counted and left alone.
func (r *Rotation) Rewrap(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRewrap, s, (*run).rewrap)
}

// Retire ends the use of versions that no envelope needs. For each patient whose newest version was older than the
// grace period when the run began, it reads every envelope and has the keyring re-wrap every wrapped key. If all are at the newest
// version, that becomes the oldest that unwraps. Otherwise the Report says why not. The keyring can take it back.
//
// Errors beside those of every verb: [keys.ErrForeignStore] if the keyring does not serve this store and prefix. Nothing
// is changed then.
func (r *Rotation) Retire(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbRetire, s, (*run).retire)
}

// Trim destroys, for good, the versions that were retired, once it has read every envelope of the patient, had the
// keyring re-wrap every wrapped key, and found none that needs them. Only a backup of the keyring brings a trimmed
// version back. Copies of envelopes from before their rewrap, such as in backups and older versions of objects, can no
// longer be opened.
//
// Errors: those of Retire.
func (r *Rotation) Trim(ctx context.Context, s scope.Scope) (Report, error) {
	return r.run(ctx, verbTrim, s, (*run).trim)
}
