package erasure

import (
	"fmt"
	"time"

	"github.com/recvault/recvault/keys"
)

// Beginning is what a receipt must say of the time before an erasure, and cannot be found out afterwards. Keep it as JSON
// until there is a receipt: see [Approval.Begin]. It contains the wrapped keys of one recording and no other secret.
type Beginning struct {
	KeyID       keys.KeyID       `json:"key_id"`
	Recording   keys.RecordingID `json:"recording,omitzero"`    // zero if the whole patient is erased
	KeyVersions KeyVersions      `json:"key_versions,omitzero"` // of the key that is destroyed
	PlanDigest  string           `json:"plan_digest,omitempty"`
	Recordings  int              `json:"recordings"` // that are there now
	Operator    string           `json:"operator"`
	Time        time.Time        `json:"time"`

	// Sample is the recording whose wrapped keys prove the erasure, and whether the keyring could use them.
	Sample             keys.RecordingID `json:"sample,omitzero"`
	WrappedKey         keys.WrappedKey  `json:"wrapped_key,omitempty"`
	WrappedMetadataKey keys.WrappedKey  `json:"wrapped_metadata_key,omitempty"`
	Rewrapped          bool             `json:"rewrapped"`
	Unwrapped          bool             `json:"unwrapped"`
}

// beginning returns what is known before anything is destroyed. For an erasure that had begun before, that is what the
// approval brought from there.
func beginning(found inventory, approval Approval, taken sample) Beginning {
	if found.begun && approval.Earlier != nil {
		return *approval.Earlier
	}
	b := Beginning{
		KeyID: found.keyID, Recording: found.recordingID, KeyVersions: found.versions, Recordings: len(found.recordings),
		Operator: approval.Operator, Time: time.Now().Round(0).UTC(),
		Sample: taken.id, Rewrapped: taken.rewrapped, Unwrapped: taken.unwrapped,
	}
	if !found.begun {
		b.PlanDigest = approval.Digest
	}
	if !taken.id.IsZero() {
		b.WrappedKey, b.WrappedMetadataKey = taken.wraps[0].Wrapped, taken.wraps[1].Wrapped
	}
	return b
}

// sample returns the sample of an earlier Confirm.
func (b *Beginning) sample() sample {
	if b.Sample.IsZero() {
		return sample{}
	}
	return sample{
		id: b.Sample, rewrapped: b.Rewrapped, unwrapped: b.Unwrapped,
		wraps: []keys.RewrapItem{
			{Binding: b.Sample.Binding(), Wrapped: b.WrappedKey},
			{Binding: b.Sample.MetadataBinding(), Wrapped: b.WrappedMetadataKey},
		},
	}
}

// check returns an error unless the approval's Earlier is of this erasure.
func (a *Approval) check(keyID keys.KeyID, id keys.RecordingID) error {
	if err := checkOperator(a.Operator); err != nil {
		return err
	}
	if e := a.Earlier; e != nil && (e.KeyID != keyID || e.Recording != id || !e.Sample.IsZero() && e.Sample.KeyID() != keyID) {
		return fmt.Errorf("%w: the beginning is that of another erasure", ErrInvalidOptions)
	}
	return nil
}
