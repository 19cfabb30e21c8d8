package keystest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func cancelled(f *fixture) {
	patient, id := f.enrolled()
	stranger := f.newPatient()
	f.rotate(id, 3)
	require.NoError(f, f.Retire(f.Context(), id, 3))
	grant, rec := f.newGrant(patient), f.newRecording(id)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()

	for name, call := range map[string]func() error{
		"Enrol": func() error { _, err := f.Enrol(ctx, stranger); return err },
		"KeyID": func() error { _, err := f.KeyID(ctx, f.newPatient()); return err },
		"Wrap": func() error {
			key := keys.NewKey()
			defer key.Wipe()
			_, err := f.Wrap(ctx, rec.binding, key)
			return err
		},
		"Unwrap":     func() error { _, err := f.Unwrap(ctx, grant, rec.binding, rec.wrapped); return err },
		"RevokeSelf": func() error { return f.RevokeSelf(ctx, grant) },
		"Issue":      func() error { _, err := f.Issue(ctx, patient, options()); return err },
		"Revoke":     func() error { return f.Revoke(ctx, grant.Accessor()) },
		"Rotate":     func() error { return f.Rotate(ctx, id) },
		"Versions":   func() error { _, err := f.Versions(ctx, id); return err },
		"Rewrap": func() error {
			_, err := f.Rewrap(ctx, id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
			return err
		},
		"Retire":    func() error { return f.Retire(ctx, id, 4) },
		"Reinstate": func() error { return f.Reinstate(ctx, id, 1) },
		"Trim":      func() error { return f.Trim(ctx, id, 2) },
		"Erase":     func() error { return f.Erase(ctx, id) },
	} {
		f.Run(name, func(f *fixture) { assert.ErrorIs(f, call(), context.Canceled) })
	}

	f.opens(grant, rec)
	f.hasVersions(id, 4, 3, 1)
	strangerID, err := f.KeyID(f.Context(), stranger)
	require.NoError(f, err)
	_, err = f.Versions(f.Context(), strangerID)
	assert.ErrorIs(f, err, keys.ErrNotEnrolled)
}

func concurrentUse(f *fixture) {
	const workers, rounds, rotations = 8, 12, 5
	patient, id := f.enrolled()
	grant := f.newGrant(patient)
	old := f.newRecording(id)

	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				rec, err := f.tryRecording(id)
				if !assert.NoError(f, err) {
					return
				}
				f.opens(grant, rec)
				f.opens(grant, old)
				_, err = f.Enrol(f.Context(), patient)
				assert.NoError(f, err)
				results, err := f.Rewrap(f.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
				if assert.NoError(f, err) && assert.Len(f, results, 1) && assert.NoError(f, results[0].Err) {
					f.opens(grant, recording{rec.binding, results[0].Wrapped, rec.key})
				}
			}
		})
	}
	for range rotations {
		group.Go(func() { assert.NoError(f, f.Rotate(f.Context(), id)) })
	}
	group.Wait()

	f.hasVersions(id, 1+rotations, 1, 1) // no rotation was lost
}

func concurrentEnrolment(f *fixture) {
	const workers = 16
	patient := f.newPatient()
	recs := make([]recording, workers)

	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			id, err := f.Enrol(f.Context(), patient)
			if !assert.NoError(f, err) {
				return
			}
			recs[i], err = f.tryRecording(id)
			assert.NoError(f, err)
		})
	}
	group.Wait()

	// A second key would have replaced the first, and what was wrapped under the first would be lost.
	grant := f.newGrant(patient)
	for _, rec := range recs {
		f.opens(grant, rec)
	}
}

func concurrentUses(f *fixture) {
	const workers, rounds, uses = 12, 4, 17
	patient, id := f.enrolled()
	rec := f.newRecording(id)
	o := options()
	o.MaxUses = uses
	grant := f.newGrantWith(patient, o)

	var opened atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for range rounds {
				err := f.unwrap(grant, rec)
				switch {
				case err == nil:
					opened.Add(1)
				case !errors.Is(err, keys.ErrInvalidGrant) || !errors.Is(err, keys.ErrDenied):
					assert.Fail(f, "the error does not mean that the grant is used up", "%v", err)
				}
			}
		})
	}
	group.Wait()
	assert.EqualValues(f, uses, opened.Load())
}
