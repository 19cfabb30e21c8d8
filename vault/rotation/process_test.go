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

// roles are what a child process can be told to do.
var roles = map[string]func(context.Context, *backend) error{
	"rewrap once": rewrapChild,

	"put":    putWorker,
	"delete": deleteWorker,
	"rotate": rotateWorker,
	"rewrap": rewrapWorker,
	"retire": retireWorker,
}

// child returns the command for a process that plays a role in the deployment.
func (b *backend) child(t *testing.T, role string, seed uint64, patients ...string) *exec.Cmd {
	t.Helper()
	p := b.place
	p.Role, p.Seed, p.Patients = role, seed, patients
	text, err := json.Marshal(p)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	return cmd
}

// rewrapChild rewraps everything, and prints a line before each write.
func rewrapChild(ctx context.Context, b *backend) error {
	store := &faulty{Store: b.store, beforePut: func(name string) { fmt.Println(name) }}
	r, err := rotation.New(b.rotator, store, rotation.Options{Concurrency: 2})
	if err != nil {
		return err
	}
	_, err = r.Rewrap(ctx, scope.All())
	return err
}

func TestAKilledRewrapIsJustRunAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var recordings []recording
		for range 5 {
			patient, _ := b.enrol(t)
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
			assert.Error(t, cmd.Wait(), "it was killed in mid-work")
			b.opens(t, recordings...)
		}
		report := b.rewrap(t)
		assert.Positive(t, report.Envelopes.Rewrapped, "something was left to do")
		assert.GreaterOrEqual(t, report.Envelopes.Current, 1+7+15-3*2, "what was done stays done")
		assert.Equal(t, 40, report.Envelopes.Rewrapped+report.Envelopes.Current)
		assert.True(t, report.Complete())
		for _, r := range recordings {
			assert.Equal(t, 2, b.version(t, r.id))
		}
		b.opens(t, recordings...)
	})
}

// TestTheAuditLogOfAWholeRunHasNoDecrypt runs every verb with the token of its role, on a Vault of its
// own, and looks at everything that Vault was asked.
func TestTheAuditLogOfAWholeRunHasNoDecrypt(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	var recordings []recording
	for range 6 {
		patient, _ := b.enrol(t)
		recordings = append(recordings, b.put(t, patient, 10))
	}
	many, manyID := b.enrol(t)
	recordings = append(recordings, b.putMany(t, many, 600)...)
	start := len(b.vault.Audit(t))

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
	for _, entry := range b.vault.Audit(t)[start:] {
		if entry.Type != "request" {
			continue
		}
		asked[pathVerb(b.place.Mount, entry.Request.Path)]++
		for _, policy := range entry.Auth.Policies {
			assert.Contains(t, []string{b.place.Prefix + "-rotator", b.place.Prefix + "-retirer", b.place.Prefix + "-trimmer", "root"}, policy)
		}
	}
	assert.Zero(t, asked["decrypt"], "%v", asked)
	assert.Zero(t, asked["encrypt"]+asked["datakey"]+asked["export"], "%v", asked)
	assert.Equal(t, 7, asked["rotate"])
	// One per patient; 600 envelopes take three. The second time, one tells that all are current.
	assert.Equal(t, 6+3+6+1, asked["rewrap"], "%v", asked)
	assert.Equal(t, 6+3, rewrapped.Requests.Keyring)
	assert.Equal(t, 6+1, again.Requests.Keyring)
	assert.Equal(t, 7, plan.Requests.Keyring)
	b.opens(t, recordings[0], recordings[6], recordings[len(recordings)-1])
}

// pathVerb returns what a path asks for: the last part of <mount>/keys/<name>/rotate, the first one of
// <mount>/rewrap/<name>.
func pathVerb(mount, path string) string {
	parts := strings.Split(strings.TrimPrefix(path, mount+"/"), "/")
	if len(parts) == 3 {
		return parts[2]
	}
	return parts[0]
}
