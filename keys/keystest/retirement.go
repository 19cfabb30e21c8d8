package keystest

import (
	"errors"
	"strconv"
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
	f.rotate(bystanderID, 1)
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

	// A retired version stays retired after a rotation and another enrolment.
	f.rotate(id, 1)
	f.hasVersions(id, 5, 4, 1)
	f.opensFrom(4, grant, id, recs)
	_, err := f.Enrol(f.Context(), patient)
	require.NoError(f, err)
	f.hasVersions(id, 5, 4, 1)

	f.hasVersions(bystanderID, 2, 1, 1) // the other patient's versions were not retired
	f.opens(f.newGrant(bystander), bystanderRec)
}

func retiringOneWay(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 4)

	require.NoError(f, f.Retire(f.Context(), id, 3))
	require.NoError(f, f.Retire(f.Context(), id, 2), "already retired")
	require.NoError(f, f.Retire(f.Context(), id, 1))
	f.hasVersions(id, 4, 3, 1)
	require.NoError(f, f.Reinstate(f.Context(), id, 3))
	require.NoError(f, f.Reinstate(f.Context(), id, 4), "already unwraps")
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
	for range 2 { // the second time changes nothing
		require.NoError(f, f.Trim(f.Context(), id, 3))
		f.hasVersions(id, 5, 4, 3)
	}
	require.NoError(f, f.Trim(f.Context(), id, 2), "already trimmed")
	f.hasVersions(id, 5, 4, 3)
	f.opensFrom(4, grant, id, recs)

	assert.ErrorIs(f, f.Reinstate(f.Context(), id, 2), keys.ErrInvalidVersion)
	assert.ErrorIs(f, f.Reinstate(f.Context(), id, 1), keys.ErrInvalidVersion)
	f.hasVersions(id, 5, 4, 3)
	require.NoError(f, f.Reinstate(f.Context(), id, 3), "retired, but not trimmed")
	f.hasVersions(id, 5, 3, 3)
	f.opensFrom(3, grant, id, recs)

	// After a trim, the key can still be rotated, retired and trimmed.
	for latest := 6; latest <= 7; latest++ {
		f.rotate(id, 1)
		recs = append(recs, f.newRecording(id))
		f.hasVersions(id, latest, latest-3, latest-3)
		f.opensFrom(latest-3, grant, id, recs)
		require.NoError(f, f.Retire(f.Context(), id, latest-2))
		require.NoError(f, f.Trim(f.Context(), id, latest-2))
		f.hasVersions(id, latest, latest-2, latest-2)
		f.opensFrom(latest-2, grant, id, recs)
	}

	// Only the newest version is left.
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

	require.NoError(f, f.Trim(f.Context(), id, 1), "no version is below the first")
	assert.ErrorIs(f, f.Trim(f.Context(), id, 2), keys.ErrInvalidVersion)
	require.NoError(f, f.Retire(f.Context(), id, 2))
	assert.ErrorIs(f, f.Trim(f.Context(), id, 3), keys.ErrInvalidVersion)
	require.NoError(f, f.Retire(f.Context(), id, 3))
	require.NoError(f, f.Reinstate(f.Context(), id, 1))
	assert.ErrorIs(f, f.Trim(f.Context(), id, 2), keys.ErrInvalidVersion, "version 1 was reinstated")
	f.hasVersions(id, 3, 1, 1)
	f.opensFrom(1, grant, id, recs)
}

func invalidVersions(f *fixture) {
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	recs := f.oneOfEachVersion(id, 3)
	require.NoError(f, f.Retire(f.Context(), id, 2))
	for _, version := range []int{-1 << 40, -1, 0, 4, 5, 1 << 40} {
		f.Run(strconv.Itoa(version), func(f *fixture) {
			assert.ErrorIs(f, f.Retire(f.Context(), id, version), keys.ErrInvalidVersion, "Retire")
			assert.ErrorIs(f, f.Reinstate(f.Context(), id, version), keys.ErrInvalidVersion, "Reinstate")
			assert.ErrorIs(f, f.Trim(f.Context(), id, version), keys.ErrInvalidVersion, "Trim")
		})
	}
	f.hasVersions(id, 3, 2, 1)
	f.opensFrom(2, grant, id, recs)

	for what, c := range map[string]struct {
		id   keys.KeyID
		want error
	}{
		"erased":       {f.erasedID(), keys.ErrErased},
		"not enrolled": {f.strangerID(), keys.ErrNotEnrolled},
		"zero KeyID":   {keys.KeyID{}, keys.ErrInvalidKeyID},
	} {
		f.Run(what, func(f *fixture) {
			assert.ErrorIs(f, f.Retire(f.Context(), c.id, 1), c.want, "Retire")
			assert.ErrorIs(f, f.Reinstate(f.Context(), c.id, 1), c.want, "Reinstate")
			assert.ErrorIs(f, f.Trim(f.Context(), c.id, 1), c.want, "Trim")
			_, err := f.Versions(f.Context(), c.id)
			assert.ErrorIs(f, err, c.want, "Versions after the other calls")
		})
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
	// The time may be in whole seconds, so a rotation within the same second may not change it.
	f.repeat(func() bool {
		f.rotate(id, 1)
		return rotated().After(first)
	})

	// For more than a second, other changes leave the time as it is.
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

// repeat calls do ten times a second until it returns true. It fails after ten seconds.
func (f *fixture) repeat(do func() (done bool)) {
	f.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); !do(); <-ticker.C {
		require.True(f, time.Now().Before(deadline), "not done within ten seconds")
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
	// Each goroutine acts on versions that the others may have changed since.
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

// unlessOutdated returns nil if a version was refused, because it was read before another change.
func unlessOutdated(err error) error {
	if errors.Is(err, keys.ErrInvalidVersion) {
		return nil
	}
	return err
}

// oneOfEachVersion rotates a new envelope key up to version latest, and returns one recording
// wrapped under each version.
func (f *fixture) oneOfEachVersion(id keys.KeyID, latest int) []recording {
	f.Helper()
	recs := []recording{f.newRecording(id)}
	for len(recs) < latest {
		f.rotate(id, 1)
		recs = append(recs, f.newRecording(id))
	}
	return recs
}

// opensFrom fails unless the recordings wrapped under version oldest or later open and rewrap, and
// the others give ErrRetired.
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
		assert.Empty(f, results[i].Wrapped, "Rewrap returned a wrapped key with the error")
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
