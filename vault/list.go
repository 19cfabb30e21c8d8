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
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/scope"
)

// Entry describes a recording in a listing. Anybody who can list the store can see it.
type Entry struct {
	ID      ID
	Size    int64     // of the plaintext, in bytes; -1 if the media is missing or its size is not valid for media
	Written time.Time // when the envelope was last written, by the store's clock
}

// List yields a patient's recordings in the order of their IDs, which says nothing about their times. It reads
// only the store's listing. [Vault.Stat] returns a recording's title and times. List stops after the first
// error.
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

// ListByKeyID is [Vault.List] for the patient with a KeyID, such as that of a grant. It does not call the keyring.
// Errors: [keys.ErrInvalidKeyID] for the zero KeyID; those of [storage.Store] for List.
func (v *Vault) ListByKeyID(ctx context.Context, keyID keys.KeyID) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		listed := events.Event{Kind: events.Listed, KeyID: keyID}
		defer func() { v.emit(listed) }()
		list(ctx, v.objects, keyID)(func(entry Entry, err error) bool {
			if err == nil {
				listed.Entries++
			} else {
				listed.Error = err.Error()
			}
			return yield(entry, err)
		})
	}
}

// ListByKeyID is [Vault.ListByKeyID] for a process without a keyring, and emits no event. prefix is the vault's prefix, or "" if it has
// none: see [WithPrefix]. Errors: those of [Vault.ListByKeyID], and [storage.ErrInvalidName] for a prefix that no
// vault can have.
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
