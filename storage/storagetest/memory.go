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

// memoryEnv is set in the environment of the measured process.
const memoryEnv = "STORAGETEST_MEMORY"

// RunMemory checks that a Put of 2 GiB of unknown size, and then a copy of that object if the store implements
// [storage.Copier], take less than 128 MiB of resident memory. It measures a new process that runs the
// calling test alone, so that test must do nothing but call RunMemory. The test is skipped on systems
// without /proc, and under the race detector, which needs memory itself.
func RunMemory(t *testing.T, open func(t *testing.T) storage.Store) {
	const size, limit = 2 << 30, 128 << 20
	if os.Getenv(memoryEnv) != "" {
		noise := io.LimitReader(rand.NewChaCha8([32]byte{}), size) // random data: buffers that are never written are not resident
		store := open(t)
		info, err := store.Put(t.Context(), "large", noise, -1, storage.Condition{})
		require.NoError(t, err)
		require.Equal(t, int64(size), info.Size)
		if copier, ok := store.(storage.Copier); ok {
			info, err := copier.Copy(t.Context(), "large", "copy")
			require.NoError(t, err)
			require.Equal(t, int64(size), info.Size)
		}
		status, err := os.ReadFile("/proc/self/status")
		require.NoError(t, err)
		fmt.Printf("%s\n", status)
		return
	}
	if _, err := os.Stat("/proc/self/status"); err != nil || raceDetector {
		t.Skip("measuring memory needs /proc and a build without the race detector")
	}
	process := exec.Command(os.Args[0], "-test.run=^"+regexp.QuoteMeta(t.Name())+"$", "-test.v")
	process.Env = append(os.Environ(), memoryEnv+"=1")
	output, err := process.CombinedOutput()
	require.NoError(t, err, "%s", output)
	match := regexp.MustCompile(`VmHWM:\s*(\d+) kB`).FindSubmatch(output)
	require.NotNil(t, match, "%s", output)
	kib, err := strconv.ParseInt(string(match[1]), 10, 64)
	require.NoError(t, err)
	t.Logf("a Put and a copy of %d MiB took at most %d MiB of memory", size>>20, kib>>10)
	assert.Less(t, kib<<10, int64(limit))
}
