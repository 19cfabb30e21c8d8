package vault

import (
	"context"
	"fmt"

	"github.com/recvault/recvault/keys"
)

// Rekey encrypts a recording anew, under a fresh recording key and so under a new ID, and removes the old
// one: what is to be done where a recording key may have become known. Rotating the envelope key does not
// help there. It returns the new ID, which is for the caller to put in place of the old one: the store
// cannot exchange two objects at once, so no ID ever stands for two encryptions. The metadata, CreatedAt
// included, is taken over. Copies of the old recording in backups and older versions of its objects are not
// reached, and open with the old key.
//
// It needs a grant for the patient, of which it takes two uses or more, and the writer's right, but no
// patient identifier. Memory is bounded whatever the size.
//
// The new recording is committed, and opened, before the old one is removed. Interrupted in between, both
// stand and none is lost: if an error comes with an ID that is not zero, that recording exists, and the
// old one may. After a crash before the ID was returned, [Vault.List] finds the new recording; running Rekey
// again, while the old one stands, makes one more. If somebody else deleted the old one meanwhile, or re-keyed
// it, the new one is removed and the error is [ErrNotFound]. But if that happens at the very moment the old
// one is removed, nobody notices: the new recording stays although the old one was deleted, or two new ones
// stay. Nothing is lost in any case.
//
// While a legal hold stands on the patient, nothing is re-keyed. One that is set while Rekey runs keeps the
// old recording, beside the new one, or comes too late.
//
// Errors: those of [Vault.Open], also where damage shows on the way; those of [Vault.Put], but for
// [keys.ErrInvalidPatient]; [ErrHeld]; those of [storage.Store] for Stat and Delete.
func (v *Vault) Rekey(ctx context.Context, grant keys.Grant, id ID) (ID, error) {
	renewed, err := v.rekey(ctx, grant, id)
	if err != nil {
		return renewed, fmt.Errorf("re-key recording %s: %w", id, err)
	}
	return renewed, nil
}

func (v *Vault) rekey(ctx context.Context, grant keys.Grant, id ID) (ID, error) {
	if id.IsZero() {
		return ID{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	if err := v.veto(ctx, id.KeyID()); err != nil {
		return ID{}, err
	}
	renewed, err := v.copy(ctx, grant, id)
	if err != nil {
		return ID{}, err
	}
	// The old one goes only once the new one is known to open.
	recording, err := v.Open(ctx, grant, renewed)
	if err != nil {
		return renewed, err
	}
	_ = recording.Close()
	if err := v.veto(ctx, id.KeyID()); err != nil {
		return renewed, err
	}
	switch old, err := v.objects.FindEnvelope(ctx, id); {
	case err != nil:
		return renewed, err
	case old == nil:
		// Whoever deleted the recording did not mean it to live on under another name.
		if err := v.objects.Remove(ctx, renewed); err != nil {
			return renewed, err
		}
		return ID{}, ErrNotFound
	}
	return renewed, v.objects.Remove(ctx, id)
}

// copy puts what a recording holds as another one of the same patient.
func (v *Vault) copy(ctx context.Context, grant keys.Grant, id ID) (ID, error) {
	recording, err := v.Open(ctx, grant, id)
	if err != nil {
		return ID{}, err
	}
	defer recording.Close()
	info := recording.Info()
	metadata, err := info.Metadata.sealable()
	if err != nil {
		return ID{}, err
	}
	metadata.CreatedAt = info.CreatedAt
	u, err := v.beginFor(ctx, id.KeyID(), metadata)
	if err != nil {
		return ID{}, err
	}
	return u.id, u.run(ctx, recording, info.Size)
}
