package keystest

import (
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func erasure(f *fixture) {
	patient, id := f.enrolled()
	before := f.newGrant(patient)
	rec := f.newRecording(id)
	require.NoError(f, f.Rotate(f.Context(), id))
	require.NoError(f, f.Erase(f.Context(), id))

	stillErased := func() {
		f.Helper()
		_, err := f.tryRecording(id)
		assert.ErrorIs(f, err, keys.ErrErased, "Wrap")
		assert.ErrorIs(f, f.unwrap(before, rec), keys.ErrErased, "Unwrap")
		assert.ErrorIs(f, f.unwrap(f.newGrant(patient), rec), keys.ErrErased, "Unwrap with a later grant")
		assert.ErrorIs(f, f.Rotate(f.Context(), id), keys.ErrErased, "Rotate")
		_, err = f.Versions(f.Context(), id)
		assert.ErrorIs(f, err, keys.ErrErased, "Versions")
		results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
		assert.ErrorIs(f, err, keys.ErrErased, "Rewrap")
		assert.Empty(f, results, "Rewrap returned results with the error")
		again, err := f.KeyID(f.Context(), patient)
		assert.NoError(f, err, "KeyID")
		assert.Equal(f, id, again)
	}
	stillErased()
	assert.NoError(f, f.Erase(f.Context(), id), "erasing again")
	stillErased()
}

func erasureOfOne(f *fixture) {
	bystander, bystanderID := f.enrolled()
	rec := f.newRecording(bystanderID)
	patient, id := f.enrolled()
	require.NoError(f, f.Erase(f.Context(), id))

	f.opens(f.newGrant(bystander), rec)
	f.opens(f.newGrant(bystander), f.newRecording(bystanderID))

	// Unwrap denies another patient's grant even after the erasure.
	erased := recording{binding: NewRecordingID(id).Binding(), wrapped: rec.wrapped}
	f.denied(f.unwrap(f.newGrant(bystander), erased))
	assert.ErrorIs(f, f.unwrap(f.newGrant(patient), erased), keys.ErrErased)
}

func enrolAfterErasure(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	old := f.newRecording(id)
	require.NoError(f, f.Erase(f.Context(), id))

	again, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	assert.Equal(f, id, again)
	_, err = f.Versions(f.Context(), id)
	require.NoError(f, err)

	assert.ErrorIs(f, f.unwrap(grant, old), keys.ErrIntegrity, "the erased key came back")
	results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: old.binding, Wrapped: old.wrapped}})
	require.NoError(f, err)
	require.Len(f, results, 1)
	assert.ErrorIs(f, results[0].Err, keys.ErrIntegrity)

	f.opens(f.newGrant(patient), f.newRecording(id))
	require.NoError(f, f.Rotate(f.Context(), id))
	require.NoError(f, f.Erase(f.Context(), id), "erasing the new key")
	_, err = f.tryRecording(id)
	assert.ErrorIs(f, err, keys.ErrErased)
}
