package vault

import (
	"context"
	"fmt"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// Rekey encrypts a recording again under a fresh recording key, returns the new recording's ID, and removes the
// old recording. It is for a recording key that may have become known; rotating the envelope key does not help
// there. The metadata is taken over, CreatedAt included. Memory is bounded whatever the size.
//
// The caller must replace the old ID by the new one. An ID never stands for two encryptions, because a store
// cannot exchange two objects at once. Copies of the old recording in backups, and older versions of its
// objects, are not reached and still open with the old key.
//
// Rekey needs the writer's right and a grant for the patient, but no patient identifier. It takes at least two
// of the grant's uses.
//
// The new recording is committed and opened before the old one is removed, so an interruption loses nothing. If
// Rekey returns an error and an ID that is not zero, the new recording exists and the old one may. After a crash
// before Rekey returned, [Vault.List] yields both; running Rekey again on the old one makes one more.
//
// If the old recording was deleted or re-keyed by another process in between, Rekey removes the new one and
// returns [ErrNotFound]. If its metadata was changed, Rekey removes the new one and returns [storage.ErrChanged]: run it
// again. If one of these happens at the very moment when Rekey removes the old recording, it is not
// noticed: the new recording stays although the old one was deleted, or two new ones stay. Nothing is lost.
//
// While a legal hold stands on the patient, nothing is re-keyed. A hold that is set while Rekey runs keeps the old
// recording beside the new one, or comes too late.
//
// Errors: those of [Vault.Open], also for damage that is found while reading; those of [Vault.Put], except
// [keys.ErrInvalidPatient]; [ErrHeld]; those of [storage.Store] for Stat and Delete.
func (v *Vault) Rekey(ctx context.Context, grant keys.Grant, id ID) (ID, error) {
	a := v.access(grant, id)
	renewed, err := v.rekey(ctx, a)
	if err := a.changed(events.Rekeyed, renewed, err); err != nil {
		return renewed, fmt.Errorf("re-key recording %s: %w", id, err)
	}
	return renewed, nil
}

func (v *Vault) rekey(ctx context.Context, a *access) (ID, error) {
	id := a.id
	if id.IsZero() {
		return ID{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	if err := v.checkHold(ctx, a.event(events.Rekeyed)); err != nil {
		return ID{}, err
	}
	renewed, err := v.copy(ctx, a)
	if err != nil {
		return ID{}, err
	}
	// Remove the old recording only if the new one opens.
	check := v.access(a.grant, renewed.id)
	recording, err := v.open(ctx, check, openOptions{})
	a.unwraps.Add(check.unwraps.Load())
	if err != nil {
		return renewed.id, check.failed(err)
	}
	_ = recording.Close()
	return v.removeOriginal(ctx, renewed, a.event(events.Rekeyed))
}

// copy puts the content of a recording as another recording of the same patient.
func (v *Vault) copy(ctx context.Context, a *access) (copied, error) {
	recording, err := v.open(ctx, a, openOptions{})
	if err != nil {
		return copied{}, a.failed(err)
	}
	defer recording.Close()
	metadata := recording.sealed
	metadata.Revision = 0
	u, err := v.beginFor(ctx, a.id.KeyID(), metadata)
	if err != nil {
		return copied{}, err
	}
	return copied{id: u.id, original: recording.stored}, u.run(ctx, recording, recording.Size())
}
