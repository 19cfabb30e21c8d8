package erasure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

const (
	// deleters is how many objects are deleted at the same time.
	deleters = 8
	// maxRounds is how often a patient's objects are listed and deleted until none is left. More than two
	// take uploads that end meanwhile.
	maxRounds = 10
)

// Approval is what an erasure is confirmed with.
type Approval struct {
	// Digest is that of a plan that still holds: [Plan.Digest].
	Digest string

	// Operator is who answers for the erasure: an account, not a patient. It stands in the receipt. 1 to
	// [MaxOperatorLen] bytes of printable UTF-8.
	Operator string
}

// ConfirmPatient erases a patient: the envelope key with all its versions, and every object. The digest
// is that of a plan that still holds. If the key was destroyed already, by a Confirm that was interrupted
// or by other means, no digest is asked for, and what is left is removed. So it can be run again after any
// error, and later, to remove what an upload committed that was under way.
//
// A patient who is on hold is not erased, nor are the remains of one. Just before it destroys the key,
// ConfirmPatient looks again for a hold, and whether the plan still holds; what happens after that comes too
// late. See the package's comment for what that means, and when the patient may be enrolled anew. Whoever does
// so earlier stops an erasure, with [ErrPlanChanged], that then cannot finish.
//
// Errors: [vault.ErrHeld] and ErrPlanChanged, with which this call erased nothing, unless the error is
// [ErrIncomplete] as well; ErrIncomplete, together with its cause, if it must be run again; [ErrKeyWorks];
// [keys.ErrNotEnrolled], [keys.ErrInvalidKeyID], [keys.ErrDenied], [keys.ErrInvalidGrant],
// [keys.ErrUnavailable]; those of [storage.Store] for List, Stat, Get and Delete.
func (e *Erasure) ConfirmPatient(ctx context.Context, keyID keys.KeyID, approval Approval) (Receipt, error) {
	receipt, err := e.confirmPatient(ctx, keyID, approval)
	if err != nil {
		return Receipt{}, fmt.Errorf("erase patient %s: %w", keyID, err)
	}
	return receipt, nil
}

func (e *Erasure) confirmPatient(ctx context.Context, keyID keys.KeyID, approval Approval) (Receipt, error) {
	if keyID.IsZero() {
		return Receipt{}, fmt.Errorf("%w: it is the zero KeyID", keys.ErrInvalidKeyID)
	}
	if err := checkOperator(approval.Operator); err != nil {
		return Receipt{}, err
	}
	if err := e.holds.veto(ctx, keyID); err != nil {
		return Receipt{}, err
	}
	found, err := e.patient(ctx, keyID)
	if err != nil {
		return Receipt{}, err
	}
	receipt, err := approve(found, approval)
	if err != nil {
		return Receipt{}, err
	}
	taken, err := e.takeSample(ctx, found)
	if err != nil {
		return Receipt{}, err
	}
	if !found.begun {
		if err := e.destroyKey(ctx, found); err != nil {
			return Receipt{}, err
		}
	}
	if err := e.removePatient(ctx, &receipt); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if receipt.Proof, err = e.prove(ctx, found, taken); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	receipt.MayRemain = remainsOfPatient[:]
	return e.finish(receipt)
}

// approve begins the receipt, if what was found is what the plan showed, or there is nothing left to decide.
func approve(found inventory, approval Approval) (Receipt, error) {
	receipt := Receipt{
		KeyID: found.keyID, Recording: found.recordingID, KeyVersions: found.versions, Resumed: found.begun,
		Recordings: []keys.RecordingID{}, Operator: approval.Operator,
	}
	if found.begun {
		return receipt, nil
	}
	if found.digest() != approval.Digest {
		return Receipt{}, ErrPlanChanged
	}
	receipt.PlanDigest = approval.Digest
	return receipt, nil
}

// destroyKey destroys the key, if all is still as it was found. All that came before may have taken long, so
// it looks once more: first at what takes longest, and last at what would be worst to get wrong, that the
// key is not a new one.
func (e *Erasure) destroyKey(ctx context.Context, found inventory) error {
	now, err := e.list(ctx, found.keyID)
	if err != nil {
		return err
	}
	if err := e.holds.veto(ctx, found.keyID); err != nil {
		return err
	}
	now.versions, err = e.versions(ctx, found.keyID)
	if err != nil && !errors.Is(err, keys.ErrErased) {
		return err
	}
	if now.digest() != found.digest() {
		return ErrPlanChanged
	}
	failed := e.keyring.Erase(ctx, found.keyID)
	if failed == nil {
		return nil
	}
	// Its answer may be all that was lost.
	if left, err := e.versions(ctx, found.keyID); err == nil && left == found.versions {
		return failed
	}
	return fmt.Errorf("%w: %w", ErrIncomplete, failed)
}

// removePatient deletes a patient's objects until none is left.
//
// An object is deleted only if the key was seen to be destroyed after the object was seen. Whatever the
// object was wrapped under is then gone for good: the patient may have been enrolled anew, but not before
// it was listed.
func (e *Erasure) removePatient(ctx context.Context, receipt *Receipt) error {
	for range maxRounds {
		found, err := e.list(ctx, receipt.KeyID)
		if err != nil {
			return err
		}
		switch _, err := e.keyring.Versions(ctx, receipt.KeyID); {
		case err == nil:
			return fmt.Errorf("%w: the patient was enrolled anew, or the key was not destroyed", ErrPlanChanged)
		case !errors.Is(err, keys.ErrErased):
			return err
		}
		if len(found.all()) == 0 {
			return nil
		}
		if err := e.remove(ctx, found, receipt); err != nil {
			return err
		}
	}
	return errors.New("new objects appear as fast as they are deleted")
}

// ConfirmRecording erases one recording. The patient's envelope key stays, and with it what copies there
// are of the recording's envelope: the receipt says so. If the envelope was deleted already, no digest is
// asked for, and what is left is removed. A receipt with nothing deleted says that nothing was there.
//
// To the store an upload under way looks the same: given its ID, ConfirmRecording may remove its media, and
// what is then committed is damaged. Run again, it removes that too.
//
// A recording of a patient who is on hold is not erased. A hold that is set while ConfirmRecording runs may
// come too late.
//
// Errors: [vault.ErrHeld] and [ErrPlanChanged], with which nothing was erased; [ErrIncomplete], together
// with its cause, if it must be run again; [keys.ErrInvalidRecordingID]; those of [storage.Store] for
// Stat and Delete.
func (e *Erasure) ConfirmRecording(ctx context.Context, id keys.RecordingID, approval Approval) (Receipt, error) {
	receipt, err := e.confirmRecording(ctx, id, approval)
	if err != nil {
		return Receipt{}, fmt.Errorf("erase recording %s: %w", id, err)
	}
	return receipt, nil
}

func (e *Erasure) confirmRecording(ctx context.Context, id keys.RecordingID, approval Approval) (Receipt, error) {
	if id.IsZero() {
		return Receipt{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	if err := checkOperator(approval.Operator); err != nil {
		return Receipt{}, err
	}
	if err := e.holds.veto(ctx, id.KeyID()); err != nil {
		return Receipt{}, err
	}
	found, err := e.recording(ctx, id)
	if err != nil {
		return Receipt{}, err
	}
	receipt, err := approve(found, approval)
	if err != nil {
		return Receipt{}, err
	}
	if err := e.remove(ctx, found, &receipt); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	left, err := e.recording(ctx, id)
	if err == nil && len(left.all()) > 0 {
		err = errors.New("it was written anew")
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	receipt.Proof = []Evidence{{
		Attempt: "stat", Recording: id, Before: before(!found.begun), After: storage.ErrNotFound.Error(),
	}}
	receipt.MayRemain = remainsOfRecording[:]
	return e.finish(receipt)
}

func (e *Erasure) finish(receipt Receipt) (Receipt, error) {
	receipt.Time = time.Now().Round(0).UTC()
	return receipt.sealed()
}

// remove deletes what was found, envelopes first, and adds it to the receipt.
func (e *Erasure) remove(ctx context.Context, found inventory, receipt *Receipt) error {
	for _, objects := range [][]storage.Info{found.envelopes, found.others} {
		if err := e.deleteAll(ctx, objects); err != nil {
			return err
		}
	}
	receipt.Recordings = append(receipt.Recordings, found.recordings...)
	for _, object := range found.all() {
		receipt.ObjectsDeleted++
		receipt.BytesDeleted += object.Size
	}
	return nil
}

// deleteAll deletes objects, several at a time, and stops at the first error.
func (e *Erasure) deleteAll(ctx context.Context, found []storage.Info) error {
	all := func(yield func(storage.Info, error) bool) {
		for _, object := range found {
			if !yield(object, nil) {
				return
			}
		}
	}
	return objects.Each(ctx, all, deleters, e.delete)
}

// delete removes one object, in bounded time.
func (e *Erasure) delete(ctx context.Context, object storage.Info) error {
	limited, cancel := context.WithTimeout(ctx, e.options.DeleteTimeout)
	defer cancel()
	err := e.objects.Delete(limited, object)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: deleting %s took longer than %v; somebody may be reading it", storage.ErrUnavailable, object.Name, e.options.DeleteTimeout)
	}
	return err
}
