package erasure_test

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runChild())
	}
	goleak.VerifyTestMain(m)
}

// deployment is a deployment with the verbs of these tests.
type deployment struct {
	*testdeployment.Deployment
	admin, eraser keys.Keyring
	vault         *vault.Vault // writes, and reads with a grant
	holds         *erasure.Holds
	objects       *objects.Objects // names them
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
	o, err := objects.New(d.Store, "")
	require.NoError(t, err)
	v, err := vault.New(d.Keyring(testdeployment.Writer), d.Store, vault.WithKeyCache(0, 1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	return &deployment{
		Deployment: d, admin: d.Keyring(testdeployment.Admin), eraser: d.Keyring(testdeployment.Eraser),
		vault: v, holds: erasure.NewHolds(d.Store, nil), objects: o,
	}
}

const operator = "records-office"

// approve approves the plan with this digest.
func approve(digest string) erasure.Approval {
	return erasure.Approval{Digest: digest, Operator: operator}
}

func (d *deployment) erasure(t *testing.T) *erasure.Erasure {
	t.Helper()
	return newErasure(t, d.eraser, d.Store, erasure.Options{})
}

func newErasure(t *testing.T, keyring erasure.Keyring, store storage.Store, options erasure.Options) *erasure.Erasure {
	t.Helper()
	e, err := erasure.New(keyring, store, options)
	require.NoError(t, err)
	return e
}

const content = "a consultation"

// put records something for a patient.
func (d *deployment) put(t *testing.T, patient keys.Patient) vault.ID {
	t.Helper()
	id, err := d.vault.Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
	require.NoError(t, err)
	return id
}

// open reads a recording with a new grant.
func (d *deployment) open(t *testing.T, patient keys.Patient, id vault.ID) error {
	t.Helper()
	recording, err := d.vault.Open(t.Context(), d.Grant(t, patient), id)
	if err != nil {
		return err
	}
	defer recording.Close()
	got, err := io.ReadAll(recording)
	require.NoError(t, err)
	require.Equal(t, content, string(got))
	return nil
}
