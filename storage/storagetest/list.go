package storagetest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testList(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("yields names with the prefix in byte order", func(t *testing.T) { testListOrder(t, open(t)) })
	t.Run("describes objects as Stat does", func(t *testing.T) { testListInfo(t, open(t)) })
	t.Run("yields more than a thousand", func(t *testing.T) { testListMany(t, open(t)) })
	t.Run("of an empty store is empty", func(t *testing.T) { assert.Empty(t, names(t, open(t), "")) })
	t.Run("refuses prefixes of no valid name", func(t *testing.T) { testListInvalidPrefix(t, open(t)) })
}

func testListOrder(t *testing.T, store storage.Store) {
	all := []string{
		"a-b", "a.b", "a/b", "a/b-c", "a0", "a_b", "aa", // "-" < "." < "/" < "0" < "_" < "a"
		"a1/x", "a1-/x", "a1.", "a10", "a1/x0/y", "a1/x-/y", "a1/x.y",
		"B/c", "Z", "b/c/d/e/f", "b/c/d/e0", "b/c/d-e", "b/c.d", "-", "_", "0/1", ".hidden", "...",
	}
	for i, name := range all {
		put(t, store, name, data(uint64(i), i), storage.Condition{})
	}
	slices.Sort(all)
	for _, prefix := range []string{
		"", "a", "a/", "a/b", "a/b-", "a-", "a.", "a1", "a1/", "a1/x", "a1/x0", "a1/x0/", "a1/x0/y", "a1/x0/yy",
		"b", "b/", "b/c", "b/c/", "b/c/d", "b/c/d/", "b/c/d/e", "b/c/d/e/", "B", ".", "..", "...", "-", "x", "x/y/z", "a0/", "aa/b/c",
	} {
		t.Run(prefix, func(t *testing.T) {
			want := []string{}
			for _, name := range all {
				if strings.HasPrefix(name, prefix) {
					want = append(want, name)
				}
			}
			assert.Equal(t, want, names(t, store, prefix))
		})
	}
}

func testListInfo(t *testing.T, store storage.Store) {
	put(t, store, "a/b", data(1, 10), storage.Condition{})
	put(t, store, "a/c", data(2, partSize+1), storage.Condition{})
	count := 0
	for info, err := range store.List(t.Context(), "a/") {
		require.NoError(t, err)
		stat, err := store.Stat(t.Context(), info.Name)
		require.NoError(t, err)
		assert.Equal(t, stat.Size, info.Size)
		assert.Equal(t, stat.ETag, info.ETag)
		assert.WithinDuration(t, stat.Modified, info.Modified, time.Second, "HTTP counts whole seconds")
		count++
	}
	assert.Equal(t, 2, count)
}

func testListMany(t *testing.T, store storage.Store) {
	const total = 1100
	var all []string
	for i := range total {
		all = append(all, fmt.Sprintf("recordings/%02d/%04d/envelope", i%7, i))
	}
	jobs := make(chan string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for name := range jobs {
				_, err := store.Put(t.Context(), name, bytes.NewReader([]byte("x")), 1, storage.Condition{})
				assert.NoError(t, err)
			}
		})
	}
	for _, name := range all {
		jobs <- name
	}
	close(jobs)
	wg.Wait()
	slices.Sort(all)
	assert.Equal(t, all, names(t, store, ""))

	list := store.List(t.Context(), "recordings/")
	for range 2 { // a sequence can be used again
		var got []string
		for info, err := range list {
			require.NoError(t, err)
			got = append(got, info.Name)
			if len(got) == 10 {
				break
			}
		}
		assert.Equal(t, all[:10], got)
	}

	// Objects that are deleted during a listing may or may not be yielded; all others are yielded once.
	seen := map[string]int{}
	for info, err := range store.List(t.Context(), "") {
		require.NoError(t, err)
		seen[info.Name]++
		if i, _ := slices.BinarySearch(all, info.Name); i%100 == 0 {
			for _, ahead := range all[min(i+1, total):min(i+3, total)] {
				require.NoError(t, store.Delete(t.Context(), ahead))
			}
		}
	}
	for i, name := range all {
		if i%100 == 1 || i%100 == 2 {
			assert.LessOrEqual(t, seen[name], 1)
		} else {
			assert.Equal(t, 1, seen[name], name)
		}
	}
}

func testListInvalidPrefix(t *testing.T, store storage.Store) {
	put(t, store, "a/b", nil, storage.Condition{})
	for _, prefix := range []string{"/", "a//", "../", "./", "a/../", "a b", "ä", "a\x00", strings.Repeat("a", 256)} {
		t.Run(prefix, func(t *testing.T) {
			count := 0
			for info, err := range store.List(t.Context(), prefix) {
				assert.ErrorIs(t, err, storage.ErrInvalidName)
				assert.Zero(t, info)
				count++
			}
			assert.Equal(t, 1, count)
		})
	}
}
