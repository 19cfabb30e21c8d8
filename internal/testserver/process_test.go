//go:build unix

package testserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// endVariable is set in the environment of a child process. It names the way in which TestChild ends.
const endVariable = "RECVAULT_TESTSERVER_END"

// goneTimeout is how long a guard may take to remove a server.
const goneTimeout = 20 * time.Second

// TestChild starts servers and then ends its process. The tests below run it in a child process; otherwise it
// is skipped.
func TestChild(t *testing.T) {
	end := os.Getenv(endVariable)
	if end == "" {
		t.Skip("run by other tests")
	}
	v, m := Vault(t, TLS()), MinIO(t)
	fmt.Printf("started %d %s\n", v.vault.process.PID(), v.vault.dir)
	fmt.Printf("started %d %s\n", m.minio.process.PID(), m.minio.dir)
	fmt.Println("ready")
	switch end {
	case "return":
	case "fail":
		t.Fail()
	case "fatal":
		t.Fatal("as it was asked to")
	case "panic":
		panic("as it was asked to")
	case "panic elsewhere":
		go panic("as it was asked to")
		select {}
	case "exit":
		os.Exit(3)
	case "signal":
		_, _ = io.Copy(io.Discard, os.Stdin)
		t.Fatal("the parent process ended without sending a signal")
	default:
		t.Fatal("unknown end:", end)
	}
}

func TestNoServerOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	needServers(t)
	for name, way := range map[string]struct {
		end    string
		signal syscall.Signal
	}{
		"return":                   {end: "return"},
		"failure":                  {end: "fatal"},
		"panic":                    {end: "panic"},
		"panic in a goroutine":     {end: "panic elsewhere"},
		"os.Exit":                  {end: "exit"},
		"SIGKILL":                  {end: "signal", signal: syscall.SIGKILL},
		"SIGINT to its group":      {end: "signal", signal: syscall.SIGINT}, // Ctrl-C
		"SIGTERM to its group":     {end: "signal", signal: syscall.SIGTERM},
		"SIGQUIT, as at a timeout": {end: "signal", signal: syscall.SIGQUIT},
	} {
		t.Run(name, func(t *testing.T) {
			if signal.Ignored(way.signal) {
				t.Skip("this process ignores the signal, as a shell's background jobs do")
			}
			child := startChild(t, way.end)
			require.Len(t, child.pids, 2)
			if way.signal != 0 {
				for _, pid := range child.pids {
					require.True(t, alive(t, pid), "the server runs before the signal")
				}
				require.NoError(t, syscall.Kill(-child.cmd.Process.Pid, way.signal))
			}
			child.wait(t)
			for i, pid := range child.pids {
				require.Eventually(t, func() bool { return !alive(t, pid) }, goneTimeout, 10*time.Millisecond, "the server or its guard still runs")
				require.Eventually(t, func() bool {
					_, err := os.Lstat(child.dirs[i])
					return errors.Is(err, os.ErrNotExist)
				}, goneTimeout, 10*time.Millisecond, "the server's directory still exists")
			}
		})
	}
}

func TestFailedTestPrintsServerLogs(t *testing.T) {
	t.Parallel()
	needServers(t)
	failed := startChild(t, "fail").wait(t)
	assert.Equal(t, 2, strings.Count(failed, "the server logged since the test began:\n"))
	assert.Contains(t, failed, "core: vault is unsealed")

	passed := startChild(t, "return").wait(t)
	assert.NotContains(t, passed, "logged since")
}

func TestMissingProgramSkipsOrFailsTest(t *testing.T) {
	t.Parallel()
	environment := []string{endVariable + "=return", "PATH=", "HOME=" + t.TempDir(), "XDG_CACHE_HOME=" + t.TempDir()}

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = environment
	printed, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	assert.Contains(t, string(printed), "--- SKIP: TestChild")
	assert.Contains(t, string(printed), `run "make servers" to build it, or name one in RECVAULT_VAULT_BIN`)

	cmd = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")
	cmd.Env = append(environment, "RECVAULT_SERVERS=require")
	printed, err = cmd.CombinedOutput()
	require.Error(t, err, "%s", printed)
	assert.Contains(t, string(printed), "--- FAIL: TestChild")
	assert.Contains(t, string(printed), "build vault")
}

func TestStoppedServerIsGone(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(vault *VaultServer, minio *MinIOServer){
		"stopped": func(v *VaultServer, m *MinIOServer) { v.Stop(t); m.Stop(t) },
		"killed":  func(v *VaultServer, m *MinIOServer) { v.Kill(t); m.Kill(t) },
	} {
		t.Run(name, func(t *testing.T) {
			v, m := Vault(t, Dedicated()), MinIO(t, Dedicated())
			pids := []int{v.vault.process.PID(), m.minio.process.PID()}
			end(v, m)
			end(v, m) // a second call changes nothing
			for _, pid := range pids {
				// The guard exits a little later than the server.
				require.Eventually(t, func() bool { return !alive(t, pid) }, goneTimeout, 10*time.Millisecond)
			}
			assert.Error(t, v.vault.ready(t.Context()))
			assert.Error(t, m.minio.ready(t.Context()))
			assert.DirExists(t, v.vault.dir, "the data remain")
			assert.DirExists(t, m.minio.dir, "the data remain")
		})
	}
}

func TestDedicatedServerIsRemovedWithItsTest(t *testing.T) {
	t.Parallel()
	var v *VaultServer
	var m *MinIOServer
	var pids []int
	t.Run("test", func(t *testing.T) {
		v, m = Vault(t, Dedicated()), MinIO(t, Dedicated())
		pids = []int{v.vault.process.PID(), m.minio.process.PID()}
	})
	require.Len(t, pids, 2)
	for _, pid := range pids {
		require.Eventually(t, func() bool { return !alive(t, pid) }, goneTimeout, 10*time.Millisecond)
	}
	assert.NoDirExists(t, v.vault.dir)
	assert.NoDirExists(t, m.minio.dir)
}

// needServers skips the test if its child processes would have to skip it.
func needServers(t *testing.T) {
	t.Helper()
	Vault(t)
	MinIO(t)
}

// child is a child process that runs TestChild.
type child struct {
	cmd    *exec.Cmd
	output *bufio.Reader
	pids   []int    // of its servers
	dirs   []string // of its servers
}

func startChild(t *testing.T, end string) *child {
	t.Helper()
	c := &child{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.v")}
	c.cmd.Env = append(os.Environ(), endVariable+"="+end)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	_, err = c.cmd.StdinPipe() // if this process ends early, the child reads the end of the pipe
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	c.output = bufio.NewReader(stdout)
	for {
		line, err := c.output.ReadString('\n')
		require.NoError(t, err, "the child ended too early")
		if line == "ready\n" {
			return c
		}
		var pid int
		var dir string
		if n, _ := fmt.Sscanf(line, "started %d %s", &pid, &dir); n == 2 {
			c.pids, c.dirs = append(c.pids, pid), append(c.dirs, dir)
		}
	}
}

// wait waits until the child has ended, and returns what it printed since it was ready.
func (c *child) wait(t *testing.T) string {
	t.Helper()
	var rest strings.Builder
	_, err := c.output.WriteTo(&rest)
	require.NoError(t, err)
	_ = c.cmd.Wait() // most ways to end are failures
	return rest.String()
}

// alive reports whether a server or its guard still runs. Both belong to the server's process group.
func alive(t *testing.T, group int) bool {
	t.Helper()
	if errors.Is(syscall.Kill(-group, 0), syscall.ESRCH) {
		return false
	}
	// Zombies belong to the group too, and the first process of a container may never reap them. On Linux,
	// /proc distinguishes them.
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended
		}
		var state string
		var parent, its int
		_, err = fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent, &its)
		require.NoError(t, err)
		if its == group && state != "Z" {
			return true
		}
	}
	return len(stats) == 0
}
