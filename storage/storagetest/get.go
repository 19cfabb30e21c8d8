package storagetest

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testGet(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("returns the range and the Info of the whole", func(t *testing.T) { testRanges(t, open(t)) })
	t.Run("of a missing object is ErrNotFound", func(t *testing.T) { testGetNotFound(t, open(t)) })
	t.Run("may be closed early", func(t *testing.T) { testGetClosedEarly(t, open(t)) })
	t.Run("returns one version, never a mix", func(t *testing.T) { testGetWhileReplaced(t, open(t)) })
}

func testRanges(t *testing.T, store storage.Store) {
	for _, size := range []int64{0, 1, 100_000, partSize + 100} {
		content := data(1, int(size))
		name := fmt.Sprintf("object-of-%d", size)
		put(t, store, name, content, storage.Condition{})
		stat, err := store.Stat(t.Context(), name)
		require.NoError(t, err)
		for _, r := range [][2]int64{
			{0, -1},
			{0, 0},
			{0, 1},
			{0, size},
			{0, size + 1},
			{1, -1},
			{1, 0},
			{1, 1},
			{1, size},
			{size / 2, size / 4},
			{max(size, 1) - 1, 1},
			{max(size, 1) - 1, -1},
			{max(size, 1) - 1, 100},
			{size, 0},
			{size, 1},
			{size, -1},
			{size + 1, 0},
			{size + 1, 10},
			{size + 1, -1},
			{0, math.MaxInt64},
			{1, math.MaxInt64},
			{math.MaxInt64, 1},
			{math.MaxInt64, -1},
			{math.MaxInt64, math.MaxInt64},
		} {
			t.Run(fmt.Sprintf("%d bytes from %d of %d", r[1], r[0], size), func(t *testing.T) {
				object, err := store.Get(t.Context(), name, r[0], r[1])
				require.NoError(t, err)
				got, err := io.ReadAll(object)
				assert.NoError(t, err)
				assert.NoError(t, object.Close())
				assertSame(t, cut(content, r[0], r[1]), got)
				assert.Equal(t, stat, object.Info)
			})
		}
		for _, r := range [][2]int64{{-1, 0}, {-1, -1}, {-1, 10}, {0, -2}, {math.MinInt64, math.MinInt64}} {
			t.Run(fmt.Sprintf("invalid: %d bytes from %d of %d", r[1], r[0], size), func(t *testing.T) {
				_, err := store.Get(t.Context(), name, r[0], r[1])
				assert.ErrorIs(t, err, storage.ErrInvalidRange)
			})
		}
	}
}

// cut returns the range of the content that a Get must return.
func cut(content []byte, offset, length int64) []byte {
	rest := content[min(offset, int64(len(content))):]
	if length < 0 {
		return rest
	}
	return rest[:min(length, int64(len(rest)))]
}

func testGetNotFound(t *testing.T, store storage.Store) {
	put(t, store, "a/object", []byte("1"), storage.Condition{})
	for _, name := range []string{"b", "b/object", "a", "a/objec", "a/object2", "a/object/part"} {
		t.Run(name, func(t *testing.T) {
			for _, r := range [][2]int64{{0, -1}, {0, 0}, {0, 10}, {5, 10}, {5, -1}} {
				_, err := store.Get(t.Context(), name, r[0], r[1])
				assert.ErrorIs(t, err, storage.ErrNotFound, "%d bytes from %d", r[1], r[0])
			}
			assertAbsent(t, store, name)
		})
	}
}

func testGetClosedEarly(t *testing.T, store storage.Store) {
	content := data(1, 2*partSize)
	put(t, store, "object", content, storage.Condition{})
	for range 5 {
		object, err := store.Get(t.Context(), "object", 10, -1)
		require.NoError(t, err)
		got := make([]byte, 1000)
		_, err = io.ReadFull(object, got)
		require.NoError(t, err)
		assertSame(t, content[10:1010], got)
		require.NoError(t, object.Close())
		_, err = object.Read(got)
		assert.Error(t, err, "the object is closed")
		assert.NotErrorIs(t, err, io.EOF)
	}
}

func testGetWhileReplaced(t *testing.T, store storage.Store) {
	const name, size, versions = "object", 1 << 20, 30
	version := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, size) }
	put(t, store, name, version(0), storage.Condition{})

	written := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(written)
		for i := range versions {
			content := version(i + 1)
			_, err := store.Put(t.Context(), name, bytes.NewReader(content), size, storage.Condition{})
			assert.NoError(t, err)
		}
	})
	for range 3 {
		wg.Go(func() {
			seen := byte(0)
			for done := false; !done; {
				select {
				case <-written:
					done = true
				default:
				}
				object, err := store.Get(t.Context(), name, 0, -1)
				if !assert.NoError(t, err) {
					return
				}
				got, err := io.ReadAll(object)
				object.Close()
				if !assert.NoError(t, err) || !assert.Len(t, got, size) {
					return
				}
				assert.Equal(t, size, bytes.Count(got, got[:1]), "a mix of versions")
				assert.GreaterOrEqual(t, got[0], seen, "returned an older version than before")
				seen = got[0]
			}
			assert.Equal(t, byte(versions), seen, "the last Get began after the last Put")
		})
	}
	wg.Wait()
}
