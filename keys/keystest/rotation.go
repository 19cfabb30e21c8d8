package keystest

import (
	"bytes"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func rotation(f *fixture) {
	patient, id := f.enrolled()
	_, other := f.enrolled()
	grant := f.newGrant(patient)
	var recs []recording
	for latest := 1; latest <= 4; latest++ {
		f.hasVersions(id, latest, 1, 1)

		rec := f.newRecording(id)
		version, err := rec.wrapped.Version()
		require.NoError(f, err)
		assert.Equal(f, latest, version, "a wrap does not use the newest version")

		recs = append(recs, rec)
		for _, rec := range recs {
			f.opens(grant, rec)
		}
		require.NoError(f, f.Rotate(f.Context(), id))
	}
	f.hasVersions(other, 1, 1, 1) // the other patient's key was not rotated
}

func rewrap(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	rec := f.newRecording(id)
	require.NoError(f, f.Rotate(f.Context(), id))
	require.NoError(f, f.Rotate(f.Context(), id))

	// The second time, the key is at the newest version already.
	current := rec
	for range 2 {
		results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: current.binding, Wrapped: current.wrapped}})
		require.NoError(f, err)
		require.Len(f, results, 1)
		require.NoError(f, results[0].Err)
		current.wrapped = results[0].Wrapped
		version, err := current.wrapped.Version()
		require.NoError(f, err)
		assert.Equal(f, 3, version)
		f.opens(grant, current)
	}
	f.opens(grant, rec)

	moved := current
	moved.binding = NewRecordingID(id).Binding()
	assert.ErrorIs(f, f.unwrap(grant, moved), keys.ErrIntegrity, "rewrapping untied the key from its recording")
}

func rewrapMixed(f *fixture) {
	patient, id := f.enrolled()
	_, other := f.enrolled()
	grant := f.newGrant(patient)
	good := []recording{f.newRecording(id), f.newRecording(id), f.newRecording(id)}
	foreign := f.newRecording(other)
	require.NoError(f, f.Rotate(f.Context(), id))

	keyring, version, ciphertext, err := good[0].wrapped.Parse()
	require.NoError(f, err)
	flipped := bytes.Clone(ciphertext)
	flipped[len(flipped)-1] ^= 1

	bad := func(what string, binding keys.Binding, wrapped keys.WrappedKey) rewrapCase {
		return rewrapCase{what, recording{binding: binding, wrapped: wrapped}, false}
	}
	cases := []rewrapCase{
		{"first", good[0], true},
		bad("another recording's binding", good[1].binding, good[0].wrapped),
		{"second", good[1], true},
		bad("another patient's recording", foreign.binding, foreign.wrapped),
		bad("another patient's binding", foreign.binding, good[0].wrapped),
		bad("another patient's wrap", good[0].binding, foreign.wrapped),
		bad("flipped bit", good[0].binding, keys.NewWrappedKey(keyring, version, flipped)),
		bad("cut", good[0].binding, keys.NewWrappedKey(keyring, version, ciphertext[:7])),
		bad("empty", good[0].binding, ""),
		bad("not a wrapped key", good[0].binding, "wrapped"),
		bad("no binding", keys.Binding{}, good[0].wrapped),
		{"first again", good[0], true},
		{"third", good[2], true},
	}
	items := make([]keys.RewrapItem, len(cases))
	for i, c := range cases {
		items[i] = keys.RewrapItem{Binding: c.rec.binding, Wrapped: c.rec.wrapped}
	}
	results, err := f.Rewrap(f.Context(), id, items)
	require.NoError(f, err)
	require.Len(f, results, len(items))
	for i, c := range cases {
		f.Run(c.what, func(f *fixture) {
			if !c.good {
				f.unreadable(c.rec.wrapped, results[i].Err)
				assert.Empty(f, results[i].Wrapped, "Rewrap returned a wrapped key with the error")
				return
			}
			assert.NoError(f, results[i].Err)
			f.opens(grant, recording{c.rec.binding, results[i].Wrapped, c.rec.key})
		})
	}

	// Each item has its own error even if all items are bad.
	results, err = f.Rewrap(f.Context(), id, items[3:5])
	require.NoError(f, err)
	require.Len(f, results, 2)
	assert.ErrorIs(f, results[0].Err, keys.ErrIntegrity)
	assert.ErrorIs(f, results[1].Err, keys.ErrIntegrity)
}

type rewrapCase struct {
	what string
	rec  recording
	good bool
}

func rewrapNothing(f *fixture) {
	_, id := f.enrolled()
	results, err := f.Rewrap(f.Context(), id, nil)
	require.NoError(f, err)
	assert.Empty(f, results)
}

func rewrapMany(f *fixture) {
	const n, bad = 1000, 501
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := make([]recording, n)
	items := make([]keys.RewrapItem, n)
	for i := range recs {
		recs[i] = f.newRecording(id)
		items[i] = keys.RewrapItem{Binding: recs[i].binding, Wrapped: recs[i].wrapped}
	}
	items[bad].Binding = NewRecordingID(id).Binding()
	require.NoError(f, f.Rotate(f.Context(), id))

	results, err := f.Rewrap(f.Context(), id, items)
	require.NoError(f, err)
	require.Len(f, results, n)
	for i, result := range results {
		if i == bad {
			assert.ErrorIs(f, result.Err, keys.ErrIntegrity)
			continue
		}
		require.NoError(f, result.Err, "item %d", i)
		version, err := result.Wrapped.Version()
		require.NoError(f, err)
		assert.Equal(f, 2, version, "item %d", i)
		if i%37 == 0 || i == bad-1 || i == bad+1 || i == n-1 {
			f.opens(grant, recording{recs[i].binding, result.Wrapped, recs[i].key})
		}
	}
}
