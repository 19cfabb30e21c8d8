package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

func TestAVaultOutageIsReportedAndPasses(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 300_000)
	id := b.put(t, alice, data)
	grant := b.Grant(t, alice)
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
	b.Vault.Seal(t)
	check("sealed")
	b.Vault.Unseal(t)
	got, err := b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	b.Vault.Kill(t)
	check("killed")
	assert.Len(t, b.Names(t), 2, "nothing was written")

	// An open recording needs Vault no longer.
	got, err = io.ReadAll(recording)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))

	b.Vault.Restart(t)
	got, err = b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
}

func TestAStorageOutageIsReportedAndLosesNothing(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 40<<20)
	id := b.put(t, alice, data)
	grant := b.Grant(t, alice)
	writer := b.vaultOf(t, b.writer)

	// Killed in the middle of an upload.
	source := bytes.NewReader(data)
	_, err := writer.Put(t.Context(), alice, readerFunc(func(p []byte) (int, error) {
		if source.Len() < len(data)/2 {
			b.MinIO.Kill(t)
		}
		return source.Read(p)
	}), metadata())
	require.ErrorIs(t, err, storage.ErrUnavailable)
	_, err = b.open(t, grant, id)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	b.MinIO.Restart(t)

	// Killed in the middle of a download.
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), grant, id)
	require.NoError(t, err)
	defer recording.Close()
	begin := make([]byte, 1<<20)
	_, err = io.ReadFull(recording, begin)
	require.NoError(t, err)
	b.MinIO.Kill(t)
	rest, err := io.ReadAll(recording)
	require.Error(t, err)
	require.NotErrorIs(t, err, vault.ErrDamaged)
	assert.True(t, bytes.HasPrefix(data, append(begin, rest...)))
	b.MinIO.Restart(t)

	got, err := b.open(t, grant, id)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	assert.Len(t, b.Names(t), 2)
}

func TestWrongBucketsAndCredentialsAreReported(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	grant := b.Grant(t, alice)
	right := credentials.NewStaticV4(b.MinIO.AccessKey(), b.MinIO.SecretKey(), "")
	wrong := credentials.NewStaticV4("nobody", "nothing-at-all", "")
	endpoint := "http://" + b.MinIO.Endpoint()
	for name, c := range map[string]struct {
		store storage.Store
		want  error
	}{
		"missing bucket":  {s3Store(t, endpoint, "no-such-bucket", right), storage.ErrNoBucket},
		"unreachable":     {s3Store(t, "http://127.0.0.1:1", b.MinIO.Bucket(), right), storage.ErrUnavailable},
		"wrong key":       {s3Store(t, endpoint, b.MinIO.Bucket(), wrong), storage.ErrDenied},
		"not an S3 store": {s3Store(t, b.Vault.Address(), b.MinIO.Bucket(), right), nil},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := vault.New(b.writer, c.store)
			require.NoError(t, err)
			_, putErr := v.Put(t.Context(), alice, strings.NewReader("x"), metadata())
			_, openErr := v.Open(t.Context(), grant, id)
			for _, err := range []error{putErr, openErr} {
				require.Error(t, err)
				if c.want != nil {
					assert.ErrorIs(t, err, c.want)
				}
				assert.NotErrorIs(t, err, vault.ErrDamaged)
			}
		})
	}
	assert.Len(t, b.Names(t), 2)
}

func s3Store(t *testing.T, endpoint, bucket string, signer *credentials.Credentials) storage.Store {
	t.Helper()
	client, err := s3.NewClient(s3.Config{Endpoint: endpoint, Credentials: signer})
	require.NoError(t, err)
	store, err := s3.New(client, bucket)
	require.NoError(t, err)
	return store
}

// crashVariable names the directory of the deployment on which the test binary runs TestCrashingWriter.
const crashVariable = "RECVAULT_TEST_CRASH_DIR"

// TestCrashingWriter is the process that TestAKilledWriterLeavesOnlyWholeRecordings kills.
func TestCrashingWriter(t *testing.T) {
	root := os.Getenv(crashVariable)
	if root == "" {
		t.Skip("run by TestAKilledWriterLeavesOnlyWholeRecordings")
	}
	d, err := testdeployment.Open(testdeployment.Place{Dir: root})
	require.NoError(t, err)
	v, err := vault.New(d.Keyring(testdeployment.Writer), d.Store)
	require.NoError(t, err)
	fmt.Println("ready")
	for {
		_, err := v.Put(context.Background(), "alice", &pattern{left: 3 << 20}, metadata())
		require.NoError(t, err)
		fmt.Println("committed")
	}
}

func TestAKilledWriterLeavesOnlyWholeRecordings(t *testing.T) {
	b := embedded(t)
	_, err := b.admin.Enrol(t.Context(), "alice")
	require.NoError(t, err)
	var committed int
	for range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestCrashingWriter$")
		cmd.Env = append(os.Environ(), crashVariable+"="+b.Place.Dir)
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
		// The writer puts one recording after another, so any moment is in the middle of one.
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
	grant, v := b.Grant(t, "alice"), b.vaultOf(t, b.writer)
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

// TestAStoreThatIsAwayForTenSecondsIsRiddenOut kills MinIO while recordings are put, opened and played.
func TestAStoreThatIsAwayForTenSecondsIsRiddenOut(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	grant := b.Grant(t, alice)
	data := random(t, 40<<20)
	id := b.put(t, alice, data)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	sequential, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	defer sequential.Close()
	begin := make([]byte, 1<<20)
	_, err = io.ReadFull(sequential, begin)
	require.NoError(t, err)

	// A Put that has sent a part, and one that begins during the outage.
	gone, half := make(chan struct{}), make(chan struct{})
	source := bytes.NewReader(data)
	var once sync.Once
	put := func(r io.Reader) func() {
		return func() {
			id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, r, metadata())
			if assert.NoError(t, err) {
				got, err := b.open(t, grant, id)
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(data, got))
			}
		}
	}
	var under sync.WaitGroup
	under.Go(put(readerFunc(func(p []byte) (int, error) {
		if source.Len() < len(data)/2 {
			once.Do(func() { close(half) })
			<-gone
		}
		return source.Read(p)
	})))
	<-half
	b.MinIO.Kill(t)
	close(gone)
	under.Go(put(bytes.NewReader(data)))
	under.Go(func() {
		rest, err := io.ReadAll(sequential)
		assert.NoError(t, err)
		assert.True(t, bytes.Equal(data, append(begin, rest...)))
	})
	under.Go(func() {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Range", "bytes=20000000-20999999")
		v.ServeRecording(w, r, grant, id)
		assert.Equal(t, http.StatusPartialContent, w.Code)
		assert.True(t, bytes.Equal(data[20_000_000:21_000_000], w.Body.Bytes()))
	})
	time.Sleep(10 * time.Second) // the outage
	b.MinIO.Restart(t)
	under.Wait()
}
