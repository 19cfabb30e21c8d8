package erasure_test

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runChild())
	}
	goleak.VerifyTestMain(m)
}

// unwrapper is an eraser's keyring that can be given a grant.
type unwrapper interface {
	erasure.Keyring
	keys.Unwrapper
}

type administrator interface {
	keys.Enroller
	keys.Granter
	keys.Rotator
	keys.Eraser
}

// backend is a deployment: each part holds the role that it needs and no other, where the keyring knows
// roles.
type backend struct {
	store  storage.Store
	admin  administrator
	writer vault.Keyring
	eraser unwrapper

	rotator erasure.Keyring // may do all but erase; nil where the keyring knows no roles

	child []string // the environment in which a process of its own finds the same
}

func onEachBackend(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, servers(t)) })
}

func embedded(t *testing.T) *backend {
	t.Helper()
	root := t.TempDir()
	keyring, store, err := openEmbedded(root)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, keyring.Close())
		require.NoError(t, store.Close())
	})
	return &backend{
		store: store, admin: keyring, writer: keyring, eraser: keyring,
		child: []string{childEnv + "=embedded", rootEnv + "=" + root},
	}
}

func openEmbedded(root string) (*local.Keyring, *dir.Store, error) {
	keyring, err := local.Open(filepath.Join(root, "keys"), local.Options{})
	if err != nil {
		return nil, nil, err
	}
	store, err := dir.Open(filepath.Join(root, "objects"))
	return keyring, store, err
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
		k, err := transit.New(client, transit.Options{Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix()})
		require.NoError(t, err)
		return k
	}
	eraser := vaultServer.RoleToken("eraser")
	return &backend{
		store: teststore.S3(t, minioServer), admin: keyring(root),
		writer: keyring(vaultServer.Client(vaultServer.RoleToken("writer"))),
		eraser: keyring(vaultServer.Client(eraser)), rotator: keyring(vaultServer.Client(vaultServer.RoleToken("rotator"))),
		child: []string{
			childEnv + "=servers",
			vaultEnv + "=" + vaultServer.Address(), tokenEnv + "=" + eraser,
			mountEnv + "=" + vaultServer.Mount(), prefixEnv + "=" + vaultServer.Prefix(),
			minioEnv + "=" + minioServer.Endpoint(), bucketEnv + "=" + minioServer.Bucket(),
			accessEnv + "=" + minioServer.AccessKey(), secretEnv + "=" + minioServer.SecretKey(),
		},
	}
}

const operator = "records-office"

func (b *backend) erasure(t *testing.T) *erasure.Erasure {
	t.Helper()
	return newErasure(t, b.eraser, b.store, erasure.Options{Operator: operator})
}

func newErasure(t *testing.T, keyring erasure.Keyring, store storage.Store, options erasure.Options) *erasure.Erasure {
	t.Helper()
	e, err := erasure.New(keyring, store, options)
	require.NoError(t, err)
	return e
}

func (b *backend) vault(t *testing.T) *vault.Vault {
	t.Helper()
	v, err := vault.New(b.writer, b.store, vault.WithKeyCache(0, 1))
	require.NoError(t, err)
	return v
}

// enrol makes a patient whom nobody else has.
func (b *backend) enrol(t *testing.T) (keys.Patient, keys.KeyID) {
	t.Helper()
	patient := keys.Patient("canary-patient-" + rand.Text())
	id, err := b.admin.Enrol(t.Context(), patient)
	require.NoError(t, err)
	return patient, id
}

func (b *backend) put(t *testing.T, patient keys.Patient) vault.ID {
	t.Helper()
	id, err := b.vault(t).Put(t.Context(), patient, bytes.NewReader([]byte(content)), vault.Metadata{})
	require.NoError(t, err)
	return id
}

const content = "a consultation"

func (b *backend) grant(t *testing.T, patient keys.Patient) keys.Grant {
	t.Helper()
	grant, err := b.admin.Issue(t.Context(), patient, keys.GrantOptions{
		TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment,
	})
	require.NoError(t, err)
	return grant
}

// open reads a recording with a grant that is as new as can be.
func (b *backend) open(t *testing.T, patient keys.Patient, id vault.ID) error {
	t.Helper()
	recording, err := b.vault(t).Open(t.Context(), b.grant(t, patient), id)
	if err != nil {
		return err
	}
	defer recording.Close()
	got, err := io.ReadAll(recording)
	require.NoError(t, err)
	require.Equal(t, content, string(got))
	return nil
}

// objects lists the names of a patient's objects.
func (b *backend) objects(t *testing.T, id keys.KeyID) []string {
	t.Helper()
	return teststore.Names(t, b.store, "r1/"+id.String()+"/")
}

func objectName(id vault.ID, part string) string {
	return "r1/" + id.KeyID().String() + "/" + id.Rec() + "/" + part
}
