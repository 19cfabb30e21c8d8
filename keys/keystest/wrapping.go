package keystest

import (
	"bytes"
	"fmt"
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
	require.NoError(f, err, "the wrapped key does not have the form of keys.WrappedKey")
	assert.Equal(f, 1, version)

	// Wrapping does not change the key, and each wrap is different.
	key, err := keys.KeyFromBytes(first.key)
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
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "Wrap made an envelope key")

	_, other := f.enrolled()
	rec := f.newRecording(other)
	rec.binding = NewRecordingID(id).Binding()
	assert.ErrorIs(f, f.unwrap(f.newGrant(patient), rec), keys.ErrNotEnrolled)
	assert.ErrorIs(f, f.Rotate(f.Context(), id), keys.ErrNotEnrolled)
	_, err = f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
	assert.ErrorIs(f, err, keys.ErrNotEnrolled)
	assert.ErrorIs(f, f.Erase(f.Context(), id), keys.ErrNotEnrolled)

	_, err = f.Versions(f.Context(), id)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled, "one of the calls above made an envelope key, or the mark of an erasure")
}

func noKeyID(f *fixture) {
	patient, id := f.enrolled()
	grant, rec := f.newGrant(patient), f.newRecording(id)

	_, err := f.Wrap(f.Context(), keys.Binding{}, keys.NewKey())
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

	sameRec, err := keys.ParseRecordingID(bobID.String() + "." + rec.binding.RecordingID().Rec())
	require.NoError(f, err)
	for what, c := range map[string]struct {
		grant   keys.Grant
		binding keys.Binding
	}{
		"a new recording of the patient":         {aliceGrant, NewRecordingID(aliceID).Binding()},
		"an existing recording of the patient":   {aliceGrant, f.newRecording(aliceID).binding},
		"a new recording of the grant's patient": {bobGrant, NewRecordingID(bobID).Binding()},
		"the same rec under the grant's patient": {bobGrant, sameRec.Binding()},
	} {
		f.Run(what, func(f *fixture) {
			assert.ErrorIs(f, f.unwrap(c.grant, recording{binding: c.binding, wrapped: rec.wrapped}), keys.ErrIntegrity)
		})
	}
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

func falseVersion(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	first := f.newRecording(id)
	require.NoError(f, f.Rotate(f.Context(), id))
	second := f.newRecording(id)

	for _, c := range []struct {
		rec     recording
		version int
	}{{first, 2}, {second, 1}, {first, 3}, {second, 99}, {first, keys.MaxKeyVersion}} {
		keyring, version, ciphertext, err := c.rec.wrapped.Parse()
		require.NoError(f, err)
		f.Run(fmt.Sprintf("%d as %d", version, c.version), func(f *fixture) {
			altered := c.rec
			altered.wrapped = keys.NewWrappedKey(keyring, c.version, ciphertext)
			assert.ErrorIs(f, f.unwrap(grant, altered), keys.ErrIntegrity, "Unwrap")

			results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: altered.binding, Wrapped: altered.wrapped}})
			require.NoError(f, err)
			require.Len(f, results, 1)
			assert.ErrorIs(f, results[0].Err, keys.ErrIntegrity, "Rewrap")
		})
	}
	f.opens(grant, first)
	f.opens(grant, second)
}

func malformedWrap(f *fixture) {
	patient, id := f.enrolled()
	grant, rec := f.newGrant(patient), f.newRecording(id)
	keyring, version, _, err := rec.wrapped.Parse()
	require.NoError(f, err)
	encoded := strings.TrimPrefix(string(rec.wrapped), keyring+":v"+strconv.Itoa(version)+":")

	for what, text := range map[string]string{
		"empty":            "",
		"no prefix":        encoded,
		"version 0":        keyring + ":v0:" + encoded,
		"negative version": keyring + ":v-1:" + encoded,
		"leading zero":     keyring + ":v01:" + encoded,
		"plus sign":        keyring + ":v+1:" + encoded,
		"no version":       keyring + ":v:" + encoded,
		"huge version":     keyring + ":v99999999999999999999:" + encoded,
		"no ciphertext":    keyring + ":v1:",
		"line break":       keyring + ":v1:" + encoded[:8] + "\n" + encoded[8:],
		"line break after": string(rec.wrapped) + "\n",
		"space before":     " " + string(rec.wrapped),
		"no base64":        keyring + ":v1:" + encoded[:8] + "!" + encoded[9:],
		"too long":         string(keys.NewWrappedKey(keyring, version, make([]byte, keys.MaxWrappedKeyLen))),
		"the longest":      string(keys.NewWrappedKey(keyring, version, make([]byte, keys.MaxWrappedKeyLen/2))),
	} {
		f.Run(what, func(f *fixture) {
			bad := rec
			bad.wrapped = keys.WrappedKey(text)
			f.unreadable(bad.wrapped, f.unwrap(grant, bad))
		})
	}
	f.opens(grant, rec)
}

func foreignWrap(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	rec := f.newRecording(id)
	_, version, ciphertext, err := rec.wrapped.Parse()
	require.NoError(f, err)
	rec.wrapped = keys.NewWrappedKey("elsewhere", version, ciphertext)
	assert.ErrorIs(f, f.unwrap(grant, rec), keys.ErrUnsupported)
	results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
	require.NoError(f, err)
	require.Len(f, results, 1)
	assert.ErrorIs(f, results[0].Err, keys.ErrUnsupported)
	assert.NotErrorIs(f, results[0].Err, keys.ErrIntegrity)
}

func metadataKey(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	rec := NewRecordingID(id)
	key := keys.NewKey()
	wrapped, err := f.Wrap(f.Context(), rec.MetadataBinding(), key)
	require.NoError(f, err)
	f.opens(grant, recording{rec.MetadataBinding(), wrapped, key.Bytes()})
	assert.ErrorIs(f, f.unwrap(grant, recording{rec.Binding(), wrapped, key.Bytes()}), keys.ErrIntegrity)
	require.NoError(f, f.Rotate(f.Context(), id))
	results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{
		{Binding: rec.MetadataBinding(), Wrapped: wrapped}, {Binding: rec.Binding(), Wrapped: wrapped},
	})
	require.NoError(f, err)
	require.Len(f, results, 2)
	require.NoError(f, results[0].Err)
	assert.ErrorIs(f, results[1].Err, keys.ErrIntegrity)
	f.opens(grant, recording{rec.MetadataBinding(), results[0].Wrapped, key.Bytes()})
}
