package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

// backend is a deployment: each part holds the role that it needs and no other, where the keyring
// knows roles.
type backend struct {
	store storage.Store
	admin keystest.Keyring // every role

	writer  vault.Keyring
	server  vault.Keyring // no right but what a grant brings
	granter keys.Granter

	// leftovers lists unfinished uploads and temporary files.
	leftovers func(t *testing.T) []string

	closeIdle func() // the connections that the backend's clients keep
}

// onEachBackend runs a test on the embedded default and on real servers.
func onEachBackend(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, servers(t).backend) })
}

func embedded(t *testing.T) *backend {
	t.Helper()
	root := t.TempDir()
	keyring, err := local.Open(filepath.Join(root, "keys"), local.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, keyring.Close()) })
	store, err := dir.Open(filepath.Join(root, "objects"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return &backend{
		store: store, admin: keyring, writer: keyring, server: keyring, granter: keyring,
		leftovers: func(t *testing.T) []string {
			entries, err := os.ReadDir(filepath.Join(root, "objects", "tmp"))
			require.NoError(t, err)
			var names []string
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			return names
		},
		closeIdle: func() {},
	}
}

// real is a backend on real servers, and the servers.
type real struct {
	*backend
	vault *testserver.VaultServer
	minio *testserver.MinIOServer
}

func servers(t *testing.T, options ...testserver.Option) *real {
	t.Helper()
	vaultServer, minioServer := testserver.Vault(t, options...), testserver.MinIO(t, options...)
	root := vaultServer.Client(vaultServer.RootToken())
	_, err := transit.Setup(t.Context(), root, transit.SetupOptions{
		Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix(), MaxGrantTTL: time.Hour,
	})
	require.NoError(t, err)
	idle := []func(){}
	keyring := func(client *api.Client) *transit.Keyring {
		idle = append(idle, client.CloneConfig().HttpClient.CloseIdleConnections)
		k, err := transit.New(client, transit.Options{Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix()})
		require.NoError(t, err)
		return k
	}
	role := func(name string) *transit.Keyring {
		return keyring(vaultServer.Client(vaultServer.RoleToken(name)))
	}
	transport := minioServer.Transport()
	idle = append(idle, transport.CloseIdleConnections)
	client, err := s3.NewClient(s3.Config{
		Endpoint: "http://" + minioServer.Endpoint(), Transport: transport,
		Credentials: credentials.NewStaticV4(minioServer.AccessKey(), minioServer.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, minioServer.Bucket())
	require.NoError(t, err)
	return &real{
		backend: &backend{
			store: store, admin: keyring(root),
			writer: role("writer"), server: keyring(vaultServer.Client("")), granter: role("granter"),
			leftovers: func(t *testing.T) []string {
				var names []string
				for upload := range client.ListIncompleteUploads(context.Background(), minioServer.Bucket(), "", true) {
					require.NoError(t, upload.Err)
					names = append(names, upload.Key)
				}
				return names
			},
			closeIdle: func() {
				for _, c := range idle {
					c()
				}
			},
		},
		vault: vaultServer, minio: minioServer,
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

// enrol makes a patient whom nobody else has.
func (b *backend) enrol(t *testing.T) keys.Patient {
	t.Helper()
	patient := keys.Patient("canary-patient-" + rand.Text())
	_, err := b.admin.Enrol(t.Context(), patient)
	require.NoError(t, err)
	return patient
}

func (b *backend) grant(t *testing.T, patient keys.Patient) keys.Grant {
	t.Helper()
	grant, err := b.granter.Issue(t.Context(), patient, keys.GrantOptions{
		TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "request-1",
	})
	require.NoError(t, err)
	return grant
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
