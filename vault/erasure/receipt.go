package erasure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/recvault/recvault/keys"
)

// Receipt says what an erasure removed, who answers for it, how it was proved, and what it could not
// reach. It holds no patient identifier and no secret, and is made to be kept as JSON.
type Receipt struct {
	KeyID     keys.KeyID       `json:"key_id"`
	Recording keys.RecordingID `json:"recording,omitzero"` // zero if the whole patient was erased

	// KeyVersions are those of the key that was destroyed. Zero for one recording, whose patient's key
	// stays, and if Resumed.
	KeyVersions KeyVersions `json:"key_versions_destroyed,omitzero"`

	// Resumed says that the erasure had begun before: the key was destroyed, or the recording's envelope
	// deleted, by a Confirm that did not return a receipt, or by other means. What went then is in the
	// plan, not here.
	Resumed bool `json:"resumed"`

	Recordings     []keys.RecordingID `json:"recordings"` // whose envelopes were deleted
	ObjectsDeleted int                `json:"objects_deleted"`
	BytesDeleted   int64              `json:"bytes_deleted"`
	Time           time.Time          `json:"time"` // when it was finished, by the operator's clock, in UTC
	Operator       string             `json:"operator"`
	PlanDigest     string             `json:"plan_digest,omitempty"` // that of the plan it was confirmed with; none if Resumed
	Proof          []Evidence         `json:"proof"`
	MayRemain      []string           `json:"may_remain"` // what backups and others may still hold
	Digest         string             `json:"digest"`     // SHA-256 of all that is above, in hexadecimal
}

// Evidence is one attempt at what must no longer work, and what came of it before and after.
type Evidence struct {
	// Attempt is "versions", "rewrap" or "unwrap", at the keyring, or "stat", at the store.
	Attempt   string           `json:"attempt"`
	Recording keys.RecordingID `json:"recording,omitzero"` // whose wrapped key or envelope was tried

	// Before is "succeeded", or empty if it was not tried before: what never worked proves little by
	// failing.
	Before string `json:"before,omitempty"`
	After  string `json:"after"` // the refusal
}

// What is out of an erasure's reach.
var (
	remainsOfPatient = [...]string{
		"Backups of the keyring, such as snapshots of Vault or of its storage, hold the envelope key until they expire. " +
			"Whoever restores one and has a copy of the ciphertext can decrypt it again.",
		"Noncurrent object versions, replicas and backups of the store may hold ciphertext until they expire. " +
			"Without the envelope key nobody can decrypt it.",
		"A writer whose upload was under way may have committed an envelope since, which nobody can open. " +
			"Erase again, once the longest upload has ended, to remove it.",
	}
	remainsOfRecording = [...]string{
		"Noncurrent object versions, replicas and backups of the store may hold the recording's envelope and media. " +
			"Such copies can still be opened with a grant for the patient, until they expire, or until the " +
			"envelope key was rotated and its older versions were retired and trimmed.",
		"Backups of the keyring, such as snapshots of Vault or of its storage, hold versions of the envelope key " +
			"that were trimmed until they expire.",
	}
)

// sealed returns the receipt with its digest.
func (r Receipt) sealed() (Receipt, error) {
	r.Digest = ""
	text, err := json.Marshal(r)
	if err != nil {
		return Receipt{}, err
	}
	sum := sha256.Sum256(text)
	r.Digest = hex.EncodeToString(sum[:])
	return r, nil
}

// ParseReceipt reads the JSON of a receipt. It returns [ErrDamagedReceipt] unless the text is what the
// receipt encodes to, indented or not and with HTML escaped or not, and its digest is that of what it says.
// So nothing stands in the text that is not in the receipt. Whoever changes a receipt on purpose can make
// a new digest for it: have the digest on record elsewhere, or sign it, where that matters.
func ParseReceipt(text []byte) (Receipt, error) {
	var receipt Receipt
	var compact, escaped bytes.Buffer
	if json.Unmarshal(text, &receipt) != nil || json.Compact(&compact, text) != nil {
		return Receipt{}, fmt.Errorf("%w: it is not the JSON of a receipt", ErrDamagedReceipt)
	}
	json.HTMLEscape(&escaped, compact.Bytes())
	if canonical, err := json.Marshal(receipt); err != nil || !bytes.Equal(canonical, escaped.Bytes()) {
		return Receipt{}, fmt.Errorf("%w: it says more than a receipt, or in another way", ErrDamagedReceipt)
	}
	sealed, err := receipt.sealed()
	if err != nil || sealed.Digest != receipt.Digest {
		return Receipt{}, fmt.Errorf("%w: its digest is another", ErrDamagedReceipt)
	}
	return receipt, nil
}
