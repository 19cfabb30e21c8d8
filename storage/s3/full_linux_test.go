package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
)

// namespaceEnv tells a test that it runs in a mount namespace of its own, and gives it a directory, which
// the process that started it removes.
const namespaceEnv = "S3_TEST_NAMESPACE"

// The test runs again as a process with a mount namespace of its own, in which it is root, and mounts a
// small file system for MinIO.
func TestAFullServerIsErrFull(t *testing.T) {
	path := os.Getenv(namespaceEnv)
	if path == "" {
		inNamespace(t)
		return
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=128m"))
	t.Setenv("TMPDIR", path)
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	content := noise(1000)
	_, err := store.Put(t.Context(), "old", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)

	// In steps that MinIO can foresee: what fills the disk in one go can fail it in other ways as well.
	step := make([]byte, 1<<20)
	for i := 0; err == nil && i < 256; i++ {
		_, err = store.Put(t.Context(), fmt.Sprintf("fill/%d", i), bytes.NewReader(step), -1, storage.Condition{})
	}
	require.ErrorIs(t, err, storage.ErrFull)
	for _, name := range []string{"old", "new"} {
		for _, size := range []int64{1 << 20, partSize, 3 * partSize} {
			_, err := store.Put(t.Context(), name, bytes.NewReader(make([]byte, size)), size, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrFull, "%d bytes", size)
		}
	}
	assert.Empty(t, store.Leftovers(t))
	assert.True(t, bytes.Equal(content, read(t, store, "old")))
	_, err = store.Stat(t.Context(), "new")
	assert.ErrorIs(t, err, storage.ErrNotFound)
}

// inNamespace runs the calling test in a mount namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
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
	if bytes.Contains(output, []byte("--- SKIP: "+t.Name())) {
		t.Skipf("%s", output)
	}
}
