package objects_test

import (
	"context"
	"errors"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
)

var (
	errItem = errors.New("an item is an error")
	errWork = errors.New("a call failed")
)

// numbers yields 0 to n-1 and then, unless it is nil, an error.
func numbers(n int, err error) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := range n {
			if !yield(i, nil) {
				return
			}
		}
		if err != nil {
			yield(0, err)
		}
	}
}

// crew counts calls.
type crew struct{ begun, running, most atomic.Int64 }

// call runs work as one call.
func (c *crew) call(work func() error) error {
	c.begun.Add(1)
	now := c.running.Add(1)
	defer c.running.Add(-1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	return work()
}

func TestEachCallsWorkForEveryItem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		var sum atomic.Int64
		err := objects.Each(t.Context(), numbers(100, nil), 7, func(_ context.Context, i int) error {
			return c.call(func() error {
				time.Sleep(time.Second)
				sum.Add(int64(i))
				return nil
			})
		})
		require.NoError(t, err)
		assert.EqualValues(t, 4950, sum.Load())
		assert.EqualValues(t, 7, c.most.Load(), "as many at a time as it may")
		assert.Zero(t, c.running.Load())
	})
}

func TestEachReturnsTheFirstError(t *testing.T) {
	t.Run("of a call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var c crew
			err := objects.Each(t.Context(), numbers(1000, errItem), 4, func(ctx context.Context, i int) error {
				return c.call(func() error {
					if i == 2 {
						time.Sleep(time.Second)
						return errWork
					}
					<-ctx.Done() // the others end because that one failed
					return ctx.Err()
				})
			})
			assert.Equal(t, errWork, err)
			assert.Zero(t, c.running.Load())
			assert.LessOrEqual(t, c.begun.Load(), int64(5), "no more items after an error")
		})
	})
	t.Run("of an item", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var c crew
			err := objects.Each(t.Context(), numbers(3, errItem), 4, func(ctx context.Context, i int) error {
				return c.call(func() error {
					time.Sleep(time.Second)
					assert.NoError(t, ctx.Err(), "what is running runs to its end")
					time.Sleep(time.Duration(i+1) * time.Second)
					return errWork
				})
			})
			assert.Equal(t, errItem, err)
			assert.EqualValues(t, 3, c.begun.Load())
			assert.Zero(t, c.running.Load())
		})
	})
}

func TestEachStopsWhenTheContextEnds(t *testing.T) {
	for name, result := range map[string]func(context.Context) error{
		"the calls notice": context.Context.Err,
		"no call notices":  func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var c crew
				err := objects.Each(ctx, numbers(1000, nil), 4, func(ctx context.Context, i int) error {
					return c.call(func() error {
						if i == 10 {
							cancel()
						}
						time.Sleep(time.Second)
						return result(ctx)
					})
				})
				assert.ErrorIs(t, err, context.Canceled)
				assert.Less(t, c.begun.Load(), int64(20))
				assert.Zero(t, c.running.Load())
			})
		})
	}
	t.Run("before the first item", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := objects.Each(ctx, numbers(3, nil), 4, func(context.Context, int) error {
			t.Error("a call")
			return nil
		})
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("during the last call", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := objects.Each(ctx, numbers(1, nil), 4, func(context.Context, int) error {
			cancel()
			return nil
		})
		assert.ErrorIs(t, err, context.Canceled, "that call may not have finished its work")
	})
}
