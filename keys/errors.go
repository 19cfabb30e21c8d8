package keys

import "errors"

// Test for these errors with errors.Is. Their messages, and those of errors that wrap them, contain
// no token, no key and no patient identifier.
var (
	// ErrDenied means that the keyring refused: the grant is for another patient, or the
	// credentials lack the right.
	ErrDenied = errors.New("permission denied")

	// ErrInvalidGrant means that the grant is malformed, unknown, expired, revoked or used up. If
	// the keyring refused the grant, the error is ErrDenied as well.
	ErrInvalidGrant = errors.New("grant is not valid")

	// ErrUnauthenticated means that the keyring does not know this process's own credentials, or that they have
	// ended. It is not about a grant, and not about the user of one. New credentials help.
	ErrUnauthenticated = errors.New("the process's own credentials are not valid")

	// ErrInvalidGrantOptions means that a subject, purpose or request ID is missing, too long or
	// malformed, or that a TTL or number of uses is out of bounds.
	ErrInvalidGrantOptions = errors.New("invalid grant options")

	// ErrNotEnrolled means that the patient has no envelope key.
	ErrNotEnrolled = errors.New("patient is not enrolled")

	// ErrErased means that the patient's envelope key was destroyed. It cannot be restored.
	ErrErased = errors.New("patient was erased")

	// ErrUnavailable means that the keyring could not be reached, is sealed or failed, after a
	// bounded number of retries. Trying again later may help.
	ErrUnavailable = errors.New("keyring is unavailable")

	// ErrIntegrity means that a wrapped key does not authenticate for its binding: it was altered,
	// or belongs to another recording or patient.
	ErrIntegrity = errors.New("wrapped key failed authentication")

	// ErrRetired means that the recording key is wrapped under a retired version of the envelope
	// key. [Retirer.Reinstate] brings that version back, unless it was trimmed.
	ErrRetired = errors.New("key version is retired")

	// ErrInvalidVersion means that the envelope key has no such version, or that the version does
	// not allow the call: one that is not retired cannot be trimmed, and one that was trimmed
	// cannot be reinstated.
	ErrInvalidVersion = errors.New("invalid key version")

	// ErrInvalidPatient means that the patient identifier is empty, longer than [MaxPatientLen] or
	// not UTF-8.
	ErrInvalidPatient = errors.New("invalid patient identifier")

	// ErrInvalidKeyID means that the text is not a KeyID.
	ErrInvalidKeyID = errors.New("invalid key ID")

	// ErrInvalidRecordingID means that the text is not a recording's ID.
	ErrInvalidRecordingID = errors.New("invalid recording ID")

	// ErrUnsupported means that the wrapped key was made by another kind of keyring. It is not damaged.
	ErrUnsupported = errors.New("wrapped key is of another kind of keyring")

	// ErrForeignStore means that the keyring serves the recordings of another place than this one, or of
	// none yet. See [StoreID].
	ErrForeignStore = errors.New("keyring is not for this bucket and prefix")

	// ErrInvalidStoreID means that the text is not a StoreID.
	ErrInvalidStoreID = errors.New("invalid store ID")

	// ErrInvalidWrappedKey means that the text is not a wrapped key. Keyrings return it together with
	// ErrIntegrity.
	ErrInvalidWrappedKey = errors.New("invalid wrapped key")
)
