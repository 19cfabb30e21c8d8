package keys

import "errors"

// Test for these with errors.Is. Their messages, and those of the errors that wrap them, hold no
// token, no key and no patient identifier.
var (
	// ErrDenied: whoever keeps the keys refused. The grant is for another patient, or the
	// credentials lack the right.
	ErrDenied = errors.New("permission denied")

	// ErrInvalidGrant: the grant is malformed, unknown, expired, revoked or used up. Where the
	// keyring refused it, the error is ErrDenied as well.
	ErrInvalidGrant = errors.New("grant is not valid")

	// ErrInvalidGrantOptions: a grant was asked for with a missing or overlong subject, purpose or
	// request ID, or with a TTL or number of uses out of bounds.
	ErrInvalidGrantOptions = errors.New("invalid grant options")

	// ErrNotEnrolled: the patient has no envelope key.
	ErrNotEnrolled = errors.New("patient is not enrolled")

	// ErrErased: the patient's envelope key was destroyed. Nothing brings it back.
	ErrErased = errors.New("patient was erased")

	// ErrUnavailable: the keyring could not be reached, is sealed, or failed, after bounded
	// retries. Trying again later may help.
	ErrUnavailable = errors.New("keyring is unavailable")

	// ErrIntegrity: a wrapped key does not authenticate for its binding. It was altered, or belongs
	// to another recording or patient.
	ErrIntegrity = errors.New("wrapped key failed authentication")

	// ErrRetired: the recording key was wrapped under a version of the envelope key that was retired.
	// [Retirer.Reinstate] brings it back, unless it was trimmed since.
	ErrRetired = errors.New("key version is retired")

	// ErrInvalidVersion: there is no such version of the envelope key, or it is not one that this can
	// be done to: trimming what was not retired, reinstating what was trimmed.
	ErrInvalidVersion = errors.New("invalid key version")

	// ErrInvalidPatient: the patient identifier is empty, longer than [MaxPatientLen] or not UTF-8.
	ErrInvalidPatient = errors.New("invalid patient identifier")

	// ErrInvalidKeyID: the text is not a KeyID.
	ErrInvalidKeyID = errors.New("invalid key ID")

	// ErrInvalidRecordingID: the text is not a recording's ID.
	ErrInvalidRecordingID = errors.New("invalid recording ID")

	// ErrInvalidWrappedKey: the text is not a wrapped key.
	ErrInvalidWrappedKey = errors.New("invalid wrapped key")
)
