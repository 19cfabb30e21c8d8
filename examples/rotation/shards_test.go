// Package rotation tests the manifests in this directory, which run a rotation on Kubernetes, and the command
// that they run: see README.md. It has no code besides its tests.
package rotation_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

const (
	shards      = 4
	patients    = 240
	each        = 2 // recordings per patient
	concurrency = 4 // writes that a process has in flight
)

// TestKilledShardsLoseNothingAndRepeatNothing runs the shards of a rewrap as four concurrent processes, kills
// two of them in mid-work, and starts these again. The bucket keeps every version of every object, and so
// shows at the end how often each envelope was written.
func TestKilledShardsLoseNothingAndRepeatNothing(t *testing.T) {
	d := deploy(t)
	recorded := d.record(t)
	d.run(t, "rotate", "--all")

	processes := make([]*process, shards)
	for i := range processes {
		processes[i] = d.start(t, i)
	}
	done := map[int]int{} // by shard: envelopes that were rewrapped when its process was killed
	for i, p := range processes[:2] {
		all := d.recordings(t, recorded, i)
		require.Eventually(t, func() bool { return d.rewrapped(t, i) >= all/5 }, time.Minute, 10*time.Millisecond, p.scope)
		p.kill(t)
		done[i] = d.rewrapped(t, i)
		require.Less(t, done[i], all, "%s had ended: nothing was killed in mid-work", p.scope)
	}
	for i := range done {
		processes[i] = d.start(t, i)
	}
	for i, p := range processes {
		report := p.wait(t)
		all := d.recordings(t, recorded, i)
		assert.True(t, report.Complete(), "%s: %v", p.scope, report.Findings.Listed)
		assert.Equal(t, all, report.Envelopes.Rewrapped+report.Envelopes.Current, p.scope)
		// Writes that were in flight when the process was killed may have arrived later.
		assert.LessOrEqual(t, report.Envelopes.Rewrapped, all-done[i], p.scope)
		assert.GreaterOrEqual(t, report.Envelopes.Rewrapped, all-done[i]-concurrency, p.scope)
	}
	d.assertWrittenOnce(t, recorded)
	d.assertNothingDecrypted(t)
	d.assertAllOpen(t, recorded)
}

// deployment is recvault on real servers, as the jobs in a cluster use it.
type deployment struct {
	vault  *testserver.VaultServer
	minio  *testserver.MinIOServer
	admin  *transit.Keyring
	store  storage.Store
	binary string
	tokens map[string]string // files with the tokens, by role
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{vault: testserver.Vault(t), minio: testserver.MinIO(t), tokens: map[string]string{}}
	d.binary = build(t)
	require.NoError(t, d.minio.Client().EnableVersioning(t.Context(), d.minio.Bucket()))
	d.store = teststore.S3(t, d.minio)
	store, err := vault.StoreID(t.Context(), d.store, "")
	require.NoError(t, err)
	root := d.vault.Client(d.vault.RootToken())
	_, err = transit.Setup(t.Context(), root, transit.SetupOptions{Mount: d.vault.Mount(), Prefix: d.vault.Prefix(), Store: store})
	require.NoError(t, err)
	d.admin, err = transit.New(root, transit.Options{Mount: d.vault.Mount(), Prefix: d.vault.Prefix()})
	require.NoError(t, err)
	for _, role := range []string{"rotator", "retirer"} {
		d.tokens[role] = filepath.Join(t.TempDir(), role)
		require.NoError(t, os.WriteFile(d.tokens[role], []byte(d.vault.RoleToken(role)+"\n"), 0o600))
	}
	return d
}

// build builds the command and returns its path.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recvault")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/recvault/recvault/cmd/recvault").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// record enrols the patients and puts their recordings. It returns the plaintext of each.
func (d *deployment) record(t *testing.T) map[vault.ID][]byte {
	t.Helper()
	v, err := vault.New(d.admin, d.store)
	require.NoError(t, err)
	var (
		mu       sync.Mutex
		wg       sync.WaitGroup
		recorded = map[vault.ID][]byte{}
		errs     = make([]error, patients)
		slots    = make(chan struct{}, 8)
	)
	for i := range patients {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if _, errs[i] = d.admin.Enrol(t.Context(), patient(i)); errs[i] != nil {
				return
			}
			for range each {
				data := make([]byte, 2000)
				_, _ = rand.Read(data)
				var id vault.ID
				if id, errs[i] = v.Put(t.Context(), patient(i), bytes.NewReader(data), vault.Metadata{}); errs[i] != nil {
					return
				}
				mu.Lock()
				recorded[id] = data
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, recorded, patients*each)
	return recorded
}

func patient(i int) keys.Patient { return keys.Patient("patient-" + strconv.Itoa(i)) }

// command returns a call of the command with the rotator's token.
func (d *deployment) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.binary, append(args, "--token-file="+d.tokens["rotator"])...)
	cmd.Env = d.environment()
	return cmd
}

// environment returns the command's settings for the test's servers.
func (d *deployment) environment() []string {
	return []string{
		"VAULT_ADDR=" + d.vault.Address(), "RECVAULT_MOUNT=" + d.vault.Mount(), "RECVAULT_POLICY_PREFIX=" + d.vault.Prefix(),
		"AWS_ENDPOINT_URL=http://" + d.minio.Endpoint(), "AWS_REGION=" + d.minio.Region(), "RECVAULT_BUCKET=" + d.minio.Bucket(),
		"AWS_ACCESS_KEY_ID=" + d.minio.AccessKey(), "AWS_SECRET_ACCESS_KEY=" + d.minio.SecretKey(),
	}
}

// run runs the command to its end.
func (d *deployment) run(t *testing.T, args ...string) {
	t.Helper()
	out, err := d.command(t, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// process is a shard of the rewrap in a process of its own.
type process struct {
	scope          string
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// start starts a shard, at a rate that makes it run for some seconds.
func (d *deployment) start(t *testing.T, shard int) *process {
	t.Helper()
	text := fmt.Sprintf("%d/%d", shard, shards)
	p := &process{scope: "shard " + text, cmd: d.command(t,
		"rewrap", "--output=json", "--shard="+text, "--concurrency="+strconv.Itoa(concurrency), "--storage-rate=40")}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	require.NoError(t, p.cmd.Start())
	return p
}

// kill ends the process as a power cut would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Kill())
	var exit *exec.ExitError
	require.ErrorAs(t, p.cmd.Wait(), &exit)
	require.False(t, exit.Exited(), "%s had ended by itself: %s", p.scope, p.stderr.String())
}

// wait waits until the process ends without an error, and returns its report.
func (p *process) wait(t *testing.T) rotation.Report {
	t.Helper()
	require.NoError(t, p.cmd.Wait(), "%s: %s", p.scope, p.stderr.String())
	var report rotation.Report
	require.NoError(t, json.Unmarshal(p.stdout.Bytes(), &report), "%s", p.stdout.String())
	require.Equal(t, p.scope, report.Scope)
	return report
}

// shardOf returns the index of the shard that has a patient.
func shardOf(t *testing.T, id keys.KeyID) int {
	t.Helper()
	for i := range shards {
		s, err := scope.Shard(i, shards)
		require.NoError(t, err)
		if s.Contains(id) {
			return i
		}
	}
	require.Fail(t, "a patient in no shard")
	return -1
}

// recordings counts the recordings of a shard.
func (d *deployment) recordings(t *testing.T, recorded map[vault.ID][]byte, shard int) int {
	t.Helper()
	n := 0
	for id := range recorded {
		if shardOf(t, id.KeyID()) == shard {
			n++
		}
	}
	return n
}

// rewrapped counts the envelopes of a shard that were written again after their Put.
func (d *deployment) rewrapped(t *testing.T, shard int) int {
	t.Helper()
	n := 0
	for id, times := range d.written(t) {
		if shardOf(t, id.KeyID()) == shard && times > 1 {
			n++
		}
	}
	return n
}

// written returns how often each envelope was written.
func (d *deployment) written(t *testing.T) map[vault.ID]int {
	t.Helper()
	times := map[vault.ID]int{}
	options := minio.ListObjectsOptions{Prefix: "recordings/", Recursive: true, WithVersions: true}
	for object := range d.minio.Client().ListObjects(t.Context(), d.minio.Bucket(), options) {
		require.NoError(t, object.Err)
		require.False(t, object.IsDeleteMarker, object.Key)
		part := strings.Split(object.Key, "/") // recordings, KeyID, rec, envelope or media
		require.Len(t, part, 4)
		if part[3] != "envelope" {
			continue
		}
		id, err := vault.ParseID(part[1] + "." + part[2])
		require.NoError(t, err)
		times[id]++
	}
	return times
}

// assertWrittenOnce checks that every envelope is at the newest version, and that one write moved it there.
func (d *deployment) assertWrittenOnce(t *testing.T, recorded map[vault.ID][]byte) {
	t.Helper()
	o, err := objects.New(d.store, "")
	require.NoError(t, err)
	written := d.written(t)
	assert.Len(t, written, len(recorded))
	for id := range recorded {
		assert.Equal(t, 2, written[id], "%s: by Put and by one shard", id)
		stored, err := o.Envelope(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, 2, stored.Version(), id)
	}
}

// assertNothingDecrypted checks Vault's audit log: no request could have returned a key, and each process
// rewrapped a patient's recordings at most once.
func (d *deployment) assertNothingDecrypted(t *testing.T) {
	t.Helper()
	rewraps := map[string]int{}
	for _, entry := range d.vault.Audit(t) {
		path, ours := strings.CutPrefix(entry.Request.Path, d.vault.Mount()+"/")
		if !ours || entry.Type != "request" {
			continue
		}
		require.False(t, strings.HasPrefix(path, "decrypt/"), path)
		if name, ok := strings.CutPrefix(path, "rewrap/"); ok {
			rewraps[strings.TrimSuffix(name, "-kek")]++
		}
	}
	require.Len(t, rewraps, patients)
	for text, calls := range rewraps {
		id, err := keys.ParseKeyID(text)
		require.NoError(t, err)
		killed := shardOf(t, id) < 2
		if killed {
			calls--
		}
		assert.LessOrEqual(t, calls, 1, text)
	}
}

// assertAllOpen checks that every recording opens and has its original bytes.
func (d *deployment) assertAllOpen(t *testing.T, recorded map[vault.ID][]byte) {
	t.Helper()
	v, err := vault.New(d.admin, d.store)
	require.NoError(t, err)
	grants := map[keys.KeyID]keys.Grant{}
	for i := range patients {
		grant, err := d.admin.Issue(t.Context(), patient(i), keys.GrantOptions{TTL: time.Hour, Subject: "test", Purpose: keys.HealthOperations})
		require.NoError(t, err)
		grants[grant.KeyID()] = grant
	}
	for id, data := range recorded {
		recording, err := v.Open(t.Context(), grants[id.KeyID()], id)
		require.NoError(t, err)
		read, err := io.ReadAll(recording)
		require.NoError(t, err)
		require.NoError(t, recording.Close())
		assert.Equal(t, data, read, id)
	}
}
