package rotation_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// faulty is a real store that the test changes or interrupts at each write.
type faulty struct {
	storage.Store
	beforePut func(name string)       // not called concurrently
	putError  func(name string) fault // the outcome of a write

	mu    sync.Mutex
	count int
}

type fault int

const (
	none       fault = iota
	lostAnswer       // it is written, and the answer is lost
	lostWrite        // it is not written, and the answer is lost
	full
)

func (f *faulty) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	f.mu.Lock()
	if f.beforePut != nil {
		f.beforePut(name)
	}
	what := none
	if f.putError != nil {
		what = f.putError(name)
	}
	f.mu.Unlock()
	switch what {
	case lostWrite:
		return storage.Info{}, fmt.Errorf("the test's fault: %w", storage.ErrUnavailable)
	case full:
		return storage.Info{}, fmt.Errorf("the test's fault: %w", storage.ErrFull)
	}
	info, err := f.Store.Put(ctx, name, r, size, condition)
	if err == nil {
		f.mu.Lock()
		f.count++
		f.mu.Unlock()
	}
	if err == nil && what == lostAnswer {
		return storage.Info{}, fmt.Errorf("the test's fault: %w", storage.ErrUnavailable)
	}
	return info, err
}

// puts returns how many objects were written.
func (f *faulty) puts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// once returns a beforePut that calls happens before the first write only.
func once(happens func()) func(string) {
	return func(string) {
		if happens != nil {
			happens()
			happens = nil
		}
	}
}

func TestLostRaceIsReadAgainAndNotOverwritten(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		rewrap := func(happens func(string)) rotation.Report {
			store := &faulty{Store: b.store, beforePut: happens}
			report, err := rotationOf(t, b.rotator, store, rotation.Options{}).Rewrap(t.Context(), scope.Of(id))
			require.NoError(t, err)
			assert.True(t, report.Complete(), "%+v", report)
			return report
		}
		r := b.put(t, patient, 1000)
		b.rotate(t)
		text := ""
		report := rewrap(once(func() {
			b.rewrap(t)
			text = string(teststore.Read(t, b.store, objectName(r.id, "envelope")))
		}))
		assert.Equal(t, rotation.Envelopes{Seen: 1, Superseded: 1}, report.Envelopes, "another was faster")
		assert.Equal(t, text, string(teststore.Read(t, b.store, objectName(r.id, "envelope"))), "and what it wrote stays")
		b.requireOpens(t, r)

		b.rotate(t)
		report = rewrap(once(func() {
			b.rotate(t)
			b.rewrap(t)
		}))
		assert.Equal(t, rotation.Envelopes{Seen: 1, Superseded: 1}, report.Envelopes, "a newer version stays")
		assert.Equal(t, 4, b.version(t, r.id))
		b.requireOpens(t, r)

		// An older envelope is put back, and is then the one to rewrap.
		old := teststore.Read(t, b.store, objectName(r.id, "envelope"))
		b.rotate(t)
		b.rewrap(t)
		b.rotate(t)
		report = rewrap(once(func() { teststore.Write(t, b.store, objectName(r.id, "envelope"), old) }))
		assert.Equal(t, rotation.Envelopes{Seen: 1, Rewrapped: 1}, report.Envelopes)
		assert.Equal(t, 6, b.version(t, r.id))
		b.requireOpens(t, r)

		b.rotate(t)
		v, err := vault.New(b.writer, b.store)
		require.NoError(t, err)
		report = rewrap(once(func() { require.NoError(t, v.Delete(t.Context(), patient, r.id)) }))
		assert.Equal(t, rotation.Envelopes{Seen: 1, Deleted: 1}, report.Envelopes)
		_, err = b.read(t, r)
		assert.ErrorIs(t, err, vault.ErrNotFound, "a deleted recording stays deleted")
	})
}

func TestContendedEnvelopeIsReported(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	r := b.put(t, patient, 10)
	texts := [][]byte{teststore.Read(t, b.store, objectName(r.id, "envelope"))}
	b.rotate(t)
	b.rewrap(t)
	texts = append(texts, teststore.Read(t, b.store, objectName(r.id, "envelope")))
	b.rotate(t)
	n := 0
	store := &faulty{Store: b.store, beforePut: func(name string) {
		teststore.Write(t, b.store, name, texts[n%2])
		n++
	}}
	report, err := rotationOf(t, b.rotator, store, rotation.Options{}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Envelopes{Seen: 1, Failed: 1}, report.Envelopes)
	assert.Equal(t, map[job.Kind]int64{rotation.KindContended: 1}, report.Findings.Counts)
	assert.Equal(t, r.id, report.Findings.Listed[0].ID)
	assert.False(t, report.Complete())
	b.requireOpens(t, r)
}

func TestLostAnswersAreResolvedByReading(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.Enrol(t)
		recordings := b.putMany(t, patient, 12)
		b.rotate(t)
		faults := map[string]int{}
		store := &faulty{Store: b.store, putError: func(name string) fault {
			faults[name]++
			if faults[name] > 1 {
				return none
			}
			return fault(len(faults) % 3) // none, lostAnswer, lostWrite
		}}
		report, err := rotationOf(t, b.rotator, store, rotation.Options{}).Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Envelopes{Seen: 12, Rewrapped: 12}, report.Envelopes)
		assert.Equal(t, 12, store.puts(), "none was written twice")
		for _, r := range recordings {
			assert.Equal(t, 2, b.version(t, r.id))
		}
		b.requireOpens(t, recordings...)
	})
}

func TestFullStoreEndsTheRunAndLosesNothing(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	recordings := b.putMany(t, patient, 40)
	b.rotate(t)
	store := &faulty{Store: b.store, putError: func(string) fault { return full }}
	report, err := rotationOf(t, b.rotator, store, rotation.Options{Concurrency: 2}).Rewrap(t.Context(), scope.All())
	assert.ErrorIs(t, err, storage.ErrFull)
	assert.Less(t, report.Requests.Writes, 15)
	assert.EqualValues(t, report.Envelopes.Failed, report.Findings.Counts[rotation.KindUnavailable])
	b.requireOpens(t, recordings...)
}

func TestConcurrentRewrapsDoTheWorkOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var recordings []recording
		for range 4 {
			patient, _ := b.Enrol(t)
			recordings = append(recordings, b.putMany(t, patient, 20)...)
		}
		b.rotate(t)
		var reports [2]rotation.Report
		var both sync.WaitGroup
		for i := range reports {
			both.Go(func() { reports[i] = b.rewrap(t) })
		}
		both.Wait()
		done := 0
		for _, report := range reports {
			e := report.Envelopes
			assert.Equal(t, 80, e.Rewrapped+e.Current+e.Superseded, "%+v", report)
			done += e.Rewrapped
		}
		assert.Equal(t, 80, done)
		for _, r := range recordings {
			assert.Equal(t, 2, b.version(t, r.id))
		}
		b.requireOpens(t, recordings...)
	})
}

func TestRewrapDuringPutsAndDeletesLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.Enrol(t)
		kept, gone := b.putMany(t, patient, 20), b.putMany(t, patient, 20)
		v, err := vault.New(b.writer, b.store)
		require.NoError(t, err)
		b.rotate(t)
		var others sync.WaitGroup
		others.Go(func() {
			for _, r := range gone {
				assert.NoError(t, v.Delete(t.Context(), patient, r.id))
			}
		})
		others.Go(func() { kept = append(kept, b.putMany(t, patient, 20)...) })
		for range 3 {
			assert.True(t, b.rewrap(t).Complete())
		}
		others.Wait()
		report := b.rewrap(t)
		assert.Equal(t, rotation.Envelopes{Seen: 40, Current: 40}, report.Envelopes)
		b.requireOpens(t, kept...)
		for _, r := range gone {
			_, err := b.read(t, r)
			assert.ErrorIs(t, err, vault.ErrNotFound)
		}
	})
}

func TestDamagedEnvelopesAreReportedAndKept(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.Enrol(t)
		good, other := b.put(t, patient, 10), b.put(t, patient, 10)
		damage := map[string]func(text []byte) []byte{
			"empty":               func([]byte) []byte { return nil },
			"not JSON":            func([]byte) []byte { return []byte("hello") },
			"cut":                 func(text []byte) []byte { return text[:len(text)-1] },
			"too long":            func(text []byte) []byte { return append(text, make([]byte, 100_000)...) },
			"another recording's": func([]byte) []byte { return teststore.Read(t, b.store, objectName(other.id, "envelope")) },
			"a key version that does not exist": func(text []byte) []byte {
				return bytes.Replace(text, []byte(":v1:"), []byte(":v9:"), 1)
			},
			"another wrapped key": func(text []byte) []byte {
				e, err := envelope.Parse(text)
				require.NoError(t, err)
				e.WrappedKey = b.envelope(t, other.id).WrappedKey
				return e.Encode()
			},
			"another wrapped metadata key": func(text []byte) []byte {
				e, err := envelope.Parse(text)
				require.NoError(t, err)
				e.WrappedMetadataKey = b.envelope(t, other.id).WrappedMetadataKey
				return e.Encode()
			},
			"its two wrapped keys swapped": func(text []byte) []byte {
				e, err := envelope.Parse(text)
				require.NoError(t, err)
				return e.WithWraps(e.WrappedMetadataKey, e.WrappedKey).Encode()
			},
		}
		ids, stored := map[string]vault.ID{}, map[string][]byte{}
		for name, spoil := range damage {
			ids[name] = b.put(t, patient, 10).id
			stored[name] = spoil(teststore.Read(t, b.store, objectName(ids[name], "envelope")))
			teststore.Write(t, b.store, objectName(ids[name], "envelope"), stored[name])
		}
		teststore.Write(t, b.store, "recordings/README", []byte("a stray object"))
		orphan := keystest.NewRecordingID(good.id.KeyID())
		teststore.Write(t, b.store, objectName(orphan, "media"), []byte("media without an envelope"))
		report := b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients, "an envelope names version 9")
		assert.EqualValues(t, 2, report.Findings.Counts[rotation.KindUnknownVersion], "of the patient, and of the envelope")
		require.NoError(t, b.admin.Rotate(t.Context(), good.id.KeyID()))

		report = b.rewrap(t)
		assert.Equal(t, rotation.Envelopes{Seen: 2 + len(damage), Rewrapped: 2, Damaged: len(damage)}, report.Envelopes, "%+v", report.Findings)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
		assert.False(t, report.Complete())
		assert.Len(t, report.Findings.Listed, len(damage))
		for name, id := range ids {
			t.Run(name, func(t *testing.T) {
				i := slices.IndexFunc(report.Findings.Listed, func(f job.Finding) bool { return f.ID == id })
				require.GreaterOrEqual(t, i, 0)
				assert.NotEmpty(t, strings.TrimSpace(report.Findings.Listed[i].Detail))
				assert.Equal(t, string(stored[name]), string(teststore.Read(t, b.store, objectName(id, "envelope"))), "it is unchanged")
			})
		}
		b.requireOpens(t, good, other)

		// No version is retired that a damaged envelope may need.
		b.waitForGrace(t, good.id.KeyID())
		report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), good.id.KeyID())
		require.NoError(t, err)
		assert.Equal(t, 1, v.MinDecryption)
	})
}
