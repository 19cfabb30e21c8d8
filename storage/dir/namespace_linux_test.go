package dir_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

// namespaceEnv tells a test that it runs in a mount namespace of its own, and gives it a directory, which
// the process that started it removes.
const namespaceEnv = "DIR_TEST_NAMESPACE"

// inNamespace runs the calling test again, as a process with a mount namespace of its own, in which it is
// root. It tells whether this is that process.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	output, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		t.Skip("the kernel permits no namespaces here:", err)
	}
	require.NoError(t, err, "%s", output)
	require.Contains(t, string(output), "--- PASS: "+t.Name())
	return false
}

// mount mounts a small file system in memory, which goes with the namespace.
func mount(t *testing.T, options string) string {
	t.Helper()
	path := os.Getenv(namespaceEnv)
	require.NoError(t, unix.Mount("tmpfs", path, "tmpfs", 0, options))
	return path
}

func TestAFullFileSystemIsErrFull(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	path := filepath.Join(mount(t, "size=2m"), "store")
	store := open(t, path)
	put(t, store, "old", "content")
	for _, name := range []string{"old", "new/object"} {
		for _, size := range []int64{-1, 4 << 20} {
			_, err := store.Put(t.Context(), name, bytes.NewReader(make([]byte, 4<<20)), size, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrFull)
		}
	}
	assert.Equal(t, "content", get(t, store, "old"))
	assert.Empty(t, store.Leftovers(t))
	assert.Equal(t, []string{"old"}, entries(t, filepath.Join(path, "objects")))
	put(t, store, "new/object", "there is room for this")
}

func TestAFileSystemWithoutFilesLeftIsErrFull(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	path := filepath.Join(mount(t, "size=2m,nr_inodes=12"), "store")
	store := open(t, path)
	put(t, store, "old", "content")
	_, err := store.Put(t.Context(), "a/b/c/d/e/f/g/h/i/j", strings.NewReader("x"), 1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrFull)
	assert.Empty(t, store.Leftovers(t))
	assert.Equal(t, []string{"old"}, entries(t, filepath.Join(path, "objects")), "the parents that could be made are gone")
	for i := range 12 { // the last files
		if f, err := os.Create(filepath.Join(path, string(rune('a'+i)))); err == nil {
			f.Close()
		}
	}
	_, err = store.Put(t.Context(), "old", strings.NewReader("x"), 1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrFull)
	assert.Equal(t, "content", get(t, store, "old"))
	require.NoError(t, store.Delete(t.Context(), "old"), "what is full can be emptied")
}

func TestAReadOnlyFileSystemIsErrDenied(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	base := mount(t, "size=2m")
	path := filepath.Join(base, "store")
	put(t, open(t, path), "a/object", "content")
	require.NoError(t, os.WriteFile(filepath.Join(path, "tmp", "leftover"), nil, 0o600))
	require.NoError(t, unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))

	readOnly(t, open(t, path))
	_, err := dir.Open(filepath.Join(base, "other"))
	assert.ErrorIs(t, err, storage.ErrDenied)
}

func TestADirectoryOfSomebodyElseIsErrDenied(t *testing.T) {
	var base string
	switch root := os.Getuid() == 0; { // root may write everywhere, and becomes another user below
	case !root:
		base = t.TempDir()
	case inNamespace(t):
		base = mount(t, "mode=0755")
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
	readOnly(t, open(t, path))
	_, err := dir.Open(filepath.Join(path, "other"))
	assert.ErrorIs(t, err, storage.ErrDenied)
}

// readOnly checks a store that may not be written to.
func readOnly(t *testing.T, store storage.Store) {
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
