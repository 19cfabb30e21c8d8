package upkeep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

// sweep removes what is there already, however young.
func (b *backend) sweep(t *testing.T, s scope.Scope) upkeep.SweepReport {
	t.Helper()
	report, err := upkeep.SweepOfAnyAge(t.Context(), b.store, upkeep.SweepOptions{
		Prefix: prefix, Scope: s, OlderThan: time.Nanosecond, Remove: true,
	})
	require.NoError(t, err)
	return report
}

func TestSweepRemovesGarbageAndNothingElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		kept := []vault.ID{b.put(t, alice, 1000), b.put(t, bob, 0)}
		damaged := b.put(t, alice, 10)
		b.remove(t, b.layout.Media(damaged))
		stray := b.layout.Patient(alice.keyID) + "notes"
		elsewhere := "other/" + b.layout.Media(kept[0])
		for _, name := range []string{stray, elsewhere, layout.Hold(keys.NewKeyID(make([]byte, keys.KeyIDBytes))), b.layout.Root() + "x/y/media"} {
			teststore.Write(t, b.store, name, []byte("not ours"))
		}
		clean := teststore.Names(t, b.store, "")
		orphans := []vault.ID{b.orphan(t, alice, 100), b.orphan(t, bob, 200_000), b.orphan(t, bob, 0)}
		littered := teststore.Names(t, b.store, "")
		b.abandon(t, b.layout.Media(keys.NewRecordingID(bob.keyID)))

		dry, err := upkeep.SweepOfAnyAge(t.Context(), b.store, upkeep.SweepOptions{Prefix: prefix, Scope: scope.All(), OlderThan: time.Nanosecond})
		require.NoError(t, err)
		assert.True(t, dry.DryRun)
		assert.Equal(t, littered, teststore.Names(t, b.store, ""), "a dry run removes nothing")
		assert.Len(t, b.uploads(t), 1)

		report := b.sweep(t, scope.All())
		assert.Equal(t, clean, teststore.Names(t, b.store, ""))
		assert.Empty(t, b.uploads(t))
		assert.False(t, report.DryRun)
		bytes := segment.CiphertextSize(100) + segment.CiphertextSize(200_000) + segment.CiphertextSize(0)
		assert.Equal(t, upkeep.Tally{Count: 3, Bytes: bytes}, report.Orphans)
		assert.EqualValues(t, 2, report.Recordings)
		assert.EqualValues(t, 1, report.Uploads)
		assert.True(t, report.UploadsListed)
		assert.Equal(t, map[upkeep.Kind]int64{
			upkeep.KindOrphan: 3, upkeep.KindUpload: 1, upkeep.KindStray: 2, upkeep.KindMissingMedia: 1,
		}, report.Findings.Counts)
		assert.False(t, report.Complete(), "strays and missing media are for a person")
		found := map[upkeep.Kind][]keys.RecordingID{}
		for _, finding := range report.Findings.Listed {
			found[finding.Kind] = append(found[finding.Kind], finding.ID)
		}
		assert.ElementsMatch(t, orphans, found[upkeep.KindOrphan])
		assert.Equal(t, []keys.RecordingID{damaged}, found[upkeep.KindMissingMedia])
		dry.DryRun, dry.Started, dry.Finished, dry.Before = report.DryRun, report.Started, report.Finished, report.Before
		assert.Equal(t, dry, report, "a dry run tells what would be done")
		text, err := json.Marshal(report)
		require.NoError(t, err)
		var again upkeep.SweepReport
		require.NoError(t, json.Unmarshal(text, &again))
		assert.Equal(t, report, again)

		b.open(t, alice, kept[0])
		b.open(t, bob, kept[1])
	})
}

func TestSweepKeepsAllOfAPatientOnHold(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		hold := layout.Hold(alice.keyID)
		teststore.Write(t, b.store, hold, []byte("{}"))
		held := b.orphan(t, alice, 50)
		b.orphan(t, bob, 50)
		report := b.sweep(t, scope.All())
		assert.Equal(t, []string{b.layout.Media(held), hold}, teststore.Names(t, b.store, ""))
		assert.Equal(t, upkeep.Tally{Count: 1, Bytes: segment.CiphertextSize(50)}, report.Held)
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindHeld])
		assert.EqualValues(t, 1, report.Orphans.Count, "of the other patient")

		teststore.Write(t, b.store, hold, nil) // as it is left where a hold was cleared
		report = b.sweep(t, scope.All())
		assert.Equal(t, []string{hold}, teststore.Names(t, b.store, ""))
		assert.Zero(t, report.Held)
		assert.EqualValues(t, 1, report.Orphans.Count)
	})
}

// A directory cannot tell whose its unfinished uploads are.
func TestSweepKeepsTheUploadsOfAPatientOnHold(t *testing.T) {
	b := servers(t)
	alice, bob := b.enrol(t), b.enrol(t)
	teststore.Write(t, b.store, layout.Hold(alice.keyID), []byte("{}"))
	held := b.layout.Media(keys.NewRecordingID(alice.keyID))
	b.abandon(t, held)
	b.abandon(t, b.layout.Media(keys.NewRecordingID(bob.keyID)))
	for range 2 {
		report := b.sweep(t, scope.All())
		assert.EqualValues(t, 1, report.HeldUploads)
		assert.Zero(t, report.YoungUploads)
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindHeldUpload])
		assert.Equal(t, []string{strings.TrimPrefix(held, prefix)}, b.uploads(t))
	}

	unreadable := spy{b.store, func(_ context.Context, verb, name string) error {
		if name == layout.Hold(alice.keyID) {
			return storage.ErrDenied
		}
		return nil
	}}
	report, err := upkeep.SweepOfAnyAge(t.Context(), listingSpy{unreadable, b.store.(storage.UploadLister)}, upkeep.SweepOptions{
		Prefix: prefix, Scope: scope.All(), OlderThan: time.Nanosecond, Remove: true,
	})
	require.NoError(t, err)
	assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindUnchecked])
	assert.Len(t, b.uploads(t), 1, "where it cannot be told, it stays")

	teststore.Write(t, b.store, layout.Hold(alice.keyID), nil)
	assert.EqualValues(t, 1, b.sweep(t, scope.All()).Uploads)
	assert.Empty(t, b.uploads(t))
}

// listingSpy is a spy that lists uploads too.
type listingSpy struct {
	spy
	storage.UploadLister
}

func TestSweepLeavesWhatIsYoung(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.orphan(t, alice, 100)
		b.abandon(t, b.layout.Media(keys.NewRecordingID(alice.keyID)))
		for _, age := range []time.Duration{0, upkeep.MinOlderThan} {
			report, err := upkeep.Sweep(t.Context(), b.store, upkeep.SweepOptions{Prefix: prefix, Scope: scope.All(), OlderThan: age, Remove: true})
			require.NoError(t, err)
			assert.EqualValues(t, 1, report.Young.Count)
			assert.EqualValues(t, 1, report.YoungUploads)
			assert.Zero(t, report.Orphans)
			assert.Zero(t, report.Uploads)
			assert.Empty(t, report.Findings.Listed)
			assert.True(t, report.Complete())
		}
		assert.Equal(t, []string{b.layout.Media(id)}, teststore.Names(t, b.store, ""))
		assert.Len(t, b.uploads(t), 1)
	})
}

func TestSweepKeepsToItsScope(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		b.orphan(t, alice, 10)
		kept := b.orphan(t, bob, 10)
		b.sweep(t, scope.Of(alice.keyID))
		assert.Equal(t, []string{b.layout.Media(kept)}, teststore.Names(t, b.store, ""))

		total := int64(0)
		for i := range 3 {
			shard, err := scope.Shard(i, 3)
			require.NoError(t, err)
			total += b.sweep(t, shard).Orphans.Count
		}
		assert.EqualValues(t, 1, total)
		assert.Empty(t, teststore.Names(t, b.store, ""))
	})
}

func TestSweepOfOnePatientLeavesTheUploadsOfOthers(t *testing.T) {
	b := servers(t)
	alice, bob := b.enrol(t), b.enrol(t)
	mine := b.layout.Media(keys.NewRecordingID(alice.keyID))
	b.abandon(t, mine)
	others := []string{
		b.layout.Media(keys.NewRecordingID(bob.keyID)),
		b.layout.Envelope(keys.NewRecordingID(alice.keyID)), // which is never sent in parts
		b.layout.Patient(alice.keyID) + "notes",
		b.layout.Root() + "x",
		mine + "x",
		"other/" + mine,
	}
	for _, name := range others {
		b.abandon(t, name)
	}
	report := b.sweep(t, scope.Of(alice.keyID))
	assert.EqualValues(t, 1, report.Uploads)
	assert.Zero(t, report.YoungUploads)
	assert.Len(t, b.uploads(t), len(others))
}

func TestSweepRefusesWhatMightRemoveTooMuch(t *testing.T) {
	store := embedded(t).store
	for name, o := range map[string]upkeep.SweepOptions{
		"no scope":         {},
		"an empty scope":   {Scope: scope.Of()},
		"too young":        {Scope: scope.All(), OlderThan: upkeep.MinOlderThan - 1},
		"a negative age":   {Scope: scope.All(), OlderThan: -25 * time.Hour},
		"too many at once": {Scope: scope.All(), Concurrency: upkeep.MaxConcurrency + 1},
		"fewer than none":  {Scope: scope.All(), Concurrency: -1},
	} {
		_, err := upkeep.Sweep(t.Context(), store, o)
		assert.ErrorIs(t, err, upkeep.ErrInvalidOptions, name)
	}
	_, err := upkeep.Sweep(t.Context(), nil, upkeep.SweepOptions{Scope: scope.All()})
	assert.ErrorIs(t, err, upkeep.ErrInvalidOptions)
	_, err = upkeep.Sweep(t.Context(), store, upkeep.SweepOptions{Scope: scope.All(), Prefix: "no-slash"})
	assert.ErrorIs(t, err, storage.ErrInvalidName)
}

func TestSweepLeavesMediaWhoseEnvelopeAppearsMeanwhile(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, 1000)
		envelope := teststore.Read(t, b.store, b.layout.Envelope(id))
		b.remove(t, b.layout.Envelope(id))
		var appeared sync.Once
		b.store = spy{b.store, func(context.Context, string, string) error {
			// The listing is over, and the sweep takes a first look at what it found.
			appeared.Do(func() { teststore.Write(t, b.store, b.layout.Envelope(id), envelope) })
			return nil
		}}
		report := b.sweep(t, scope.All())
		assert.EqualValues(t, 1, report.Recordings)
		assert.Zero(t, report.Orphans)
		b.open(t, alice, id)
	})
}

func TestSweepDoesNotTakeADeletionForDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, 10)
		b.remove(t, b.layout.Media(id)) // as a listing finds it that has passed the envelope already
		var done atomic.Bool
		b.store = spy{b.store, func(context.Context, string, string) error {
			if done.CompareAndSwap(false, true) {
				b.remove(t, b.layout.Envelope(id))
			}
			return nil
		}}
		report := b.sweep(t, scope.All())
		assert.True(t, done.Load())
		assert.Empty(t, report.Findings.Listed)
		assert.Zero(t, report.Recordings)
	})
}

func TestSweepLooksAtTheEnvelopeLast(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.orphan(t, alice, 1000)
	var asked []string
	b.store = spy{b.store, func(_ context.Context, verb, name string) error {
		asked = append(asked, verb+" "+name)
		return nil
	}}
	b.sweep(t, scope.All())
	require.Len(t, asked, 3)
	assert.Equal(t, []string{"stat " + b.layout.Envelope(id), "delete " + b.layout.Media(id)}, asked[1:])
}

// Each upload has at least one sweep go on in its midst. On these stores media is as old as its completion, and
// what a writer does from then on takes much less than the age.
func TestWritersLoseNothingToSweeps(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		const writers, recordings, age = 4, 5, 2 * time.Second
		alice := b.enrol(t)
		var sweeps, orphans atomic.Int64
		swept := make(chan struct{})
		stop := make(chan struct{})
		var sweeping, writing sync.WaitGroup
		sweeping.Go(func() {
			for {
				report, err := upkeep.SweepOfAnyAge(t.Context(), b.store, upkeep.SweepOptions{
					Prefix: prefix, Scope: scope.All(), OlderThan: age, Remove: true,
				})
				assert.NoError(t, err)
				sweeps.Add(1)
				orphans.Add(report.Orphans.Count)
				select {
				case <-stop:
					return
				case swept <- struct{}{}:
				case <-time.After(time.Millisecond): // nobody waits
				}
			}
		})
		garbage := b.orphan(t, alice, 10)
		var mu sync.Mutex
		var ids []vault.ID
		for range writers {
			writing.Go(func() {
				for range recordings {
					slow := io.MultiReader(bytes.NewReader(random(100_000)), waiter(swept), bytes.NewReader(random(100)))
					id, err := b.vault.Put(t.Context(), alice.patient, slow, vault.Metadata{})
					if assert.NoError(t, err) {
						mu.Lock()
						ids = append(ids, id)
						mu.Unlock()
					}
				}
			})
		}
		writing.Wait()
		require.Eventually(t, func() bool {
			_, err := b.store.Stat(t.Context(), b.layout.Media(garbage))
			return errors.Is(err, storage.ErrNotFound)
		}, 30*time.Second, 10*time.Millisecond, "the sweeps did nothing")
		close(stop)
		sweeping.Wait()
		assert.EqualValues(t, 1, orphans.Load(), "in %d sweeps", sweeps.Load())
		require.Len(t, ids, writers*recordings)
		for _, id := range ids {
			b.open(t, alice, id)
		}
	})
}

// waiter is a reader that waits for something and then ends.
type waiter chan struct{}

func (w waiter) Read([]byte) (int, error) {
	<-w
	return 0, io.EOF
}

func TestSweepGoesOnWhereSomethingFails(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		orphans := []vault.ID{b.orphan(t, alice, 10), b.orphan(t, alice, 10), b.orphan(t, alice, 10), b.orphan(t, alice, 10)}
		failing := map[string]bool{
			"delete " + b.layout.Media(orphans[0]):  true,
			"stat " + b.layout.Envelope(orphans[1]): true,
		}
		b.store = spy{b.store, func(_ context.Context, verb, name string) error {
			if failing[verb+" "+name] {
				return fmt.Errorf("%w: of all times", storage.ErrUnavailable)
			}
			return nil
		}}
		report := b.sweep(t, scope.All())
		assert.EqualValues(t, 2, report.Orphans.Count)
		assert.EqualValues(t, 2, report.Findings.Counts[upkeep.KindUnchecked])
		assert.False(t, report.Complete())
		assert.ElementsMatch(t, []string{b.layout.Media(orphans[0]), b.layout.Media(orphans[1])}, teststore.Names(t, b.store, ""))
		assert.False(t, report.UploadsListed, "this store cannot list them")
	})
}

func TestSweepThatIsStoppedTellsWhatItDid(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		const total = 20
		for range total {
			b.orphan(t, alice, 10)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var deletes atomic.Int64
		store := spy{b.store, func(_ context.Context, verb, _ string) error {
			if verb == "delete" && deletes.Add(1) == 10 {
				cancel()
			}
			return nil
		}}
		var last upkeep.Progress
		report, err := upkeep.SweepOfAnyAge(ctx, store, upkeep.SweepOptions{
			Prefix: prefix, Scope: scope.All(), OlderThan: time.Nanosecond, Remove: true, Concurrency: 2,
			Progress: func(p upkeep.Progress) { last = p },
		})
		assert.ErrorIs(t, err, context.Canceled)
		left := len(teststore.Names(t, b.store, ""))
		assert.Positive(t, left)
		assert.GreaterOrEqual(t, report.Orphans.Count, int64(8))
		assert.InDelta(t, total-left, report.Orphans.Count, 2, "what was under way may have been done")
		assert.Zero(t, report.Findings.Counts[upkeep.KindUnchecked], "to be stopped is no failure")
		assert.True(t, last.Final)
		assert.Equal(t, report.Orphans.Bytes, last.Bytes)

		b.sweep(t, scope.All())
		assert.Empty(t, teststore.Names(t, b.store, ""), "another sweep finishes")
	})
}

func TestReportsStayBounded(t *testing.T) {
	b := embedded(t)
	const strays = upkeep.MaxListed + 10
	for i := range strays {
		teststore.Write(t, b.store, fmt.Sprintf("%sstray-%d", b.layout.Root(), i), nil)
	}
	report := b.sweep(t, scope.All())
	assert.EqualValues(t, strays, report.Findings.Counts[upkeep.KindStray])
	assert.Len(t, report.Findings.Listed, upkeep.MaxListed)
	verified, err := upkeep.Verify(t.Context(), nil, b.store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All()})
	require.NoError(t, err)
	assert.EqualValues(t, strays, verified.Findings.Counts[upkeep.KindStray])
	assert.Len(t, verified.Findings.Listed, upkeep.MaxListed)
}
