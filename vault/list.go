package vault

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/scope"
)

// Entry is what a listing shows of a recording: what anybody sees who can list the store.
type Entry struct {
	ID      ID
	Size    int64     // of the plaintext, in bytes; -1 if the media is missing or has a size that no media has
	Written time.Time // when the envelope was last written, by the store's clock
}

// List yields a patient's recordings in the order of their IDs, which is no order in time. It reads
// nothing but the store's listing. Titles and times of recording take a [Vault.Stat] each. It stops
// after the first error.
//
// Errors: [keys.ErrInvalidPatient], [keys.ErrDenied], [keys.ErrUnavailable]; those of
// [storage.Store] for List.
func (v *Vault) List(ctx context.Context, patient keys.Patient) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		keyID, err := v.keyring.KeyID(ctx, patient)
		if err != nil {
			yield(Entry{}, fmt.Errorf("list recordings: %w", err))
			return
		}
		v.ListByKeyID(ctx, keyID)(yield)
	}
}

// ListByKeyID is List for the patient with a KeyID, such as that of a grant. It needs no right at the keyring.
// It returns [keys.ErrInvalidKeyID] for the zero KeyID.
func (v *Vault) ListByKeyID(ctx context.Context, keyID keys.KeyID) iter.Seq2[Entry, error] {
	return list(ctx, v.objects, keyID)
}

// ListByKeyID is [Vault.ListByKeyID] for a process that has no keyring. prefix is that of the vault, or "": see
// [WithPrefix]. It returns [storage.ErrInvalidName] for another prefix.
func ListByKeyID(ctx context.Context, store storage.Store, prefix string, keyID keys.KeyID) iter.Seq2[Entry, error] {
	o, err := objects.New(store, prefix)
	if err != nil {
		return func(yield func(Entry, error) bool) { yield(Entry{}, fmt.Errorf("list recordings: %w", err)) }
	}
	return list(ctx, o, keyID)
}

func list(ctx context.Context, o *objects.Objects, keyID keys.KeyID) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if keyID.IsZero() {
			yield(Entry{}, fmt.Errorf("list recordings: %w: it is the zero KeyID", keys.ErrInvalidKeyID))
			return
		}
		for item, err := range o.Walk(ctx, scope.Of(keyID)) {
			if err != nil {
				yield(Entry{}, fmt.Errorf("list recordings: %w", err))
				return
			}
			if item.Envelope != nil && !yield(entry(item), nil) {
				return
			}
		}
	}
}

func entry(item objects.Item) Entry {
	e := Entry{ID: item.ID, Size: -1, Written: item.Envelope.Modified}
	if item.Media != nil {
		if size, err := segment.PlaintextSize(item.Media.Size); err == nil {
			e.Size = size
		}
	}
	return e
}

// Delete removes a patient's recording from the store. Copies in backups and older versions of its
// objects are not reached; erasing the patient's key reaches those. Deleting what does not exist is
// not an error, so an interrupted Delete can be run again.
//
// The patient is named beside the ID so that an ID that slipped into the wrong hands, or the wrong
// list, deletes nothing: a recording of another patient gives [ErrNotFound].
//
// While a legal hold stands on the patient, nothing is deleted, whatever the vault's prefix. A hold that is
// set while Delete runs may come too late.
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
		return fmt.Errorf("%w among this patient's", ErrNotFound)
	}
	if err := v.veto(ctx, keyID); err != nil {
		return err
	}
	return v.objects.Remove(ctx, id)
}

// veto returns [ErrHeld] while a hold stands on the patient, and an error too if that cannot be told.
func (v *Vault) veto(ctx context.Context, keyID keys.KeyID) error {
	hold, err := v.objects.Held(ctx, keyID)
	if err == nil && hold != nil {
		err = ErrHeld
	}
	return err
}
