package erasure

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
)

// Plan shows what an erasure would remove.
type Plan struct {
	KeyID     keys.KeyID       `json:"key_id"`
	Recording keys.RecordingID `json:"recording,omitzero"` // zero if the whole patient is to be erased

	// KeyVersions are those of the key that will be destroyed. They are zero if no key will be: it was destroyed
	// before, or one recording is to be erased.
	KeyVersions KeyVersions `json:"key_versions,omitzero"`

	// Begun reports whether an erasure has begun: the key was destroyed before, or the recording has no
	// envelope. Confirm then ignores the digest and removes what is left.
	Begun bool `json:"begun"`

	// Finished reports whether the patient's key was destroyed and no object is left. There is nothing to erase, unless
	// the last Confirm returned no receipt.
	Finished bool `json:"finished"`

	Recordings int       `json:"recordings"`      // those that have an envelope
	Objects    int       `json:"objects"`         // envelopes, media, and other objects among them
	Bytes      int64     `json:"bytes"`           // of all objects
	Oldest     time.Time `json:"oldest,omitzero"` // when the oldest object was last written, by the store's clock
	Newest     time.Time `json:"newest,omitzero"` // when the newest was
	Hold       *Hold     `json:"hold,omitempty"`  // the hold that stands, if any: Confirm will refuse
	Digest     string    `json:"digest"`          // for the [Approval]; SHA-256 in hexadecimal
}

// KeyVersions are the versions of an envelope key. Those from MinAvailable to Latest exist. See [keys.Versions].
type KeyVersions struct {
	Latest        int       `json:"latest"`
	MinDecryption int       `json:"min_decryption"`
	MinAvailable  int       `json:"min_available"`
	Rotated       time.Time `json:"rotated"` // when the latest was made, by the keyring's clock
}

// PlanPatient shows what [Erasure.ConfirmPatient] would remove. It changes nothing. The digest covers the
// patient's KeyID, the versions of the key, and the name, size and ETag of every object. So the plan no longer
// holds after a recording was put, deleted or re-wrapped.
//
// The plan lists what is under the prefix. The key that will be destroyed is that of the patient's recordings
// under every prefix and in every store.
//
// Errors: [keys.ErrNotEnrolled] if the patient never was enrolled, [keys.ErrInvalidKeyID],
// [keys.ErrDenied], [keys.ErrUnavailable]; [ErrDamagedHold]; those of [storage.Store] for List and Get.
func (e *Erasure) PlanPatient(ctx context.Context, keyID keys.KeyID) (Plan, error) {
	plan, err := e.plan(ctx, keyID, func() (inventory, error) { return e.patient(ctx, keyID) })
	if err != nil {
		return Plan{}, fmt.Errorf("plan erasure of patient %s: %w", keyID, err)
	}
	return plan, nil
}

// PlanRecording shows what [Erasure.ConfirmRecording] would remove. It changes nothing.
//
// Errors: [vault.ErrNotFound] if the recording has no objects, [keys.ErrInvalidRecordingID];
// [ErrDamagedHold]; those of [storage.Store] for Stat and Get.
func (e *Erasure) PlanRecording(ctx context.Context, id keys.RecordingID) (Plan, error) {
	plan, err := e.plan(ctx, id.KeyID(), func() (inventory, error) { return e.recording(ctx, id) })
	if err == nil && plan.Objects == 0 {
		err = vault.ErrNotFound
	}
	if err != nil {
		return Plan{}, fmt.Errorf("plan erasure of recording %s: %w", id, err)
	}
	return plan, nil
}

func (e *Erasure) plan(ctx context.Context, keyID keys.KeyID, take func() (inventory, error)) (Plan, error) {
	found, err := take()
	if err != nil {
		return Plan{}, err
	}
	plan := found.plan()
	hold, _, err := e.holds.read(ctx, keyID)
	switch {
	case err == nil:
		plan.Hold = &hold
	case !errors.Is(err, ErrNotHeld):
		return Plan{}, err
	}
	return plan, nil
}

// inventory is what keyring and store have of a patient, or the store has of one recording.
type inventory struct {
	keyID       keys.KeyID
	recordingID keys.RecordingID // zero for a patient
	versions    KeyVersions      // zero for a recording, and if the key was destroyed
	begun       bool             // see Plan.Begun

	recordings []keys.RecordingID // those that have an envelope
	envelopes  []storage.Info
	others     []storage.Info
}

// patient takes the inventory of a patient.
func (e *Erasure) patient(ctx context.Context, keyID keys.KeyID) (inventory, error) {
	// If the keyring does not know the patient, it may be the wrong one. So nothing is listed.
	versions, err := e.versions(ctx, keyID)
	begun := errors.Is(err, keys.ErrErased)
	if err != nil && !begun {
		return inventory{}, err
	}
	found, err := e.list(ctx, keyID)
	if err != nil {
		return inventory{}, err
	}
	found.versions, found.begun = versions, begun
	return found, nil
}

func (e *Erasure) versions(ctx context.Context, keyID keys.KeyID) (KeyVersions, error) {
	versions, err := e.keyring.Versions(ctx, keyID)
	if err != nil {
		return KeyVersions{}, err
	}
	return KeyVersions{
		Latest: versions.Latest, MinDecryption: versions.MinDecryption, MinAvailable: versions.MinAvailable,
		Rotated: versions.Rotated.UTC(),
	}, nil
}

// list takes the inventory of a patient's objects.
func (e *Erasure) list(ctx context.Context, keyID keys.KeyID) (inventory, error) {
	found := inventory{keyID: keyID}
	for item, err := range e.objects.Walk(ctx, scope.Of(keyID)) {
		switch {
		case err != nil:
			return inventory{}, err
		case item.Stray == nil:
			found.add(item)
		case strings.HasPrefix(item.Stray.Name, e.objects.Patient(keyID)):
			found.others = append(found.others, *item.Stray)
		}
	}
	return found, nil
}

// recording takes the inventory of a recording.
func (e *Erasure) recording(ctx context.Context, id keys.RecordingID) (inventory, error) {
	if id.IsZero() {
		return inventory{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	item, err := e.objects.Find(ctx, id)
	if err != nil {
		return inventory{}, err
	}
	found := inventory{keyID: id.KeyID(), recordingID: id, begun: item.Envelope == nil}
	found.add(item)
	return found, nil
}

func (i *inventory) add(item objects.Item) {
	if item.Envelope != nil {
		i.recordings = append(i.recordings, item.ID)
		i.envelopes = append(i.envelopes, *item.Envelope)
	}
	if item.Media != nil {
		i.others = append(i.others, *item.Media)
	}
}

// all returns the objects in the order in which they are deleted, envelopes first: without its envelope a
// recording no longer exists, whatever happens next.
func (i *inventory) all() []storage.Info { return slices.Concat(i.envelopes, i.others) }

func (i *inventory) plan() Plan {
	plan := Plan{
		KeyID: i.keyID, Recording: i.recordingID, KeyVersions: i.versions, Begun: i.begun,
		Recordings: len(i.recordings), Digest: i.digest(),
	}
	for _, object := range i.all() {
		plan.Objects++
		plan.Bytes += object.Size
		written := object.Modified.UTC()
		if plan.Oldest.IsZero() || written.Before(plan.Oldest) {
			plan.Oldest = written
		}
		if written.After(plan.Newest) {
			plan.Newest = written
		}
	}
	plan.Finished = plan.Begun && plan.Objects == 0
	return plan
}

// digest returns the digest of everything that will be erased. The text under it is unambiguous: each item is a
// line, and an ETag, which may have any text, is quoted.
func (i *inventory) digest() string {
	hash := sha256.New()
	fmt.Fprintf(hash, "recvault erasure plan 1\npatient %s\nrecording %s\n", i.keyID, i.recordingID)
	fmt.Fprintf(hash, "key %d %d %d %s\n", i.versions.Latest, i.versions.MinDecryption, i.versions.MinAvailable,
		i.versions.Rotated.Format(time.RFC3339Nano))
	for _, object := range i.all() {
		fmt.Fprintf(hash, "object %s %d %q\n", object.Name, object.Size, object.ETag)
	}
	return hex.EncodeToString(hash.Sum(nil))
}
