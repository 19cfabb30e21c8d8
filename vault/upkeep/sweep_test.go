package upkeep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

// sweep removes all garbage that is there, of any age.
func (d *deployment) sweep(t *testing.T, s scope.Scope) upkeep.SweepReport {
	t.Helper()
	report, err := upkeep.SweepOfAnyAge(t.Context(), d.Store, s, upkeep.SweepOptions{Prefix: prefix, OlderThan: time.Nanosecond})
	require.NoError(t, err)
	return report
}

func TestSweepRemovesGarbageAndNothingElse(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, bob := d.newPatient(t), d.newPatient(t)
		kept := []vault.ID{d.put(t, alice, 1000), d.put(t, bob, 0)}
		damaged := d.put(t, alice, 10)
		d.remove(t, d.objects.MediaName(damaged))
		stray := d.objects.Patient(alice.keyID) + "notes"
		elsewhere := "other/" + d.objects.MediaName(kept[0])
		for _, name := range []string{stray, elsewhere, objects.HoldName(keys.NewKeyID(make([]byte, keys.KeyIDBytes))), d.objects.Root() + "x/y/media"} {
			teststore.Write(t, d.Store, name, []byte("not ours"))
		}
		clean := d.Names(t)
		orphans := []vault.ID{d.orphan(t, alice, 100), d.orphan(t, bob, 200_000), d.orphan(t, bob, 0)}
		littered := d.Names(t)
		d.AbandonUpload(t, d.objects.MediaName(keystest.NewRecordingID(bob.keyID)))

		dry, err := upkeep.SweepOfAnyAge(t.Context(), d.Store, scope.All(), upkeep.SweepOptions{
			Prefix: prefix, OlderThan: time.Nanosecond, DryRun: true,
		})
		require.NoError(t, err)
		assert.True(t, dry.DryRun)
		assert.Equal(t, littered, d.Names(t), "a dry run removes nothing")
		assert.Len(t, d.Uploads(t), 1)

		report := d.sweep(t, scope.All())
		assert.Equal(t, clean, d.Names(t))
		assert.Empty(t, d.Uploads(t))
		assert.False(t, report.DryRun)
		assert.Equal(t, "sweep", report.Verb)
		assert.Equal(t, "all", report.Scope)
		bytes := segment.CiphertextSize(100) + segment.CiphertextSize(200_000) + segment.CiphertextSize(0)
		assert.Equal(t, upkeep.Tally{Count: 3, Bytes: bytes}, report.Orphans)
		assert.EqualValues(t, 2, report.Recordings)
		assert.EqualValues(t, 1, report.Uploads)
		assert.True(t, report.UploadsListed)
		assert.Equal(t, map[job.Kind]int64{
			upkeep.KindOrphan: 3, upkeep.KindUpload: 1, upkeep.KindStray: 2, upkeep.KindMissingMedia: 1,
		}, report.Findings.Counts)
		assert.False(t, report.Complete(), "strays and missing media need attention")
		found := map[job.Kind][]keys.RecordingID{}
		for _, finding := range report.Findings.Listed {
			found[finding.Kind] = append(found[finding.Kind], finding.ID)
			assert.Equal(t, finding.ID.KeyID(), finding.KeyID)
		}
		assert.ElementsMatch(t, orphans, found[upkeep.KindOrphan])
		assert.Equal(t, []keys.RecordingID{damaged}, found[upkeep.KindMissingMedia])
		dry.DryRun, dry.Started, dry.Finished, dry.Before = report.DryRun, report.Started, report.Finished, report.Before
		assert.Equal(t, dry, report, "a dry run reports what a sweep would do")
		text, err := json.Marshal(report)
		require.NoError(t, err)
		var again upkeep.SweepReport
		require.NoError(t, json.Unmarshal(text, &again))
		assert.Equal(t, report, again)

		d.open(t, alice, kept[0])
		d.open(t, bob, kept[1])
	})
}

func TestSweepKeepsAllOfAPatientOnHold(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, bob := d.newPatient(t), d.newPatient(t)
		hold := objects.HoldName(alice.keyID)
		teststore.Write(t, d.Store, hold, []byte("{}"))
		held := d.orphan(t, alice, 50)
		d.orphan(t, bob, 50)
		report := d.sweep(t, scope.All())
		assert.Equal(t, []string{d.objects.MediaName(held), hold}, d.Names(t))
		assert.Equal(t, upkeep.Tally{Count: 1, Bytes: segment.CiphertextSize(50)}, report.Held)
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindHeld])
		assert.EqualValues(t, 1, report.Orphans.Count, "of the other patient")

		teststore.Write(t, d.Store, hold, nil) // a hold that was cleared
		report = d.sweep(t, scope.All())
		assert.Equal(t, []string{hold}, d.Names(t))
		assert.Zero(t, report.Held)
		assert.EqualValues(t, 1, report.Orphans.Count)
	})
}

// TestSweepKeepsTheUploadsOfAPatientOnHold needs servers: a directory does not know whose its unfinished uploads are.
func TestSweepKeepsTheUploadsOfAPatientOnHold(t *testing.T) {
	d := servers(t)
	alice, bob := d.newPatient(t), d.newPatient(t)
	teststore.Write(t, d.Store, objects.HoldName(alice.keyID), []byte("{}"))
	held := d.objects.MediaName(keystest.NewRecordingID(alice.keyID))
	d.AbandonUpload(t, held)
	d.AbandonUpload(t, d.objects.MediaName(keystest.NewRecordingID(bob.keyID)))
	for range 2 {
		report := d.sweep(t, scope.All())
		assert.EqualValues(t, 1, report.HeldUploads)
		assert.Zero(t, report.YoungUploads)
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindHeldUpload])
		assert.Equal(t, []string{held}, d.Uploads(t))
	}

	unreadable := spy{d.Store, func(_ context.Context, verb, name string) error {
		if name == objects.HoldName(alice.keyID) {
			return storage.ErrDenied
		}
		return nil
	}}
	report, err := upkeep.SweepOfAnyAge(t.Context(), listingSpy{unreadable, d.Store.(storage.UploadLister)}, scope.All(), upkeep.SweepOptions{
		Prefix: prefix, OlderThan: time.Nanosecond,
	})
	require.NoError(t, err)
	assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindUnchecked])
	assert.Len(t, d.Uploads(t), 1, "an upload whose hold cannot be read stays")

	teststore.Write(t, d.Store, objects.HoldName(alice.keyID), nil)
	assert.EqualValues(t, 1, d.sweep(t, scope.All()).Uploads)
	assert.Empty(t, d.Uploads(t))
}

// listingSpy is a spy that lists uploads too.
type listingSpy struct {
	spy
	storage.UploadLister
}

func TestSweepLeavesWhatIsYoung(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		id := d.orphan(t, alice, 100)
		d.AbandonUpload(t, d.objects.MediaName(keystest.NewRecordingID(alice.keyID)))
		for _, age := range []time.Duration{0, upkeep.MinOlderThan} {
			report, err := upkeep.Sweep(t.Context(), d.Store, scope.All(), upkeep.SweepOptions{Prefix: prefix, OlderThan: age})
			require.NoError(t, err)
			assert.EqualValues(t, 1, report.Young.Count)
			assert.EqualValues(t, 1, report.YoungUploads)
			assert.Zero(t, report.Orphans)
			assert.Zero(t, report.Uploads)
			assert.Empty(t, report.Findings.Listed)
			assert.True(t, report.Complete())
		}
		assert.Equal(t, []string{d.objects.MediaName(id)}, d.Names(t))
		assert.Len(t, d.Uploads(t), 1)
	})
}

func TestSweepKeepsToItsScope(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, bob := d.newPatient(t), d.newPatient(t)
		d.orphan(t, alice, 10)
		kept := d.orphan(t, bob, 10)
		d.sweep(t, scope.Of(alice.keyID))
		assert.Equal(t, []string{d.objects.MediaName(kept)}, d.Names(t))

		total := int64(0)
		for i := range 3 {
			shard, err := scope.Shard(i, 3)
			require.NoError(t, err)
			total += d.sweep(t, shard).Orphans.Count
		}
		assert.EqualValues(t, 1, total)
		assert.Empty(t, d.Names(t))
	})
}

func TestSweepOfOnePatientLeavesTheUploadsOfOthers(t *testing.T) {
	d := servers(t)
	alice, bob := d.newPatient(t), d.newPatient(t)
	mine := d.objects.MediaName(keystest.NewRecordingID(alice.keyID))
	d.AbandonUpload(t, mine)
	others := []string{
		d.objects.MediaName(keystest.NewRecordingID(bob.keyID)),
		d.objects.EnvelopeName(keystest.NewRecordingID(alice.keyID)), // an envelope is never uploaded in parts
		d.objects.Patient(alice.keyID) + "notes",
		d.objects.Root() + "x",
		mine + "x",
		"other/" + mine,
	}
	for _, name := range others {
		d.AbandonUpload(t, name)
	}
	report := d.sweep(t, scope.Of(alice.keyID))
	assert.EqualValues(t, 1, report.Uploads)
	assert.Zero(t, report.YoungUploads)
	assert.Len(t, d.Uploads(t), len(others))
}

func TestSweepRefusesInvalidOptions(t *testing.T) {
	store := embedded(t).Store
	for name, c := range map[string]struct {
		store   storage.Store
		scope   scope.Scope
		options upkeep.SweepOptions
		want    error
	}{
		"no store":         {nil, scope.All(), upkeep.SweepOptions{}, upkeep.ErrInvalidOptions},
		"no scope":         {store, scope.Scope{}, upkeep.SweepOptions{}, upkeep.ErrInvalidOptions},
		"an empty scope":   {store, scope.Of(), upkeep.SweepOptions{}, upkeep.ErrInvalidOptions},
		"too young":        {store, scope.All(), upkeep.SweepOptions{OlderThan: upkeep.MinOlderThan - 1}, upkeep.ErrInvalidOptions},
		"a negative age":   {store, scope.All(), upkeep.SweepOptions{OlderThan: -25 * time.Hour}, upkeep.ErrInvalidOptions},
		"too many at once": {store, scope.All(), upkeep.SweepOptions{Concurrency: upkeep.MaxConcurrency + 1}, upkeep.ErrInvalidOptions},
		"fewer than none":  {store, scope.All(), upkeep.SweepOptions{Concurrency: -1}, upkeep.ErrInvalidOptions},
		"a bad prefix":     {store, scope.All(), upkeep.SweepOptions{Prefix: "no-slash"}, storage.ErrInvalidName},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := upkeep.Sweep(t.Context(), c.store, c.scope, c.options)
			assert.ErrorIs(t, err, c.want)
		})
	}
}

func TestSweepLeavesMediaThatIsCommittedDuringIt(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		id := d.put(t, alice, 1000)
		envelope := teststore.Read(t, d.Store, d.objects.EnvelopeName(id))
		d.remove(t, d.objects.EnvelopeName(id))
		var appeared sync.Once
		d.Store = spy{d.Store, func(context.Context, string, string) error {
			// The listing is over. This is the first request about what it found.
			appeared.Do(func() { teststore.Write(t, d.Store, d.objects.EnvelopeName(id), envelope) })
			return nil
		}}
		report := d.sweep(t, scope.All())
		assert.EqualValues(t, 1, report.Recordings)
		assert.Zero(t, report.Orphans)
		d.open(t, alice, id)
	})
}

func TestSweepReportsNoDamageDuringADeletion(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		id := d.put(t, alice, 10)
		d.remove(t, d.objects.MediaName(id)) // what a listing shows if it has passed the envelope already
		var done atomic.Bool
		d.Store = spy{d.Store, func(context.Context, string, string) error {
			if done.CompareAndSwap(false, true) {
				d.remove(t, d.objects.EnvelopeName(id))
			}
			return nil
		}}
		report := d.sweep(t, scope.All())
		assert.True(t, done.Load())
		assert.Empty(t, report.Findings.Listed)
		assert.Zero(t, report.Recordings)
	})
}

func TestSweepChecksForTheEnvelopeLast(t *testing.T) {
	d := embedded(t)
	alice := d.newPatient(t)
	id := d.orphan(t, alice, 1000)
	var asked []string
	d.Store = spy{d.Store, func(_ context.Context, verb, name string) error {
		asked = append(asked, verb+" "+name)
		return nil
	}}
	d.sweep(t, scope.All())
	require.Len(t, asked, 3)
	assert.Equal(t, []string{"stat " + d.objects.EnvelopeName(id), "delete " + d.objects.MediaName(id)}, asked[1:])
}

// TestWritersLoseNothingToSweeps runs at least one sweep during each upload. On these stores the age of media counts
// from the end of its upload, and a writer needs much less than the age from then on.
func TestWritersLoseNothingToSweeps(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		const writers, recordings, age = 4, 5, 2 * time.Second
		alice := d.newPatient(t)
		var sweeps, orphans atomic.Int64
		swept := make(chan struct{})
		stop := make(chan struct{})
		var sweeping, writing sync.WaitGroup
		sweeping.Go(func() {
			for {
				report, err := upkeep.SweepOfAnyAge(t.Context(), d.Store, scope.All(), upkeep.SweepOptions{Prefix: prefix, OlderThan: age})
				assert.NoError(t, err)
				sweeps.Add(1)
				orphans.Add(report.Orphans.Count)
				select {
				case <-stop:
					return
				case swept <- struct{}{}:
				case <-time.After(time.Millisecond): // no writer waits
				}
			}
		})
		garbage := d.orphan(t, alice, 10)
		var mu sync.Mutex
		var ids []vault.ID
		for range writers {
			writing.Go(func() {
				for range recordings {
					slow := io.MultiReader(bytes.NewReader(random(100_000)), waiter(swept), bytes.NewReader(random(100)))
					id, err := d.vault.Put(t.Context(), alice.patient, slow, vault.Metadata{})
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
			_, err := d.Store.Stat(t.Context(), d.objects.MediaName(garbage))
			return errors.Is(err, storage.ErrNotFound)
		}, 30*time.Second, 10*time.Millisecond, "no sweep removed it")
		close(stop)
		sweeping.Wait()
		assert.EqualValues(t, 1, orphans.Load(), "in %d sweeps", sweeps.Load())
		require.Len(t, ids, writers*recordings)
		for _, id := range ids {
			d.open(t, alice, id)
		}
	})
}

// waiter is a reader that waits until a sweep has ended and then ends.
type waiter chan struct{}

func (w waiter) Read([]byte) (int, error) {
	<-w
	return 0, io.EOF
}

func TestSweepGoesOnAfterAFailure(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		orphans := []vault.ID{d.orphan(t, alice, 10), d.orphan(t, alice, 10), d.orphan(t, alice, 10), d.orphan(t, alice, 10)}
		failing := map[string]bool{
			"delete " + d.objects.MediaName(orphans[0]):  true,
			"stat " + d.objects.EnvelopeName(orphans[1]): true,
		}
		d.Store = spy{d.Store, func(_ context.Context, verb, name string) error {
			if failing[verb+" "+name] {
				return fmt.Errorf("%w: of all times", storage.ErrUnavailable)
			}
			return nil
		}}
		report := d.sweep(t, scope.All())
		assert.EqualValues(t, 2, report.Orphans.Count)
		assert.EqualValues(t, 2, report.Findings.Counts[upkeep.KindUnchecked])
		assert.False(t, report.Complete())
		assert.ElementsMatch(t, []string{d.objects.MediaName(orphans[0]), d.objects.MediaName(orphans[1])}, d.Names(t))
		assert.False(t, report.UploadsListed, "this store cannot list them")
	})
}

func TestAnInterruptedSweepReportsWhatItDid(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		const total = 20
		for range total {
			d.orphan(t, alice, 10)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var deletes atomic.Int64
		store := spy{d.Store, func(_ context.Context, verb, _ string) error {
			if verb == "delete" && deletes.Add(1) == 10 {
				cancel()
			}
			return nil
		}}
		var last job.Progress
		report, err := upkeep.SweepOfAnyAge(ctx, store, scope.All(), upkeep.SweepOptions{
			Prefix: prefix, OlderThan: time.Nanosecond, Concurrency: 2,
			Progress: func(p job.Progress) { last = p },
		})
		assert.ErrorIs(t, err, context.Canceled)
		left := len(d.Names(t))
		assert.Positive(t, left)
		assert.GreaterOrEqual(t, report.Orphans.Count, int64(8))
		assert.InDelta(t, total-left, report.Orphans.Count, 2, "a request that was under way may have been carried out")
		assert.Zero(t, report.Findings.Counts[upkeep.KindUnchecked], "an interruption is no failure")
		assert.True(t, last.Final)
		assert.Equal(t, report.Orphans.Bytes, last.Bytes)

		d.sweep(t, scope.All())
		assert.Empty(t, d.Names(t), "another sweep finishes")
	})
}

func TestReportsStayBounded(t *testing.T) {
	d := embedded(t)
	const strays = job.MaxListed + 10
	for i := range strays {
		teststore.Write(t, d.Store, fmt.Sprintf("%sstray-%d", d.objects.Root(), i), nil)
	}
	report := d.sweep(t, scope.All())
	assert.EqualValues(t, strays, report.Findings.Counts[upkeep.KindStray])
	assert.Len(t, report.Findings.Listed, job.MaxListed)
	verified, err := upkeep.Verify(t.Context(), nil, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix})
	require.NoError(t, err)
	assert.EqualValues(t, strays, verified.Findings.Counts[upkeep.KindStray])
	assert.Len(t, verified.Findings.Listed, job.MaxListed)
}
