package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// maxUpdates is how often Update tries, if others change the envelope at the same time.
const maxUpdates = 10

// Update corrects the metadata of a recording in place (GDPR, Article 16): it calls change with the metadata as it is,
// and stores what change makes of it, with a [Info.Revision] that is one greater. ID, media and keys stay. It returns
// the recording's new Info.
//
// Update needs a grant for the patient, which may be one that can only describe, and the right to write to the store. It
// replaces the envelope only if that is still the one that was read. If another Update or a rotation was faster, it
// reads again and calls change again. An error of change ends Update and nothing is written. Fields of the sealed
// metadata that this release does not know stay as they are.
//
// While a legal hold stands on the patient, nothing is updated: what is held must stay as it was. Older envelopes may
// remain in backups and as older versions of the object, and are readable with the patient's key. Whoever can write to
// the store can put one back, which shows an earlier revision and nothing else.
//
// Errors: those of [Vault.Stat]; change's own; [ErrInvalidMetadata]; [ErrHeld]; [UncertainError] if the store did not
// answer, so that the metadata may have been updated; those of [storage.Store] for Put.
func (v *Vault) Update(ctx context.Context, grant keys.Grant, id ID, change func(*Metadata) error) (Info, error) {
	a := v.access(grant, id)
	info, err := v.update(ctx, a, change)
	if err := a.changed(events.Updated, ID{}, err); err != nil {
		return Info{}, fmt.Errorf("update recording %s: %w", id, a.failed(err))
	}
	return info, nil
}

func (v *Vault) update(ctx context.Context, a *access, change func(*Metadata) error) (Info, error) {
	for range maxUpdates {
		info, err := v.updateOnce(ctx, a, change)
		if !errors.Is(err, storage.ErrChanged) {
			return info, err
		}
	}
	return Info{}, fmt.Errorf("%w: %d times in a row", storage.ErrChanged, maxUpdates)
}

func (v *Vault) updateOnce(ctx context.Context, a *access, change func(*Metadata) error) (Info, error) {
	id := a.id
	stored, err := v.envelope(ctx, a)
	if err != nil {
		return Info{}, err
	}
	sealer, sealed, err := v.describe(ctx, a, stored)
	if err != nil {
		return Info{}, err
	}
	defer sealer.Wipe()
	info, err := newInfo(id, sealed)
	if err != nil {
		return Info{}, err
	}
	if err := change(&info.Metadata); err != nil {
		return Info{}, err
	}
	updated, err := info.Metadata.sealable()
	if err != nil {
		return Info{}, err
	}
	updated = updated.WithUnknownOf(sealed)
	updated.CreatedAt, updated.MediaSize, updated.MediaHeader = sealed.CreatedAt, sealed.MediaSize, sealed.MediaHeader
	updated.Revision = sealed.Revision + 1
	if err := updated.Fits(); err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrInvalidMetadata, err)
	}
	next, err := sealer.Seal(stored.WrappedKey, stored.WrappedMetadataKey, updated)
	if err != nil {
		return Info{}, err
	}
	if err := v.checkHold(ctx, a.event(events.Updated)); err != nil { // last, just before the write
		return Info{}, err
	}
	// From here on a cancellation has no effect, because the outcome must be known.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.commitTimeout)
	defer cancel()
	if err := v.objects.Replace(ctx, stored, next); err != nil {
		if err = v.resolve(ctx, id, &stored.Envelope, next, err); err != nil {
			return Info{}, err
		}
	}
	return newInfo(id, updated)
}
