// Package storagetest is the conformance suite for stores: a [storage.Store] is correct if [Run] passes.
//
// The test of a store calls [Run], and [RunMemory] in a test of its own. A store may also implement
// [Inspector], [Abandoner] and [Idler], in the test or in itself, to have more checked.
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

// partSize is a size at which stores may change how they write. Larger S3 objects are sent in parts.
const partSize = 16 << 20

// Inspector lists what writers leave behind. If a store implements it, [Run] checks that nothing is left.
type Inspector interface {
	// Leftovers returns the names of everything in the store that is not an object, when no writer is
	// active: incomplete uploads, temporary files.
	Leftovers(t *testing.T) []string
}

// Idler closes idle connections. A store that keeps connections open implements it, because [Run] would
// report their goroutines as leaks.
type Idler interface {
	CloseIdleConnections()
}

// Abandoner makes unfinished uploads. A [storage.UploadLister] implements it, because [Run] skips most
// checks of uploads otherwise.
type Abandoner interface {
	// Abandon leaves behind what remains of a writer that is killed while it puts an object under name.
	Abandon(t *testing.T, name string)
}

// Run checks every promise of [storage.Store], and those of [storage.UploadLister] and [storage.Copier] if the
// store implements them. Each call of open must return a new, empty store, and register its removal with
// t.Cleanup.
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
		{"Copy", testCopy},
		{"Uploads", testUploads},
		{"Name", testName},
		{"Context", testContext},
	} {
		t.Run(group.name, func(t *testing.T) {
			group.run(t, func(t *testing.T) storage.Store {
				store := open(t)
				if inspector, ok := store.(Inspector); ok {
					t.Cleanup(func() { assert.Empty(t, inspector.Leftovers(t), "leftovers") })
				}
				return store
			})
		})
	}
}

// data returns n random bytes, the same for the same seed.
func data(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// put stores an object and requires success.
func put(t *testing.T, store storage.Store, name string, content []byte, condition storage.Condition) storage.Info {
	t.Helper()
	info, err := store.Put(t.Context(), name, bytes.NewReader(content), int64(len(content)), condition)
	require.NoError(t, err)
	return info
}

// get returns the content and the Info of an object that must exist.
func get(t *testing.T, store storage.Store, name string) ([]byte, storage.Info) {
	t.Helper()
	object, err := store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	return content, object.Info
}

// assertSame checks that contents are equal, without printing them.
func assertSame(t *testing.T, want, got []byte) {
	t.Helper()
	assert.Len(t, got, len(want))
	assert.True(t, bytes.Equal(want, got), "the contents differ")
}

// assertAbsent checks that the object does not exist.
func assertAbsent(t *testing.T, store storage.Store, name string) {
	t.Helper()
	_, err := store.Stat(t.Context(), name)
	assert.ErrorIs(t, err, storage.ErrNotFound)
}

// assertUnchanged checks that an object has this content and ETag.
func assertUnchanged(t *testing.T, store storage.Store, want storage.Info, content []byte) {
	t.Helper()
	got, info := get(t, store, want.Name)
	assertSame(t, content, got)
	assert.Equal(t, want.ETag, info.ETag)
}

// names returns the names that List yields for a prefix.
func names(t *testing.T, store storage.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for info, err := range store.List(t.Context(), prefix) {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	return names
}

// readerFunc is a function that implements io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
