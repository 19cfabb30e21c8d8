package upkeep_test

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
	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/upkeep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prefix is not empty, so that what forgets it finds nothing.
const prefix = "clinic/"

// backend is a deployment: each part holds the role that it needs and no other, where the keyring knows
// roles.
type backend struct {
	store   storage.Store
	layout  layout.Layout
	vault   *vault.Vault // may write, and read with a grant
	admin   admin        // every role
	auditor upkeep.KeyVersions

	// abandon leaves an unfinished upload of this media.
	abandon func(t *testing.T, name string)
}

type admin interface {
	keys.Enroller
	keys.Granter
	keys.Rotator
	keys.Retirer
	keys.Trimmer
	keys.Eraser
}

// onEachBackend runs a test on the embedded default and on real servers.
func onEachBackend(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, servers(t)) })
}

func newBackend(t *testing.T, store storage.Store, keyring vault.Keyring, b backend) *backend {
	t.Helper()
	v, err := vault.New(keyring, store, vault.WithPrefix(prefix), vault.WithKeyCache(0, 1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	l, err := layout.New(prefix)
	require.NoError(t, err)
	b.store, b.vault, b.layout = store, v, l
	return &b
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
	return newBackend(t, store, keyring, backend{
		admin: keyring, auditor: keyring,
		abandon: func(t *testing.T, _ string) {
			require.NoError(t, os.WriteFile(filepath.Join(root, "objects", "tmp", rand.Text()), []byte("half"), 0o600))
		},
	})
}

// split is the keyring of a process that writes, and reads with what a grant brings.
type split struct {
	keys.Wrapper
	keys.Unwrapper
}

func servers(t *testing.T) *backend {
	t.Helper()
	vaultServer, minioServer := testserver.Vault(t), testserver.MinIO(t)
	root := vaultServer.Client(vaultServer.RootToken())
	_, err := transit.Setup(t.Context(), root, transit.SetupOptions{
		Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix(), MaxGrantTTL: time.Hour,
	})
	require.NoError(t, err)
	keyring := func(client *api.Client) *transit.Keyring {
		t.Cleanup(client.CloneConfig().HttpClient.CloseIdleConnections)
		k, err := transit.New(client, transit.Options{Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix()})
		require.NoError(t, err)
		return k
	}
	role := func(name string) *transit.Keyring {
		return keyring(vaultServer.Client(vaultServer.RoleToken(name)))
	}
	client := minioServer.Client()
	return newBackend(t, teststore.S3(t, minioServer), split{role("writer"), keyring(vaultServer.Client(""))}, backend{
		admin: keyring(root), auditor: role("auditor"),
		abandon: func(t *testing.T, name string) {
			_, err := minio.Core{Client: client}.NewMultipartUpload(t.Context(), minioServer.Bucket(), name, minio.PutObjectOptions{})
			require.NoError(t, err)
		},
	})
}

// patient is one whom nobody else has, enrolled, with a grant.
type patient struct {
	patient keys.Patient
	keyID   keys.KeyID
	grant   keys.Grant
}

func (b *backend) enrol(t *testing.T) patient {
	t.Helper()
	name := keys.Patient("patient-" + rand.Text())
	keyID, err := b.admin.Enrol(t.Context(), name)
	require.NoError(t, err)
	grant, err := b.admin.Issue(t.Context(), name, keys.GrantOptions{TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.HealthOperations})
	require.NoError(t, err)
	return patient{name, keyID, grant}
}

func (b *backend) put(t *testing.T, p patient, size int) vault.ID {
	t.Helper()
	id, err := b.vault.Put(t.Context(), p.patient, bytes.NewReader(random(size)), vault.Metadata{Title: "Follow-up"})
	require.NoError(t, err)
	return id
}

// orphan leaves media without an envelope.
func (b *backend) orphan(t *testing.T, p patient, size int) vault.ID {
	t.Helper()
	id := b.put(t, p, size)
	b.remove(t, b.layout.Envelope(id))
	return id
}

func (b *backend) open(t *testing.T, p patient, id vault.ID) {
	t.Helper()
	recording, err := b.vault.Open(t.Context(), p.grant, id)
	require.NoError(t, err)
	defer recording.Close()
	n, err := io.Copy(io.Discard, recording)
	require.NoError(t, err)
	require.Equal(t, recording.Size(), n)
}

func (b *backend) remove(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, b.store.Delete(t.Context(), name))
}

// uploads lists the unfinished uploads.
func (b *backend) uploads(t *testing.T) (names []string) {
	t.Helper()
	for upload, err := range b.store.(storage.UploadLister).Uploads(t.Context(), "") {
		require.NoError(t, err)
		names = append(names, strings.TrimPrefix(upload.Name, prefix))
	}
	return names
}

func random(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	return data
}

// spy is a store that does something before it does what it is asked.
type spy struct {
	storage.Store
	before func(ctx context.Context, verb, name string) error
}

func (s spy) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if err := s.before(ctx, "get", name); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, name, offset, length)
}

func (s spy) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := s.before(ctx, "stat", name); err != nil {
		return storage.Info{}, err
	}
	return s.Store.Stat(ctx, name)
}

func (s spy) Delete(ctx context.Context, name string) error {
	if err := s.before(ctx, "delete", name); err != nil {
		return err
	}
	return s.Store.Delete(ctx, name)
}
