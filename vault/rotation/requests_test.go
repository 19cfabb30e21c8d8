package rotation

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// requestsOf returns requests with some rates, of which a number may be under way.
func requestsOf(keyringRate, storageRate float64, slots int) *requests {
	q := &requests{keyringTurns: newTurns(keyringRate), storageTurns: newTurns(storageRate)}
	q.reads.slots, q.writes.slots = make(chan struct{}, slots), make(chan struct{}, slots)
	q.calls.slots = q.reads.slots
	return q
}

func TestRequestWaitingForItsRateHoldsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := requestsOf(0, 0.001, 1)
		end, err := q.begin(t.Context(), q.storageTurns, &q.reads)
		require.NoError(t, err)
		end()
		go func() {
			_, err := q.begin(t.Context(), q.storageTurns, &q.reads)
			assert.ErrorIs(t, err, context.Canceled)
		}()
		synctest.Wait()
		start := time.Now()
		end, err = q.begin(t.Context(), q.keyringTurns, &q.calls)
		require.NoError(t, err)
		end()
		assert.Zero(t, time.Since(start))
		assert.Equal(t, Requests{Keyring: 1, Reads: 1}, q.counts())
	})
}

func TestRateIsKeptAfterRequestsWereSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := requestsOf(0, 1, 2)
		slow, err := q.begin(t.Context(), q.keyringTurns, &q.calls)
		require.NoError(t, err)
		slower, err := q.begin(t.Context(), q.keyringTurns, &q.calls)
		require.NoError(t, err)
		var reading sync.WaitGroup
		for range 10 {
			reading.Go(func() {
				end, err := q.begin(t.Context(), q.storageTurns, &q.reads)
				if assert.NoError(t, err) {
					end()
				}
			})
		}
		time.Sleep(time.Minute)
		assert.Zero(t, q.counts().Reads)
		slow()
		slower()
		start := time.Now()
		reading.Wait()
		assert.GreaterOrEqual(t, time.Since(start), 8*time.Second, "one had its turn, and the rate allows one more at once")
	})
}

func TestNoRequestBeginsAfterItsContextHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := requestsOf(0, 0, 1)
		end, err := q.begin(t.Context(), q.keyringTurns, &q.calls)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 10 {
			waiting.Go(func() {
				_, err := q.begin(ctx, q.storageTurns, &q.reads)
				assert.ErrorIs(t, err, context.Canceled)
			})
		}
		synctest.Wait()
		cancel()
		end() // both at once
		waiting.Wait()
		assert.Zero(t, q.counts().Reads)
		assert.Empty(t, q.reads.slots)
	})
}
