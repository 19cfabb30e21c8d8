// Package keystest is the conformance suite of keyrings. It tests what the comments of package keys
// promise. A keyring is correct if [Run] passes.
package keystest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

// Store is the store that a keyring under test serves.
const Store keys.StoreID = "KEYSTESTKEYSTESTKEYSTESTKE"

// Run tests a keyring against the contract in package keys. Each call of open returns a new keyring
// or one that is safe to share: the suite uses patients of its own and depends on no others.
//
// The keyring serves [Store], or no store yet.
//
// It takes a few seconds, because it waits for a grant to expire, and makes a few thousand calls.
func Run(t *testing.T, open func(t *testing.T) keys.Keyring) {
	w := newWatch()
	for _, promise := range []struct {
		name  string
		check func(*fixture)
	}{
		{"a patient has one pseudonym", pseudonyms},
		{"similar identifiers are different patients", similarPatients},
		{"the longest identifier is a patient", longestPatient},
		{"enrolling twice changes nothing", enrolTwice},
		{"every call refuses an invalid patient", invalidPatients},

		{"a keyring serves one store", oneStore},

		{"a wrapped key unwraps with a grant", roundTrip},
		{"a patient must be enrolled", notEnrolled},
		{"the zero KeyID names no key", noKeyID},
		{"a wrapped key opens only for its binding", otherBinding},
		{"an altered wrapped key does not open", alteredWrap},
		{"a wrapped key with a false version does not open", falseVersion},
		{"a malformed wrapped key does not open", malformedWrap},
		{"another keyring's wrapped key is unsupported", foreignWrap},
		{"a metadata key is wrapped for its own binding", metadataKey},

		{"a grant has the details that were asked for", grantDetails},
		{"grant options have bounds", grantOptionsBounds},
		{"a grant does not need an enrolled patient", grantBeforeEnrolment},
		{"a grant for another patient is denied", otherPatientsGrant},
		{"a grant's details do not widen it", tamperedDetails},
		{"a malformed grant is not valid", malformedGrants},
		{"a grant to describe opens nothing", describeOnly},
		{"a grant expires", expiry},
		{"a grant is revoked by its accessor", revokeByAccessor},
		{"a grant is revoked by its holder", revokeByHolder},
		{"an unknown accessor is not valid", unknownAccessor},
		{"a copy of a grant is the same grant", copiedGrant},
		{"a grant is checked without a recording", checkedGrant},
		{"a grant is used up", usedUp},
		{"a refused attempt takes a use", refusedAttemptTakesUse},
		{"a revocation takes the last use", revocationTakesUse},

		{"rotation adds a version and loses none", rotation},
		{"rewrapping renews the wrap and keeps the key", rewrap},
		{"rewrapping reports each item in order", rewrapMixed},
		{"rewrapping no items returns no results", rewrapNothing},
		{"rewrapping takes any number of items", rewrapMany},

		{"a retired version can be reinstated", retirement},
		{"Retire never reinstates, Reinstate never retires", retiringOneWay},
		{"the newest version is never retired", retireNewest},
		{"a trimmed version is gone for good", trimming},
		{"only a retired version is trimmed", trimUnretired},
		{"unknown versions are refused", invalidVersions},
		{"a rotation is dated", rotationTime},

		{"an erased key stays erased", erasure},
		{"erasing one patient leaves the others", erasureOfOne},
		{"enrolling an erased patient makes a new key", enrolAfterErasure},

		{"a cancelled call does nothing", cancelled},
		{"a keyring is safe for concurrent use", concurrentUse},
		{"concurrent retiring and trimming lose nothing", concurrentRetirement},
		{"concurrent enrolment makes one key", concurrentEnrolment},
		{"concurrent uses of a grant are counted", concurrentUses},
	} {
		t.Run(promise.name, func(t *testing.T) {
			promise.check(&fixture{Keyring: &watched{open(t), w}, T: t, watch: w})
		})
	}
	for _, leak := range w.leaks() {
		t.Errorf("an error's text reveals a %s", leak)
	}
}

// fixture is a keyring and the test that uses it.
type fixture struct {
	keys.Keyring
	*testing.T
	watch *watch
}

// Run runs a subtest on the same keyring.
func (f *fixture) Run(name string, check func(*fixture)) {
	f.T.Run(name, func(t *testing.T) { check(&fixture{f.Keyring, t, f.watch}) })
}

// newPatient returns a new patient who is not enrolled.
func (f *fixture) newPatient() keys.Patient {
	text := "patient-" + rand.Text()
	f.watch.secret("patient identifier", []byte(text))
	return keys.Patient(text)
}

// enrolled returns a new patient who is enrolled.
func (f *fixture) enrolled() (keys.Patient, keys.KeyID) {
	f.Helper()
	patient := f.newPatient()
	id, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	return patient, id
}

// recording is a wrapped recording key and what it must unwrap to.
type recording struct {
	binding keys.Binding
	wrapped keys.WrappedKey
	key     []byte
}

// newRecording wraps a fresh recording key for a fresh binding.
func (f *fixture) newRecording(id keys.KeyID) recording {
	f.Helper()
	rec, err := f.tryRecording(id)
	require.NoError(f, err)
	return rec
}

func (f *fixture) tryRecording(id keys.KeyID) (recording, error) {
	key := keys.NewKey()
	f.watch.secret("recording key", key.Bytes())
	rec := recording{binding: NewRecordingID(id).Binding(), key: bytes.Clone(key.Bytes())}
	var err error
	rec.wrapped, err = f.Wrap(f.Context(), rec.binding, key)
	return rec, err
}

// options returns the options of an ordinary grant.
func options() keys.GrantOptions {
	return keys.GrantOptions{TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment}
}

// newGrant issues an ordinary grant.
func (f *fixture) newGrant(patient keys.Patient) keys.Grant {
	f.Helper()
	return f.newGrantWith(patient, options())
}

func (f *fixture) newGrantWith(patient keys.Patient, options keys.GrantOptions) keys.Grant {
	f.Helper()
	grant, err := f.Issue(f.Context(), patient, options)
	require.NoError(f, err)
	return grant
}

// rotate rotates an envelope key a number of times.
func (f *fixture) rotate(id keys.KeyID, times int) {
	f.Helper()
	for range times {
		require.NoError(f, f.Rotate(f.Context(), id))
	}
}

// hasVersions fails unless an envelope key has these versions. It ignores when the newest was made.
func (f *fixture) hasVersions(id keys.KeyID, latest, minDecryption, minAvailable int) {
	f.Helper()
	versions, err := f.Versions(f.Context(), id)
	require.NoError(f, err)
	assert.False(f, versions.Rotated.IsZero())
	label, _, _, err := f.newRecording(id).wrapped.Parse()
	require.NoError(f, err)
	assert.Equal(f, label, versions.Label)
	versions.Label, versions.Rotated, versions.Now = "", time.Time{}, time.Time{}
	assert.Equal(f, keys.Versions{Latest: latest, MinDecryption: minDecryption, MinAvailable: minAvailable}, versions)
}

// unwrap returns the error of Unwrap. It fails if Unwrap returned another key, or a key with an error.
func (f *fixture) unwrap(grant keys.Grant, rec recording) error {
	f.Helper()
	key, err := f.Unwrap(f.Context(), grant, rec.binding, rec.wrapped)
	if err != nil {
		assert.Nil(f, key, "Unwrap returned a key with the error")
		return err
	}
	assert.True(f, bytes.Equal(rec.key, key.Bytes()), "the unwrapped key is not the one that was wrapped")
	return nil
}

// opens fails unless the grant opens the recording.
func (f *fixture) opens(grant keys.Grant, rec recording) {
	f.Helper()
	assert.NoError(f, f.unwrap(grant, rec))
}

// denied fails unless err means that a valid grant is for another patient.
func (f *fixture) denied(err error) {
	f.Helper()
	assert.ErrorIs(f, err, keys.ErrDenied)
	assert.NotErrorIs(f, err, keys.ErrInvalidGrant)
}

// ended fails unless err means that the grant is expired, revoked or used up.
func (f *fixture) ended(err error) {
	f.Helper()
	assert.ErrorIs(f, err, keys.ErrDenied)
	assert.ErrorIs(f, err, keys.ErrInvalidGrant)
}

// unreadable fails unless err means that a wrapped key does not authenticate for its binding and, exactly
// for text that is not a wrapped key at all, that it is none.
func (f *fixture) unreadable(wrapped keys.WrappedKey, err error) {
	f.Helper()
	assert.ErrorIs(f, err, keys.ErrIntegrity)
	_, _, _, parseErr := wrapped.Parse()
	assert.Equal(f, parseErr != nil, errors.Is(err, keys.ErrInvalidWrappedKey), "ErrInvalidWrappedKey: %v", err)
}

// NewRecordingID returns the ID of a recording that does not exist. An ID of a recording that does is derived from its
// key, which a keyring need not know.
func NewRecordingID(keyID keys.KeyID) keys.RecordingID {
	var rec [keys.RecBytes]byte
	_, _ = rand.Read(rec[:]) // never fails: crypto/rand crashes the program instead
	return keys.RecordingIDOf(keyID, rec)
}
