package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
)

func TestASealedStoppedOrRestartedVaultIsToldAndPasses(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 300_000)
	id := b.put(t, alice, data)
	grant := b.grant(t, alice)
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), grant, id)
	require.NoError(t, err)
	defer recording.Close()

	check := func(state string) {
		start := time.Now()
		_, err := b.open(t, grant, id)
		require.ErrorIs(t, err, keys.ErrUnavailable, state)
		require.NotErrorIs(t, err, keys.ErrDenied, state)
		_, err = b.vaultOf(t, b.writer).Put(t.Context(), alice, bytes.NewReader(data), metadata())
		require.ErrorIs(t, err, keys.ErrUnavailable, state)
		assert.Less(t, time.Since(start), 30*time.Second, "bounded retries")
	}
	b.vault.Seal(t)
	check("sealed")
	b.vault.Unseal(t)
	got, err := b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	b.vault.Kill(t)
	check("killed")
	assert.Len(t, teststore.Names(t, b.store, ""), 2, "nothing was written meanwhile")

	// What is open stays open: Vault is asked once.
	got, err = io.ReadAll(recording)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))

	b.vault.Restart(t)
	got, err = b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
}

func TestStorageThatFailsIsToldAndLosesNothing(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 40<<20)
	id := b.put(t, alice, data)
	grant := b.grant(t, alice)
	writer := b.vaultOf(t, b.writer)

	// Killed in the middle of an upload.
	source := bytes.NewReader(data)
	_, err := writer.Put(t.Context(), alice, readerFunc(func(p []byte) (int, error) {
		if source.Len() < len(data)/2 {
			b.minio.Kill(t)
		}
		return source.Read(p)
	}), metadata())
	require.ErrorIs(t, err, storage.ErrUnavailable)
	_, err = b.open(t, grant, id)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	b.minio.Restart(t)

	// Killed in the middle of a download.
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), grant, id)
	require.NoError(t, err)
	defer recording.Close()
	begin := make([]byte, 1<<20)
	_, err = io.ReadFull(recording, begin)
	require.NoError(t, err)
	b.minio.Kill(t)
	rest, err := io.ReadAll(recording)
	require.Error(t, err)
	require.NotErrorIs(t, err, vault.ErrDamaged)
	assert.True(t, bytes.HasPrefix(data, append(begin, rest...)))
	b.minio.Restart(t)

	got, err := b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	assert.Len(t, teststore.Names(t, b.store, ""), 2)
}

func TestWrongBucketsAndCredentialsAreTold(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	grant := b.grant(t, alice)
	right := credentials.NewStaticV4(b.minio.AccessKey(), b.minio.SecretKey(), "")
	wrong := credentials.NewStaticV4("nobody", "nothing-at-all", "")
	endpoint := "http://" + b.minio.Endpoint()
	for name, c := range map[string]struct {
		store storage.Store
		want  error
	}{
		"missing bucket":  {s3Store(t, endpoint, "no-such-bucket", right), storage.ErrNoBucket},
		"unreachable":     {s3Store(t, "http://127.0.0.1:1", b.minio.Bucket(), right), storage.ErrUnavailable},
		"wrong key":       {s3Store(t, endpoint, b.minio.Bucket(), wrong), storage.ErrDenied},
		"not an S3 store": {s3Store(t, b.vault.Address(), b.minio.Bucket(), right), nil},
	} {
		v, err := vault.New(b.writer, c.store)
		require.NoError(t, err)
		_, putErr := v.Put(t.Context(), alice, strings.NewReader("x"), metadata())
		_, openErr := v.Open(t.Context(), grant, id)
		for _, err := range []error{putErr, openErr} {
			require.Error(t, err, name)
			if c.want != nil {
				assert.ErrorIs(t, err, c.want, name)
			}
			assert.NotErrorIs(t, err, vault.ErrDamaged, name)
		}
	}
	assert.Len(t, teststore.Names(t, b.store, ""), 2)
}

// crashVariable makes the test binary a writer that is to be killed.
const crashVariable = "RECVAULT_TEST_CRASH_DIR"

// TestCrashingWriter is run by the next test, in a process of its own.
func TestCrashingWriter(t *testing.T) {
	root := os.Getenv(crashVariable)
	if root == "" {
		t.Skip("run by TestAWriterThatIsKilledLeavesWholeRecordingsOnly")
	}
	keyring, store := openCrashDir(t, root)
	v, err := vault.New(keyring, store)
	require.NoError(t, err)
	fmt.Println("ready")
	for {
		_, err := v.Put(context.Background(), "alice", &pattern{left: 3 << 20}, metadata())
		require.NoError(t, err)
		fmt.Println("committed")
	}
}

func openCrashDir(t *testing.T, root string) (*local.Keyring, *dir.Store) {
	t.Helper()
	keyring, err := local.Open(filepath.Join(root, "keys"), local.Options{})
	require.NoError(t, err)
	store, err := dir.Open(filepath.Join(root, "objects"))
	require.NoError(t, err)
	return keyring, store
}

func TestAWriterThatIsKilledLeavesWholeRecordingsOnly(t *testing.T) {
	root := t.TempDir()
	keyring, store := openCrashDir(t, root)
	defer keyring.Close()
	defer store.Close()
	_, err := keyring.Enrol(t.Context(), "alice")
	require.NoError(t, err)
	var committed int
	for range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashingWriter$")
		cmd.Env = append(os.Environ(), crashVariable+"="+root)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines, stop := make(chan string), make(chan struct{})
		go func() {
			defer close(lines)
			var line string
			for {
				if _, err := fmt.Fscanln(out, &line); err != nil {
					return
				}
				select {
				case lines <- line:
				case <-stop:
					return
				}
			}
		}()
		require.Equal(t, "ready", <-lines)
		require.Equal(t, "committed", <-lines)
		committed++
		// Any moment will do; the writer is always in the middle of something.
		deadline := time.After(time.Duration(rand.IntN(30)) * time.Millisecond)
	wait:
		for {
			select {
			case <-lines:
				committed++
			case <-deadline:
				break wait
			}
		}
		require.NoError(t, cmd.Process.Kill())
		close(stop)
		_ = cmd.Wait()
	}
	grant, err := keyring.Issue(t.Context(), "alice", keys.GrantOptions{TTL: time.Minute, Subject: "x", Purpose: keys.Treatment})
	require.NoError(t, err)
	v, err := vault.New(keyring, store)
	require.NoError(t, err)
	var found int
	for entry, err := range v.List(t.Context(), "alice") {
		require.NoError(t, err)
		found++
		recording, err := v.Open(t.Context(), grant, entry.ID)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, recording)
		require.NoError(t, err)
		assert.EqualValues(t, 3<<20, n)
		require.NoError(t, recording.Close())
	}
	assert.GreaterOrEqual(t, found, committed, "a committed recording was lost")
}
