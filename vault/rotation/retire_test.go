package rotation_test

import (
	"context"
	"crypto/rand"
	"iter"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

func TestNeededVersionIsNotRetired(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.Enrol(t)
		bob, bobID := b.Enrol(t)
		old := b.put(t, alice, 10)
		fresh := b.put(t, bob, 10)
		b.rotate(t)
		_, err := b.rotation(t, b.rotator, rotation.Options{}).Rewrap(t.Context(), scope.Of(bobID))
		require.NoError(t, err)

		patient := rotation.Options{}
		report, err := b.rotation(t, b.retirer, patient).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Unresolved: 2}, report.Patients)
		assert.Equal(t, map[job.Kind]int64{rotation.KindGrace: 2}, report.Findings.Counts)
		assert.Equal(t, 1, report.Requests.Reads, "the store's ID, and no envelope")

		b.waitForGrace(t, aliceID)
		b.waitForGrace(t, bobID)
		report, err = b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 1, Unresolved: 1}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Older: 1}, report.Envelopes)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{1: 1, 2: 1}, report.After)
		assert.Equal(t, []job.Finding{{
			Kind: rotation.KindOlder, KeyID: aliceID, Detail: "1 envelopes at versions below 2: run rewrap",
		}}, report.Findings.Listed)
		b.requireOpens(t, old, fresh)

		// A version that was retired too early is not trimmed.
		require.NoError(t, b.retirer.Retire(t.Context(), aliceID, 2))
		report, err = b.rotation(t, b.trimmer, hasty()).Trim(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 1, Unresolved: 1}, report.Patients)
		report, err = b.rotation(t, b.rotator, rotation.Options{}).Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[job.Kind]int64{rotation.KindRetired: 1}, report.Findings.Counts)
		plan, err := b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[job.Kind]int64{rotation.KindRetired: 1}, plan.Findings.Counts)
		require.NoError(t, b.retirer.Reinstate(t.Context(), aliceID, 1))
		b.requireOpens(t, old)
	})
}

// afterVersions is a keyring that calls happens each time that a key's versions were read.
type afterVersions struct {
	rotation.Keyring
	happens func()
}

func (k *afterVersions) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.Keyring.Versions(ctx, id)
	k.happens()
	return v, err
}

func TestRetireStopsAtTheVersionThatItRead(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		r := b.put(t, patient, 10)
		b.rotate(t)
		b.rewrap(t)
		b.waitForGrace(t, id)
		var second recording
		calls := 0
		keyring := &afterVersions{b.retirer, func() {
			if calls++; calls != 2 { // the first shows the clock, before the listing
				return
			}
			second = b.put(t, patient, 10)
			b.rotate(t)
			b.rewrap(t)
		}}
		report, err := b.rotation(t, keyring, hasty()).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, 3, v.Latest)
		assert.Equal(t, 2, v.MinDecryption)
		b.requireOpens(t, r, second)
	})
}

// afterList is a store that calls happens when the second listing has come to its end. The first is for the clock.
type afterList struct {
	storage.Store
	happens func()
	calls   atomic.Int64
}

func (s *afterList) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		call := s.calls.Add(1)
		for object, err := range s.Store.List(ctx, prefix) {
			if !yield(object, err) {
				return
			}
		}
		if call == 2 {
			s.happens()
		}
	}
}

// later is a keyring whose clock is ahead.
type later struct {
	rotation.Keyring
	by time.Duration
}

func (k *later) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.Keyring.Versions(ctx, id)
	v.Now = v.Now.Add(k.by)
	return v, err
}

// The host is suspended after the listing. Before it goes on, the key is rotated and a writer commits under the older
// version, which is not in the listing. By the keyring's clock, the newest version is an hour old then.
func TestASuspendedRetireLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		b.put(t, patient, 10)
		slow := b.put(t, patient, 10)
		name := objectName(slow.id, "envelope")
		envelope := teststore.Read(t, b.store, name)
		require.NoError(t, b.store.Delete(t.Context(), name))
		b.waitForGrace(t, id)
		keyring := &later{Keyring: b.retirer}
		store := &afterList{Store: b.store, happens: func() {
			b.rotate(t)
			b.rewrap(t)
			teststore.Write(t, b.store, name, envelope)
			keyring.by = time.Hour
		}}
		report, err := rotationOf(t, keyring, store, hasty()).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[job.Kind]int64{rotation.KindGrace: 1}, report.Findings.Counts)
		assert.Equal(t, 1, b.minDecryption(t, id))
		b.requireOpens(t, slow)
	})
}

func TestPatientsAreNotListedAgain(t *testing.T) {
	b := embedded(t)
	for range 20 {
		patient, _ := b.Enrol(t)
		b.put(t, patient, 10)
	}
	patient, id := b.Enrol(t)
	many := b.putMany(t, patient, 1001) // too many to keep
	rotated := b.rotate(t)
	assert.Equal(t, 3+3, rotated.Requests.Lists, "one for each 1,000 objects, and those of one patient again")
	b.rewrap(t)
	b.waitForGrace(t, id)
	report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 21, Changed: 21}, report.Patients)
	assert.Equal(t, 1021, report.Envelopes.Current)
	assert.Equal(t, 1+3+3, report.Requests.Lists, "and one for the clock")
	b.requireOpens(t, many[0], many[1000])
}

func TestUnreadableEnvelopePreventsRetire(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		damage := map[string]func(text []byte) []byte{
			"not an envelope":              func([]byte) []byte { return []byte("{}") },
			"that of another, up to date":  func(text []byte) []byte { return text },
			"cut":                          func(text []byte) []byte { return text[1:] },
			"longer than any envelope":     func([]byte) []byte { return make([]byte, 70_000) },
			"nothing, after a disk's loss": func([]byte) []byte { return nil },
		}
		pairs := map[string][2]recording{}
		for name := range damage {
			patient, _ := b.Enrol(t)
			pairs[name] = [2]recording{b.put(t, patient, 10), b.put(t, patient, 10)}
		}
		b.rotate(t)
		b.rewrap(t)
		for name, spoil := range damage {
			teststore.Write(t, b.store, objectName(pairs[name][1].id, "envelope"), spoil(teststore.Read(t, b.store, objectName(pairs[name][0].id, "envelope"))))
		}
		for name, pair := range pairs {
			t.Run(name, func(t *testing.T) {
				id := pair[0].id.KeyID()
				b.waitForGrace(t, id)
				report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.Of(id))
				require.NoError(t, err)
				assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
				assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Damaged: 1}, report.Envelopes)
				assert.Equal(t, map[job.Kind]int64{rotation.KindUnreadable: 1, rotation.KindMalformed: 1}, report.Findings.Counts)
				v, err := b.admin.Versions(t.Context(), id)
				require.NoError(t, err)
				assert.Equal(t, 1, v.MinDecryption)
			})
		}
	})
}

// timeless is a keyring that does not report when versions were made.
type timeless struct{ rotation.Keyring }

func (k timeless) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.Keyring.Versions(ctx, id)
	v.Rotated = time.Time{}
	return v, err
}

func TestUnknownAgePreventsRetire(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	b.put(t, patient, 10)
	b.rotate(t)
	b.rewrap(t)
	report, err := b.rotation(t, timeless{b.retirer}, hasty()).Retire(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
	assert.Equal(t, map[job.Kind]int64{rotation.KindGrace: 1}, report.Findings.Counts)
}

// TestSlowWriterLosesNothing is the hazard of DESIGN section 8: a writer wraps, uploads for long, and commits
// after every listed envelope was rewrapped and the version that it used was retired. The freshness window of the
// second writer is longer than the retirer's options say. That its recording does not open shows that the window
// is what saves the first one's.
func TestSlowWriterLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, freshness := range map[string]time.Duration{"as configured": hasty().Freshness, "misconfigured": time.Hour} {
			t.Run(name, func(t *testing.T) {
				patient, id := b.Enrol(t)
				seen := b.put(t, patient, 10)
				slow, err := vault.New(b.writer, b.store, vault.WithFreshness(freshness), vault.WithCommitTimeout(hasty().CommitTimeout))
				require.NoError(t, err)
				w, err := slow.Create(t.Context(), patient, vault.Metadata{})
				require.NoError(t, err)
				data := make([]byte, 100_000)
				_, _ = rand.Read(data)
				_, err = w.Write(data[:50_000])
				require.NoError(t, err)

				b.rotate(t)
				b.rewrap(t)
				b.waitForGrace(t, id)
				report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.Of(id))
				require.NoError(t, err)
				require.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)

				_, err = w.Write(data[50_000:])
				require.NoError(t, err)
				require.NoError(t, w.Close())
				b.requireOpens(t, seen)
				late := recording{patient, w.ID(), data}
				if freshness == hasty().Freshness {
					b.requireOpens(t, late)
					return
				}
				_, err = b.read(t, late)
				require.ErrorIs(t, err, keys.ErrRetired)
				require.NoError(t, b.retirer.Reinstate(t.Context(), id, 1)) // which can be taken back
				b.requireOpens(t, late)
			})
		}
	})
}
