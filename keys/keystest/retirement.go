package keystest

import (
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func retirement(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	bystander, bystanderID := f.enrolled()
	f.rotated(bystanderID, 1)
	bystanderRec := f.newRecording(bystanderID)
	recs := f.oneOfEachVersion(id, 4)

	for _, oldest := range []int{2, 2, 4, 3, 1, 1, 4, 4} {
		change := f.Retire
		if versions, err := f.Versions(f.Context(), id); assert.NoError(f, err) && oldest < versions.MinDecryption {
			change = f.Reinstate
		}
		require.NoError(f, change(f.Context(), id, oldest))
		f.hasVersions(id, 4, oldest, 1)
		f.opensFrom(oldest, grant, id, recs)

		rec := f.newRecording(id)
		f.opens(grant, rec)
		version, err := rec.wrapped.Version()
		require.NoError(f, err)
		assert.Equal(f, 4, version, "a wrap does not use the newest version")
	}

	// A retired version stays retired whatever comes after.
	f.rotated(id, 1)
	f.hasVersions(id, 5, 4, 1)
	f.opensFrom(4, grant, id, recs)
	_, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	f.hasVersions(id, 5, 4, 1)

	f.hasVersions(bystanderID, 2, 1, 1) // another patient's versions were not retired
	f.opens(f.newGrant(bystander), bystanderRec)
}

func retiringOneWay(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 4)

	require.NoError(f, f.Retire(f.Context(), id, 3))
	require.NoError(f, f.Retire(f.Context(), id, 2), "what is asked for holds already")
	require.NoError(f, f.Retire(f.Context(), id, 1))
	f.hasVersions(id, 4, 3, 1)
	require.NoError(f, f.Reinstate(f.Context(), id, 3))
	require.NoError(f, f.Reinstate(f.Context(), id, 4), "what is asked for holds already")
	f.hasVersions(id, 4, 3, 1)
	f.opensFrom(3, grant, id, recs)
}

func retireNewest(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 2)

	assert.ErrorIs(f, f.Retire(f.Context(), id, 3), keys.ErrInvalidVersion)
	f.hasVersions(id, 2, 1, 1)
	require.NoError(f, f.Retire(f.Context(), id, 2))
	assert.ErrorIs(f, f.Retire(f.Context(), id, 3), keys.ErrInvalidVersion)
	f.hasVersions(id, 2, 2, 1)
	f.opensFrom(2, grant, id, recs)
}

func trimming(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 5)

	require.NoError(f, f.Retire(f.Context(), id, 4))
	for range 2 { // the second time there is nothing left to do
		require.NoError(f, f.Trim(f.Context(), id, 3))
		f.hasVersions(id, 5, 4, 3)
	}
	require.NoError(f, f.Trim(f.Context(), id, 2), "what is asked for holds already")
	f.hasVersions(id, 5, 4, 3)
	f.opensFrom(4, grant, id, recs)

	assert.ErrorIs(f, f.Reinstate(f.Context(), id, 2), keys.ErrInvalidVersion)
	assert.ErrorIs(f, f.Reinstate(f.Context(), id, 1), keys.ErrInvalidVersion)
	f.hasVersions(id, 5, 4, 3)
	require.NoError(f, f.Reinstate(f.Context(), id, 3), "retired, but not trimmed")
	f.hasVersions(id, 5, 3, 3)
	f.opensFrom(3, grant, id, recs)

	// The next rounds: what is left can be rotated, retired and trimmed like a whole key.
	for latest := 6; latest <= 7; latest++ {
		f.rotated(id, 1)
		recs = append(recs, f.newRecording(id))
		f.hasVersions(id, latest, latest-3, latest-3)
		f.opensFrom(latest-3, grant, id, recs)
		require.NoError(f, f.Retire(f.Context(), id, latest-2))
		require.NoError(f, f.Trim(f.Context(), id, latest-2))
		f.hasVersions(id, latest, latest-2, latest-2)
		f.opensFrom(latest-2, grant, id, recs)
	}

	// Down to the newest.
	require.NoError(f, f.Retire(f.Context(), id, 7))
	require.NoError(f, f.Trim(f.Context(), id, 7))
	f.hasVersions(id, 7, 7, 7)
	f.opensFrom(7, grant, id, recs)
	f.opens(grant, f.newRecording(id))
	require.NoError(f, f.Erase(f.Context(), id))
	assert.ErrorIs(f, f.unwrap(grant, recs[6]), keys.ErrErased)
}

func trimUnretired(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 3)

	require.NoError(f, f.Trim(f.Context(), id, 1), "there is nothing below the first version")
	assert.ErrorIs(f, f.Trim(f.Context(), id, 2), keys.ErrInvalidVersion)
	require.NoError(f, f.Retire(f.Context(), id, 2))
	assert.ErrorIs(f, f.Trim(f.Context(), id, 3), keys.ErrInvalidVersion)
	require.NoError(f, f.Retire(f.Context(), id, 3))
	require.NoError(f, f.Reinstate(f.Context(), id, 1))
	assert.ErrorIs(f, f.Trim(f.Context(), id, 2), keys.ErrInvalidVersion, "its retirement was taken back")
	f.hasVersions(id, 3, 1, 1)
	f.opensFrom(1, grant, id, recs)
}

func invalidVersions(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 3)
	require.NoError(f, f.Retire(f.Context(), id, 2))
	for _, version := range []int{-1 << 40, -1, 0, 4, 5, 1 << 40} {
		assert.ErrorIs(f, f.Retire(f.Context(), id, version), keys.ErrInvalidVersion, "Retire %d", version)
		assert.ErrorIs(f, f.Reinstate(f.Context(), id, version), keys.ErrInvalidVersion, "Reinstate %d", version)
		assert.ErrorIs(f, f.Trim(f.Context(), id, version), keys.ErrInvalidVersion, "Trim %d", version)
	}
	f.hasVersions(id, 3, 2, 1)
	f.opensFrom(2, grant, id, recs)

	for what, c := range map[string]struct {
		id   keys.KeyID
		want error
	}{
		"erased":       {f.erasedID(), keys.ErrErased},
		"not enrolled": {f.strangerID(), keys.ErrNotEnrolled},
		"zero":         {keys.KeyID{}, keys.ErrInvalidKeyID},
	} {
		assert.ErrorIs(f, f.Retire(f.Context(), c.id, 1), c.want, "Retire: %s", what)
		assert.ErrorIs(f, f.Reinstate(f.Context(), c.id, 1), c.want, "Reinstate: %s", what)
		assert.ErrorIs(f, f.Trim(f.Context(), c.id, 1), c.want, "Trim: %s", what)
		_, err := f.Versions(f.Context(), c.id)
		assert.ErrorIs(f, err, c.want, "Versions after those: %s", what)
	}
}

func rotationTime(f *fixture) {
	_, id := f.enrolled()
	rotated := func() time.Time {
		versions, err := f.Versions(f.Context(), id)
		require.NoError(f, err)
		return versions.Rotated
	}
	first := rotated()
	// It may be told to the second only, in which a second rotation does not show.
	f.repeat(func() bool {
		f.rotated(id, 1)
		return rotated().After(first)
	})

	// Nothing but a rotation shows, a second or more later.
	last, start := rotated(), time.Now()
	f.repeat(func() bool {
		versions, err := f.Versions(f.Context(), id)
		require.NoError(f, err)
		require.NoError(f, f.Retire(f.Context(), id, versions.Latest))
		require.NoError(f, f.Trim(f.Context(), id, versions.Latest-1))
		require.NoError(f, f.Reinstate(f.Context(), id, versions.Latest-1))
		return time.Since(start) > 1100*time.Millisecond
	})
	assert.Equal(f, last, rotated())
}

// repeat does something ten times a second until it is done, and not for longer than ten seconds.
func (f *fixture) repeat(do func() (done bool)) {
	f.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); !do(); <-ticker.C {
		require.True(f, time.Now().Before(deadline), "it does not come to an end")
	}
}

func concurrentRetirement(f *fixture) {
	const workers, rounds = 4, 30
	patient, id := f.enrolled()
	grant := f.newGrant(patient)

	var mu sync.Mutex
	var recs []recording
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				rec, err := f.tryRecording(id)
				if !assert.NoError(f, err, "Wrap") {
					return
				}
				mu.Lock()
				recs = append(recs, rec)
				mu.Unlock()
				if err := f.unwrap(grant, rec); err != nil {
					assert.ErrorIs(f, err, keys.ErrRetired)
				}
			}
		})
	}
	// Each works on what it saw, which the others may have changed since.
	for _, change := range []func(keys.Versions) error{
		func(keys.Versions) error { return f.Rotate(f.Context(), id) },
		func(seen keys.Versions) error { return f.Retire(f.Context(), id, seen.Latest) },
		func(seen keys.Versions) error { return f.Retire(f.Context(), id, max(seen.Latest-1, 1)) },
		func(seen keys.Versions) error { return unlessOutdated(f.Reinstate(f.Context(), id, seen.MinAvailable)) },
		func(seen keys.Versions) error {
			return unlessOutdated(f.Trim(f.Context(), id, min(seen.MinAvailable+1, seen.MinDecryption)))
		},
	} {
		group.Go(func() {
			for range rounds {
				seen, err := f.Versions(f.Context(), id)
				if !assert.NoError(f, err) {
					return
				}
				assert.True(f, 1 <= seen.MinAvailable && seen.MinAvailable <= seen.MinDecryption && seen.MinDecryption <= seen.Latest, "%+v", seen)
				assert.NoError(f, change(seen))
			}
		})
	}
	group.Wait()

	versions, err := f.Versions(f.Context(), id)
	require.NoError(f, err)
	assert.Equal(f, 1+rounds, versions.Latest, "a rotation was lost")
	require.NoError(f, f.Reinstate(f.Context(), id, versions.MinAvailable))
	f.opensFrom(versions.MinAvailable, grant, id, recs)
}

// unlessOutdated lets pass that a version was refused.
func unlessOutdated(err error) error {
	if isOneOf(err, keys.ErrInvalidVersion) {
		return nil
	}
	return err
}

// oneOfEachVersion rotates a patient's envelope key, which is new, up to a version, and wraps a
// recording key under each.
func (f *fixture) oneOfEachVersion(id keys.KeyID, latest int) []recording {
	f.Helper()
	recs := []recording{f.newRecording(id)}
	for len(recs) < latest {
		f.rotated(id, 1)
		recs = append(recs, f.newRecording(id))
	}
	return recs
}

// opensFrom holds a patient's recordings to opening and being wrapped anew, if they are wrapped under
// a version from oldest on, and to being retired if not.
func (f *fixture) opensFrom(oldest int, grant keys.Grant, id keys.KeyID, recs []recording) {
	f.Helper()
	items := make([]keys.RewrapItem, len(recs))
	for i, rec := range recs {
		items[i] = keys.RewrapItem{Binding: rec.binding, Wrapped: rec.wrapped}
	}
	results, err := f.Rewrap(f.Context(), id, items)
	require.NoError(f, err)
	require.Len(f, results, len(recs))
	for i, rec := range recs {
		version, err := rec.wrapped.Version()
		require.NoError(f, err)
		if version >= oldest {
			f.opens(grant, rec)
			if assert.NoError(f, results[i].Err, "rewrap of version %d", version) {
				f.opens(grant, recording{rec.binding, results[i].Wrapped, rec.key})
			}
			continue
		}
		err = f.unwrap(grant, rec)
		assert.ErrorIs(f, err, keys.ErrRetired, "version %d", version)
		assert.NotErrorIs(f, err, keys.ErrIntegrity, "version %d", version)
		assert.ErrorIs(f, results[i].Err, keys.ErrRetired, "rewrap of version %d", version)
		assert.Empty(f, results[i].Wrapped, "there is a wrapped key beside the error")
	}
}

func (f *fixture) erasedID() keys.KeyID {
	f.Helper()
	_, id := f.enrolled()
	require.NoError(f, f.Erase(f.Context(), id))
	return id
}

func (f *fixture) strangerID() keys.KeyID {
	f.Helper()
	id, err := f.KeyID(f.Context(), f.newPatient())
	require.NoError(f, err)
	return id
}
