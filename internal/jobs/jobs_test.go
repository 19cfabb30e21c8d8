package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProgressIsSequentialAndFinalIsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var calls []job.Progress
		report := job.NewReport("verify", "all patients", false)
		run := jobs.Start(&report, scope.All(), func(p job.Progress) {
			assert.True(t, mu.TryLock(), "called concurrently")
			defer mu.Unlock()
			time.Sleep(150 * time.Millisecond) // longer than between two calls
			calls = append(calls, p)
		})
		var workers sync.WaitGroup
		for range 8 {
			workers.Go(func() {
				for range 10 {
					time.Sleep(100 * time.Millisecond)
					run.Record(func(p *job.Progress) { p.Done++ })
					run.Find(job.Finding{Kind: "damaged"})
				}
			})
		}
		workers.Wait()
		run.End()

		require.Greater(t, len(calls), 3)
		for i, p := range calls[1:] {
			assert.GreaterOrEqual(t, p.Done, calls[i].Done)
			assert.Greater(t, p.Elapsed, calls[i].Elapsed)
			assert.Equal(t, i == len(calls)-2, p.Final)
		}
		last := calls[len(calls)-1]
		assert.Equal(t, "verify", last.Verb)
		assert.Equal(t, "all patients", last.Scope)
		assert.Equal(t, 80, last.Done)
		assert.EqualValues(t, 80, last.Findings)
		assert.EqualValues(t, 80, report.Findings.Total())
		assert.Len(t, report.Findings.Listed, 80)
		assert.False(t, report.Finished.IsZero())
	})
}

// listing is a store that lists objects and then, perhaps, fails.
type listing struct {
	storage.Store
	names []string
	err   error
}

func (s listing) List(context.Context, string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for _, name := range s.names {
			if !yield(storage.Info{Name: name}, nil) {
				return
			}
		}
		if s.err != nil {
			yield(storage.Info{}, s.err)
		}
	}
}

func TestWalkCountsWhatItHasFound(t *testing.T) {
	namer, err := objects.New(listing{}, "")
	require.NoError(t, err)
	var names []string
	var before []float64 // the part of all KeyIDs before each patient's
	for _, fill := range []byte{0x40, 0x80} {
		id := keys.NewKeyID(bytes.Repeat([]byte{fill}, keys.KeyIDBytes))
		before = append(before, scope.All().Before(id))
		complete, orphan := keystest.NewRecordingID(id), keystest.NewRecordingID(id)
		names = append(names, namer.EnvelopeName(complete), namer.MediaName(complete), namer.MediaName(orphan))
	}
	names = append(names, "recordings/zz")
	failure := errors.New("the test's failure")
	walk := func(t *testing.T, ctx context.Context, err error, stopAfter int) (last job.Progress, items int, walkErr error) {
		o, newErr := objects.New(listing{names: names, err: err}, "")
		require.NoError(t, newErr)
		report := job.NewReport("verify", "all patients", false)
		run := jobs.Start(&report, scope.All(), func(p job.Progress) { last = p })
		for _, err := range run.Walk(ctx, o) {
			if walkErr = err; err == nil {
				items++
			}
			if items == stopAfter {
				break
			}
		}
		run.End()
		return last, items, walkErr
	}
	t.Run("to the end", func(t *testing.T) {
		last, items, err := walk(t, t.Context(), nil, -1)
		require.NoError(t, err)
		assert.Equal(t, 5, items)
		assert.Equal(t, 2, last.Patients)
		assert.Equal(t, 2, last.Recordings, "media without an envelope is no recording")
		assert.Equal(t, 1.0, last.Fraction)
	})
	t.Run("to a failure", func(t *testing.T) {
		last, _, err := walk(t, t.Context(), failure, -1)
		assert.ErrorIs(t, err, failure)
		assert.Equal(t, before[1], last.Fraction)
	})
	t.Run("to a break", func(t *testing.T) {
		last, _, err := walk(t, t.Context(), nil, 1)
		require.NoError(t, err)
		assert.Equal(t, 1, last.Patients)
		assert.Equal(t, before[0], last.Fraction)
	})
	t.Run("with a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		last, _, _ := walk(t, ctx, nil, -1)
		assert.Less(t, last.Fraction, 1.0)
	})
}
