package rotation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// childEnv makes the test binary carry out a task, as JSON, in a process of its own.
const childEnv = "RECVAULT_ROTATION_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := runTask(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// backend is a deployment. Each part holds the role that it needs and no other, where the keyring has roles.
type backend struct {
	*testdeployment.Deployment
	store storage.Store
	admin keys.Keyring // every role

	writer  vault.Keyring
	server  vault.Keyring // no right but what a grant brings
	rotator rotation.Keyring
	retirer rotation.Keyring
	trimmer rotation.Keyring
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
		Deployment: d, store: d.Store,
		admin:   d.Keyring(testdeployment.Admin),
		writer:  d.Keyring(testdeployment.Writer),
		server:  d.Keyring(testdeployment.Server),
		rotator: d.Keyring(testdeployment.Rotator),
		retirer: d.Keyring(testdeployment.Retirer),
		trimmer: d.Keyring(testdeployment.Trimmer),
	}
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
	var putting errgroup.Group
	putting.SetLimit(8)
	for i := range recordings {
		putting.Go(func() error {
			recordings[i] = b.put(t, patient, 10)
			return nil
		})
	}
	_ = putting.Wait() // put fails the test itself
	return recordings
}

// read opens a recording with a grant for its patient.
func (b *backend) read(t *testing.T, r recording) ([]byte, error) {
	t.Helper()
	v, err := vault.New(b.server, b.store)
	require.NoError(t, err)
	opened, err := v.Open(t.Context(), b.Grant(t, r.patient), r.id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return io.ReadAll(opened)
}

// requireOpens requires recordings to open unchanged.
func (b *backend) requireOpens(t *testing.T, recordings ...recording) {
	t.Helper()
	for _, r := range recordings {
		data, err := b.read(t, r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(r.data, data), "%s has changed", r.id)
	}
}

func objectName(id vault.ID, part string) string {
	return "recordings/" + strings.Replace(id.String(), ".", "/", 1) + "/" + part
}

func (b *backend) envelope(t *testing.T, id vault.ID) envelope.Envelope {
	t.Helper()
	e, err := envelope.Parse(teststore.Read(t, b.store, objectName(id, "envelope")))
	require.NoError(t, err)
	return e
}

// version returns the older of the versions that wrap the recording's keys.
func (b *backend) version(t *testing.T, id vault.ID) int {
	t.Helper()
	return b.envelope(t, id).Version()
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

// hasty returns options for writers that wrap and commit within a moment, so that tests wait for a short time only.
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

// waitForGrace waits until the newest version of the patient's key is older than the grace period of hasty.
func (b *backend) waitForGrace(t *testing.T, id keys.KeyID) {
	t.Helper()
	require.Eventually(t, func() bool {
		v, err := b.admin.Versions(t.Context(), id)
		return assert.NoError(t, err) && v.Now.Sub(v.Rotated) > hasty().Grace
	}, 10*time.Second, 20*time.Millisecond)
}

// task is what a child process does in the deployment.
type task struct {
	Place    testdeployment.Place
	Name     string // one of tasks
	Seed     uint64
	Patients []string
}

func runTask(text string) error {
	var todo task
	if err := json.Unmarshal([]byte(text), &todo); err != nil {
		return err
	}
	d, err := testdeployment.Open(todo.Place)
	if err != nil {
		return err
	}
	defer d.Close()
	return tasks[todo.Name](context.Background(), backendOf(d), todo)
}
