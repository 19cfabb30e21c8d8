package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testCondition(t *testing.T, open func(*testing.T) storage.Store) {
	for _, size := range []int{0, 100, partSize + 1} { // sent in one request, or in parts
		t.Run(fmt.Sprintf("IfAbsent creates and never replaces %d bytes", size), func(t *testing.T) { testIfAbsent(t, open(t), size) })
		t.Run(fmt.Sprintf("IfMatch replaces only one version of %d bytes", size), func(t *testing.T) { testIfMatch(t, open(t), size) })
	}
	t.Run("one of many IfAbsent succeeds", func(t *testing.T) { testIfAbsentRace(t, open(t), 16, 100) })
	t.Run("one of many large IfAbsent succeeds", func(t *testing.T) { testIfAbsentRace(t, open(t), 4, partSize+1) })
	t.Run("IfMatch loses no update", func(t *testing.T) { testIfMatchRace(t, open(t), 8, 5, 0) })
	t.Run("IfMatch loses no large update", func(t *testing.T) { testIfMatchRace(t, open(t), 3, 2, partSize) })
}

func testIfAbsent(t *testing.T, store storage.Store, size int) {
	const name = "a/b/object"
	first, second := data(1, size), data(2, size+1)
	info := put(t, store, name, first, storage.IfAbsent())

	_, err := store.Put(t.Context(), name, bytes.NewReader(second), -1, storage.IfAbsent())
	assert.ErrorIs(t, err, storage.ErrExists)
	assertUnchanged(t, store, info, first)

	require.NoError(t, store.Delete(t.Context(), name))
	info = put(t, store, name, second, storage.IfAbsent())
	assertUnchanged(t, store, info, second)
}

func testIfMatch(t *testing.T, store storage.Store, size int) {
	const name = "a/b/object"
	first, second, third := data(1, size), data(2, size+1), data(3, size+2)
	change := func(content []byte, etag string) (storage.Info, error) {
		return store.Put(t.Context(), name, bytes.NewReader(content), -1, storage.IfMatch(etag))
	}

	_, err := change(first, "no-such-etag")
	assert.ErrorIs(t, err, storage.ErrChanged, "the object does not exist")
	assertAbsent(t, store, name)

	one := put(t, store, name, first, storage.Condition{})
	two, err := change(second, one.ETag)
	require.NoError(t, err)
	_, err = change(third, one.ETag)
	assert.ErrorIs(t, err, storage.ErrChanged, "the ETag of an older version")
	_, err = change(third, "no-such-etag")
	assert.ErrorIs(t, err, storage.ErrChanged)
	assertUnchanged(t, store, two, second)

	three, err := change(third, two.ETag)
	require.NoError(t, err)
	assertUnchanged(t, store, three, third)

	require.NoError(t, store.Delete(t.Context(), name))
	_, err = change(first, three.ETag)
	assert.ErrorIs(t, err, storage.ErrChanged, "the object has been deleted")
	assertAbsent(t, store, name)
}

func testIfAbsentRace(t *testing.T, store storage.Store, writers, size int) {
	const name = "a/b/object"
	var wg sync.WaitGroup
	errs := make([]error, writers)
	start := make(chan struct{})
	for i := range writers {
		content := data(uint64(i), size)
		wg.Go(func() {
			<-start
			_, errs[i] = store.Put(t.Context(), name, bytes.NewReader(content), int64(size), storage.IfAbsent())
		})
	}
	close(start)
	wg.Wait()

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
	got, _ := get(t, store, name)
	assertSame(t, data(uint64(winner), size), got)
}

// testIfMatchRace runs workers that add to one counter. The counter's object has a number of bytes of padding.
func testIfMatchRace(t *testing.T, store storage.Store, workers, additions, padding int) {
	const name = "counter"
	encode := func(n int) []byte { return append([]byte(strconv.Itoa(n)+"\n"), make([]byte, padding)...) }
	put(t, store, name, encode(0), storage.Condition{})
	add := func() error {
		for {
			object, err := store.Get(t.Context(), name, 0, -1)
			if err != nil {
				return err
			}
			content, err := io.ReadAll(object)
			object.Close()
			if err != nil {
				return err
			}
			digits, _, _ := bytes.Cut(content, []byte("\n"))
			n, err := strconv.Atoi(string(digits))
			if err != nil {
				return err
			}
			next := encode(n + 1)
			_, err = store.Put(t.Context(), name, bytes.NewReader(next), int64(len(next)), storage.IfMatch(object.Info.ETag))
			if !errors.Is(err, storage.ErrChanged) {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range additions {
				if !assert.NoError(t, add()) {
					return
				}
			}
		})
	}
	wg.Wait()
	got, _ := get(t, store, name)
	assertSame(t, encode(workers*additions), got)
}
