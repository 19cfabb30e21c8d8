package vault_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// backend is a deployment with one keyring for each role that these tests use. On real servers a keyring has the
// rights of its role only; the embedded default has no roles.
type backend struct {
	*testdeployment.Deployment
	admin   keys.Keyring // has every right
	writer  vault.Keyring
	server  vault.Keyring // has no right but a grant's
	granter keys.Granter
}

// onEachBackend runs a test on the embedded default and on real servers.
func onEachBackend(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	testdeployment.OnEach(t, func(t *testing.T, d *testdeployment.Deployment) { test(t, backendOf(d)) })
}

func embedded(t *testing.T) *backend {
	t.Helper()
	return backendOf(testdeployment.Embedded(t))
}

func servers(t *testing.T, options ...testserver.Option) *backend {
	t.Helper()
	return backendOf(testdeployment.Servers(t, options...))
}

func backendOf(d *testdeployment.Deployment) *backend {
	return &backend{
		d,
		d.Keyring(testdeployment.Admin),
		d.Keyring(testdeployment.Writer),
		d.Keyring(testdeployment.Server),
		d.Keyring(testdeployment.Granter),
	}
}

// vaultOf returns the vault of a process that has this keyring.
func (b *backend) vaultOf(t *testing.T, keyring vault.Keyring, options ...vault.Option) *vault.Vault {
	t.Helper()
	v, err := vault.New(keyring, b.Store, options...)
	require.NoError(t, err)
	return v
}

// enrol enrols a new patient.
func (b *backend) enrol(t *testing.T) keys.Patient {
	t.Helper()
	patient, _ := b.Enrol(t)
	return patient
}

// put puts a recording with the metadata of metadata.
func (b *backend) put(t *testing.T, patient keys.Patient, data []byte) vault.ID {
	t.Helper()
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), patient, bytes.NewReader(data), metadata())
	require.NoError(t, err)
	return id
}

// open opens a recording on a vault of its own, whose key cache is empty, and reads all of it.
func (b *backend) open(t *testing.T, grant keys.Grant, id vault.ID) ([]byte, error) {
	t.Helper()
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), grant, id)
	if err != nil {
		return nil, err
	}
	defer recording.Close()
	return io.ReadAll(recording)
}

// objectName returns the name of a recording's "envelope" or "media".
func objectName(id vault.ID, part string) string {
	return "recordings/" + strings.Replace(id.String(), ".", "/", 1) + "/" + part
}

func metadata() vault.Metadata {
	return vault.Metadata{
		ContentType: "video/webm",
		Title:       "Follow-up",
		RecordedAt:  time.Date(2020, 6, 9, 10, 30, 0, 0, time.UTC),
		Duration:    40 * time.Second,
		Attributes:  map[string]string{"clinic": "north"},
	}
}

func random(t testing.TB, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, err := rand.Read(data)
	require.NoError(t, err)
	return data
}

// unsized is a reader that does not report its size.
type unsized struct{ io.Reader }

// hold puts a patient on hold. The test ends the hold with clearHold.
func (b *backend) hold(t *testing.T, id keys.KeyID) (clearHold func()) {
	t.Helper()
	holds := erasure.NewHolds(b.Store, nil)
	_, err := holds.Set(t.Context(), id, "legal", "case 7")
	require.NoError(t, err)
	return func() {
		_, err := holds.Clear(t.Context(), id, "legal", "closed")
		require.NoError(t, err)
	}
}

// assertNoLeak closes the idle connections of the deployment's clients and checks that no goroutine is left.
func (b *backend) assertNoLeak(t *testing.T, ignore goleak.Option) {
	t.Helper()
	b.CloseIdle()
	assert.NoError(t, goleak.Find(ignore))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// writerAndReader is the keyring of a process that holds the writer's right, and reads with what a grant brings.
func (b *backend) writerAndReader() vault.Keyring {
	return struct {
		keys.Wrapper
		keys.Unwrapper
	}{b.writer, b.server}
}
