// Package keys defines what a keyring does and who may ask for it: patients and their pseudonyms,
// recording keys and their wrapped form, grants, and one small interface for each role that a
// deployment can hold separately.
//
// Most callers need four names: [Patient], [Grant], [GrantOptions] and the errors. Package vault
// handles recording keys and their wrapping.
//
// Two keyrings implement every role: [github.com/recvault/recvault/keys/transit] on HashiCorp
// Vault's Transit engine, and [github.com/recvault/recvault/keys/local] in a directory, for
// development and single hosts. A keyring is correct if it passes the conformance suite in
// [github.com/recvault/recvault/keys/keystest].
//
// A keyring serves the recordings of one store and prefix. Retiring or trimming a version ends it wherever it was
// used, and only the recordings of one place can be checked before. So writers, retirers and trimmers compare
// the place's [StoreID] with the one that the keyring has recorded.
//
// Three rules hold for every method of the interfaces below. A method that takes a [KeyID] or a
// [Binding] returns [ErrInvalidKeyID] for the zero value. A method whose context has already ended
// changes nothing and returns the context's error. A method that uses the process's own credentials returns
// [ErrUnauthenticated] if the keyring does not know them or they have ended; for a grant that is [ErrInvalidGrant].
package keys

import (
	"context"
	"time"
)

// Enroller creates the envelope keys of patients.
type Enroller interface {
	// Enrol creates the patient's envelope key if there is none, and returns the KeyID that names
	// it. Enrolling again is not an error and changes nothing. Enrolling an erased patient creates
	// a new key; what was wrapped under the old one stays unreadable.
	//
	// Errors: [ErrInvalidPatient], [ErrDenied], [ErrUnavailable].
	Enrol(ctx context.Context, patient Patient) (KeyID, error)
}

// Wrapper is the writer's role: it wraps recording keys and cannot unwrap them.
type Wrapper interface {
	// KeyID returns the patient's pseudonym, whether or not the patient is enrolled.
	//
	// Errors: [ErrInvalidPatient], [ErrDenied], [ErrUnavailable].
	KeyID(ctx context.Context, patient Patient) (KeyID, error)

	// ClaimStore returns nil if the keyring serves this store. A keyring that serves none yet may record this
	// one, for good; if it cannot, an administrator records it. Writers call ClaimStore before they wrap for a
	// store for the first time.
	//
	// Errors: [ErrForeignStore], [ErrInvalidStoreID], [ErrDenied], [ErrUnavailable].
	ClaimStore(ctx context.Context, store StoreID) error

	// Wrap encrypts a recording key under the newest version of the envelope key that the binding
	// names. The result unwraps for that binding only. Wrap never creates an envelope key.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Wrap(ctx context.Context, binding Binding, key *Key) (WrappedKey, error)
}

// Unwrapper is what a grant's holder can do. An implementation uses the grant's own authority and
// none of its own.
type Unwrapper interface {
	// Unwrap decrypts a wrapped recording key for its binding. The service that keeps the keys
	// decides whether the grant fits. An implementation presents a grant for another patient to
	// that service too, so that the attempt is recorded there. Each call takes one of the grant's
	// uses, and another one if a request is repeated because its answer was lost.
	//
	// Errors:
	//   - [ErrDenied]: the grant is for another patient.
	//   - [ErrInvalidGrant] together with ErrDenied: the grant is expired, revoked or used up.
	//   - ErrInvalidGrant alone: the grant is malformed.
	//   - [ErrIntegrity]: the key was altered, or was wrapped for another binding. Text that is not
	//     a wrapped key at all gives [ErrInvalidWrappedKey] as well.
	//   - [ErrUnsupported]: another kind of keyring wrapped the key.
	//   - [ErrRetired]: the key was wrapped under a version that no longer unwraps.
	//   - [ErrNotEnrolled], [ErrErased]. A keyring may take another use of the grant to find out
	//     which of the two applies; if none is left it returns ErrNotEnrolled.
	//   - [ErrUnavailable].
	Unwrap(ctx context.Context, grant Grant, binding Binding, wrapped WrappedKey) (*Key, error)

	// CheckGrant presents the grant to the keyring for the patient that its details name, and unwraps nothing. It takes
	// one of the grant's uses, as Unwrap does, and does not show whether the patient is enrolled or was erased.
	//
	// Errors: [ErrDenied], also together with [ErrInvalidGrant], as for Unwrap; ErrInvalidGrant, [ErrUnavailable].
	CheckGrant(ctx context.Context, grant Grant) error

	// RevokeSelf ends the grant and every copy of it at the keyring, at once. A vault that has cached keys for
	// the grant goes on opening recordings with them for the TTL of its cache. So a logout calls EndGrant of
	// package vault, which calls RevokeSelf and drops them.
	//
	// Errors: [ErrInvalidGrant] if it had already ended, [ErrUnavailable].
	RevokeSelf(ctx context.Context, grant Grant) error
}

// Granter issues grants. Its holder can open any patient's recordings, so it belongs in the one
// place that decides who may see what, never in the process that lists and serves recordings.
type Granter interface {
	// Issue creates a grant for the patient's recordings, whether or not the patient is enrolled. A
	// keyring may shorten the TTL to its own maximum; [Grant.Expires] returns the actual end. If the
	// answer is lost on its way to the caller, the grant ends with its TTL and nobody has it.
	//
	// Errors: [ErrInvalidPatient], [ErrInvalidGrantOptions], [ErrDenied], [ErrUnavailable].
	Issue(ctx context.Context, patient Patient, options GrantOptions) (Grant, error)
}

// Revoker ends grants that it does not hold.
type Revoker interface {
	// Revoke ends the grant with this accessor ([Grant.Accessor]). It returns [ErrInvalidGrant] for
	// a grant that is unknown or has already ended.
	//
	// Errors: ErrInvalidGrant, [ErrDenied], [ErrUnavailable].
	Revoke(ctx context.Context, accessor string) error
}

// Rotator rotates envelope keys and rewraps recording keys. It never sees either kind of key.
type Rotator interface {
	// Rotate adds a version to an envelope key. New wraps use it; older versions still unwrap.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Rotate(ctx context.Context, id KeyID) error

	// Versions reports the versions of an envelope key.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// Rewrap encrypts wrapped recording keys of one patient again, under the newest version of the
	// envelope key. It takes any number of items; an implementation cuts them into batches. The
	// results are in the order of the items, and each has its own error: [ErrIntegrity] for a key
	// that was not wrapped for its binding, for another patient's binding and for the zero Binding;
	// [ErrInvalidWrappedKey] together with ErrIntegrity for text that is not a wrapped key;
	// [ErrUnsupported] for a key that another kind of keyring wrapped; and [ErrRetired] for a key
	// wrapped under a version that no longer unwraps.
	//
	// Errors: [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable]. With an error there are
	// no results.
	Rewrap(ctx context.Context, id KeyID, items []RewrapItem) ([]RewrapResult, error)
}

// Retirer ends the use of old versions of envelope keys, and can bring them back. These are two
// methods, so that a job that acts on outdated versions cannot undo a retirement by mistake.
type Retirer interface {
	// Versions is as in [Rotator].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// CheckStore returns nil if the keyring serves this store. Callers check the store whose recordings they have
	// read before they call Retire.
	//
	// Errors: [ErrForeignStore], [ErrInvalidStoreID], [ErrDenied], [ErrUnavailable].
	CheckStore(ctx context.Context, store StoreID) error

	// Retire retires the versions below oldest: what is wrapped under them no longer unwraps or
	// rewraps, and both give [ErrRetired]. Versions that are retired already stay so; Retire never
	// reinstates one. Wrapping goes on with the newest version, which cannot be retired. Rewrap
	// first whatever must stay readable.
	//
	// Errors: [ErrInvalidVersion] if oldest is below 1 or above the newest version;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Retire(ctx context.Context, id KeyID, oldest int) error

	// Reinstate undoes retirements: the versions from oldest on unwrap again. Versions that unwrap
	// already are left as they are; Reinstate never retires one.
	//
	// Errors: [ErrInvalidVersion] if oldest is below 1, above the newest version, or trimmed;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Reinstate(ctx context.Context, id KeyID, oldest int) error
}

// Trimmer destroys retired versions of envelope keys.
type Trimmer interface {
	// Versions is as in [Rotator].
	Versions(ctx context.Context, id KeyID) (Versions, error)

	// CheckStore returns nil if the keyring serves this store. Callers check the store whose recordings they have
	// read before they call Trim.
	//
	// Errors: [ErrForeignStore], [ErrInvalidStoreID], [ErrDenied], [ErrUnavailable].
	CheckStore(ctx context.Context, store StoreID) error

	// Trim destroys the versions below oldest for good, and with them whatever is still wrapped
	// under them. They must be retired. Trimming versions that are destroyed already changes
	// nothing. Backups of the keyring keep the versions until the backups expire.
	//
	// Errors: [ErrInvalidVersion] if oldest is below 1, or above the oldest version that unwraps;
	// [ErrNotEnrolled], [ErrErased], [ErrDenied], [ErrUnavailable].
	Trim(ctx context.Context, id KeyID, oldest int) error
}

// Eraser destroys envelope keys.
type Eraser interface {
	// Erase destroys every version of an envelope key for good, and with them whatever was wrapped
	// under them. It leaves a mark, from which later calls return [ErrErased]. Erasing again is not
	// an error. Backups of the keyring keep the key until the backups expire.
	//
	// Errors: [ErrNotEnrolled] if there never was such a key, [ErrDenied], [ErrUnavailable].
	Erase(ctx context.Context, id KeyID) error
}

// Keyring has the methods of every role. Which of them succeed is up to the credentials that it holds.
type Keyring interface {
	Enroller
	Wrapper
	Unwrapper
	Granter
	Revoker
	Rotator
	Retirer
	Trimmer
	Eraser
}

// Versions are the versions of an envelope key, counted from 1:
// 1 <= MinAvailable <= MinDecryption <= Latest.
type Versions struct {
	Latest        int // the version that wraps
	MinDecryption int // the oldest version that still unwraps; older ones are retired
	MinAvailable  int // the oldest version that exists; older ones were trimmed

	// Rotated is when Latest was made, by the keyring's clock, to the second or better.
	Rotated time.Time

	// Label is the part of this keyring's wrapped keys that names it, such as "vault". "" if it is not known.
	Label string

	// Now is the keyring's clock when it answered, to the second or better. Zero if it is not known.
	Now time.Time
}

// RewrapItem is one recording key to rewrap.
type RewrapItem struct {
	Binding Binding
	Wrapped WrappedKey
}

// RewrapResult is the outcome for one RewrapItem: a wrapped key or an error.
type RewrapResult struct {
	Wrapped WrappedKey
	Err     error
}
