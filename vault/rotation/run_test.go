package rotation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// stuck is a keyring that does not answer.
type stuck struct{ rotation.Keyring }

func (stuck) Rewrap(ctx context.Context, _ keys.KeyID, _ []keys.RewrapItem) ([]keys.RewrapResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestCancelledRunCountsNoUncheckedPatient(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	r := b.put(t, patient, 10)
	e := b.envelope(t, r.id)
	for _, part := range []string{"envelope", "media"} {
		require.NoError(t, b.store.Delete(t.Context(), objectName(r.id, part)))
	}
	// The first patient has as many envelopes as may be in flight, so the second waits.
	for i := range 257 {
		fill := byte(1)
		if i == 256 {
			fill = 2
		}
		e.ID = keystest.NewRecordingID(keys.NewKeyID(bytes.Repeat([]byte{fill}, keys.KeyIDBytes)))
		teststore.Write(t, b.store, objectName(e.ID, "envelope"), e.Encode())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last job.Progress
	options := rotation.Options{Progress: func(p job.Progress) {
		last = p
		if p.Patients == 2 {
			cancel()
		}
	}}
	report, err := b.rotation(t, stuck{b.rotator}, options).Rewrap(ctx, scope.All())
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, rotation.Patients{Seen: 2}, report.Patients)
	assert.True(t, last.Final)
	assert.Less(t, last.Fraction, 1.0)
}

func TestCancelledRunReportsAndCanBeRunAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.Enrol(t)
		recordings := b.putMany(t, patient, 40)
		b.rotate(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		store := &faulty{Store: b.store}
		writes := 0
		store.beforePut = func(string) {
			if writes++; writes == 5 {
				cancel()
			}
		}
		report, err := rotationOf(t, b.rotator, store, rotation.Options{Concurrency: 2}).Rewrap(ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
		assert.GreaterOrEqual(t, report.Envelopes.Rewrapped, 5, "writes that were begun are finished")
		assert.Less(t, report.Envelopes.Rewrapped, 10)
		assert.Zero(t, report.Envelopes.Failed, "%+v", report)
		assert.Equal(t, report.Envelopes.Rewrapped, store.puts())

		rest := b.rewrap(t)
		assert.Equal(t, 40-report.Envelopes.Rewrapped, rest.Envelopes.Rewrapped, "none is done twice")
		b.requireOpens(t, recordings...)

		again := b.rotation(t, b.rotator, rotation.Options{})
		_, err = again.Rotate(ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
		_, err = again.Retire(ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
		_, err = again.Plan(ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
	})
}

func TestCancelledRunDoesNotWaitForTheRate(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	b.putMany(t, patient, 4)
	b.rotate(t)
	verbs := map[string]func(*rotation.Rotation, context.Context, scope.Scope) (rotation.Report, error){
		"rotate": (*rotation.Rotation).Rotate, "rewrap": (*rotation.Rotation).Rewrap,
	}
	for rate, options := range map[string]rotation.Options{"keyring": {KeyringRate: 0.01}, "storage": {StorageRate: 0.01}} {
		for name, verb := range verbs {
			t.Run(name+" at the "+rate+"'s rate", func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				start := time.Now()
				report, err := verb(b.rotation(t, b.rotator, options), ctx, scope.All())
				if err == nil {
					return // it needs no more than one such request
				}
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Less(t, time.Since(start), 2*time.Second)
				assert.Zero(t, report.Findings.Total())
			})
		}
	}
}

func TestProgressIsSequentialAndFinalIsLast(t *testing.T) {
	b := embedded(t)
	for range 30 {
		patient, _ := b.Enrol(t)
		b.put(t, patient, 10)
	}
	b.rotate(t)
	var mu sync.Mutex
	var calls []job.Progress
	options := rotation.Options{KeyringRate: 50, Progress: func(p job.Progress) {
		assert.True(t, mu.TryLock(), "called concurrently")
		defer mu.Unlock()
		calls = append(calls, p)
	}}
	report, err := b.rotation(t, b.rotator, options).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	require.Greater(t, len(calls), 3)
	for i, p := range calls[1:] {
		assert.GreaterOrEqual(t, p.Done, calls[i].Done)
		assert.GreaterOrEqual(t, p.Fraction, calls[i].Fraction)
		assert.Equal(t, i == len(calls)-2, p.Final)
	}
	last := calls[len(calls)-1]
	assert.Equal(t, report.Patients.Seen, last.Patients)
	assert.Equal(t, report.Envelopes.Seen, last.Recordings)
	assert.Equal(t, report.Envelopes.Rewrapped, last.Done)
	assert.Equal(t, 1.0, last.Fraction)
	assert.Greater(t, calls[len(calls)/2].Fraction, 0.1)
	assert.GreaterOrEqual(t, report.Finished.Sub(report.Started), 29*time.Second/50, "the rate is kept")
}

func TestReportIsBoundedJSONWithoutPatients(t *testing.T) {
	b := embedded(t)
	alice, _ := b.Enrol(t)
	for _, r := range b.putMany(t, alice, job.MaxListed+20) {
		teststore.Write(t, b.store, objectName(r.id, "envelope"), []byte("{}"))
	}
	report := b.rewrap(t)
	assert.Len(t, report.Findings.Listed, job.MaxListed)
	assert.Equal(t, map[job.Kind]int64{rotation.KindMalformed: job.MaxListed + 20}, report.Findings.Counts)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	assert.NotContains(t, string(text), string(alice))
	var again rotation.Report
	require.NoError(t, json.Unmarshal(text, &again))
	assert.Equal(t, report.Findings, again.Findings)
	for _, field := range []string{`"not_enrolled":0`, `"superseded":0`, `"versions_before":{}`, `"keyring":0`} {
		assert.Contains(t, string(text), field)
	}
	assert.False(t, strings.Contains(string(text), `"id":""`))
}

// waiting is a keyring and a store, whose changes wait until they are released or their context ends.
type waiting struct {
	rotation.Keyring
	storage.Store
	released chan struct{}
}

func (w waiting) wait(ctx context.Context) error {
	select {
	case <-w.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w waiting) Rotate(ctx context.Context, id keys.KeyID) error {
	if err := w.wait(ctx); err != nil {
		return err
	}
	return w.Keyring.Rotate(ctx, id)
}

func (w waiting) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if err := w.wait(ctx); err != nil {
		return storage.Info{}, err
	}
	return w.Store.Put(ctx, name, r, size, condition)
}

// cancelMidway begins a run of two requests at a time over six patients with six recordings each, and cancels it
// once its changes wait.
func cancelMidway(t *testing.T, verb func(*rotation.Rotation, context.Context, scope.Scope) (rotation.Report, error),
	afterwards func(waiting),
) (report rotation.Report, took time.Duration) {
	t.Helper()
	b := embedded(t)
	for range 6 {
		patient, _ := b.Enrol(t)
		b.putMany(t, patient, 6)
	}
	b.rotate(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := waiting{b.rotator, b.store, make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		report, err = verb(rotationOf(t, w, w, rotation.Options{Concurrency: 2}), ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
	}()
	synctest.Wait()
	start := time.Now()
	cancel()
	synctest.Wait()
	afterwards(w)
	<-done
	return report, time.Since(start)
}

func TestCancelledRunFinishesBegunChangesOnly(t *testing.T) {
	release := func(w waiting) { close(w.released) }
	t.Run("rewrap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			report, took := cancelMidway(t, (*rotation.Rotation).Rewrap, release)
			assert.Equal(t, 2, report.Requests.Writes)
			assert.Equal(t, 2, report.Envelopes.Rewrapped)
			assert.Zero(t, report.Findings.Total(), "%+v", report)
			assert.Zero(t, took)
		})
	})
	t.Run("rotate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			report, took := cancelMidway(t, (*rotation.Rotation).Rotate, release)
			assert.Equal(t, 2, report.Patients.Changed)
			assert.Zero(t, report.Findings.Total(), "%+v", report)
			assert.Zero(t, took)
		})
	})
}

func TestCancelledRunEndsAfterFiveSeconds(t *testing.T) {
	never := func(waiting) {}
	t.Run("rewrap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			report, took := cancelMidway(t, (*rotation.Rotation).Rewrap, never)
			assert.Equal(t, 5*time.Second, took)
			assert.Equal(t, 2, report.Envelopes.Failed)
			assert.Equal(t, map[job.Kind]int64{rotation.KindInterrupted: 2}, report.Findings.Counts)
		})
	})
	t.Run("rotate", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			report, took := cancelMidway(t, (*rotation.Rotation).Rotate, never)
			assert.Equal(t, 5*time.Second, took)
			assert.Equal(t, 2, report.Patients.Failed)
			assert.Equal(t, map[job.Kind]int64{rotation.KindInterrupted: 2}, report.Findings.Counts)
		})
	})
}

// TestBothRatesAreUsedUp: requests that wait for one rate do not keep others from the other.
func TestBothRatesAreUsedUp(t *testing.T) {
	for _, concurrency := range []int{1, 8} {
		t.Run(fmt.Sprintf("concurrency %d", concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := embedded(t)
				for range 60 {
					patient, _ := b.Enrol(t)
					b.put(t, patient, 10)
				}
				b.rotate(t)
				options := rotation.Options{Concurrency: concurrency, KeyringRate: 10, StorageRate: 20}
				start := time.Now()
				report, err := b.rotation(t, b.rotator, options).Rewrap(t.Context(), scope.All())
				require.NoError(t, err)
				assert.Equal(t, rotation.Requests{Keyring: 60, Lists: 1, Reads: 60, Writes: 60}, report.Requests)
				took := time.Since(start)
				assert.GreaterOrEqual(t, took, 119*time.Second/20)
				assert.Less(t, took, 7*time.Second, "one after the other would take 12 s")
			})
		})
	}
}
