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

// Receipt says what an erasure removed, who answers for it, how it was proved, and what it could not reach. Keep it
// as JSON. It contains no secret, and names the patient only by the KeyID.
type Receipt struct {
	KeyID     keys.KeyID       `json:"key_id"`
	Recording keys.RecordingID `json:"recording,omitzero"` // zero if the whole patient was erased

	// KeyVersions are those of the key that was destroyed; if Resumed is set, as they were when the [Beginning] was
	// written. They are zero for one recording, because its patient's
	// key stays, and if Resumed is set without [Approval.Earlier].
	KeyVersions KeyVersions `json:"key_versions_destroyed,omitzero"`

	// Resumed reports whether the erasure had begun before: a Confirm that returned no receipt, or other means,
	// had destroyed the key or deleted the recording's envelope. What was removed then is in the plan, not here.
	Resumed bool `json:"resumed"`

	Recordings     []keys.RecordingID `json:"recordings"` // whose envelopes were deleted
	ObjectsDeleted int                `json:"objects_deleted"`
	BytesDeleted   int64              `json:"bytes_deleted"`
	Time           time.Time          `json:"time"` // when it finished, by the clock of the computer that ran it, in UTC
	Operator       string             `json:"operator"`
	PlanDigest     string             `json:"plan_digest,omitempty"` // of the plan that was approved; none if Resumed without [Approval.Earlier]
	Proof          []Evidence         `json:"proof"`
	MayRemain      []string           `json:"may_remain"` // what the erasure could not reach, in sentences
	Digest         string             `json:"digest"`     // SHA-256 of everything above, in hexadecimal
}

// Evidence is one request that must fail after the erasure, and its results before and after.
type Evidence struct {
	// Attempt is "versions", "rewrap" or "unwrap", at the keyring, or "stat", at the store.
	Attempt   string           `json:"attempt"`
	Recording keys.RecordingID `json:"recording,omitzero"` // whose wrapped key or envelope was tried

	// Before is "succeeded", or empty if the request was not tried before the erasure. A request that never
	// worked proves little by failing.
	Before string `json:"before,omitempty"`
	After  string `json:"after"` // the error with which it failed
}

// What an erasure cannot reach. Receipts list it in [Receipt.MayRemain].
var (
	remainsOfPatient = [...]string{
		"Backups of the keyring, such as snapshots of Vault or of its storage, keep the envelope key until they expire. " +
			"Anyone who restores such a backup and has a copy of the encrypted recordings can decrypt them again.",
		"Old object versions, replicas and backups of the store may keep encrypted recordings until they expire. " +
			"Without the envelope key nobody can decrypt them, unless a recording was copied to another patient.",
		"A recording whose upload was under way may have been stored after the erasure. Nobody can open it. " +
			"To remove it, erase the patient again once the longest upload has ended.",
		remainsOfCopies,
	}
	remainsOfRecording = [...]string{
		"Old object versions, replicas and backups of the store may keep the recording's envelope and media until they expire. " +
			"Such copies can still be opened with a grant for the patient, until they expire, or until the " +
			"envelope key was rotated and its older versions were retired and trimmed.",
		"Backups of the keyring, such as snapshots of Vault or of its storage, keep trimmed versions of the envelope key " +
			"until they expire.",
		remainsOfCopies,
	}
)

// remainsOfCopies is for both: see vault.Copy.
const remainsOfCopies = "A recording that was copied or reassigned to another patient without a new key shares its keys with " +
	"the other patient's recording, which stays. Anyone who can open that recording can also decrypt old copies of the one that was erased."

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

// ParseReceipt reads the JSON of a receipt. It returns [ErrDamagedReceipt] unless the text is exactly the JSON of
// the receipt, indented or not and with HTML escaped or not, and the digest is right. So the text contains nothing
// that the receipt does not.
//
// The digest detects accidental changes. A person who changes a receipt on purpose can compute a new digest. If that
// matters, sign the receipt or keep a record of its digest elsewhere.
func ParseReceipt(text []byte) (Receipt, error) {
	var receipt Receipt
	var compact, escaped bytes.Buffer
	if json.Unmarshal(text, &receipt) != nil || json.Compact(&compact, text) != nil {
		return Receipt{}, fmt.Errorf("%w: it is not the JSON of a receipt", ErrDamagedReceipt)
	}
	json.HTMLEscape(&escaped, compact.Bytes())
	if canonical, err := json.Marshal(receipt); err != nil || !bytes.Equal(canonical, escaped.Bytes()) {
		return Receipt{}, fmt.Errorf("%w: it is not in the form in which receipts are written", ErrDamagedReceipt)
	}
	sealed, err := receipt.sealed()
	if err != nil || sealed.Digest != receipt.Digest {
		return Receipt{}, fmt.Errorf("%w: its digest does not match", ErrDamagedReceipt)
	}
	return receipt, nil
}
