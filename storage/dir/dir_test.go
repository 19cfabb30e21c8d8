package dir_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/storagetest"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(runRole(role))
	}
	goleak.VerifyTestMain(m)
}

// inspected is a store that shows its temporary files to the conformance suite.
type inspected struct {
	*dir.Store
	path string
}

func (s inspected) Leftovers(t *testing.T) []string {
	return entries(t, filepath.Join(s.path, "tmp"))
}

// Abandon leaves an unlocked temporary file, as a killed writer does.
func (s inspected) Abandon(t *testing.T, _ string) {
	require.NoError(t, os.WriteFile(filepath.Join(s.path, "tmp", rand.Text()), []byte("half"), 0o600))
}

func entries(t *testing.T, path string) []string {
	t.Helper()
	list, err := os.ReadDir(path)
	require.NoError(t, err)
	var names []string
	for _, entry := range list {
		names = append(names, entry.Name())
	}
	return names
}

func open(t *testing.T, path string) inspected {
	t.Helper()
	store, err := dir.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return inspected{store, path}
}

func put(t *testing.T, store storage.Store, name, content string) storage.Info {
	t.Helper()
	info, err := store.Put(t.Context(), name, strings.NewReader(content), int64(len(content)), storage.Condition{})
	require.NoError(t, err)
	return info
}

func get(t *testing.T, store storage.Store, name string) string {
	t.Helper()
	object, err := store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	return string(content)
}

func list(t *testing.T, store storage.Store, prefix string) []string {
	t.Helper()
	var names []string
	for info, err := range store.List(t.Context(), prefix) {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	return names
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store { return open(t, filepath.Join(t.TempDir(), "store")) })
}

func TestPutOfUnknownSizeBoundsMemory(t *testing.T) {
	storagetest.RunMemory(t, func(t *testing.T) storage.Store { return open(t, filepath.Join(t.TempDir(), "store")) })
}

func TestOpenMakesPrivateDirectories(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, "a/b/object", "content")
	content, err := os.ReadFile(filepath.Join(path, "objects", "a", "b", "object"))
	require.NoError(t, err)
	assert.Equal(t, "content", string(content))
	if runtime.GOOS == "windows" {
		return
	}
	err = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		assert.Zero(t, info.Mode().Perm()&0o077, "%s is accessible to others: %v", path, info.Mode())
		return nil
	})
	require.NoError(t, err)
}

func TestRelativePathIsResolvedAtOpen(t *testing.T) {
	t.Chdir(t.TempDir())
	store := open(t, "store")
	put(t, store, "a", "content")
	t.Chdir(t.TempDir())
	assert.Equal(t, "content", get(t, store, "a"))
	assert.Equal(t, []string{"a"}, list(t, store, ""))
}

func TestOpenNeedsParentDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, path := range map[string]string{
		"no parent":        filepath.Join(t.TempDir(), "no", "store"),
		"file":             file,
		"parent is a file": filepath.Join(file, "store"),
		"empty path":       "",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dir.Open(path)
			assert.ErrorIs(t, err, storage.ErrNoBucket)
		})
	}
}

func TestMissingDirectoryIsErrNoBucket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, "a", "content")
	require.NoError(t, os.RemoveAll(path))

	_, err := store.Put(t.Context(), "a", strings.NewReader("x"), 1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrNoBucket)
	_, err = store.Get(t.Context(), "a", 0, -1)
	assert.ErrorIs(t, err, storage.ErrNoBucket)
	_, err = store.Stat(t.Context(), "a")
	assert.ErrorIs(t, err, storage.ErrNoBucket)
	assert.ErrorIs(t, store.Delete(t.Context(), "a"), storage.ErrNoBucket)
	for _, prefix := range []string{"", "a", "a/"} {
		for _, err := range store.List(t.Context(), prefix) {
			assert.ErrorIs(t, err, storage.ErrNoBucket)
		}
	}
}

func TestNoNameIsTheParentOfAnother(t *testing.T) {
	store := open(t, filepath.Join(t.TempDir(), "store"))
	put(t, store, "a/b", "content")
	for _, name := range []string{"a", "a/b/c", "a/b/c/d"} {
		t.Run(name, func(t *testing.T) {
			_, err := store.Put(t.Context(), name, strings.NewReader("x"), 1, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrInvalidName)
		})
	}
	assert.Equal(t, "content", get(t, store, "a/b"))
	assert.Empty(t, store.Leftovers(t))
}

func TestDeleteRemovesEmptyDirectories(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, "a/b/c/object", "1")
	put(t, store, "a/other", "2")
	require.NoError(t, store.Delete(t.Context(), "a/b/c/object"))
	assert.Equal(t, []string{"other"}, entries(t, filepath.Join(path, "objects", "a")))
	require.NoError(t, store.Delete(t.Context(), "a/other"))
	assert.Empty(t, entries(t, filepath.Join(path, "objects")))
}

func TestEveryWriteChangesETag(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	seen := map[string]bool{}
	for range 100 {
		info := put(t, store, "object", "the same")
		assert.False(t, seen[info.ETag], "the ETag of an earlier write")
		seen[info.ETag] = true
	}

	// The old object has a time in the future, as after a clock that was wrong.
	future := time.Now().Add(24 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(path, "objects", "object"), future, future))
	old, err := store.Stat(t.Context(), "object")
	require.NoError(t, err)
	info := put(t, store, "object", "the same")
	assert.NotEqual(t, old.ETag, info.ETag)
	assert.True(t, info.Modified.After(old.Modified))
}

func TestSymbolicLinksAndSpecialFilesAreDenied(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(outside, "d"), 0o700))
	secret := filepath.Join(outside, "d", "object")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))

	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, "real/d/object", "content")
	objects := filepath.Join(path, "objects")
	for name, target := range map[string]string{
		"out":          outside,
		"in":           "real",
		"up":           "../../..",
		"dangling":     "nowhere",
		"self":         "self",
		"file-out":     secret,
		"file-in":      "real/d/object",
		"real/through": "../real/d",
	} {
		if err := os.Symlink(target, filepath.Join(objects, filepath.FromSlash(name))); err != nil {
			t.Skip("no symbolic links on this system:", err)
		}
	}
	makePipe(t, filepath.Join(objects, "pipe"))

	for _, name := range []string{
		"out", "out/d/object", "out/new", "in", "in/d/object", "in/new", "up", "up/etc/passwd", "dangling", "dangling/x",
		"self", "self/x", "file-out", "file-in", "file-in/x", "real/through", "real/through/object", "pipe", "pipe/x",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := store.Put(t.Context(), name, strings.NewReader("x"), 1, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrDenied, "Put")
			_, err = store.Get(t.Context(), name, 0, -1)
			assert.ErrorIs(t, err, storage.ErrDenied, "Get")
			_, err = store.Stat(t.Context(), name)
			assert.ErrorIs(t, err, storage.ErrDenied, "Stat")
			assert.ErrorIs(t, store.Delete(t.Context(), name), storage.ErrDenied, "Delete")
		})
	}
	for _, prefix := range []string{"", "r", "real/"} {
		t.Run("List "+prefix, func(t *testing.T) {
			assert.Equal(t, []string{"real/d/object"}, list(t, store, prefix))
		})
	}
	for _, prefix := range []string{"out/", "in/d/", "real/through/o"} {
		t.Run("List "+prefix, func(t *testing.T) {
			for _, err := range store.List(t.Context(), prefix) {
				assert.ErrorIs(t, err, storage.ErrDenied)
			}
		})
	}
	content, err := os.ReadFile(secret)
	require.NoError(t, err)
	assert.Equal(t, "secret", string(content))
	assert.Equal(t, []string{"object"}, entries(t, filepath.Join(outside, "d")))
	assert.Equal(t, "content", get(t, store, "real/d/object"))
}

func TestOpenDeniesLinkedDirectories(t *testing.T) {
	for _, name := range []string{"objects", "tmp"} {
		t.Run(name, func(t *testing.T) {
			path, elsewhere := t.TempDir(), t.TempDir()
			if err := os.Symlink(elsewhere, filepath.Join(path, name)); err != nil {
				t.Skip("no symbolic links on this system:", err)
			}
			_, err := dir.Open(path)
			assert.ErrorIs(t, err, storage.ErrDenied)
			assert.Empty(t, entries(t, elsewhere))
		})
	}
}

func TestListSkipsOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, "a/object", "1")
	require.NoError(t, os.WriteFile(filepath.Join(path, "objects", "not valid"), nil, 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(path, "objects", "empty", "directories"), 0o700))
	assert.Equal(t, []string{"a/object"}, list(t, store, ""))
}

func TestOpenKeepsUploadInProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	content := bytes.Repeat([]byte("x"), 1<<20)
	opened := false
	reader := io.MultiReader(bytes.NewReader(content), readerFunc(func([]byte) (int, error) {
		assert.Len(t, store.Leftovers(t), 1)
		open(t, path)
		assert.Len(t, store.Leftovers(t), 1, "Open removed the file of a live writer")
		opened = true
		return 0, io.EOF
	}))
	_, err := store.Put(t.Context(), "object", reader, -1, storage.Condition{})
	require.NoError(t, err)
	assert.True(t, opened)
	assert.Equal(t, string(content), get(t, store, "object"))
}

func TestOpenRemovesLeftovers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	require.NoError(t, os.WriteFile(filepath.Join(path, "tmp", "leftover"), []byte("half"), 0o600))
	open(t, path)
	assert.Empty(t, store.Leftovers(t))
}

func TestAbortUploadKeepsUploadInProgress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	writer, other := open(t, path), open(t, path)
	reader := io.MultiReader(strings.NewReader("content"), readerFunc(func([]byte) (int, error) {
		temps := writer.Leftovers(t)
		if assert.Len(t, temps, 1) {
			assert.ErrorIs(t, other.AbortUpload(t.Context(), storage.Upload{ID: temps[0]}), storage.ErrInUse)
		}
		for upload, err := range other.Uploads(t.Context(), "") {
			assert.Fail(t, "listed an upload in progress", "%v %v", upload, err)
		}
		return 0, io.EOF
	}))
	_, err := writer.Put(t.Context(), "object", reader, -1, storage.Condition{})
	require.NoError(t, err)
	assert.Equal(t, "content", get(t, writer, "object"))
}

func TestUploadsListsFilesOfKilledWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	found := 0
	for range 40 {
		killWriter(t, path)
		left := store.Leftovers(t)
		var ids []string
		for upload, err := range store.Uploads(t.Context(), "") {
			require.NoError(t, err)
			ids = append(ids, upload.ID)
			require.NoError(t, store.AbortUpload(t.Context(), upload))
		}
		assert.ElementsMatch(t, left, ids)
		assert.Empty(t, store.Leftovers(t))
		found += len(ids)
	}
	assert.Positive(t, found, "no writer was killed during a write")
}

func TestPanickingReaderLeavesNothing(t *testing.T) {
	store := open(t, filepath.Join(t.TempDir(), "store"))
	assert.Panics(t, func() {
		store.Put(t.Context(), "object", readerFunc(func([]byte) (int, error) { panic("reader") }), -1, storage.Condition{})
	})
	assert.Empty(t, store.Leftovers(t))
	put(t, store, "object", "the store still works")
}

func TestClosedStoreIsErrUnavailable(t *testing.T) {
	store, err := dir.Open(filepath.Join(t.TempDir(), "store"))
	require.NoError(t, err)
	put(t, store, "object", "content")
	object, err := store.Get(t.Context(), "object", 0, -1)
	require.NoError(t, err)
	require.NoError(t, store.Close())

	_, err = store.Get(t.Context(), "object", 0, -1)
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	_, err = store.Put(t.Context(), "object", strings.NewReader(""), 0, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	assert.Equal(t, "content", string(content), "an object that was open before Close stays readable")
	require.NoError(t, object.Close())
}

// readerFunc is a function that implements io.Reader.
type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestListSurvivesDirectoriesRemovedDuringIt(t *testing.T) {
	store, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	var lister sync.WaitGroup
	done := make(chan struct{})
	lister.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, err := range store.List(context.Background(), "") {
				assert.NoError(t, err)
			}
		}
	})
	for i := range 500 {
		name := fmt.Sprintf("a/%d/b/c", i%7)
		_, err := store.Put(t.Context(), name, strings.NewReader("x"), 1, storage.Condition{})
		require.NoError(t, err)
		require.NoError(t, store.Delete(t.Context(), name))
	}
	close(done)
	lister.Wait()
}
