package dir_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/recvault/recvault/internal/namespace"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

func TestFullFileSystemIsErrFull(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	path := filepath.Join(namespace.Mount(t, "size=2m"), "store")
	store := open(t, path)
	put(t, store, "old", "content")
	for _, name := range []string{"old", "new/object"} {
		for _, size := range []int64{-1, 4 << 20} {
			_, err := store.Put(t.Context(), name, bytes.NewReader(make([]byte, 4<<20)), size, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrFull, "%s of announced size %d", name, size)
		}
	}
	assert.Equal(t, "content", get(t, store, "old"))
	assert.Empty(t, store.Leftovers(t))
	assert.Equal(t, []string{"old"}, entries(t, filepath.Join(path, "objects")))
	put(t, store, "new/object", "there is room for this")
}

func TestFileSystemWithoutInodesIsErrFull(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	path := filepath.Join(namespace.Mount(t, "size=2m,nr_inodes=12"), "store")
	store := open(t, path)
	put(t, store, "old", "content")
	_, err := store.Put(t.Context(), "a/b/c/d/e/f/g/h/i/j", strings.NewReader("x"), 1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrFull)
	assert.Empty(t, store.Leftovers(t))
	assert.Equal(t, []string{"old"}, entries(t, filepath.Join(path, "objects")), "the parents that Put had made are removed")
	for i := range 12 { // use up the last inodes
		if f, err := os.Create(filepath.Join(path, string(rune('a'+i)))); err == nil {
			f.Close()
		}
	}
	_, err = store.Put(t.Context(), "old", strings.NewReader("x"), 1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrFull)
	assert.Equal(t, "content", get(t, store, "old"))
	require.NoError(t, store.Delete(t.Context(), "old"), "a full store permits deletions")
}

func TestReadOnlyFileSystemIsErrDenied(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	base := namespace.Mount(t, "size=2m")
	path := filepath.Join(base, "store")
	put(t, open(t, path), "a/object", "content")
	require.NoError(t, os.WriteFile(filepath.Join(path, "tmp", "leftover"), nil, 0o600))
	require.NoError(t, unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))

	assertReadOnly(t, open(t, path))
	_, err := dir.Open(filepath.Join(base, "other"))
	assert.ErrorIs(t, err, storage.ErrDenied)
}

func TestDirectoryOfAnotherUserIsErrDenied(t *testing.T) {
	var base string
	switch root := os.Getuid() == 0; { // root may write everywhere, so it becomes another user below
	case !root:
		base = t.TempDir()
	case namespace.Enter(t):
		base = namespace.Mount(t, "mode=0755")
		require.NoError(t, os.Chmod(filepath.Dir(base), 0o755))
	default:
		return
	}
	path := filepath.Join(base, "store")
	put(t, open(t, path), "a/object", "content")
	for _, dir := range []string{"objects/a", "objects", "tmp", "."} {
		require.NoError(t, os.Chmod(filepath.Join(path, dir), 0o555))
		t.Cleanup(func() { os.Chmod(filepath.Join(path, dir), 0o755) })
	}
	for _, file := range []string{"lock", "objects/a/object"} {
		require.NoError(t, os.Chmod(filepath.Join(path, file), 0o444))
	}
	if os.Getuid() == 0 {
		require.NoError(t, syscall.Setuid(65_534))
	}
	assertReadOnly(t, open(t, path))
	_, err := dir.Open(filepath.Join(path, "other"))
	assert.ErrorIs(t, err, storage.ErrDenied)
}

// assertReadOnly checks that a store with the object a/object permits reads and denies writes.
func assertReadOnly(t *testing.T, store storage.Store) {
	t.Helper()
	assert.Equal(t, "content", get(t, store, "a/object"))
	_, err := store.Stat(t.Context(), "a/object")
	assert.NoError(t, err)
	for info, err := range store.List(t.Context(), "") {
		require.NoError(t, err)
		assert.Equal(t, "a/object", info.Name)
	}
	for _, name := range []string{"a/object", "a/new", "new"} {
		_, err := store.Put(t.Context(), name, strings.NewReader("x"), 1, storage.Condition{})
		assert.ErrorIs(t, err, storage.ErrDenied)
	}
	assert.ErrorIs(t, store.Delete(t.Context(), "a/object"), storage.ErrDenied)
	assert.Equal(t, "content", get(t, store, "a/object"))
}
