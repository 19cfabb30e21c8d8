package dir_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

// The environment variables of a child process: the test binary, started again to use the same store.
const (
	roleEnv = "DIR_TEST_ROLE"
	pathEnv = "DIR_TEST_PATH"
)

const (
	counterName = "shared/counter"
	additions   = 50
	writtenName = "written/again"
)

// process returns the command that starts a child process with a role on the store at path.
func process(role, path string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role, pathEnv+"="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

// runRole runs a child process and returns its exit status.
func runRole(role string) int {
	store, err := dir.Open(os.Getenv(pathEnv))
	if err == nil {
		switch role {
		case "count":
			err = count(store)
		case "write":
			err = write(store)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// count adds 1 to the counter, as often as additions says.
func count(store *dir.Store) error {
	for done := 0; done < additions; {
		object, err := store.Get(context.Background(), counterName, 0, -1)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(object)
		object.Close()
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(content))
		if err != nil {
			return err
		}
		next := strconv.Itoa(n + 1)
		_, err = store.Put(context.Background(), counterName, bytes.NewReader([]byte(next)), int64(len(next)), storage.IfMatch(object.Info.ETag))
		switch {
		case err == nil:
			done++
		case !errors.Is(err, storage.ErrChanged):
			return err
		}
	}
	return nil
}

func TestProcessesLoseNoUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	store := open(t, path)
	put(t, store, counterName, "0")
	const processes = 4
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() { assert.NoError(t, process("count", path).Run()) })
	}
	wg.Wait()
	assert.Equal(t, strconv.Itoa(processes*additions), get(t, store, counterName))
	assert.Empty(t, store.Leftovers(t))
}

// write stores one version of an object after another until it is killed, and prints the number of each.
func write(store *dir.Store) error {
	for version := uint64(1); ; version++ {
		content := numbered(version)
		if _, err := store.Put(context.Background(), writtenName, bytes.NewReader(content), -1, storage.Condition{}); err != nil {
			return err
		}
		fmt.Println(version)
	}
}

// numbered returns the content of a version: its number, noise, and the hash of both.
func numbered(version uint64) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], version)
	noise := make([]byte, 1000*(version%300))
	rand.NewChaCha8(seed).Read(noise)
	content := append(binary.BigEndian.AppendUint64(nil, version), noise...)
	sum := sha256.Sum256(content)
	return append(content, sum[:]...)
}

// number returns the number of the version with this content, and checks that the content is whole.
func number(t *testing.T, content string) uint64 {
	t.Helper()
	require.GreaterOrEqual(t, len(content), 8)
	version := binary.BigEndian.Uint64([]byte(content))
	require.True(t, content == string(numbered(version)), "not whole")
	return version
}

func TestKilledWriterLeavesOnlyWholeObjects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	leftovers := 0
	for range 40 {
		acknowledged := killWriter(t, path)
		list := entries(t, filepath.Join(path, "tmp"))
		leftovers += len(list)

		store, err := dir.Open(path)
		require.NoError(t, err)
		assert.Empty(t, entries(t, filepath.Join(path, "tmp")))
		found := number(t, get(t, store, writtenName))
		assert.Contains(t, []uint64{acknowledged, acknowledged + 1}, found, "the last acknowledged version, or the next one")
		put(t, store, "other", "the lock is free")
		require.NoError(t, store.Close())
	}
	assert.Positive(t, leftovers, "no writer was killed during a write")
}

// killWriter starts a writer, kills it at a random time, and returns the last version that it printed.
func killWriter(t *testing.T, path string) uint64 {
	t.Helper()
	writer := process("write", path)
	stdout, err := writer.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, writer.Start())
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), "the writer printed no version")
	timer := time.AfterFunc(rand.N(20*time.Millisecond), func() { writer.Process.Kill() })
	defer timer.Stop()
	last := lines.Text()
	for lines.Scan() {
		last = lines.Text()
	}
	writer.Wait()
	version, err := strconv.ParseUint(last, 10, 64)
	require.NoError(t, err)
	return version
}
