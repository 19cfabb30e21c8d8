package storagetest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

// memoryEnv tells a test that it runs in the process that is measured.
const memoryEnv = "STORAGETEST_MEMORY"

// RunMemory checks that a Put of 2 GiB of unknown length takes less than 128 MiB of resident memory, in a
// process that does nothing else: the test, which calls nothing but RunMemory, runs again in one. It is
// skipped where there is no /proc to measure by, and under the race detector, which has memory of its
// own.
func RunMemory(t *testing.T, open func(t *testing.T) storage.Store) {
	const size, limit = 2 << 30, 128 << 20
	if os.Getenv(memoryEnv) != "" {
		noise := io.LimitReader(rand.NewChaCha8([32]byte{}), size) // memory that nobody writes to is not resident
		info, err := open(t).Put(t.Context(), "large", noise, -1, storage.Condition{})
		require.NoError(t, err)
		require.Equal(t, int64(size), info.Size)
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		fmt.Printf("%s\n", status)
		return
	}
	if _, err := os.Stat("/proc/self/status"); err != nil || raceDetector {
		t.Skip("memory cannot be measured: needs /proc, and no race detector")
	}
	process := exec.Command(os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v")
	process.Env = append(os.Environ(), memoryEnv+"=1")
	output, err := process.CombinedOutput()
	require.NoError(t, err, "%s", output)
	match := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(output)
	require.NotNil(t, match, "%s", output)
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	require.NoError(t, err)
	t.Logf("a Put of %d MiB took %d MiB of memory at most", size>>20, kib>>10)
	assert.Less(t, kib<<10, int64(limit))
}
