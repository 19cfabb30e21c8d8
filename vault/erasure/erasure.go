// Package erasure erases patients and single recordings for good, and proves it. It also puts patients on legal
// hold, which prevents an erasure.
//
// # How an erasure works
//
// An erasure has two steps, so that a person can check what will be erased before it is:
//
//  1. [Erasure.PlanPatient] lists what will be erased, and gives the plan a digest. It changes nothing.
//  2. [Erasure.ConfirmPatient] takes that digest and the name of the operator who answers for the erasure. It
//     refuses if anything has changed since the plan. It destroys the patient's envelope key, deletes every
//     object, checks that the keyring can no longer use the key, and returns a [Receipt].
//
// [Erasure.PlanRecording] and [Erasure.ConfirmRecording] do the same for one recording. The patient's key stays.
//
// If a Confirm is interrupted, at any point and for any reason, run it again: it finishes the erasure.
//
// # What is never erased
//
// While a [Hold] stands, nothing of the patient is erased, under any prefix. [Holds] sets and clears holds.
//
// A recording that can still be opened is not erased unless the plan showed it, as far as ConfirmPatient can see. It
// compares the digest once more directly before it destroys the key. It deletes objects only after it has seen that
// the key is gone.
//
// Keyring and store cannot be checked and changed in one step. So some changes come too late:
//
//   - Between the last check and the destruction of the key, which is a few requests: a hold that is set, and a
//     recording that is put. Also, if another Confirm for the same patient finishes and the patient is enrolled
//     again in that time, the new key is destroyed.
//   - While objects are deleted, if the patient is enrolled again: media that was uploaded before, and is committed
//     then under the new key, is deleted.
//
// So run one Confirm at a time for a patient. Enrol the patient again only after Confirm has returned a receipt
// and the longest upload that was under way has ended.
//
// A plan lists what is under one prefix, in one store. The key is that of all of the patient's recordings.
// Recordings under other prefixes, and in other stores, cannot be opened any more, and their objects stay.
//
// # What an erasure cannot reach
//
//   - Backups of the keyring, such as Vault's snapshots, keep the key until they expire.
//   - Object versions, replicas and backups of the store keep ciphertext. Without the key it is noise.
//   - A recording that was copied to another patient shares its keys with the copy: see vault.Vault.Copy. The copy
//     stays, and its keys also decrypt old ciphertext of the recording that was erased.
//   - A writer whose upload is under way may commit an envelope afterwards. Nobody can open that recording. Run
//     Confirm again, once the longest upload has ended, to remove it.
//
// The receipt says so too.
//
// # Rights
//
// At the keyring an erasure needs the eraser's role, and [Holds] needs none. The store must let objects be
// listed, read and deleted, and holds be read. Holds lie at its root, under "holds/", whatever the prefix. To
// set and clear holds, they must be writable.
package erasure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// Test for these with errors.Is, beside [github.com/recvault/recvault/vault.ErrHeld] and
// [github.com/recvault/recvault/vault.ErrNotFound] and those of packages keys and storage.
var (
	// ErrPlanChanged: the keyring or the store does not have what the plan showed. This Confirm erased nothing,
	// unless the error is [ErrIncomplete] as well: then the patient was enrolled again while the erasure ran.
	ErrPlanChanged = errors.New("what is to be erased has changed since the plan")

	// ErrIncomplete: the erasure began and did not finish. It cannot be undone. Run it again. If the cause is that
	// the keyring did not answer when the key was to be destroyed, the erasure may not have begun.
	ErrIncomplete = errors.New("erasure is incomplete, run it again")

	// ErrKeyWorks: the keyring reported that the key is destroyed, and then used it. The error is [ErrIncomplete]
	// as well.
	ErrKeyWorks = errors.New("the envelope key still works after it was destroyed")

	// ErrNotHeld: no hold stands.
	ErrNotHeld = errors.New("patient is not on hold")

	// ErrDamagedHold: the object of a hold is not one that [Holds.Set] writes. The hold stands nevertheless.
	ErrDamagedHold = errors.New("hold is damaged")

	// ErrInvalidReason: the reason is missing, longer than [MaxReasonLen] or not printable UTF-8.
	ErrInvalidReason = errors.New("invalid reason")

	// ErrInvalidOperator: the operator is missing, longer than [MaxOperatorLen] or not printable UTF-8.
	ErrInvalidOperator = errors.New("invalid operator")

	// ErrInvalidOptions: an option is out of bounds.
	ErrInvalidOptions = errors.New("invalid erasure options")

	// ErrDamagedReceipt: the text is not a receipt, or was changed.
	ErrDamagedReceipt = errors.New("receipt is damaged or was changed")
)

// Keyring is what an Erasure needs of a keyring. The keyrings of packages keys/transit and keys/local have it. If
// each role has its own token, embed one keyring for each role in a struct.
type Keyring interface {
	keys.Eraser

	// Versions is as in [keys.Rotator]. It must return [keys.ErrErased] for a patient who was erased and
	// [keys.ErrNotEnrolled] for one who never was enrolled.
	Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error)

	// Rewrap is as in [keys.Rotator]. Its failure proves an erasure. New wraps are not used.
	Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error)
}

// Options say where an Erasure works and how. The zero Options are for a vault without a prefix.
type Options struct {
	// Prefix is that of the vault: see vault.WithPrefix. Default none.
	Prefix string

	// Grant is a grant for the patient who is to be erased. Optional. With one, a recording key is unwrapped
	// before the erasure and fails to unwrap afterwards, which proves that readers have lost it. That takes up to
	// three uses of the grant. The Keyring must then be a [keys.Unwrapper].
	Grant keys.Grant

	// DeleteTimeout is how long the deletion of one object may take. A store may wait for a reader of the object
	// to end. MinIO waits up to 30 s. Default 1 min.
	DeleteTimeout time.Duration

	// Events, if not nil, gets an events.Erased for each receipt, and an events.Held for each erasure that a hold refused.
	Events *events.Stream
}

// Erasure plans and confirms erasures. It is safe for concurrent use.
type Erasure struct {
	keyring   Keyring
	unwrapper keys.Unwrapper // nil without a grant
	objects   *objects.Objects
	holds     *Holds
	options   Options
}

// New returns an Erasure. It sends no request to keyring or store.
//
// Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for the prefix.
func New(keyring Keyring, store storage.Store, options Options) (*Erasure, error) {
	if keyring == nil || store == nil {
		return nil, errors.New("erasure: New needs a keyring and a store")
	}
	options.DeleteTimeout = cmp.Or(options.DeleteTimeout, time.Minute)
	options.Events = cmp.Or(options.Events, events.New())
	if options.DeleteTimeout < 0 {
		return nil, fmt.Errorf("erasure: %w: a negative delete timeout", ErrInvalidOptions)
	}
	o, err := objects.New(store, options.Prefix)
	if err != nil {
		return nil, fmt.Errorf("erasure: %w", err)
	}
	e := &Erasure{keyring: keyring, objects: o, holds: NewHolds(store, nil), options: options}
	if !options.Grant.IsZero() {
		unwrapper, ok := keyring.(keys.Unwrapper)
		if !ok {
			return nil, fmt.Errorf("erasure: %w: a grant needs a keyring that is a keys.Unwrapper", ErrInvalidOptions)
		}
		e.unwrapper = unwrapper
	}
	return e, nil
}
