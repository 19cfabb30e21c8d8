package erasure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

const (
	// deleters is how many objects are deleted at the same time.
	deleters = 8
	// maxRounds is how often a patient's objects are listed and deleted until none is left. More than two rounds
	// are needed only if uploads end in between.
	maxRounds = 10
)

// Approval says which plan is carried out, and who answers for it.
type Approval struct {
	// Digest is the plan's: [Plan.Digest]. It is ignored if the erasure has begun: see [Plan.Begun].
	Digest string

	// Operator is who answers for the erasure: an account, not a patient. The receipt names it. It has 1 to
	// [MaxOperatorLen] bytes of printable UTF-8. Required, also if the erasure has begun.
	Operator string

	// Begin, if not nil, is called once with what the receipt is to say of the time before, and before anything is
	// destroyed. If it returns an error, Confirm destroys nothing and returns that error. Begin should make it durable, and
	// reserve the space for the receipt: then no interruption and no full disk loses the proof.
	Begin func(Beginning) error

	// Earlier, if not nil, is what Begin was given by a Confirm of the same erasure that returned no receipt. If the
	// erasure has begun, the receipt says what Earlier shows of the time before. Otherwise Earlier is ignored.
	Earlier *Beginning
}

// ConfirmPatient erases a patient: it destroys the envelope key with all its versions and deletes every object.
//
// The approval's digest must be that of a plan that still holds. If the key was destroyed before, by a Confirm that
// was interrupted or by other means, ConfirmPatient ignores the digest and removes what is left. So run it again
// after any error, and once more later to remove what an upload committed that was under way.
//
// A patient who is on hold is not erased, and neither is what an earlier erasure left of one. Just before it
// destroys the key, ConfirmPatient checks once more that no hold stands and that the plan still holds. What happens
// after that comes too late. The package comment says what that means, and when the patient may be enrolled again.
// If the patient is enrolled again earlier, the erasure stops with [ErrPlanChanged] and cannot finish.
//
// Errors: [vault.ErrHeld] and ErrPlanChanged, with which this call erased nothing unless the error is
// [ErrIncomplete] as well; ErrIncomplete, together with its cause, if it must be run again; [ErrKeyWorks];
// [ErrInvalidOperator]; [ErrInvalidOptions] if Earlier is of another erasure; [keys.ErrNotEnrolled], [keys.ErrInvalidKeyID], [keys.ErrDenied], [keys.ErrInvalidGrant],
// [keys.ErrUnavailable]; those of [storage.Store] for List, Stat, Get and Delete.
func (e *Erasure) ConfirmPatient(ctx context.Context, keyID keys.KeyID, approval Approval) (Receipt, error) {
	receipt, err := e.confirmPatient(ctx, keyID, approval)
	if err != nil {
		e.refused(events.Event{KeyID: keyID, Operator: approval.Operator}, err)
		return Receipt{}, fmt.Errorf("erase patient %s: %w", keyID, err)
	}
	return receipt, nil
}

func (e *Erasure) confirmPatient(ctx context.Context, keyID keys.KeyID, approval Approval) (Receipt, error) {
	if keyID.IsZero() {
		return Receipt{}, fmt.Errorf("%w: it is the zero KeyID", keys.ErrInvalidKeyID)
	}
	if err := approval.check(keyID, keys.RecordingID{}); err != nil {
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
	var taken sample
	if found.begun && approval.Earlier != nil {
		taken = approval.Earlier.sample()
	} else if taken, err = e.takeSample(ctx, found); err != nil {
		return Receipt{}, err
	}
	if err := begin(found, approval, taken); err != nil {
		return Receipt{}, err
	}
	destroy := e.destroyKey
	if found.begun {
		destroy = e.finishKey
	}
	if err := destroy(ctx, found); err != nil {
		return Receipt{}, err
	}
	if err := e.removePatient(ctx, &receipt); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if receipt.Proof, err = e.prove(ctx, known(found, approval), taken); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	receipt.MayRemain = remainsOfPatient[:]
	return e.finish(receipt)
}

// approve begins the receipt if what was found is what the plan showed, or if the erasure has begun before.
func approve(found inventory, approval Approval) (Receipt, error) {
	receipt := Receipt{
		KeyID: found.keyID, Recording: found.recordingID, KeyVersions: found.versions, Resumed: found.begun,
		Recordings: []keys.RecordingID{}, Operator: approval.Operator,
	}
	if found.begun {
		if approval.Earlier != nil {
			receipt.KeyVersions, receipt.PlanDigest = approval.Earlier.KeyVersions, approval.Earlier.PlanDigest
		}
		return receipt, nil
	}
	if found.digest() != approval.Digest {
		return Receipt{}, ErrPlanChanged
	}
	receipt.PlanDigest = approval.Digest
	return receipt, nil
}

// begin has the caller keep what is known before anything is destroyed.
func begin(found inventory, approval Approval, taken sample) error {
	if approval.Begin == nil {
		return nil
	}
	if err := approval.Begin(beginning(found, approval, taken)); err != nil {
		return fmt.Errorf("nothing was erased by this run: %w", err)
	}
	return nil
}

// known reports whether it is known what worked before the erasure.
func known(found inventory, approval Approval) bool {
	return !found.begun || approval.Earlier != nil && approval.Earlier.PlanDigest != ""
}

// destroyKey destroys the key if everything is still as it was found. The steps before may have taken long, so it
// checks again. The check that takes longest comes first. The check that the key is not a new one comes last,
// because destroying a new key would be worst.
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
	// The key may be destroyed and only the answer lost.
	if left, err := e.versions(ctx, found.keyID); err == nil && left == found.versions {
		return failed
	}
	return fmt.Errorf("%w: %w", ErrIncomplete, failed)
}

// finishKey ends what an interrupted run may have left at the keyring. The key itself is gone.
func (e *Erasure) finishKey(ctx context.Context, found inventory) error {
	switch _, err := e.versions(ctx, found.keyID); {
	case err == nil:
		return ErrPlanChanged // the patient was enrolled again
	case !errors.Is(err, keys.ErrErased):
		return err
	}
	if err := e.keyring.Erase(ctx, found.keyID); err != nil {
		return fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	return nil
}

// removePatient deletes a patient's objects until none is left.
//
// It lists objects first and then checks that the key is destroyed. So the key under which a listed object was
// written is gone for good: if the patient was enrolled again, that was after the listing.
func (e *Erasure) removePatient(ctx context.Context, receipt *Receipt) error {
	for range maxRounds {
		found, err := e.list(ctx, receipt.KeyID)
		if err != nil {
			return err
		}
		switch _, err := e.keyring.Versions(ctx, receipt.KeyID); {
		case err == nil:
			return fmt.Errorf("%w: the patient was enrolled again, or the key was not destroyed", ErrPlanChanged)
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
	return errors.New("new objects keep appearing while objects are deleted")
}

// ConfirmRecording erases one recording. The patient's envelope key stays, and so copies of the recording can be
// opened: the receipt says so.
//
// The approval's digest must be that of a plan that still holds. If the envelope was deleted before, ConfirmRecording
// ignores the digest and removes what is left. A receipt with nothing deleted says that nothing was there.
//
// In the store, an upload that is under way looks like a recording without its envelope. Given its ID,
// ConfirmRecording may remove its media, and the recording that is then committed is damaged. Run again, it removes
// that recording too.
//
// A recording of a patient who is on hold is not erased. A hold that is set while ConfirmRecording runs may
// come too late.
//
// Errors: [vault.ErrHeld] and [ErrPlanChanged], with which nothing was erased; [ErrIncomplete], together
// with its cause, if it must be run again; [ErrInvalidOperator]; [keys.ErrInvalidRecordingID]; those of
// [storage.Store] for Stat and Delete.
func (e *Erasure) ConfirmRecording(ctx context.Context, id keys.RecordingID, approval Approval) (Receipt, error) {
	receipt, err := e.confirmRecording(ctx, id, approval)
	if err != nil {
		e.refused(events.Event{KeyID: id.KeyID(), Recording: id, Operator: approval.Operator}, err)
		return Receipt{}, fmt.Errorf("erase recording %s: %w", id, err)
	}
	return receipt, nil
}

func (e *Erasure) confirmRecording(ctx context.Context, id keys.RecordingID, approval Approval) (Receipt, error) {
	if id.IsZero() {
		return Receipt{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	if err := approval.check(id.KeyID(), id); err != nil {
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
	if err := begin(found, approval, sample{}); err != nil {
		return Receipt{}, err
	}
	if err := e.remove(ctx, found, &receipt); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	left, err := e.recording(ctx, id)
	if err == nil && len(left.all()) > 0 {
		err = errors.New("it was written again")
	}
	if err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	receipt.Proof = []Evidence{{
		Attempt: "stat", Recording: id, Before: before(known(found, approval)), After: storage.ErrNotFound.Error(),
	}}
	receipt.MayRemain = remainsOfRecording[:]
	return e.finish(receipt)
}

func (e *Erasure) finish(receipt Receipt) (Receipt, error) {
	receipt.Time = time.Now().Round(0).UTC()
	e.options.Events.Emit(events.Event{
		Kind: events.Erased, Time: receipt.Time, KeyID: receipt.KeyID, Recording: receipt.Recording, Operator: receipt.Operator,
	})
	return receipt.sealed()
}

// refused emits that a hold refused an erasure, if that is what the error says.
func (e *Erasure) refused(erasure events.Event, err error) {
	if errors.Is(err, vault.ErrHeld) {
		erasure.Kind, erasure.Of, erasure.Error = events.Held, events.Erased, err.Error()
		e.options.Events.Emit(erasure)
	}
}

// remove deletes what was found, envelopes first, and records it in the receipt.
func (e *Erasure) remove(ctx context.Context, found inventory, receipt *Receipt) error {
	for _, group := range [][]storage.Info{found.envelopes, found.others} {
		if err := e.deleteAll(ctx, group); err != nil {
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

// delete deletes one object, in bounded time.
func (e *Erasure) delete(ctx context.Context, object storage.Info) error {
	limited, cancel := context.WithTimeout(ctx, e.options.DeleteTimeout)
	defer cancel()
	err := e.objects.Delete(limited, object)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: deleting %s took longer than %v; a reader may have it open", storage.ErrUnavailable, object.Name, e.options.DeleteTimeout)
	}
	return err
}
