package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// Delete removes a patient's recording from the store. It does not reach copies in backups or older versions of
// the objects; erasing the patient's key does. Deleting a recording that does not exist is not an error, so an
// interrupted Delete can be run again.
//
// The patient is an argument beside the ID so that an ID from a wrong list deletes nothing: for a recording of
// another patient Delete returns [ErrNotFound].
//
// While a legal hold stands on the patient, Delete removes nothing, whatever the vault's prefix is. A hold that
// is set while Delete runs may come too late.
//
// Errors: ErrNotFound, [ErrHeld]; [keys.ErrInvalidPatient], [keys.ErrDenied], [keys.ErrUnavailable];
// those of [storage.Store] for Stat and Delete.
func (v *Vault) Delete(ctx context.Context, patient keys.Patient, id ID) error {
	if err := v.delete(ctx, patient, id); err != nil {
		return fmt.Errorf("delete recording %s: %w", id, err)
	}
	return nil
}

func (v *Vault) delete(ctx context.Context, patient keys.Patient, id ID) error {
	keyID, err := v.keyring.KeyID(ctx, patient)
	if err != nil {
		return err
	}
	if id.KeyID() != keyID {
		return fmt.Errorf("%w for this patient", ErrNotFound)
	}
	if err := v.checkHold(ctx, events.Event{Kind: events.Deleted, KeyID: keyID, Recording: id}); err != nil {
		return err
	}
	err = v.objects.Remove(ctx, id)
	if err == nil || !errors.Is(err, storage.ErrDenied) && !errors.Is(err, storage.ErrNoBucket) {
		event := events.Event{Kind: events.Deleted, KeyID: keyID, Recording: id}
		if err != nil {
			event.Error = err.Error() // the envelope may be gone
		}
		v.emit(event)
	}
	return err
}

// checkHold returns [ErrHeld] if a hold stands on the patient of a change, and emits that the change was refused. It returns
// the store's error if the hold cannot be read.
func (v *Vault) checkHold(ctx context.Context, change events.Event) error {
	hold, err := v.objects.Held(ctx, change.KeyID)
	if err == nil && hold != nil {
		err = ErrHeld
		change.Kind, change.Of, change.Error = events.Held, change.Kind, err.Error()
		v.emit(change)
	}
	return err
}
