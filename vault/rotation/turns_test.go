package rotation

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTurnsDoEveryTaskOnceAndNoMoreAtATimeThanThereAreWorkers(t *testing.T) {
	failure := errors.New("the listing failed")
	for _, workers := range []int{1, 8, 256} {
		for _, mixed := range []bool{false, true} {
			turns := turns{mixed: mixed}
			const tasks = 1000
			var done [kinds][tasks]atomic.Int64
			var underWay, most atomic.Int64
			count := func(k kind, i int) {
				now := underWay.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				done[k][i].Add(1)
				underWay.Add(-1)
			}
			err := turns.do(workers, func() error {
				for i := range tasks {
					turns.add(readTask, func() {
						count(readTask, i)
						turns.add(callTask, func() { count(callTask, i) })
					})
				}
				return failure
			})
			assert.Equal(t, failure, err)
			assert.LessOrEqual(t, most.Load(), int64(workers))
			for k := range kinds {
				for i := range tasks {
					assert.EqualValues(t, 1, done[k][i].Load())
				}
			}
		}
	}
	var idle turns
	assert.NoError(t, idle.do(8, func() error { return nil }))
}

func TestTurnsStayWithAKindUnlessTheyAreMixed(t *testing.T) {
	for mixed, want := range map[bool][]string{
		false: {"read 0", "read 1", "read 2", "call 0", "call 1", "call 2"},
		true:  {"read 0", "call 0", "read 1", "call 1", "read 2", "call 2"},
	} {
		turns := turns{mixed: mixed}
		var got []string
		added := make(chan struct{})
		_ = turns.do(1, func() error {
			for i := range 3 {
				turns.add(readTask, func() {
					<-added
					got = append(got, "read "+strconv.Itoa(i))
					turns.add(callTask, func() { got = append(got, "call "+strconv.Itoa(i)) })
				})
			}
			close(added)
			return nil
		})
		assert.Equal(t, want, got)
	}
}

// Both rates are used up: those who wait for one do not keep the others from the other.
func TestTurnsThatAreMixedDoNotWaitForOneRateAfterTheOther(t *testing.T) {
	turns := turns{mixed: true}
	var called sync.WaitGroup
	called.Add(1)
	_ = turns.do(2, func() error {
		turns.add(readTask, func() { turns.add(callTask, called.Done) })
		for range 3 {
			turns.add(readTask, called.Wait) // a read that comes to its turn after the call
		}
		return nil
	})
}

func TestAForecastAddsWhatTheSameWorkersDo(t *testing.T) {
	f := forecaster{Options{Concurrency: 2}, 10 * time.Millisecond, time.Millisecond}
	forecast := f.forecast(Requests{Keyring: 100, Reads: 100, Writes: 10})
	assert.Equal(t, 550*time.Millisecond, forecast.Duration)
	assert.Contains(t, forecast.Basis, "together 2 at a time")
	forecast = f.forecast(Requests{Keyring: 1, Reads: 100, Writes: 100})
	assert.Equal(t, 300*time.Millisecond, forecast.Duration)
	assert.Contains(t, forecast.Basis, "a write taken for 5 reads")
}
