package keystest

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func roundTrip(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	first, second := f.newRecording(id), f.newRecording(id)
	f.opens(grant, first)
	f.opens(grant, second)
	f.opens(grant, first)

	version, err := first.wrapped.Version()
	require.NoError(f, err, "the wrapped key is not in the form of keys.WrappedKey")
	assert.Equal(f, 1, version)

	// Wrapping leaves the key to its owner, and no two wraps are alike.
	key, err := keys.RecordingKeyFromBytes(first.key)
	require.NoError(f, err)
	again, err := f.Wrap(f.Context(), first.binding, key)
	require.NoError(f, err)
	assert.NotEqual(f, first.wrapped, again)
	assert.True(f, bytes.Equal(first.key, key.Bytes()), "wrapping changed the key")
	f.opens(grant, recording{first.binding, again, first.key})
}

func notEnrolled(f *fixture) {
	patient := f.newPatient()
	id, err := f.KeyID(f.Context(), patient)
	require.NoError(f, err)

	_, err = f.tryRecording(id)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled)
	_, err = f.Versions(f.Context(), id)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "wrapping made an envelope key")

	_, other := f.enrolled()
	rec := f.newRecording(other)
	rec.binding = keys.NewRecordingID(id).Binding()
	assert.ErrorIs(f, f.unwrap(f.newGrant(patient), rec), keys.ErrNotEnrolled)
	assert.ErrorIs(f, f.Rotate(f.Context(), id), keys.ErrNotEnrolled)
	_, err = f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
	assert.ErrorIs(f, err, keys.ErrNotEnrolled)
	assert.ErrorIs(f, f.Erase(f.Context(), id), keys.ErrNotEnrolled)

	_, err = f.Versions(f.Context(), id)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "one of the calls above made an envelope key or a mark")
}

// noKeyID: the zero KeyID names no key.
func noKeyID(f *fixture) {
	patient, id := f.enrolled()
	grant, rec := f.newGrant(patient), f.newRecording(id)

	_, err := f.Wrap(f.Context(), keys.Binding{}, keys.NewRecordingKey())
	assert.ErrorIs(f, err, keys.ErrInvalidKeyID, "Wrap")
	assert.ErrorIs(f, f.unwrap(grant, recording{wrapped: rec.wrapped}), keys.ErrInvalidKeyID, "Unwrap")
	assert.ErrorIs(f, f.Rotate(f.Context(), keys.KeyID{}), keys.ErrInvalidKeyID, "Rotate")
	_, err = f.Versions(f.Context(), keys.KeyID{})
	assert.ErrorIs(f, err, keys.ErrInvalidKeyID, "Versions")
	_, err = f.Rewrap(f.Context(), keys.KeyID{}, []keys.RewrapItem{{Wrapped: rec.wrapped}})
	assert.ErrorIs(f, err, keys.ErrInvalidKeyID, "Rewrap")
	assert.ErrorIs(f, f.Erase(f.Context(), keys.KeyID{}), keys.ErrInvalidKeyID, "Erase")
	f.opens(grant, rec)
}

func otherBinding(f *fixture) {
	alice, aliceID := f.enrolled()
	bob, bobID := f.enrolled()
	rec := f.newRecording(aliceID)
	aliceGrant, bobGrant := f.newGrant(alice), f.newGrant(bob)

	moved := rec
	moved.binding = keys.NewRecordingID(aliceID).Binding()
	assert.ErrorIs(f, f.unwrap(aliceGrant, moved), keys.ErrIntegrity, "another recording of the patient")

	moved.binding = f.newRecording(aliceID).binding
	assert.ErrorIs(f, f.unwrap(aliceGrant, moved), keys.ErrIntegrity, "another recording of the patient, which exists")

	moved.binding = keys.NewRecordingID(bobID).Binding()
	assert.ErrorIs(f, f.unwrap(bobGrant, moved), keys.ErrIntegrity, "a recording of another patient, whose grant it is")

	text := bobID.String() + "." + rec.binding.RecordingID().Rec()
	sameRec, err := keys.ParseRecordingID(text)
	require.NoError(f, err)
	moved.binding = sameRec.Binding()
	assert.ErrorIs(f, f.unwrap(bobGrant, moved), keys.ErrIntegrity, "the recording put under another patient")

	f.opens(aliceGrant, rec)
}

func alteredWrap(f *fixture) {
	patient, id := f.enrolled()
	grant, rec := f.newGrant(patient), f.newRecording(id)
	keyring, version, ciphertext, err := rec.wrapped.Parse()
	require.NoError(f, err)

	alter := func(ciphertext []byte, what string, args ...any) {
		altered := rec
		altered.wrapped = keys.NewWrappedKey(keyring, version, ciphertext)
		require.NotEqual(f, rec.wrapped, altered.wrapped)
		assert.ErrorIs(f, f.unwrap(grant, altered), keys.ErrIntegrity, append([]any{what}, args...)...)
	}
	for i := range ciphertext {
		flipped := bytes.Clone(ciphertext)
		flipped[i] ^= 1 << (i % 8)
		alter(flipped, "bit %d of byte %d of %d flipped", i%8, i, len(ciphertext))
	}
	for _, n := range []int{1, 5, 12, 28, len(ciphertext) / 2, len(ciphertext) - 1} {
		alter(ciphertext[:n], "cut to %d bytes", n)
	}
	alter(ciphertext[1:], "without its first byte")
	alter(append(bytes.Clone(ciphertext), 0), "a byte longer")
	alter(bytes.Repeat([]byte{0}, len(ciphertext)), "all zeroes")

	rec2 := f.newRecording(id)
	_, _, other, err := rec2.wrapped.Parse()
	require.NoError(f, err)
	alter(append(bytes.Clone(ciphertext[:len(ciphertext)/2]), other[len(other)/2:]...), "spliced")

	f.opens(grant, rec)
}

func lyingVersion(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	first := f.newRecording(id)
	require.NoError(f, f.Rotate(f.Context(), id))
	second := f.newRecording(id)

	for _, lie := range []struct {
		rec     recording
		version int
	}{{first, 2}, {second, 1}, {first, 3}, {second, 99}, {first, 1 << 40}} {
		keyring, truth, ciphertext, err := lie.rec.wrapped.Parse()
		require.NoError(f, err)
		lying := lie.rec
		lying.wrapped = keys.NewWrappedKey(keyring, lie.version, ciphertext)
		assert.ErrorIs(f, f.unwrap(grant, lying), keys.ErrIntegrity, "version %d that says it is %d", truth, lie.version)

		results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: lying.binding, Wrapped: lying.wrapped}})
		require.NoError(f, err)
		require.Len(f, results, 1)
		assert.ErrorIs(f, results[0].Err, keys.ErrIntegrity, "rewrap: version %d that says it is %d", truth, lie.version)
	}
	f.opens(grant, first)
	f.opens(grant, second)
}

func unparseableWrap(f *fixture) {
	patient, id := f.enrolled()
	grant, rec := f.newGrant(patient), f.newRecording(id)
	keyring, version, ciphertext, err := rec.wrapped.Parse()
	require.NoError(f, err)
	encoded := strings.TrimPrefix(string(rec.wrapped), keyring+":v"+strconv.Itoa(version)+":")

	for what, text := range map[string]string{
		"empty":             "",
		"no prefix":         encoded,
		"version 0":         keyring + ":v0:" + encoded,
		"negative version":  keyring + ":v-1:" + encoded,
		"leading zero":      keyring + ":v01:" + encoded,
		"plus sign":         keyring + ":v+1:" + encoded,
		"no version":        keyring + ":v:" + encoded,
		"huge version":      keyring + ":v99999999999999999999:" + encoded,
		"no ciphertext":     keyring + ":v1:",
		"line break":        keyring + ":v1:" + encoded[:8] + "\n" + encoded[8:],
		"line break after":  string(rec.wrapped) + "\n",
		"space before":      " " + string(rec.wrapped),
		"no base64":         keyring + ":v1:" + encoded[:8] + "!" + encoded[9:],
		"another keyring's": string(keys.NewWrappedKey("another", version, ciphertext)),
		"too long":          string(keys.NewWrappedKey(keyring, version, make([]byte, keys.MaxWrappedKeyLen))),
		"the longest":       string(keys.NewWrappedKey(keyring, version, make([]byte, keys.MaxWrappedKeyLen/2))),
	} {
		bad := rec
		bad.wrapped = keys.WrappedKey(text)
		f.Logf("unwrap: %s", what)
		f.unreadable(bad.wrapped, f.unwrap(grant, bad))
	}
	f.opens(grant, rec)
}
