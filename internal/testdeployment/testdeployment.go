// Package testdeployment deploys recvault for tests: a keyring, a store and the roles, on the embedded default or
// on a real Vault and a real MinIO. The tests of packages vault, rotation, erasure and upkeep run on it.
package testdeployment

import (
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
)

// The roles of a deployment, beside Admin, which has every right, and Server, which has none but what a grant
// brings.
const (
	Admin    = "admin"
	Server   = ""
	Enroller = "enroller"
	Writer   = "writer"
	Granter  = "granter"
	Revoker  = "revoker"
	Rotator  = "rotator"
	Retirer  = "retirer"
	Trimmer  = "trimmer"
	Eraser   = "eraser"
	Auditor  = "auditor"
)

// Place says where a deployment is: in a directory, or on servers. As JSON, it is for the processes that a test
// starts.
type Place struct {
	Dir string // of the embedded default; the rest is empty then

	StoreID keys.StoreID // that the keyring serves

	Vault, Mount, Prefix                   string
	Tokens                                 map[string]string // by role
	Endpoint, AccessKey, SecretKey, Bucket string
}

// Deployment is a keyring and a store.
type Deployment struct {
	Place Place
	Store storage.Store

	Vault *testserver.VaultServer // nil on the embedded default, and after Open
	MinIO *testserver.MinIOServer // likewise

	keyrings  map[string]keys.Keyring // by role
	transport *http.Transport         // nil on the embedded default
	client    *minio.Client           // likewise
	close     func() error
}

// OnEach runs a test on the embedded default and on real servers.
func OnEach(t *testing.T, test func(t *testing.T, d *Deployment)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, Embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, Servers(t)) })
}

// Embedded deploys the embedded default in a directory of the test.
func Embedded(t testing.TB) *Deployment {
	t.Helper()
	d := connect(t, Place{Dir: t.TempDir(), StoreID: keys.NewStoreID()})
	require.NoError(t, d.Keyring(Admin).ClaimStore(t.Context(), d.Place.StoreID))
	return d
}

// Servers deploys on a real Vault and a real MinIO, in a mount and a bucket of the test.
func Servers(t testing.TB, options ...testserver.Option) *Deployment {
	t.Helper()
	v, m := testserver.Vault(t, options...), testserver.MinIO(t, options...)
	store := keys.NewStoreID()
	_, err := transit.Setup(t.Context(), v.Client(v.RootToken()), transit.SetupOptions{
		Mount: v.Mount(), Prefix: v.Prefix(), MaxGrantTTL: time.Hour, Store: store,
	})
	require.NoError(t, err)
	tokens := map[string]string{Admin: v.RootToken(), Server: ""}
	for _, role := range []string{Enroller, Writer, Granter, Revoker, Rotator, Retirer, Trimmer, Eraser, Auditor} {
		tokens[role] = v.RoleToken(role)
	}
	d := connect(t, Place{
		StoreID: store, Vault: v.Address(), Mount: v.Mount(), Prefix: v.Prefix(), Tokens: tokens,
		Endpoint: m.Endpoint(), Bucket: m.Bucket(), AccessKey: m.AccessKey(), SecretKey: m.SecretKey(),
	})
	d.Vault, d.MinIO = v, m
	return d
}

// connect opens a deployment until the test ends.
func connect(t testing.TB, p Place) *Deployment {
	t.Helper()
	d, err := Open(p)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	d.Serve(t, "")
	return d
}

// storeID ends the name of the object that identifies a prefix.
const storeID = "store-id"

// Serve makes a prefix of the store one that the keyring serves, as if its objects were copied there.
func (d *Deployment) Serve(t testing.TB, prefix string) {
	t.Helper()
	text := string(d.Place.StoreID)
	_, err := d.Store.Put(t.Context(), prefix+storeID, strings.NewReader(text), int64(len(text)), storage.IfAbsent())
	require.NoError(t, err)
}

// Open opens a deployment in a process that a test has started. The caller closes it.
func Open(p Place) (*Deployment, error) {
	if p.Dir != "" {
		return openEmbedded(p)
	}
	return openServers(p)
}

func openEmbedded(p Place) (*Deployment, error) {
	keyring, err := local.Open(filepath.Join(p.Dir, "keys"), local.Options{})
	if err != nil {
		return nil, err
	}
	store, err := dir.Open(filepath.Join(p.Dir, "objects"))
	if err != nil {
		return nil, err
	}
	d := &Deployment{Place: p, Store: store, keyrings: map[string]keys.Keyring{}}
	for _, role := range []string{Admin, Server, Enroller, Writer, Granter, Revoker, Rotator, Retirer, Trimmer, Eraser, Auditor} {
		d.keyrings[role] = keyring
	}
	d.close = func() error {
		if err := keyring.Close(); err != nil {
			return err
		}
		return store.Close()
	}
	return d, nil
}

func openServers(p Place) (*Deployment, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.MaxIdleConnsPerHost = 64
	d := &Deployment{Place: p, keyrings: map[string]keys.Keyring{}, transport: transport}
	d.close = func() error {
		transport.CloseIdleConnections()
		return nil
	}
	for role, token := range p.Tokens {
		config := api.DefaultConfig()
		config.Address = p.Vault
		config.HttpClient.Transport = transport
		client, err := api.NewClient(config)
		if err != nil {
			return nil, err
		}
		client.SetToken(token)
		if d.keyrings[role], err = transit.New(client, transit.Options{Mount: p.Mount, Prefix: p.Prefix}); err != nil {
			return nil, err
		}
	}
	var err error
	d.client, err = s3.NewClient(s3.Config{
		Endpoint: "http://" + p.Endpoint, Transport: transport,
		Credentials: credentials.NewStaticV4(p.AccessKey, p.SecretKey, ""),
	})
	if err != nil {
		return nil, err
	}
	d.Store, err = s3.New(d.client, p.Bucket)
	return d, err
}

// Close ends a deployment that was opened.
func (d *Deployment) Close() error { return d.close() }

// CloseIdle closes the connections that the deployment's clients keep.
func (d *Deployment) CloseIdle() {
	if d.transport != nil {
		d.transport.CloseIdleConnections()
	}
}

// Keyring returns the keyring of a process that holds one role. The embedded default knows no roles: each keyring
// may do everything.
func (d *Deployment) Keyring(role string) keys.Keyring {
	keyring, ok := d.keyrings[role]
	if !ok {
		panic("testdeployment: no such role: " + role)
	}
	return keyring
}

// Enrol enrols a patient of the test's own.
func (d *Deployment) Enrol(t testing.TB) (keys.Patient, keys.KeyID) {
	t.Helper()
	patient := keys.Patient("canary-patient-" + rand.Text())
	id, err := d.Keyring(Admin).Enrol(t.Context(), patient)
	require.NoError(t, err)
	return patient, id
}

// Grant issues a grant for a patient, good for ten minutes.
func (d *Deployment) Grant(t testing.TB, patient keys.Patient) keys.Grant {
	t.Helper()
	grant, err := d.Keyring(Granter).Issue(t.Context(), patient, keys.GrantOptions{
		TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "request-1",
	})
	require.NoError(t, err)
	return grant
}

// Names lists the names of all objects but those that identify a prefix as the keyring's: see Serve.
func (d *Deployment) Names(t testing.TB) []string {
	t.Helper()
	return slices.DeleteFunc(teststore.Names(t, d.Store, ""), func(name string) bool {
		return name == storeID || strings.HasSuffix(name, "/"+storeID)
	})
}

// Objects lists the names of a patient's objects under a prefix of the vault.
func (d *Deployment) Objects(t testing.TB, prefix string, id keys.KeyID) []string {
	t.Helper()
	return teststore.Names(t, d.Store, prefix+"recordings/"+id.String()+"/")
}

// AbandonUpload leaves an unfinished upload to an object of this name. A directory does not keep the name.
func (d *Deployment) AbandonUpload(t testing.TB, name string) {
	t.Helper()
	if d.Place.Dir != "" {
		require.NoError(t, os.WriteFile(filepath.Join(d.Place.Dir, "objects", "tmp", rand.Text()), []byte("half"), 0o600))
		return
	}
	_, err := minio.Core{Client: d.client}.NewMultipartUpload(t.Context(), d.Place.Bucket, name, minio.PutObjectOptions{})
	require.NoError(t, err)
}

// Uploads lists the unfinished uploads: the names of their objects, or in a directory of their temporary files.
func (d *Deployment) Uploads(t testing.TB) []string {
	t.Helper()
	names := []string{}
	if d.Place.Dir != "" {
		entries, err := os.ReadDir(filepath.Join(d.Place.Dir, "objects", "tmp"))
		require.NoError(t, err)
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return names
	}
	for upload := range d.client.ListIncompleteUploads(t.Context(), d.Place.Bucket, "", true) {
		require.NoError(t, upload.Err)
		names = append(names, upload.Key)
	}
	return names
}
