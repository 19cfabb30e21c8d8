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
)

// CopyOption configures one [Vault.Copy] or [Vault.Reassign].
type CopyOption func(*copyOptions)

type copyOptions struct {
	description, rekey bool
	again              bool // a copy that exists is written again, so that an interrupted Reassign can go on
}

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
// envelope is used if it has the right size, and is checked in its first segment. Without WithNewKey a copy of the same
// recording exists once for each patient; if it exists already, the error is [storage.ErrExists]. After an interruption
// with WithNewKey, running it again makes one more copy.
//
// Errors: those of [Vault.Open] and [Vault.Put]; storage.ErrExists.
func (v *Vault) Copy(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, options ...CopyOption) (ID, error) {
	copied, err := v.copyTo(ctx, grant, id, to, newCopyOptions(options))
	if err != nil {
		return copied, fmt.Errorf("copy recording %s: %w", id, v.report(grant, id, err))
	}
	return copied, nil
}

func newCopyOptions(options []CopyOption) copyOptions {
	var o copyOptions
	for _, option := range options {
		option(&o)
	}
	return o
}

// Reassign moves a recording to another patient: for merged records and misfiled consultations. It is [Vault.Copy]
// followed by the removal of the original. If it was interrupted, running it again finishes; with [WithNewKey] it makes
// one more copy, or returns [ErrNotFound] if the original is gone. If an error comes with an ID that is not zero, that
// recording exists and the original may.
//
// If the patient has a copy already, Reassign makes its wraps again. Metadata of the copy that was corrected since then
// stays, unless [WithDescription] asks for the original's.
//
// For a misfiled consultation that the first patient must lose for good, use [WithNewKey]: otherwise whoever opened the
// recording as the first patient's can still read the copy, given its ciphertext.
//
// While a legal hold stands on the first patient, nothing is reassigned.
//
// Errors: those of Copy, but for [storage.ErrExists]; [ErrHeld]; those of [storage.Store] for Delete.
func (v *Vault) Reassign(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, options ...CopyOption) (ID, error) {
	moved, err := v.reassign(ctx, grant, id, to, options)
	if err != nil {
		return moved, fmt.Errorf("reassign recording %s: %w", id, v.report(grant, id, err))
	}
	return moved, nil
}

func (v *Vault) reassign(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, options []CopyOption) (ID, error) {
	if err := v.checkHold(ctx, id.KeyID()); err != nil {
		return ID{}, err
	}
	o := newCopyOptions(options)
	o.again = true
	moved, err := v.copyTo(ctx, grant, id, to, o)
	if errors.Is(err, ErrNotFound) && !o.rekey {
		return v.movedBefore(ctx, id, to)
	}
	if err != nil {
		return moved, err
	}
	if err := v.checkHold(ctx, id.KeyID()); err != nil {
		return moved, err
	}
	return moved, v.objects.Remove(ctx, id)
}

// movedBefore returns the ID that a recording, which no longer exists, has under another patient, or [ErrNotFound]. An
// interrupted Reassign may have come as far as the removal. It may have left media, which a sweep removes.
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

// copyTo copies a recording to another patient.
func (v *Vault) copyTo(ctx context.Context, grant keys.Grant, id ID, to keys.Patient, o copyOptions) (ID, error) {
	keyID, err := v.keyring.KeyID(ctx, to)
	switch {
	case err != nil:
		return ID{}, err
	case keyID == id.KeyID():
		return ID{}, fmt.Errorf("%w: it is the recording's own patient", keys.ErrInvalidPatient)
	}
	// Opening checks the keys, the metadata, the media's size and its first segment.
	recording, err := v.open(ctx, grant, id, openOptions{})
	if err != nil {
		return ID{}, err
	}
	recording.reportDamage = func() {} // the caller reports
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
			return ID{}, err
		}
		if err := u.run(ctx, recording, recording.Size()); err != nil {
			return ID{}, err
		}
		return u.id, nil
	}
	stored, err := v.envelope(ctx, grant, id)
	if err != nil {
		return ID{}, err
	}
	key, err := v.unwrap(ctx, grant, id.Binding(), stored.WrappedKey)
	if err != nil {
		return ID{}, err
	}
	return v.share(ctx, id, newSecrets(keyID, key), metadata, o)
}

// share commits a recording with the media of another one, which has the same keys.
func (v *Vault) share(ctx context.Context, from ID, s secrets, metadata envelope.Metadata, o copyOptions) (ID, error) {
	defer s.wipe()
	u := &upload{vault: v, id: s.sealer.ID(), metadata: metadata, secrets: s, started: v.now()}
	if u.id.Rec() != from.Rec() {
		return ID{}, fmt.Errorf("%w: its key was exchanged", ErrDamaged)
	}
	found, err := v.objects.Find(ctx, u.id)
	switch {
	case err != nil:
		return ID{}, err
	case found.Envelope != nil && !o.again:
		return ID{}, storage.ErrExists
	}
	var stored objects.Stored
	if found.Envelope != nil {
		if stored, err = v.objects.Envelope(ctx, u.id); err != nil {
			return ID{}, err
		}
		u.keepCorrections(stored, o)
	}
	if err := u.wrap(ctx); err != nil { // before anything is written
		return ID{}, err
	}
	if found.Media == nil {
		if err := v.objects.CopyMedia(ctx, from, u.id); err != nil && !errors.Is(err, storage.ErrExists) {
			return ID{}, v.mediaError(ctx, from, err)
		}
	}
	if err := v.checkCopy(ctx, u); err != nil {
		return ID{}, err
	}
	if found.Envelope == nil {
		err = u.commit(ctx)
	} else {
		err = u.renew(ctx, &stored)
	}
	if err == nil {
		err = u.freshen(ctx)
	}
	if err == nil {
		err = u.checkMedia(ctx)
	}
	if err != nil {
		return ID{}, err
	}
	return u.id, nil
}

// keepCorrections prepares the metadata that replaces that of a copy which exists, so that no correction is lost and no
// revision stands for two descriptions.
func (u *upload) keepCorrections(stored objects.Stored, o copyOptions) {
	existing, err := u.secrets.sealer.Open(stored.Envelope)
	switch {
	case err != nil || existing.Revision == 0:
	case o.description:
		u.metadata.Revision = existing.Revision + 1
	default:
		existing.MediaSize, existing.MediaHeader = u.metadata.MediaSize, u.metadata.MediaHeader
		u.metadata = existing
	}
}

// checkCopy checks that the media of a copy has the sealed size and header, and that its first segment authenticates.
func (v *Vault) checkCopy(ctx context.Context, u *upload) error {
	first := v.fetchPart(ctx, u.id, 0)
	switch {
	case first.err != nil:
		return first.err
	case first.mediaSize != u.metadata.MediaSize:
		return sizeError(first.mediaSize, u.metadata.MediaSize)
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
