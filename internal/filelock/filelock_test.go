package filelock_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/filelock"
)

// holdEnv names the file that a child process locks until its standard input ends.
const holdEnv = "FILELOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		os.Exit(hold(path))
	}
	goleak.VerifyTestMain(m)
}

// hold runs the child process and returns its exit status.
func hold(path string) int {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 1
	}
	defer f.Close()
	if err := filelock.Lock(context.Background(), f); err != nil {
		return 1
	}
	os.Stdout.WriteString("locked\n")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// holder starts a child process that locks the file at path, and returns when the lock is held.
func holder(t *testing.T, path string) (process *exec.Cmd, release io.Closer) {
	t.Helper()
	process = exec.Command(os.Args[0])
	process.Env = append(os.Environ(), holdEnv+"="+path)
	stdin, err := process.StdinPipe()
	require.NoError(t, err)
	stdout, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		stdin.Close()
		process.Wait()
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)
	return process, stdin
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestOpenFilesExcludeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second := open(t, path), open(t, path)

	require.NoError(t, filelock.Lock(t.Context(), first))
	locked, err := filelock.TryLock(second)
	require.NoError(t, err)
	assert.False(t, locked, "a second open file took a held lock")

	require.NoError(t, filelock.Unlock(first))
	locked, err = filelock.TryLock(second)
	require.NoError(t, err)
	assert.True(t, locked, "the released lock could not be taken")
}

func TestProcessesExcludeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	_, release := holder(t, path)
	f := open(t, path)

	locked, err := filelock.TryLock(f)
	require.NoError(t, err)
	assert.False(t, locked, "took the lock of another process")

	require.NoError(t, release.Close())
	assert.NoError(t, filelock.Lock(t.Context(), f), "the other process has ended")
}

func TestKilledProcessReleasesLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	process, _ := holder(t, path)
	f := open(t, path)

	require.NoError(t, process.Process.Kill())
	assert.NoError(t, filelock.Lock(t.Context(), f))
}

func TestLockStopsWhenContextEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder(t, path)
	f := open(t, path)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, filelock.Lock(ctx, f), context.DeadlineExceeded)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, filelock.Lock(ctx, open(t, path+".free")), context.Canceled,
		"an ended context takes no lock, even a free one")
}

func TestLockExcludesConcurrentHolders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	counter := 0 // guarded by the file's lock, which the race detector cannot see
	var visible sync.Mutex
	var workers sync.WaitGroup
	for range 8 {
		f := open(t, path)
		workers.Go(func() {
			for range 20 {
				if !assert.NoError(t, filelock.Lock(t.Context(), f)) {
					return
				}
				assert.True(t, visible.TryLock(), "two holders at the same time")
				counter++
				visible.Unlock()
				assert.NoError(t, filelock.Unlock(f))
			}
		})
	}
	workers.Wait()
	assert.Equal(t, 160, counter)
}

func TestClosedFileIsErrClosed(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "lock"))
	require.NoError(t, f.Close())

	_, err := filelock.TryLock(f)
	assert.ErrorIs(t, err, os.ErrClosed)
	assert.ErrorIs(t, filelock.Lock(t.Context(), f), os.ErrClosed)
	assert.ErrorIs(t, filelock.Unlock(f), os.ErrClosed)
}
