// Package keys names what a keyring is asked for and who may ask it: patients and their pseudonyms,
// recording keys and how they are wrapped, grants, and one small interface for each role that a
// deployment can hold separately.
//
// Two keyrings implement every role: [github.com/recvault/recvault/keys/transit] on HashiCorp
// Vault's Transit engine, and [github.com/recvault/recvault/keys/local] in a directory, for
// development and single hosts. The conformance suite in keys/keystest is what makes a keyring
// right.
//
// Every method of these interfaces returns [ErrInvalidKeyID] for the zero KeyID and the zero Binding.
//
// Most callers meet four names: [Patient], [Grant], [GrantOptions] and the errors. A recording's key
// and its wrapping are handled by package vault.
package keys

import (
	"context"
	"time"
)

// Enroller gives patients their envelope key.
type Enroller interface {
	// Enrol makes the patient's envelope key, if it does not exist, and returns the KeyID that names
	// it. Enrolling twice is not an error and changes nothing. Enrolling an erased patient makes a
	// new key; what was wrapped under the old one stays lost.
	//
	// Errors: [ErrInvalidPatient], [ErrDenied], [ErrUnavailable].
	Enrol(ctx context.Context, patient Patient) (KeyID, error)
}

// Wrapper is the writer's role: it wraps recording keys and cannot unwrap them.
type Wrapper interface {
	// KeyID returns the patient's pseudonym. It does not tell whether the patient is enrolled.
	//
	// Errors: [ErrInvalidPatient], [ErrDenied], [ErrUnavailable].
	KeyID(ctx context.Context, patient Patient) (KeyID, error)

	// Wrap encrypts a recording key under the newest version of the envelope key that the binding
	// names, so that it can be unwrapped for that binding only. It never makes an envelope key.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Wrap(ctx context.Context, binding Binding, key *RecordingKey) (WrappedKey, error)
}

// Unwrapper is what a grant's holder can do. An implementation uses the grant's own authority and
// none of its own.
type Unwrapper interface {
	// Unwrap decrypts a wrapped recording key for its binding. Whether the grant fits is decided by
	// whoever keeps the keys, never by the caller's process: a grant for another patient is presented
	// there all the same, so that the attempt is on record. Each call takes one of the grant's uses,
	// and another if a request must be repeated because its answer was lost.
	//
	// Errors: [ErrDenied] when the grant is for another patient; [ErrInvalidGrant], which is also
	// ErrDenied, when it is expired, revoked or used up; ErrInvalidGrant alone when it is
	// malformed; [ErrIntegrity] when the key was not wrapped for this binding, or was altered, and
	// together with [ErrInvalidWrappedKey] when it is no wrapped key at all; [ErrRetired] when it was
	// wrapped under a version that no longer unwraps; [ErrNotEnrolled],
	// [ErrErased], [ErrUnavailable]. A keyring may take another use of the grant to tell
	// ErrNotEnrolled from ErrErased; with none left it answers ErrNotEnrolled.
	Unwrap(ctx context.Context, grant Grant, binding Binding, wrapped WrappedKey) (*RecordingKey, error)

	// RevokeSelf ends the grant, at once and for everybody who holds a copy: what a logout calls.
	//
	// Errors: [ErrInvalidGrant] when it had already ended, [ErrUnavailable].
	RevokeSelf(ctx context.Context, grant Grant) error
}

// Granter issues grants. It belongs in the one place that decides who may see what, never in the
// process that lists and serves recordings: whoever holds it can open any patient's recordings.
type Granter interface {
	// Issue makes a grant for the patient's recordings. A keyring may shorten the TTL to its own
	// maximum: [Grant.Expires] tells. It does not tell whether the patient is enrolled. A grant whose
	// answer was lost on the way is known to nobody and ends with its TTL.
	//
	// Errors: [ErrInvalidPatient], [ErrInvalidGrantOptions], [ErrDenied], [ErrUnavailable].
	Issue(ctx context.Context, patient Patient, options GrantOptions) (Grant, error)
}

// Revoker ends grants that it does not hold.
type Revoker interface {
	// Revoke ends the grant with this accessor ([Grant.Accessor]). A grant that is unknown or has
	// already ended gives [ErrInvalidGrant].
	//
	// Errors: ErrInvalidGrant, [ErrDenied], [ErrUnavailable].
	Revoke(ctx context.Context, accessor string) error
}

// Rotator renews envelope keys and re-wraps under them without ever seeing a key.
type Rotator interface {
	// Rotate adds a version to an envelope key. New wraps use it; older ones stay readable.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Rotate(ctx context.Context, id KeyID) error

	// Versions reports the versions of an envelope key.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// Rewrap re-encrypts wrapped recording keys of one patient under the newest version of the
	// envelope key. The results are in the order of the items; each has its own error, which is
	// [ErrIntegrity] for a key that was not wrapped for its binding. Any number of items may be
	// given; an implementation cuts them into batches. A binding of another patient gives
	// ErrIntegrity too, and so does the zero Binding.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable]. With an error there are
	// no results.
	Rewrap(ctx context.Context, id KeyID, items []RewrapItem) ([]RewrapResult, error)
}

// Retirer ends the use of old versions of envelope keys, and can bring them back. Raising and
// lowering are two methods, so that a job with an outdated view cannot undo a retirement unawares.
type Retirer interface {
	// Versions is as in [Rotator].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// Retire sees to it that no version below oldest unwraps or can be wrapped anew: both then give
	// [ErrRetired]. Where older ones are retired already it changes nothing; it never brings a
	// version back. Wrapping goes on with the newest version, which cannot be retired. Whatever must
	// stay readable has to be wrapped anew before.
	//
	// Errors: [ErrInvalidVersion] when oldest is below 1 or above the newest version;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Retire(ctx context.Context, id KeyID, oldest int) error

	// Reinstate takes retirements back: the versions from oldest on unwrap again. Those that unwrap
	// already are left as they are; it never retires a version.
	//
	// Errors: [ErrInvalidVersion] when oldest is below 1, above the newest version, or was trimmed;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Reinstate(ctx context.Context, id KeyID, oldest int) error
}

// Trimmer destroys retired versions of envelope keys.
type Trimmer interface {
	// Versions is as in [Rotator].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// Trim destroys the versions below oldest, and with them whatever is still wrapped under them,
	// for good. They must have been retired. Where they are destroyed already it changes nothing.
	// Backups of the keyring keep them until they expire.
	//
	// Errors: [ErrInvalidVersion] when oldest is below 1, or above the oldest version that unwraps;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Trim(ctx context.Context, id KeyID, oldest int) error
}

// Eraser destroys envelope keys.
type Eraser interface {
	// Erase destroys every version of an envelope key, and with it whatever was wrapped under it,
	// for good, and leaves a mark by which later calls answer [ErrErased]. Erasing twice is not an
	// error. Backups of the keyring keep the key until they expire.
	//
	// Errors: [ErrNotEnrolled] when there never was such a key, [ErrDenied], [ErrUnavailable].
	Erase(ctx context.Context, id KeyID) error
}

// Versions are the versions of an envelope key, counted from 1:
// 1 <= MinAvailable <= MinDecryption <= Latest.
type Versions struct {
	Latest        int // the version that wraps
	MinDecryption int // the oldest version that still unwraps; older ones are retired
	MinAvailable  int // the oldest version that exists; older ones were trimmed

	// Rotated is when Latest was made, by the keyring's clock, to the second or better.
	Rotated time.Time
}

// RewrapItem is one recording key to wrap anew.
type RewrapItem struct {
	Binding Binding
	Wrapped WrappedKey
}

// RewrapResult is what became of one RewrapItem: a wrapped key or an error.
type RewrapResult struct {
	Wrapped WrappedKey
	Err     error
}
