package rotation_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// Settings from the environment.
const (
	durationEnv = "RECVAULT_PROPERTY"      // how long workers come and go, such as "1m"; default 8s
	seedEnv     = "RECVAULT_PROPERTY_SEED" // what the test printed when it failed; default: another each time
)

// TestPropertyCommittedRecordingsAlwaysOpen runs processes that put, delete, rotate, rewrap and retire the
// recordings of a few patients at the same time, kills them at random points and starts others. At the end, every
// recording whose Put had returned and that was not deleted opens, byte-identically; what was deleted is gone. The
// seed decides what is tried and when; how the processes interleave depends on the machine.
func TestPropertyCommittedRecordingsAlwaysOpen(t *testing.T) {
	duration, err := time.ParseDuration(setting(durationEnv, "8s"))
	require.NoError(t, err)
	seed, err := strconv.ParseUint(setting(seedEnv, strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	require.NoError(t, err)
	t.Logf("%s=%d", seedEnv, seed)

	b := servers(t)
	var patients []string
	for range 4 {
		patient, _ := b.Enrol(t)
		patients = append(patients, string(patient))
	}
	what := newWitness()
	// Puts are started more often than the others, which need recordings. One worker of each kind is started
	// at once.
	kinds := []string{"put", "put", "rewrap", "retire", "rotate", "delete"}
	var slots sync.WaitGroup
	end := time.Now().Add(duration)
	for slot, first := range kinds {
		random := rand.New(rand.NewPCG(seed, uint64(slot)))
		slots.Go(func() {
			role := first
			for time.Now().Before(end) {
				life := time.Duration(200+random.IntN(2500)) * time.Millisecond
				what.watch(t, b.child(t, role, random.Uint64(), patients...), life)
				role = kinds[random.IntN(len(kinds))]
			}
		})
	}
	slots.Wait()

	require.NotEmpty(t, what.put)
	t.Logf("%d recordings put, %d deleted, %d rewrapped, %d rotations, %d retirements, %d workers killed",
		len(what.put), len(what.deleted), what.count["rewrapped"], what.count["rotated"], what.count["retired"], what.killed)
	opened := 0
	for id, r := range what.put {
		data, err := b.read(t, recording{patient: r.patient, id: id})
		switch {
		case what.deleted[id]:
			assert.ErrorIs(t, err, vault.ErrNotFound, "%s was deleted", id)
		case what.deleting[id] && err != nil:
			assert.ErrorIs(t, err, vault.ErrNotFound, "%s may have been deleted", id)
		case assert.NoError(t, err, "%s is lost", id):
			assert.Equal(t, r.sum, sum(data), "%s has changed", id)
			opened++
		}
	}
	assert.Positive(t, opened)

	// The rotation can be completed: everything comes to the newest version.
	b.rotate(t)
	report := b.rewrap(t)
	assert.True(t, report.Complete(), "%+v", report)
	again := b.rewrap(t)
	assert.Equal(t, again.Envelopes.Seen, again.Envelopes.Current)
	for id := range what.put {
		if !what.deleting[id] {
			require.NotZero(t, b.version(t, id))
		}
	}
}

func setting(name, fallback string) string {
	if text := os.Getenv(name); text != "" {
		return text
	}
	return fallback
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// witness keeps what the workers have printed, and outlives them.
type witness struct {
	mu       sync.Mutex
	put      map[vault.ID]committed
	deleting map[vault.ID]bool
	deleted  map[vault.ID]bool
	count    map[string]int
	killed   int
}

// committed is a recording whose Put has returned.
type committed struct {
	patient keys.Patient
	sum     string
}

func newWitness() *witness {
	return &witness{put: map[vault.ID]committed{}, deleting: map[vault.ID]bool{}, deleted: map[vault.ID]bool{}, count: map[string]int{}}
}

// watch runs a worker, kills it after its life, and notes every line that it printed.
func (w *witness) watch(t *testing.T, cmd *exec.Cmd, life time.Duration) {
	stdout, err := cmd.StdoutPipe()
	if !assert.NoError(t, err) || !assert.NoError(t, cmd.Start()) {
		return
	}
	kill := time.AfterFunc(life, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		w.note(t, strings.Fields(lines.Text()))
	}
	if err := cmd.Wait(); err != nil {
		if cmd.ProcessState.Exited() {
			assert.NoError(t, err, "a worker failed by itself")
		}
		w.mu.Lock()
		w.killed++
		w.mu.Unlock()
	}
}

// note notes a line. The last line of a killed worker may be cut.
func (w *witness) note(t *testing.T, fields []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(fields) == 0 || fields[len(fields)-1] != "." {
		return
	}
	if fields[0] == "count" {
		n, err := strconv.Atoi(fields[2])
		assert.NoError(t, err)
		w.count[fields[1]] += n
		return
	}
	id, err := vault.ParseID(fields[1])
	if !assert.NoError(t, err) {
		return
	}
	switch fields[0] {
	case "put":
		w.put[id] = committed{keys.Patient(fields[2]), fields[3]}
	case "deleting":
		w.deleting[id] = true
	case "deleted":
		w.deleted[id] = true
	}
}

// The workers follow. Each works until it is killed.

func (w task) random() *rand.Rand { return rand.New(rand.NewPCG(w.Seed, 0)) }

func (w task) anyPatient(random *rand.Rand) keys.Patient {
	return keys.Patient(w.Patients[random.IntN(len(w.Patients))])
}

// hastyVault returns the vault of a writer whose settings are those in hasty.
func (b *backend) hastyVault() (*vault.Vault, error) {
	return vault.New(b.writer, b.store, vault.WithFreshness(hasty().Freshness), vault.WithCommitTimeout(hasty().CommitTimeout))
}

// putWorker puts recordings, and prints what it has put. Some take longer than the freshness window.
func putWorker(ctx context.Context, b *backend, w task) error {
	random := w.random()
	v, err := b.hastyVault()
	if err != nil {
		return err
	}
	for {
		patient := w.anyPatient(random)
		data := make([]byte, random.IntN(20_000))
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		slow := &slowReader{bytes.NewReader(data), time.Duration(random.IntN(300)) * time.Millisecond}
		id, err := v.Put(ctx, patient, slow, vault.Metadata{})
		if err != nil {
			continue // the recording need not exist: on a busy machine the commit's timeout may pass
		}
		fmt.Println("put", id, string(patient), sum(data), ".")
	}
}

// slowReader waits before its first read.
type slowReader struct {
	io.Reader
	wait time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(s.wait)
	s.wait = 0
	return s.Reader.Read(p)
}

// deleteWorker deletes a recording from time to time, and prints its ID before and after.
func deleteWorker(ctx context.Context, b *backend, w task) error {
	random := w.random()
	v, err := b.hastyVault()
	if err != nil {
		return err
	}
	for {
		patient := w.anyPatient(random)
		for entry, err := range v.List(ctx, patient) {
			if err != nil {
				return err
			}
			if random.IntN(20) > 0 {
				continue
			}
			fmt.Println("deleting", entry.ID, ".")
			if err := v.Delete(ctx, patient, entry.ID); err != nil {
				return err
			}
			fmt.Println("deleted", entry.ID, ".")
		}
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
	}
}

// rotateWorker rotates the key of one patient at a time, so that those of the others grow old enough to be
// retired.
func rotateWorker(ctx context.Context, b *backend, w task) error {
	random := w.random()
	return repeat(ctx, b, b.rotator, func(r *rotation.Rotation) error {
		id, err := b.writer.KeyID(ctx, w.anyPatient(random))
		if err != nil {
			return err
		}
		report, err := r.Rotate(ctx, scope.Of(id))
		fmt.Println("count rotated", report.Patients.Changed, ".")
		time.Sleep(time.Duration(400+random.IntN(1200)) * time.Millisecond)
		return err
	})
}

func rewrapWorker(ctx context.Context, b *backend, _ task) error {
	return repeat(ctx, b, b.rotator, func(r *rotation.Rotation) error {
		report, err := r.Rewrap(ctx, scope.All())
		fmt.Println("count rewrapped", report.Envelopes.Rewrapped, ".")
		if !report.Complete() {
			return fmt.Errorf("rewrap was not complete: %+v", report)
		}
		return err
	})
}

func retireWorker(ctx context.Context, b *backend, _ task) error {
	return repeat(ctx, b, b.retirer, func(r *rotation.Rotation) error {
		report, err := r.Retire(ctx, scope.All())
		fmt.Println("count retired", report.Patients.Changed, ".")
		return err
	})
}

// repeat calls do with a Rotation until it fails.
func repeat(ctx context.Context, b *backend, k rotation.Keyring, do func(*rotation.Rotation) error) error {
	options := hasty()
	options.ClockSkew, options.Grace = 2*time.Second, 2500*time.Millisecond // the machine is busy
	r, err := rotation.New(k, b.store, options)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := do(r); err != nil {
			return err
		}
	}
	return ctx.Err()
}
