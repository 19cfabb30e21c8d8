package rotation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// childEnv makes the test binary play a role, as a process of its own. It holds a place as JSON.
const childEnv = "RECVAULT_ROTATION_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := play(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// place is where a deployment is to be found: on servers, or in a directory.
type place struct {
	Role string // what a child process is to do
	Seed uint64

	Dir string // of the embedded backend; the rest is empty then

	Vault, Mount, Prefix                   string
	Tokens                                 map[string]string // by role
	Endpoint, AccessKey, SecretKey, Bucket string
	Patients                               []string
}

// keyring is every role of package keys.
type keyring interface {
	rotation.Keyring
	vault.Keyring
	keys.Enroller
	keys.Granter
	keys.Eraser
}

// backend is a deployment: each part holds the role that it needs and no other, where the keyring
// knows roles.
type backend struct {
	place place
	store storage.Store
	admin keyring // every role

	writer  keyring
	server  keyring // no right but what a grant brings
	rotator keyring
	retirer keyring
	trimmer keyring

	vault *testserver.VaultServer // nil on the embedded backend
}

// onEachBackend runs a test on the embedded default and on real servers.
func onEachBackend(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, servers(t)) })
}

func embedded(t *testing.T) *backend {
	t.Helper()
	return connect(t, place{Dir: t.TempDir()})
}

func servers(t *testing.T, options ...testserver.Option) *backend {
	t.Helper()
	vaultServer, minioServer := testserver.Vault(t, options...), testserver.MinIO(t, options...)
	root := vaultServer.Client(vaultServer.RootToken())
	_, err := transit.Setup(t.Context(), root, transit.SetupOptions{
		Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix(), MaxGrantTTL: time.Hour,
	})
	require.NoError(t, err)
	tokens := map[string]string{"": "", "admin": vaultServer.RootToken()}
	for _, role := range []string{"writer", "rotator", "retirer", "trimmer"} {
		tokens[role] = vaultServer.RoleToken(role)
	}
	b := connect(t, place{
		Vault: vaultServer.Address(), Mount: vaultServer.Mount(), Prefix: vaultServer.Prefix(), Tokens: tokens,
		Endpoint: minioServer.Endpoint(), Bucket: minioServer.Bucket(),
		AccessKey: minioServer.AccessKey(), SecretKey: minioServer.SecretKey(),
	})
	b.vault = vaultServer
	return b
}

// connect opens a deployment until the test ends.
func connect(t *testing.T, p place) *backend {
	t.Helper()
	b, closeAll, err := open(p)
	require.NoError(t, err)
	t.Cleanup(closeAll)
	return b
}

func open(p place) (b *backend, closeAll func(), err error) {
	if p.Dir == "" {
		return openServers(p)
	}
	k, err := local.Open(filepath.Join(p.Dir, "keys"), local.Options{})
	if err != nil {
		return nil, nil, err
	}
	store, err := dir.Open(filepath.Join(p.Dir, "objects"))
	if err != nil {
		return nil, nil, err
	}
	b = &backend{place: p, store: store, admin: k, writer: k, server: k, rotator: k, retirer: k, trimmer: k}
	return b, func() { _, _ = k.Close(), store.Close() }, nil
}

func openServers(p place) (b *backend, closeAll func(), err error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 64
	keyring := func(role string) keyring {
		config := api.DefaultConfig()
		config.Address = p.Vault
		config.HttpClient.Transport = transport
		client, clientErr := api.NewClient(config)
		if clientErr != nil {
			err = clientErr
			return nil
		}
		client.SetToken(p.Tokens[role])
		k, newErr := transit.New(client, transit.Options{Mount: p.Mount, Prefix: p.Prefix})
		if newErr != nil {
			err = newErr
		}
		return k
	}
	b = &backend{
		place: p,
		admin: keyring("admin"), writer: keyring("writer"), server: keyring(""),
		rotator: keyring("rotator"), retirer: keyring("retirer"), trimmer: keyring("trimmer"),
	}
	if err != nil {
		return nil, nil, err
	}
	client, err := s3.NewClient(s3.Config{
		Endpoint: "http://" + p.Endpoint, Transport: transport,
		Credentials: credentials.NewStaticV4(p.AccessKey, p.SecretKey, ""),
	})
	if err != nil {
		return nil, nil, err
	}
	b.store, err = s3.New(client, p.Bucket)
	return b, transport.CloseIdleConnections, err
}

// enrol makes a patient whom nobody else has.
func (b *backend) enrol(t *testing.T) (keys.Patient, keys.KeyID) {
	t.Helper()
	patient := keys.Patient("canary-patient-" + rand.Text())
	id, err := b.admin.Enrol(t.Context(), patient)
	require.NoError(t, err)
	return patient, id
}

// recording is a recording and what it was made of.
type recording struct {
	patient keys.Patient
	id      vault.ID
	data    []byte
}

func (b *backend) put(t *testing.T, patient keys.Patient, size int) recording {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	v, err := vault.New(b.writer, b.store)
	require.NoError(t, err)
	id, err := v.Put(t.Context(), patient, bytes.NewReader(data), vault.Metadata{ContentType: "video/webm", Title: "Follow-up"})
	require.NoError(t, err)
	return recording{patient, id, data}
}

// putMany puts n small recordings of one patient.
func (b *backend) putMany(t *testing.T, patient keys.Patient, n int) []recording {
	t.Helper()
	recordings := make([]recording, n)
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for i := w; i < n; i += 8 {
				recordings[i] = b.put(t, patient, 10)
			}
		})
	}
	workers.Wait()
	return recordings
}

// read opens a recording with a grant for its patient.
func (b *backend) read(t *testing.T, r recording) ([]byte, error) {
	t.Helper()
	grant, err := b.admin.Issue(t.Context(), r.patient, keys.GrantOptions{TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
	require.NoError(t, err)
	v, err := vault.New(b.server, b.store)
	require.NoError(t, err)
	opened, err := v.Open(t.Context(), grant, r.id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return io.ReadAll(opened)
}

// opens requires recordings to be what they were.
func (b *backend) opens(t *testing.T, recordings ...recording) {
	t.Helper()
	for _, r := range recordings {
		data, err := b.read(t, r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(r.data, data), "%s has changed", r.id)
	}
}

func objectName(id vault.ID, part string) string {
	return "r1/" + strings.Replace(id.String(), ".", "/", 1) + "/" + part
}

func (b *backend) envelope(t *testing.T, id vault.ID) envelope.Envelope {
	t.Helper()
	e, err := envelope.Parse(teststore.Read(t, b.store, objectName(id, "envelope")))
	require.NoError(t, err)
	return e
}

// version is that of the envelope key which wraps the recording's key.
func (b *backend) version(t *testing.T, id vault.ID) int {
	t.Helper()
	version, err := b.envelope(t, id).Wrapped.Version()
	require.NoError(t, err)
	return version
}

func (b *backend) rotation(t *testing.T, k rotation.Keyring, options rotation.Options) *rotation.Rotation {
	t.Helper()
	return rotationOf(t, k, b.store, options)
}

func rotationOf(t *testing.T, k rotation.Keyring, store storage.Store, options rotation.Options) *rotation.Rotation {
	t.Helper()
	r, err := rotation.New(k, store, options)
	require.NoError(t, err)
	return r
}

// hasty are options for writers that wrap and commit within a moment, so that tests need not wait long.
func hasty() rotation.Options {
	return rotation.Options{
		Freshness: 100 * time.Millisecond, CommitTimeout: 400 * time.Millisecond,
		ClockSkew: time.Second, // Vault rounds times down to the second
		Grace:     1500 * time.Millisecond,
	}
}

func (b *backend) rotate(t *testing.T) rotation.Report {
	t.Helper()
	report, err := b.rotation(t, b.rotator, rotation.Options{}).Rotate(t.Context(), scope.All())
	require.NoError(t, err)
	return report
}

func (b *backend) rewrap(t *testing.T) rotation.Report {
	t.Helper()
	report, err := b.rotation(t, b.rotator, rotation.Options{}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	return report
}

// waitForGrace waits until the newest version of the patient's key is as old as hasty wants it.
func (b *backend) waitForGrace(t *testing.T, id keys.KeyID) {
	t.Helper()
	v, err := b.admin.Versions(t.Context(), id)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return time.Since(v.Rotated) > hasty().Grace }, 10*time.Second, 20*time.Millisecond)
}

// play is the child process.
func play(text string) error {
	var p place
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	b, closeAll, err := open(p)
	if err != nil {
		return err
	}
	defer closeAll()
	return roles[p.Role](context.Background(), b)
}
