package storagetest

import (
	"bytes"
	"context"
	"errors"
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

func testCopy(t *testing.T, open func(*testing.T) storage.Store) {
	for name, test := range map[string]func(*testing.T, storage.Store, storage.Copier){
		"has the source's contents and size": testCopyContents,
		"is independent of its source":       testCopyIndependent,
		"needs a source":                     testCopyNotFound,
		"never replaces an object":           testCopyExists,
		"refuses invalid names":              testCopyNames,
		"of many to one name has one winner": testCopyRace,
		"of a replaced source is no mixture": testCopyWhileReplaced,
		"stops when the context has ended":   testCopyContext,
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			copier, ok := store.(storage.Copier)
			if !ok {
				t.Skip("the store does not implement storage.Copier")
			}
			test(t, store, copier)
		})
	}
}

// copySizes include none, one part, and several parts with a short last one.
var copySizes = []int{0, 1, 100_000, partSize, 5*partSize + 1}

func testCopyContents(t *testing.T, store storage.Store, copier storage.Copier) {
	for _, size := range copySizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			content := data(1, size)
			from, to := fmt.Sprintf("a/%d", size), fmt.Sprintf("b/c/%d", size)
			source := put(t, store, from, content, storage.Condition{})
			info, err := copier.Copy(t.Context(), from, to)
			require.NoError(t, err)
			assert.Equal(t, to, info.Name)
			assert.Equal(t, int64(size), info.Size)
			got, found := get(t, store, to)
			assertSame(t, content, got)
			assert.Equal(t, int64(size), found.Size)
			assert.Equal(t, found.ETag, info.ETag)
			stat, err := store.Stat(t.Context(), to)
			require.NoError(t, err)
			assert.Equal(t, found, stat)
			assertUnchanged(t, store, source, content)
		})
	}
	assert.Len(t, names(t, store, ""), 2*len(copySizes))
}

func testCopyIndependent(t *testing.T, store storage.Store, copier storage.Copier) {
	content, other := data(1, partSize+1), data(2, 100)
	put(t, store, "a", content, storage.Condition{})
	first, err := copier.Copy(t.Context(), "a", "b")
	require.NoError(t, err)
	put(t, store, "a", other, storage.Condition{})
	assertUnchanged(t, store, first, content)
	require.NoError(t, store.Delete(t.Context(), "a"))
	assertUnchanged(t, store, first, content)

	second, err := copier.Copy(t.Context(), "b", "c")
	require.NoError(t, err, "a copy can be copied")
	_, err = store.Put(t.Context(), "b", bytes.NewReader(other), -1, storage.IfMatch(first.ETag))
	require.NoError(t, err, "a copy can be replaced under a condition")
	assertUnchanged(t, store, second, content)
}

func testCopyNotFound(t *testing.T, store storage.Store, copier storage.Copier) {
	put(t, store, "a/b", []byte("content"), storage.Condition{})
	for _, from := range []string{"missing", "a", "a/b/c", "a/bc"} {
		t.Run(from, func(t *testing.T) {
			_, err := copier.Copy(t.Context(), from, "new")
			assert.ErrorIs(t, err, storage.ErrNotFound)
			assertAbsent(t, store, "new")
		})
	}
	_, err := copier.Copy(t.Context(), "missing", "a/b")
	assert.True(t, isAny(err, storage.ErrNotFound, storage.ErrExists), "%v", err)
}

func testCopyExists(t *testing.T, store storage.Store, copier storage.Copier) {
	for _, size := range copySizes {
		from := fmt.Sprintf("from-%d", size)
		source := put(t, store, from, data(1, size), storage.Condition{})
		old := put(t, store, fmt.Sprintf("old-%d", size), []byte("old"), storage.Condition{})
		_, err := copier.Copy(t.Context(), from, old.Name)
		assert.ErrorIs(t, err, storage.ErrExists)
		assertUnchanged(t, store, old, []byte("old"))
		_, err = copier.Copy(t.Context(), from, from)
		assert.ErrorIs(t, err, storage.ErrExists, "a copy to itself")
		assertUnchanged(t, store, source, data(1, size))

		require.NoError(t, store.Delete(t.Context(), old.Name))
		_, err = copier.Copy(t.Context(), from, old.Name)
		assert.NoError(t, err, "the name is free again")
	}
}

func testCopyNames(t *testing.T, store storage.Store, copier storage.Copier) {
	put(t, store, "a", []byte("content"), storage.Condition{})
	for _, name := range []string{"", "/", "a/", "/a", "../a", "a//b", "ä", "a?b", strings.Repeat("x", 256)} {
		_, err := copier.Copy(t.Context(), "a", name)
		assert.ErrorIs(t, err, storage.ErrInvalidName, "to %q", name)
		_, err = copier.Copy(t.Context(), name, "b")
		assert.ErrorIs(t, err, storage.ErrInvalidName, "from %q", name)
	}
	assert.Equal(t, []string{"a"}, names(t, store, ""))
}

func testCopyRace(t *testing.T, store storage.Store, copier storage.Copier) {
	for _, size := range []int{0, 100, partSize + 1} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			const workers = 8
			target := fmt.Sprintf("target-%d", size)
			contents := make([][]byte, workers)
			for i := range contents {
				contents[i] = append(data(uint64(i), size), byte(i))
				put(t, store, fmt.Sprintf("source-%d-%d", size, i), contents[i], storage.Condition{})
			}
			var running sync.WaitGroup
			errs := make([]error, workers)
			start := make(chan struct{})
			for i := range workers {
				running.Go(func() {
					<-start
					if i == 0 { // a Put takes part
						_, errs[i] = store.Put(t.Context(), target, bytes.NewReader(contents[i]), -1, storage.IfAbsent())
						return
					}
					time.Sleep(time.Duration(i-1) * time.Millisecond / 2)
					_, errs[i] = copier.Copy(t.Context(), fmt.Sprintf("source-%d-%d", size, i), target)
				})
			}
			close(start)
			running.Wait()
			winner := -1
			for i, err := range errs {
				if err != nil {
					assert.ErrorIs(t, err, storage.ErrExists)
					continue
				}
				assert.Equal(t, -1, winner, "two writers succeeded")
				winner = i
			}
			require.NotEqual(t, -1, winner, "no writer succeeded")
			got, _ := get(t, store, target)
			assertSame(t, contents[winner], got)
		})
	}
}

func testCopyWhileReplaced(t *testing.T, store storage.Store, copier storage.Copier) {
	versions := [][]byte{bytes.Repeat([]byte{1}, 4*partSize), bytes.Repeat([]byte{2}, 4*partSize)}
	put(t, store, "source", versions[0], storage.Condition{})
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			_, err := store.Put(t.Context(), "source", bytes.NewReader(versions[i%2]), -1, storage.Condition{})
			assert.NoError(t, err)
		}
	})
	for i := range 5 {
		name := fmt.Sprintf("copy-%d", i)
		_, err := copier.Copy(t.Context(), "source", name)
		if err != nil {
			assert.ErrorIs(t, err, storage.ErrChanged)
			assertAbsent(t, store, name)
			continue
		}
		got, _ := get(t, store, name)
		assert.True(t, bytes.Equal(versions[0], got) || bytes.Equal(versions[1], got), "a mixture")
	}
	cancel()
	writer.Wait()
}

func testCopyContext(t *testing.T, store storage.Store, copier storage.Copier) {
	content := data(1, 5*partSize)
	put(t, store, "source", content, storage.Condition{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := copier.Copy(ended, "source", "target")
	assert.ErrorIs(t, err, context.Canceled)
	assertAbsent(t, store, "target")
	for i := range 12 {
		name := fmt.Sprintf("copy-%d", i)
		ctx, cancel := context.WithCancel(t.Context())
		delay := time.Duration(1<<i) * 100 * time.Microsecond // up to 0.2 s
		var cancelled time.Time
		stopped := make(chan struct{})
		time.AfterFunc(delay, func() {
			cancelled = time.Now()
			cancel()
			close(stopped)
		})
		_, err := copier.Copy(ctx, "source", name)
		finished := time.Now()
		<-stopped
		assert.Less(t, finished.Sub(cancelled), stopTimeout)
		if err != nil {
			assert.ErrorIs(t, err, context.Canceled)
			assertAbsent(t, store, name)
			continue
		}
		got, _ := get(t, store, name)
		assertSame(t, content, got)
	}
}

// isAny reports whether err is one of the errors.
func isAny(err error, errs ...error) bool {
	return slices.ContainsFunc(errs, func(one error) bool { return errors.Is(err, one) })
}
