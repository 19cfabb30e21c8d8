package vault_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

// backend is a deployment. Each part holds the role that it needs and no other, where the keyring has roles.
type backend struct {
	*testdeployment.Deployment
	store storage.Store
	admin keystest.Keyring // every role

	writer  vault.Keyring
	server  vault.Keyring // no right but what a grant brings
	granter keys.Granter

	vault *testserver.VaultServer // nil on the embedded default
	minio *testserver.MinIOServer // likewise
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
		Deployment: d, store: d.Store, vault: d.Vault, minio: d.MinIO,
		admin:   d.Keyring(testdeployment.Admin),
		writer:  d.Keyring(testdeployment.Writer),
		server:  d.Keyring(testdeployment.Server),
		granter: d.Keyring(testdeployment.Granter),
	}
}

func s3Store(t *testing.T, endpoint, bucket string, signer *credentials.Credentials) storage.Store {
	t.Helper()
	client, err := s3.NewClient(s3.Config{Endpoint: endpoint, Credentials: signer})
	require.NoError(t, err)
	store, err := s3.New(client, bucket)
	require.NoError(t, err)
	return store
}

// vaultOf makes the Vault of a process that holds one of the backend's keyrings.
func (b *backend) vaultOf(t *testing.T, keyring vault.Keyring, options ...vault.Option) *vault.Vault {
	t.Helper()
	v, err := vault.New(keyring, b.store, options...)
	require.NoError(t, err)
	return v
}

// enrol enrols a patient of the test's own.
func (b *backend) enrol(t *testing.T) keys.Patient {
	t.Helper()
	patient, _ := b.Enrol(t)
	return patient
}

func (b *backend) grant(t *testing.T, patient keys.Patient) keys.Grant {
	t.Helper()
	return b.Grant(t, patient)
}

func (b *backend) put(t *testing.T, patient keys.Patient, data []byte) vault.ID {
	t.Helper()
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), patient, bytes.NewReader(data), metadata())
	require.NoError(t, err)
	return id
}

func (b *backend) open(t *testing.T, grant keys.Grant, id vault.ID) ([]byte, error) {
	t.Helper()
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), grant, id)
	if err != nil {
		return nil, err
	}
	defer recording.Close()
	return io.ReadAll(recording)
}

func objectName(id vault.ID, part string) string {
	return "r1/" + strings.Replace(id.String(), ".", "/", 1) + "/" + part
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

// unsized hides how long a reader is.
type unsized struct{ io.Reader }
