package upkeep_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/upkeep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prefix is not empty, so that code which forgets it finds nothing.
const prefix = "clinic/"

// deployment is a deployment with the verbs of these tests.
type deployment struct {
	*testdeployment.Deployment
	objects *objects.Objects // names them
	vault   *vault.Vault     // writes, and reads with a grant
	admin   keys.Keyring
	auditor upkeep.KeyVersions
}

// onEach runs a test on the embedded default and on real servers.
func onEach(t *testing.T, test func(t *testing.T, d *deployment)) {
	t.Helper()
	testdeployment.OnEach(t, func(t *testing.T, d *testdeployment.Deployment) { test(t, deploy(t, d)) })
}

func embedded(t *testing.T) *deployment {
	t.Helper()
	return deploy(t, testdeployment.Embedded(t))
}

func servers(t *testing.T) *deployment {
	t.Helper()
	return deploy(t, testdeployment.Servers(t))
}

func deploy(t *testing.T, d *testdeployment.Deployment) *deployment {
	t.Helper()
	d.Serve(t, prefix)
	o, err := objects.New(d.Store, prefix)
	require.NoError(t, err)
	keyring := struct {
		keys.Wrapper
		keys.Unwrapper
	}{d.Keyring(testdeployment.Writer), d.Keyring(testdeployment.Server)}
	v, err := vault.New(keyring, d.Store, vault.WithPrefix(prefix), vault.WithKeyCache(0, 1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return &deployment{
		Deployment: d, objects: o, vault: v,
		admin: d.Keyring(testdeployment.Admin), auditor: d.Keyring(testdeployment.Auditor),
	}
}

// patient is a patient who is enrolled, with a grant.
type patient struct {
	patient keys.Patient
	keyID   keys.KeyID
	grant   keys.Grant
}

func (d *deployment) newPatient(t *testing.T) patient {
	t.Helper()
	name, keyID := d.Enrol(t)
	return patient{name, keyID, d.Grant(t, name)}
}

func (d *deployment) put(t *testing.T, p patient, size int) vault.ID {
	t.Helper()
	id, err := d.vault.Put(t.Context(), p.patient, bytes.NewReader(random(size)), vault.Metadata{Title: "Follow-up"})
	require.NoError(t, err)
	return id
}

// orphan leaves media without an envelope.
func (d *deployment) orphan(t *testing.T, p patient, size int) vault.ID {
	t.Helper()
	id := d.put(t, p, size)
	d.remove(t, d.objects.EnvelopeName(id))
	return id
}

// open reads a recording to its end.
func (d *deployment) open(t *testing.T, p patient, id vault.ID) {
	t.Helper()
	recording, err := d.vault.Open(t.Context(), p.grant, id)
	require.NoError(t, err)
	defer recording.Close()
	n, err := io.Copy(io.Discard, recording)
	require.NoError(t, err)
	require.Equal(t, recording.Size(), n)
}

func (d *deployment) remove(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, d.Store.Delete(t.Context(), name))
}

func random(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	return data
}

// spy is a store that runs a hook before a call. If the hook fails, so does the call.
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
