package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// CopyOption configures one [Vault.Copy] or [Vault.Reassign].
type CopyOption func(*copyOptions)

type copyOptions struct{ description, rekey bool }

// WithDescription takes title and attributes along, and fields of the metadata that this release does not know. They may
// name the first patient, so without this option a copy has none of them.
func WithDescription() CopyOption { return func(o *copyOptions) { o.description = true } }

// WithNewKey encrypts the recording again, under a fresh key and so under a new ID. The first patient's grants, and
// whoever held the old key, then cannot read the copy. The media passes through this process.
func WithNewKey() CopyOption { return func(o *copyOptions) { o.rekey = true } }

// Copy gives a recording to another patient as well: for a second patient in the room, or a record that belongs to both.
// It needs a grant for the first patient and the writer's right, and returns the ID of the copy.
//
// The copy has two new wraps and new metadata, and the same media, which is copied inside the store if the store is a
// [storage.Copier], and otherwise as ciphertext through this process. Type, times and duration are taken over, title and
// attributes only with [WithDescription].
//
// A copy shares its keys with the original: whoever unwrapped the keys of either can, with access to the store, read the
// other, later descriptions included. The part of the ID after the dot, and the media, show that the two belong together.
// Erasing one of the patients leaves the other's copy, and through its key old ciphertext of both, readable. [WithNewKey]
// avoids all of that.
//
// Copy never replaces media that exists. If it was interrupted, running it again finishes: media of a copy without an
// envelope is used if it has the right size and header, and is checked in its first segment. Without WithNewKey a copy of
// the same recording exists once for each patient; if it exists already, the error is [storage.ErrExists]. After an
// interruption with WithNewKey, running it again makes one more copy.
//
// Errors: those of [Vault.Open] and [Vault.Put]; storage.ErrExists; [ErrNotFound] also if the copy was deleted while it was
// made.
func (v *Vault) Copy(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, options ...CopyOption) (ID, error) {
	a := v.access(grant, id)
	c, err := v.copyTo(ctx, a, to, false, options)
	if err := a.changed(events.Copied, c.id, err); err != nil {
		return c.id, fmt.Errorf("copy recording %s: %w", id, err)
	}
	return c.id, nil
}

// Reassign moves a recording to another patient: for merged records and misfiled consultations. It is [Vault.Copy]
// followed by the removal of the original. If the other patient has a copy already, that one gets fresh wraps and keeps
// its own metadata.
//
// If Reassign was interrupted, running it again finishes; with [WithNewKey] it makes one more copy, or returns [ErrNotFound]
// if the original is gone. The run that uses media which an interrupted one has left keeps the original and returns
// [storage.ErrExists] with the ID, because another process may be about to remove that media; the next run removes the
// original. An interruption in the removal itself can leave the original's media, which a sweep removes. If an error comes with an ID that is not zero, that recording exists and the original may. Do not reassign a
// recording and its copy in opposite directions at the same time.
//
// For a misfiled consultation that the first patient must lose for good, use [WithNewKey]: otherwise whoever opened the
// recording as the first patient's can still read the copy, given its ciphertext.
//
// While a legal hold stands on the first patient, nothing is reassigned.
//
// Errors: those of Copy; [ErrHeld]; [storage.ErrChanged] if the original's metadata was changed while it was copied, so
// that the copy was removed; those of [storage.Store] for Delete.
func (v *Vault) Reassign(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, options ...CopyOption) (ID, error) {
	a := v.access(grant, id)
	moved, err := v.reassign(ctx, a, to, options)
	if err := a.changed(events.Reassigned, moved, err); err != nil {
		return moved, fmt.Errorf("reassign recording %s: %w", id, err)
	}
	return moved, nil
}

func (v *Vault) reassign(ctx context.Context, a *access, to keys.Patient, options []CopyOption) (ID, error) {
	id := a.id
	if err := v.checkHold(ctx, a.event(events.Reassigned)); err != nil {
		return ID{}, err
	}
	c, err := v.copyTo(ctx, a, to, true, options)
	switch {
	case errors.Is(err, ErrNotFound):
		return v.movedBefore(ctx, id, to)
	case err != nil:
		return c.id, err
	case c.adopted:
		return c.id, fmt.Errorf("%w: media of an interrupted run was used; run it again to remove the original", storage.ErrExists)
	}
	return v.removeOriginal(ctx, c, a.event(events.Reassigned))
}

// movedBefore returns the ID that a recording, which no longer exists, has under another patient, or [ErrNotFound]. An
// interrupted Reassign may have come as far as the removal.
func (v *Vault) movedBefore(ctx context.Context, id ID, to keys.Patient) (ID, error) {
	keyID, err := v.keyring.KeyID(ctx, to)
	if err != nil {
		return ID{}, err
	}
	moved, err := ParseID(keyID.String() + "." + id.Rec())
	if err != nil {
		return ID{}, err
	}
	found, err := v.objects.FindEnvelope(ctx, moved)
	if err == nil && found == nil {
		err = ErrNotFound
	}
	if err != nil {
		return ID{}, err
	}
	return moved, nil
}

// copied is a copy of a recording.
type copied struct {
	id       ID
	original objects.Stored // as it was copied
	existed  bool           // before, with its envelope
	adopted  bool           // its media existed before, without an envelope
}

// removeOriginal removes a recording that was copied, and returns the copy's ID. If the original was changed or deleted
// since, it removes the copy in its place, unless that one existed before. change is the event that this completes.
func (v *Vault) removeOriginal(ctx context.Context, c copied, change events.Event) (ID, error) {
	if err := v.checkHold(ctx, change); err != nil {
		return c.id, err
	}
	now, err := v.objects.Envelope(ctx, c.original.ID)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		err = ErrNotFound
	case err != nil:
		return c.id, err
	case !now.SameMetadata(c.original.Envelope):
		err = fmt.Errorf("%w: its metadata, while it was copied", storage.ErrChanged)
	default:
		return c.id, v.objects.Remove(ctx, c.original.ID)
	}
	if c.existed {
		return c.id, err
	}
	if removeErr := v.objects.Remove(ctx, c.id); removeErr != nil {
		return c.id, removeErr
	}
	return ID{}, err
}

// copyTo copies a recording to another patient. again says that a copy may exist, so that an interrupted Reassign can go
// on. It emits the refusals and the damage of the original.
func (v *Vault) copyTo(ctx context.Context, a *access, to keys.Patient, again bool, options []CopyOption) (copied, error) {
	id := a.id
	var o copyOptions
	for _, option := range options {
		option(&o)
	}
	keyID, err := v.keyring.KeyID(ctx, to)
	switch {
	case err != nil:
		return copied{}, err
	case keyID == id.KeyID():
		return copied{}, fmt.Errorf("%w: it is the recording's own patient", keys.ErrInvalidPatient)
	}
	// Opening checks the keys, the metadata, the media's size and its first segment.
	recording, err := v.open(ctx, a, openOptions{})
	if err != nil {
		return copied{}, a.failed(err)
	}
	defer recording.Close()
	metadata := recording.sealed
	metadata.Revision = 0
	if !o.description {
		metadata = metadata.WithoutUnknown()
		metadata.Title, metadata.Attributes = "", nil
	}
	if o.rekey {
		u, err := v.beginFor(ctx, keyID, metadata)
		if err != nil {
			return copied{}, err
		}
		if err := u.run(ctx, recording, recording.Size()); err != nil {
			return copied{}, err
		}
		return copied{id: u.id, original: recording.stored}, nil
	}
	key, err := v.unwrap(ctx, a, id.Binding(), recording.stored.WrappedKey)
	if err != nil {
		return copied{}, a.failed(err)
	}
	return v.share(ctx, recording.stored, newSecrets(keyID, key), metadata, again)
}

// share commits a recording with the media of another one, which has the same keys.
func (v *Vault) share(ctx context.Context, from objects.Stored, s secrets, metadata envelope.Metadata, again bool) (copied, error) {
	defer s.wipe()
	u := &upload{vault: v, id: s.sealer.ID(), metadata: metadata, secrets: s, started: v.now()}
	found, err := v.objects.Find(ctx, u.id)
	switch {
	case err != nil:
		return copied{}, err
	case found.Envelope != nil && !again:
		return copied{}, storage.ErrExists
	}
	if err := u.wrap(ctx); err != nil { // before anything is written
		return copied{}, err
	}
	c := copied{id: u.id, original: from, existed: found.Envelope != nil, adopted: found.Envelope == nil && found.Media != nil}
	if found.Media == nil {
		err := v.objects.CopyMedia(ctx, from.ID, u.id)
		c.adopted = errors.Is(err, storage.ErrExists)
		if err != nil && !c.adopted {
			return copied{}, v.mediaError(ctx, from.ID, err)
		}
	}
	if err := v.checkCopy(ctx, u); err != nil {
		return copied{}, fmt.Errorf("the copy %s: %w", u.id, err)
	}
	if c.existed {
		if err = u.renew(ctx); err == nil {
			err = u.freshen(ctx)
		}
	} else {
		err = u.commit(ctx)
	}
	if err == nil {
		err = u.checkMedia(ctx)
	}
	if err != nil {
		return copied{}, err
	}
	switch committed, err := v.objects.FindEnvelope(ctx, u.id); {
	case err != nil:
		return copied{}, &UncertainError{u.id, err}
	case committed == nil:
		return copied{}, fmt.Errorf("%w: the copy %s was deleted while it was made", ErrNotFound, u.id)
	}
	return c, nil
}

// checkCopy checks that the media of a copy has the sealed size and header, and that its first segment authenticates.
func (v *Vault) checkCopy(ctx context.Context, u *upload) error {
	first := v.fetchPart(ctx, u.id, 0)
	if first.err != nil {
		return first.err
	}
	if err := first.check(u.metadata); err != nil {
		return err
	}
	info, err := newInfo(u.id, u.metadata)
	if err != nil {
		return err
	}
	mediaKey := envelope.MediaKey(u.secrets.recordingKey)
	defer clear(mediaKey)
	decrypter, err := segment.NewDecrypter(mediaKey, envelope.MediaAssociatedData(u.id), u.metadata.MediaHeader, info.Size)
	if err != nil {
		return readError(err)
	}
	reader, err := segment.NewReader(ctx, decrypter, v.mediaSource(u.id, u.metadata.MediaSize), first.start, first.ciphertext)
	if err != nil {
		return readError(err)
	}
	return reader.Close()
}
