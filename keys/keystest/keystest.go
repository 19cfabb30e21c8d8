// Package keystest is the conformance suite of keyrings: what the comments of package keys promise,
// as tests. A keyring is right when [Run] passes on it.
package keystest

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

// Keyring holds every role at once. A deployment holds them apart.
type Keyring interface {
	keys.Enroller
	keys.Wrapper
	keys.Unwrapper
	keys.Granter
	keys.Revoker
	keys.Rotator
	keys.Retirer
	keys.Trimmer
	keys.Eraser
}

// Run holds a keyring to its contract. Each call of open gives a keyring of its own, or one that is
// safe to share: the suite makes up patients as it goes and expects nothing of any other.
//
// It takes a few seconds, because a grant must be seen to expire, and makes a few thousand calls.
func Run(t *testing.T, open func(t *testing.T) Keyring) {
	w := newWatch()
	for _, promise := range []struct {
		name string
		hold func(*fixture)
	}{
		{"a patient has one pseudonym", pseudonyms},
		{"similar identifiers are different patients", similarPatients},
		{"an identifier of the greatest length is a patient", longestPatient},
		{"enrolling twice changes nothing", enrolTwice},
		{"an invalid patient is refused everywhere", invalidPatients},

		{"a wrapped key unwraps with a grant", roundTrip},
		{"a patient without an envelope key has no wraps", notEnrolled},
		{"the zero KeyID names no key", noKeyID},
		{"a wrapped key opens for its binding alone", otherBinding},
		{"an altered wrapped key does not open", alteredWrap},
		{"a lying version does not open", lyingVersion},
		{"what is no wrapped key does not open", unparseableWrap},

		{"a grant says what was asked for", grantDetails},
		{"grant options have bounds", grantOptionsBounds},
		{"a grant does not need an enrolled patient", grantBeforeEnrolment},
		{"a grant for another patient is denied", otherPatientsGrant},
		{"a grant is not widened by its details", tamperedDetails},
		{"a malformed grant is not valid", malformedGrants},
		{"a grant expires", expiry},
		{"a grant is revoked by its accessor", revokeByAccessor},
		{"a grant is revoked by its holder", revokeByHolder},
		{"an unknown accessor is no grant", unknownAccessor},
		{"a copy of a grant is the grant", copiedGrant},
		{"a grant is used up", usedUp},
		{"a refused attempt takes a use", refusedAttemptTakesUse},
		{"a revocation takes the last use", revocationTakesUse},

		{"rotation adds a version and loses none", rotation},
		{"rewrapping renews the wrap and keeps the key", rewrap},
		{"rewrapping keeps order and tells good from bad", rewrapMixed},
		{"rewrapping nothing gives nothing", rewrapNothing},
		{"rewrapping takes any number of items", rewrapMany},

		{"a retired version does not unwrap, and can be reinstated", retirement},
		{"retiring never reinstates, and reinstating never retires", retiringOneWay},
		{"the newest version is never retired", retireNewest},
		{"a trimmed version is gone for good", trimming},
		{"a version is trimmed only when it is retired", trimUnretired},
		{"versions that are not are refused", invalidVersions},
		{"a rotation is dated", rotationTime},

		{"what was erased stays erased", erasure},
		{"erasing one patient leaves the others", erasureOfOne},
		{"an erased patient who is enrolled anew has a new key", enrolAfterErasure},

		{"a cancelled call does nothing", cancelled},
		{"a keyring is safe for concurrent use", concurrentUse},
		{"retiring and trimming beside other use lose nothing", concurrentRetirement},
		{"concurrent enrolment makes one key", concurrentEnrolment},
		{"concurrent uses of a grant are counted", concurrentUses},
	} {
		t.Run(promise.name, func(t *testing.T) {
			promise.hold(&fixture{Keyring: &watched{open(t), w}, T: t, watch: w})
		})
	}
	for _, leak := range w.leaks() {
		t.Errorf("an error's text gives away a %s", leak)
	}
}

// fixture is a keyring and the test that it is used in.
type fixture struct {
	Keyring
	*testing.T
	watch *watch
}

// newPatient makes up a patient, who is not enrolled.
func (f *fixture) newPatient() keys.Patient {
	text := "patient-" + rand.Text()
	f.watch.secret("patient identifier", []byte(text))
	return keys.Patient(text)
}

// enrolled makes up a patient and enrols them.
func (f *fixture) enrolled() (keys.Patient, keys.KeyID) {
	f.Helper()
	patient := f.newPatient()
	id, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	return patient, id
}

// recording is a recording key as its vault has it.
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
	key := keys.NewRecordingKey()
	f.watch.secret("recording key", key.Bytes())
	rec := recording{binding: keys.NewRecordingID(id).Binding(), key: bytes.Clone(key.Bytes())}
	var err error
	rec.wrapped, err = f.Wrap(f.Context(), rec.binding, key)
	return rec, err
}

// options are those of an ordinary grant.
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

// rotated rotates an envelope key a number of times.
func (f *fixture) rotated(id keys.KeyID, times int) {
	f.Helper()
	for range times {
		require.NoError(f, f.Rotate(f.Context(), id))
	}
}

// hasVersions holds an envelope key to its versions. When the last was made is another matter.
func (f *fixture) hasVersions(id keys.KeyID, latest, minDecryption, minAvailable int) {
	f.Helper()
	versions, err := f.Versions(f.Context(), id)
	require.NoError(f, err)
	assert.False(f, versions.Rotated.IsZero())
	versions.Rotated = time.Time{}
	assert.Equal(f, keys.Versions{Latest: latest, MinDecryption: minDecryption, MinAvailable: minAvailable}, versions)
}

// unwrap returns only the error of an Unwrap, and fails if it gave another key, or a key beside an
// error.
func (f *fixture) unwrap(grant keys.Grant, rec recording) error {
	f.Helper()
	key, err := f.Unwrap(f.Context(), grant, rec.binding, rec.wrapped)
	if err != nil {
		assert.Nil(f, key, "there is a key beside the error")
		return err
	}
	assert.True(f, bytes.Equal(rec.key, key.Bytes()), "the key that came back is not the one that was wrapped")
	return nil
}

// opens holds the grant to opening the recording.
func (f *fixture) opens(grant keys.Grant, rec recording) {
	f.Helper()
	assert.NoError(f, f.unwrap(grant, rec))
}

// denied holds an error to saying that a valid grant is for another patient.
func (f *fixture) denied(err error) {
	f.Helper()
	assert.ErrorIs(f, err, keys.ErrDenied)
	assert.NotErrorIs(f, err, keys.ErrInvalidGrant)
}

// ended holds an error to saying that the grant is expired, revoked or used up.
func (f *fixture) ended(err error) {
	f.Helper()
	assert.ErrorIs(f, err, keys.ErrDenied)
	assert.ErrorIs(f, err, keys.ErrInvalidGrant)
}

// unreadable holds an error to saying that a wrapped key is no good for its binding. Text that is no
// wrapped key at all may be called that instead.
func (f *fixture) unreadable(wrapped keys.WrappedKey, err error) {
	f.Helper()
	if _, _, _, parseErr := wrapped.Parse(); parseErr != nil {
		assert.True(f, isOneOf(err, keys.ErrIntegrity, keys.ErrInvalidWrappedKey), "%v", err)
		return
	}
	assert.ErrorIs(f, err, keys.ErrIntegrity)
}
