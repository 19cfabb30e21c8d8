// Package namespace lets a test mount a small file system of its own, without being root.
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

// variable tells a test that it runs in a mount namespace of its own, and gives it a directory, which the
// process that started it removes.
const variable = "RECVAULT_TEST_NAMESPACE"

// Enter runs the calling test again, as a process with a mount namespace of its own, in which it is root,
// and tells whether this is that process. The test is skipped where the kernel permits no namespaces.
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
		t.Skip("the kernel permits no namespaces here:", err)
	}
	if strings.Contains(string(output), "--- SKIP: "+t.Name()) {
		t.Skipf("%s", output)
	}
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, output)
	}
	return false
}

// Mount mounts a small file system in memory, with the options of mount(8) for tmpfs, and returns its
// path. It goes with the namespace.
func Mount(t *testing.T, options string) string {
	t.Helper()
	path := os.Getenv(variable)
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	return path
}
