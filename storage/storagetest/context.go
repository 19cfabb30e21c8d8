package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/storage"
)

// stopTimeout is how long an operation may take after its context has ended.
const stopTimeout = 5 * time.Second

func testContext(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("that has ended stops every operation", func(t *testing.T) { testCancelledBefore(t, open(t)) })
	t.Run("stops a Put, which leaves nothing", func(t *testing.T) { testCancelledPut(t, open(t)) })
	t.Run("that ends with the data never leaves a part", func(t *testing.T) { testCancelledAtEnd(t, open(t)) })
	t.Run("stops a Get", func(t *testing.T) { testCancelledGet(t, open(t)) })
	t.Run("stops a List", func(t *testing.T) { testCancelledList(t, open(t)) })
	t.Run("ends all goroutines", func(t *testing.T) { testNoLeaks(t, open(t)) })
}

func testCancelledBefore(t *testing.T, store storage.Store) {
	content := data(1, 100)
	old := put(t, store, "old", content, storage.Condition{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	defer cancel()
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(errors.New("some cause"))

	t.Run("cancelled", func(t *testing.T) { testEnded(t, store, cancelled, context.Canceled) })
	t.Run("past its deadline", func(t *testing.T) { testEnded(t, store, late, context.DeadlineExceeded) })
	t.Run("cancelled with a cause", func(t *testing.T) { testEnded(t, store, caused, context.Canceled) })
	assertUnchanged(t, store, old, content)
	assertAbsent(t, store, "new")
}

// testEnded checks that every operation returns the error want if its context has already ended.
func testEnded(t *testing.T, store storage.Store, ctx context.Context, want error) {
	t.Helper()
	for _, name := range []string{"old", "new"} {
		for _, size := range []int{0, 10, 2 * partSize} {
			_, err := store.Put(ctx, name, bytes.NewReader(data(2, size)), -1, storage.Condition{})
			assert.ErrorIs(t, err, want)
		}
		_, err := store.Get(ctx, name, 0, -1)
		assert.ErrorIs(t, err, want)
		_, err = store.Get(ctx, name, 0, 0)
		assert.ErrorIs(t, err, want)
		_, err = store.Stat(ctx, name)
		assert.ErrorIs(t, err, want)
		assert.ErrorIs(t, store.Delete(ctx, name), want)
	}
	count := 0
	for _, err := range store.List(ctx, "") {
		assert.ErrorIs(t, err, want)
		count++
	}
	assert.Equal(t, 1, count)
}

func testCancelledPut(t *testing.T, store storage.Store) {
	content := data(1, 100)
	old := put(t, store, "old", content, storage.Condition{})
	for _, after := range []int64{0, 1, partSize - 1, partSize, partSize + 1, 5 * partSize} {
		for _, size := range []int64{-1, 1 << 30} {
			for _, name := range []string{"old", "new"} {
				t.Run(fmt.Sprintf("%s after %d of %d", name, after, size), func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var ended time.Time
					read := int64(0)
					endless := readerFunc(func(p []byte) (int, error) {
						if read >= after && ended.IsZero() {
							cancel()
							ended = time.Now()
						}
						read += int64(len(p))
						return len(p), nil
					})
					_, err := store.Put(ctx, name, endless, size, storage.Condition{})
					assert.ErrorIs(t, err, context.Canceled)
					assert.Less(t, time.Since(ended), stopTimeout)
				})
			}
		}
	}
	assertUnchanged(t, store, old, content)
	assertAbsent(t, store, "new")
}

func testCancelledAtEnd(t *testing.T, store storage.Store) {
	for _, size := range []int{100, 2 * partSize} {
		for i := range 10 {
			name := fmt.Sprintf("object-%d-%d", size, i)
			content := data(1, size)
			ctx, cancel := context.WithCancel(t.Context())
			reader := io.MultiReader(bytes.NewReader(content), readerFunc(func([]byte) (int, error) {
				time.AfterFunc(time.Duration(i)*time.Millisecond/2, cancel)
				return 0, io.EOF
			}))
			_, err := store.Put(ctx, name, reader, -1, storage.Condition{})
			cancel()
			if err != nil {
				assert.ErrorIs(t, err, context.Canceled)
				assertAbsent(t, store, name)
				continue
			}
			got, _ := get(t, store, name)
			assertSame(t, content, got)
		}
	}
}

func testCancelledGet(t *testing.T, store storage.Store) {
	put(t, store, "object", data(1, 4*partSize), storage.Condition{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	object, err := store.Get(ctx, "object", 0, -1)
	require.NoError(t, err)
	defer object.Close()
	_, err = io.ReadFull(object, make([]byte, 1000))
	require.NoError(t, err)

	cancel()
	ended := time.Now()
	n, err := io.Copy(io.Discard, object)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Less(t, n, int64(3*partSize))
	assert.Less(t, time.Since(ended), stopTimeout)
}

func testCancelledList(t *testing.T, store storage.Store) {
	for i := range 20 {
		put(t, store, fmt.Sprintf("a/%02d", i), nil, storage.Condition{})
	}
	cancelled(t, func(ctx context.Context) iter.Seq2[storage.Info, error] { return store.List(ctx, "") })
}

// cancelled checks that a listing of at least two elements ends with [context.Canceled] if it is cancelled at
// the first element. It returns the cancelled context.
func cancelled[T any](t *testing.T, list func(context.Context) iter.Seq2[T, error]) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, failures := 0, 0
	for _, err := range list(ctx) {
		if err != nil {
			assert.ErrorIs(t, err, context.Canceled)
			failures++
			continue
		}
		seen++
		cancel()
	}
	assert.Equal(t, 1, seen)
	assert.Equal(t, 1, failures)
	return ctx
}

func testNoLeaks(t *testing.T, store storage.Store) {
	before := goleak.IgnoreCurrent()
	put(t, store, "a/large", data(1, 3*partSize), storage.Condition{})
	put(t, store, "a/small", data(1, 10), storage.Condition{})
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		object, err := store.Get(ctx, "a/large", 1, -1)
		require.NoError(t, err)
		_, err = io.ReadFull(object, make([]byte, 10))
		require.NoError(t, err)
		cancel()
		require.NoError(t, object.Close())

		for _, err := range store.List(t.Context(), "") {
			require.NoError(t, err)
			break
		}

		failure := errors.New("the camera failed")
		_, err = store.Put(t.Context(), "b", io.MultiReader(bytes.NewReader(data(1, 3*partSize)), iotest.ErrReader(failure)), -1, storage.Condition{})
		require.ErrorIs(t, err, failure)
	}
	if idler, ok := store.(Idler); ok {
		idler.CloseIdleConnections()
	}
	goleak.VerifyNone(t, before)
}
