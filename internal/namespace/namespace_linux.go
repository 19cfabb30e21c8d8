// Package namespace lets a test mount a small file system that is full or read-only, without being root.
// The test calls [Enter], returns if that returns false, and then calls [Mount].
package namespace

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// variable is set in the environment of a test that runs in its own mount namespace. It names a directory
// for the mount. The parent process removes the directory.
const variable = "RECVAULT_TEST_NAMESPACE"

// Enter runs the calling test again in a child process with its own mount namespace, as root there. It
// returns true in the child process. In the calling process it returns false after the child has ended, and
// fails or skips the test as the child did. It skips the test if the kernel permits no namespaces.
func Enter(t *testing.T) bool {
	t.Helper()
	if os.Getenv(variable) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	output, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		t.Skip("the kernel permits no namespaces:", err)
	}
	if strings.Contains(string(output), "--- SKIP: "+t.Name()) {
		t.Skipf("%s", output)
	}
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, output)
	}
	return false
}

// Mount mounts a tmpfs, a file system in memory, and returns its path. The options are those of mount(8).
// The kernel removes it with the namespace.
func Mount(t *testing.T, options string) string {
	t.Helper()
	path := os.Getenv(variable)
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	return path
}
