package rotation_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// tasks are what a child process can do.
var tasks = map[string]func(context.Context, *backend, task) error{
	"rewrap once": rewrapChild,

	"put":    putWorker,
	"delete": deleteWorker,
	"rotate": rotateWorker,
	"rewrap": rewrapWorker,
	"retire": retireWorker,
}

// child returns the command for a process that carries out a task in the deployment.
func (b *backend) child(t *testing.T, name string, seed uint64, patients ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(task{b.Place, name, seed, patients})
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	return cmd
}

// rewrapChild rewraps everything, and prints a line before each write.
func rewrapChild(ctx context.Context, b *backend, _ task) error {
	store := &faulty{Store: b.store, beforePut: func(name string) { fmt.Println(name) }}
	r, err := rotation.New(b.rotator, store, rotation.Options{Concurrency: 2})
	if err != nil {
		return err
	}
	_, err = r.Rewrap(ctx, scope.All())
	return err
}

func TestKilledRewrapCanBeRunAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var recordings []recording
		for range 5 {
			patient, _ := b.Enrol(t)
			recordings = append(recordings, b.putMany(t, patient, 8)...)
		}
		b.rotate(t)
		for _, writes := range []int{1, 7, 15} {
			cmd := b.child(t, "rewrap once", 0)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(stdout)
			for range writes {
				require.True(t, lines.Scan())
			}
			require.NoError(t, cmd.Process.Kill())
			assert.Error(t, cmd.Wait(), "it was killed while it worked")
			b.requireOpens(t, recordings...)
		}
		report := b.rewrap(t)
		assert.Positive(t, report.Envelopes.Rewrapped, "the killed runs had not done everything")
		assert.GreaterOrEqual(t, report.Envelopes.Current, 1+7+15-3*2, "the killed runs' work is not repeated")
		assert.Equal(t, 40, report.Envelopes.Rewrapped+report.Envelopes.Current)
		assert.True(t, report.Complete())
		for _, r := range recordings {
			assert.Equal(t, 2, b.version(t, r.id))
		}
		b.requireOpens(t, recordings...)
	})
}

// TestAuditLogOfAWholeRunHasNoDecrypt runs every verb with the token of its role, on a Vault of its own, and checks
// every request in Vault's audit log.
func TestAuditLogOfAWholeRunHasNoDecrypt(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	var recordings []recording
	for range 6 {
		patient, _ := b.Enrol(t)
		recordings = append(recordings, b.put(t, patient, 10))
	}
	many, manyID := b.Enrol(t)
	recordings = append(recordings, b.putMany(t, many, 600)...)
	start := len(b.Vault.Audit(t))

	plan, err := b.rotation(t, b.rotator, hasty()).Plan(t.Context(), scope.All())
	require.NoError(t, err)
	assert.True(t, b.rotate(t).Complete())
	rewrapped := b.rewrap(t)
	assert.Equal(t, rotation.Envelopes{Seen: 606, Rewrapped: 606}, rewrapped.Envelopes)
	again := b.rewrap(t)
	b.waitForGrace(t, manyID)
	retired, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 7, Changed: 7}, retired.Patients)
	trimmed, err := b.rotation(t, b.trimmer, hasty()).Trim(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 7, Changed: 7}, trimmed.Patients)

	asked := map[string]int{}
	for _, entry := range b.Vault.Audit(t)[start:] {
		if entry.Type != "request" {
			continue
		}
		asked[pathVerb(b.Place.Mount, entry.Request.Path)]++
		for _, policy := range entry.Auth.Policies {
			assert.Contains(t, []string{b.Place.Prefix + "-rotator", b.Place.Prefix + "-retirer", b.Place.Prefix + "-trimmer", "root"}, policy)
		}
	}
	assert.Zero(t, asked["decrypt"], "%v", asked)
	assert.Zero(t, asked["encrypt"]+asked["datakey"]+asked["export"], "%v", asked)
	assert.Equal(t, 7, asked["rotate"])
	// One per patient; 600 envelopes take five. The second time, one shows that all are current. Retire and Trim prove
	// every wrapped key.
	assert.Equal(t, 6+5+6+1+2*(6+5), asked["rewrap"], "%v", asked)
	assert.Equal(t, 6+5, rewrapped.Requests.Keyring)
	assert.Equal(t, 6+1, again.Requests.Keyring)
	assert.Equal(t, 1+7+6+5+7, retired.Requests.Keyring)
	assert.Equal(t, 1+7+6+5+7, trimmed.Requests.Keyring)
	assert.Equal(t, 7, plan.Requests.Keyring)
	b.requireOpens(t, recordings[0], recordings[6], recordings[len(recordings)-1])
}

// pathVerb returns the operation that a path names: the last part of <mount>/keys/<name>/rotate, the first one of
// <mount>/rewrap/<name>.
func pathVerb(mount, path string) string {
	parts := strings.Split(strings.TrimPrefix(path, mount+"/"), "/")
	if len(parts) == 3 {
		return parts[2]
	}
	return parts[0]
}
