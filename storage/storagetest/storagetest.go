// Package storagetest is the conformance suite of stores: a [storage.Store] is right when [Run] passes.
package storagetest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

// partSize is a boundary at which stores may change how they write: from there on, S3 uploads go in parts.
const partSize = 16 << 20

// Inspector is what a store that is given to [Run] may implement as well, to have what it leaves behind
// checked.
type Inspector interface {
	// Leftovers names what writers left that are done, and that is no object: incomplete uploads,
	// temporary files.
	Leftovers(t *testing.T) []string
}

// Idler is what a store that is given to [Run] may implement as well, if it keeps connections: their
// goroutines would be taken for leaks.
type Idler interface {
	CloseIdleConnections()
}

// Abandoner is what a store that is given to [Run] may implement as well, if it is a
// [storage.UploadLister]: without it, there is little to list.
type Abandoner interface {
	// Abandon leaves what a writer leaves that is killed while it puts an object under name.
	Abandon(t *testing.T, name string)
}

// Run checks every promise of [storage.Store], and those of [storage.UploadLister] if the store has it. Each call of open returns a new store, which is empty, and
// cleans up after itself when its test ends.
func Run(t *testing.T, open func(t *testing.T) storage.Store) {
	for _, group := range []struct {
		name string
		run  func(*testing.T, func(*testing.T) storage.Store)
	}{
		{"Put", testPut},
		{"Condition", testCondition},
		{"Get", testGet},
		{"List", testList},
		{"Delete", testDelete},
		{"Uploads", testUploads},
		{"Name", testName},
		{"Context", testContext},
	} {
		t.Run(group.name, func(t *testing.T) {
			group.run(t, func(t *testing.T) storage.Store {
				store := open(t)
				if inspector, ok := store.(Inspector); ok {
					t.Cleanup(func() { assert.Empty(t, inspector.Leftovers(t), "left behind") })
				}
				return store
			})
		})
	}
}

// data returns n bytes that look random, and are the same for the same seed.
func data(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// put stores data that must be accepted.
func put(t *testing.T, store storage.Store, name string, content []byte, condition storage.Condition) storage.Info {
	t.Helper()
	info, err := store.Put(t.Context(), name, bytes.NewReader(content), int64(len(content)), condition)
	require.NoError(t, err)
	return info
}

// get returns an object that must be there.
func get(t *testing.T, store storage.Store, name string) ([]byte, storage.Info) {
	t.Helper()
	object, err := store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	return content, object.Info
}

// same compares contents that are too long to be printed.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	assert.Len(t, got, len(want))
	assert.True(t, bytes.Equal(want, got), "the contents differ")
}

// absent checks that there is no object.
func absent(t *testing.T, store storage.Store, name string) {
	t.Helper()
	_, err := store.Stat(t.Context(), name)
	assert.ErrorIs(t, err, storage.ErrNotFound)
}

// untouched checks that an object is what it was.
func untouched(t *testing.T, store storage.Store, want storage.Info, content []byte) {
	t.Helper()
	got, info := get(t, store, want.Name)
	same(t, content, got)
	assert.Equal(t, want.ETag, info.ETag)
}

// names lists the names with a prefix.
func names(t *testing.T, store storage.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for info, err := range store.List(t.Context(), prefix) {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	return names
}

// readerFunc is a reader made of a function.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
