package storagetest

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testDelete(t *testing.T, open func(*testing.T) storage.Store) {
	t.Run("removes an object and nothing else", func(t *testing.T) {
		store := open(t)
		for _, name := range []string{"a/b/c", "a/b/d", "a/e", "f"} {
			put(t, store, name, []byte(name), storage.Condition{})
		}
		require.NoError(t, store.Delete(t.Context(), "a/b/c"))
		assertAbsent(t, store, "a/b/c")
		_, err := store.Get(t.Context(), "a/b/c", 0, -1)
		assert.ErrorIs(t, err, storage.ErrNotFound)
		assert.Equal(t, []string{"a/b/d", "a/e", "f"}, names(t, store, ""))
		require.NoError(t, store.Delete(t.Context(), "a/b/d"))
		assert.Equal(t, []string{"a/e", "f"}, names(t, store, ""))
		require.NoError(t, store.Delete(t.Context(), "a/e"))
		require.NoError(t, store.Delete(t.Context(), "f"))
		assert.Empty(t, names(t, store, ""))
		put(t, store, "a/b/c", []byte("again"), storage.IfAbsent())
		put(t, store, "a/b/c2", []byte("again"), storage.IfAbsent())
	})
	t.Run("of a missing object is not an error", func(t *testing.T) {
		store := open(t)
		put(t, store, "a/b/c", []byte("1"), storage.Condition{})
		for _, name := range []string{"x", "x/y/z", "a", "a/b", "a/b/x", "a/b/c/d", "a/b/c2"} {
			t.Run(name, func(t *testing.T) { assert.NoError(t, store.Delete(t.Context(), name)) })
		}
		require.NoError(t, store.Delete(t.Context(), "a/b/c"))
		assert.NoError(t, store.Delete(t.Context(), "a/b/c"), "it has already been deleted")
	})
	t.Run("of a parent or child leaves the object", func(t *testing.T) {
		store := open(t)
		put(t, store, "a/b/c", []byte("1"), storage.Condition{})
		require.NoError(t, store.Delete(t.Context(), "a/b"))
		require.NoError(t, store.Delete(t.Context(), "a/b/c/d"))
		assert.Equal(t, []string{"a/b/c"}, names(t, store, ""))
	})
	t.Run("lets an open reader finish or fail", func(t *testing.T) {
		store := open(t)
		content := data(1, 10_000) // small, because MinIO delays a deletion while it sends the object
		put(t, store, "a", content, storage.Condition{})
		object, err := store.Get(t.Context(), "a", 0, -1)
		require.NoError(t, err)
		defer object.Close()
		require.NoError(t, store.Delete(t.Context(), "a"))
		got, err := io.ReadAll(object)
		if err == nil {
			assertSame(t, content, got)
		}
	})
}
