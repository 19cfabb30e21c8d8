// Package erasure erases patients and single recordings for good, with proof, and keeps those that are on
// legal hold.
//
// An erasure has two steps. [Erasure.PlanPatient] shows what will go, and gives it a digest.
// [Erasure.ConfirmPatient] takes that digest, and refuses if anything has changed since. It destroys the patient's envelope key, deletes every object, has the keyring
// show that the key is gone, and returns a [Receipt]. A Confirm that was interrupted, by whatever, at
// whatever point, is run again and finishes. [Erasure.PlanRecording] and [Erasure.ConfirmRecording] do
// the same for one recording, whose patient's key stays.
//
// # What is never erased
//
// While a [Hold] stands, nothing of the patient is, under whatever prefix. And nothing is that the plan did not
// show, as far as ConfirmPatient can see: it compares the digest a second time directly before it destroys the
// key, and deletes objects only after it was seen that the key is gone.
//
// Keyring and store cannot be asked and changed in one step. So some things come too late:
//
//   - Between the last look and the destruction of the key, which is some requests: a hold that is set and
//     a recording that is put then. Nor is it noticed if another Confirm for the same patient finishes and
//     the patient is enrolled anew just then; the new key is destroyed.
//   - If the patient is enrolled anew while objects are deleted: media that was uploaded before, of a
//     recording whose writer commits it only now, under the new key.
//
// So let one Confirm run at a time for a patient, and enrol the patient anew only when it has returned a
// receipt and the longest upload that was under way has ended.
//
// A plan lists what is under one prefix, in one store. The key is that of all of the patient's recordings:
// those under other prefixes, and in other stores, cannot be opened any more, and their objects stay.
//
// # What an erasure cannot reach
//
//   - Backups of the keyring, such as Vault's snapshots, keep the key until they expire.
//   - Object versions, replicas and backups of the store keep ciphertext. Without the key it is noise.
//   - A writer whose upload is under way may commit an envelope afterwards, which nobody can open.
//     Confirm, run again, removes it; so it should be, once the longest upload has ended.
//
// The receipt says so too.
//
// # Rights
//
// At the keyring the eraser's role is enough, and for holds alone none is needed. The store must let objects
// be listed, read and deleted, and holds be read. Holds lie at its root, under "holds/", whatever the prefix. To
// set and clear them they must be writable.
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
)

// Test for these with errors.Is, beside [github.com/recvault/recvault/vault.ErrHeld] and
// [github.com/recvault/recvault/vault.ErrNotFound] and those of packages keys and storage.
var (
	// ErrPlanChanged: what is there is not what the plan showed. This Confirm erased nothing, unless the
	// error is [ErrIncomplete] as well; then the patient was enrolled anew while the erasure ran.
	ErrPlanChanged = errors.New("what is to be erased has changed since the plan")

	// ErrIncomplete: the erasure did not finish. It has begun and cannot be undone, unless its cause is that
	// the keyring did not answer when the key was to be destroyed: then nobody knows. Run it again.
	ErrIncomplete = errors.New("erasure is incomplete, run it again")

	// ErrKeyWorks: the keyring said that it destroyed the key, and then used it all the same. The
	// error is [ErrIncomplete] as well.
	ErrKeyWorks = errors.New("the envelope key still works after it was destroyed")

	// ErrNotHeld: no hold stands.
	ErrNotHeld = errors.New("patient is not on hold")

	// ErrDamagedHold: the object of a hold is not what SetHold writes. It holds all the same.
	ErrDamagedHold = errors.New("hold is damaged")

	// ErrInvalidReason: the reason is missing, longer than [MaxReasonLen] or not printable UTF-8.
	ErrInvalidReason = errors.New("invalid reason")

	// ErrInvalidOperator: the operator is missing, longer than [MaxOperatorLen] or not printable UTF-8.
	ErrInvalidOperator = errors.New("invalid operator")

	// ErrInvalidOptions: an option is out of bounds.
	ErrInvalidOptions = errors.New("invalid erasure options")

	// ErrDamagedReceipt: the text is not that of a receipt, or was changed.
	ErrDamagedReceipt = errors.New("receipt is damaged or was changed")
)

// Keyring is what an Erasure asks of its keyring. Those of packages keys/transit and keys/local have
// it; where each role has its own token, embed one of each kind in a struct.
type Keyring interface {
	keys.Eraser

	// Versions is as in [keys.Rotator]. It must tell [keys.ErrErased] from [keys.ErrNotEnrolled].
	Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error)

	// Rewrap is as in [keys.Rotator]. That it fails is the proof of an erasure. The results are not used.
	Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error)
}

// Options say where an Erasure works and how. The zero Options are good for a vault without a prefix.
type Options struct {
	// Prefix is that of the vault: see vault.WithPrefix. Default none.
	Prefix string

	// Grant is a grant for the patient who is to be erased. With one, a recording key is unwrapped
	// before the erasure and fails to unwrap after, which shows that readers lose it too. It takes up to
	// three uses. The Keyring must then be a [keys.Unwrapper]. Optional.
	Grant keys.Grant

	// DeleteTimeout is how long the deletion of one object may take. A store may wait until somebody
	// who reads the object has ended; MinIO waits up to 30 s. Default 1 min.
	DeleteTimeout time.Duration
}

// Erasure plans and confirms erasures. It is safe for concurrent use.
type Erasure struct {
	keyring   Keyring
	unwrapper keys.Unwrapper // nil without a grant
	objects   *objects.Objects
	holds     *Holds
	options   Options
}

// New makes an Erasure. It touches neither keyring nor store.
//
// Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for the prefix.
func New(keyring Keyring, store storage.Store, options Options) (*Erasure, error) {
	if keyring == nil || store == nil {
		return nil, errors.New("erasure: New needs a keyring and a store")
	}
	options.DeleteTimeout = cmp.Or(options.DeleteTimeout, time.Minute)
	if options.DeleteTimeout < 0 {
		return nil, fmt.Errorf("erasure: %w: a negative delete timeout", ErrInvalidOptions)
	}
	o, err := objects.New(store, options.Prefix)
	if err != nil {
		return nil, fmt.Errorf("erasure: %w", err)
	}
	e := &Erasure{keyring: keyring, objects: o, holds: NewHolds(store), options: options}
	if !options.Grant.IsZero() {
		unwrapper, ok := keyring.(keys.Unwrapper)
		if !ok {
			return nil, fmt.Errorf("erasure: %w: a grant, and a keyring that is no keys.Unwrapper", ErrInvalidOptions)
		}
		e.unwrapper = unwrapper
	}
	return e, nil
}
