package vault

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// Entry is what a listing shows of a recording: what anybody sees who can list the store.
type Entry struct {
	ID      ID
	Size    int64     // of the plaintext, in bytes; -1 if the media is missing or cannot be media
	Written time.Time // when the envelope was last written, by the store's clock
}

// List yields a patient's recordings in the order of their IDs, which is no order in time. It reads
// nothing but the store's listing, so titles and times of recording take a [Vault.Stat] each. It stops
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

// ListByKeyID is List for a process that has no right at the keyring: a grant tells its KeyID.
func (v *Vault) ListByKeyID(ctx context.Context, keyID keys.KeyID) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if keyID.IsZero() {
			yield(Entry{}, fmt.Errorf("list recordings: %w: it is the zero KeyID", keys.ErrInvalidKeyID))
			return
		}
		// A recording's envelope comes just before its media.
		var pending *Entry
		for object, err := range v.store.List(ctx, v.patientPrefix(keyID)) {
			if err != nil {
				yield(Entry{}, fmt.Errorf("list recordings: %w", err))
				return
			}
			id, part, ok := v.parseObjectName(keyID, object.Name)
			switch {
			case ok && part == envelopePart:
				if pending != nil && !yield(*pending, nil) {
					return
				}
				pending = &Entry{ID: id, Size: -1, Written: object.Modified}
			case ok && part == mediaPart && pending != nil && pending.ID == id:
				if size, err := segment.PlaintextSize(object.Size); err == nil {
					pending.Size = size
				}
			}
		}
		if pending != nil {
			yield(*pending, nil)
		}
	}
}

// parseObjectName takes apart what objectName put together, and refuses anything else.
func (v *Vault) parseObjectName(keyID keys.KeyID, name string) (id ID, part string, ok bool) {
	rest, ok := strings.CutPrefix(name, v.patientPrefix(keyID))
	if !ok {
		return ID{}, "", false
	}
	rec, part, ok := strings.Cut(rest, "/")
	if !ok || (part != envelopePart && part != mediaPart) {
		return ID{}, "", false
	}
	id, err := ParseID(keyID.String() + "." + rec)
	return id, part, err == nil
}

// Delete removes a patient's recording from the store. Copies in backups and older versions of its
// objects are not reached; erasing the patient's key reaches those. Deleting what does not exist is
// not an error, so an interrupted Delete can be run again.
//
// The patient is named beside the ID so that an ID that slipped into the wrong hands, or the wrong
// list, deletes nothing: a recording of another patient gives [ErrNotFound].
//
// Errors: ErrNotFound; [keys.ErrInvalidPatient], [keys.ErrDenied], [keys.ErrUnavailable]; those of
// [storage.Store] for Delete.
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
	// The envelope first: without it there is no recording, whatever happens next.
	for _, part := range []string{envelopePart, mediaPart} {
		if err := v.store.Delete(ctx, v.objectName(id, part)); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}
