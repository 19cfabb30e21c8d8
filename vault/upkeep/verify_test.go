package upkeep_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
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

func (d *deployment) verify(t *testing.T, s scope.Scope, o upkeep.VerifyOptions) upkeep.VerifyReport {
	t.Helper()
	return d.verifyWith(t, d.auditor, s, o)
}

func (d *deployment) verifyWith(t *testing.T, keyring upkeep.KeyVersions, s scope.Scope, o upkeep.VerifyOptions) upkeep.VerifyReport {
	t.Helper()
	o.Prefix = prefix
	report, err := upkeep.Verify(t.Context(), keyring, d.Store, s, o)
	require.NoError(t, err)
	return report
}

// labelsOnly is a keyring that cannot re-wrap.
type labelsOnly struct{ upkeep.KeyVersions }

// grants returns a function that finds the grants of these patients.
func grants(patients ...patient) func(keys.KeyID) (keys.Grant, bool) {
	byKeyID := map[keys.KeyID]keys.Grant{}
	for _, p := range patients {
		byKeyID[p.keyID] = p.grant
	}
	return func(id keys.KeyID) (keys.Grant, bool) {
		grant, ok := byKeyID[id]
		return grant, ok
	}
}

// kinds returns the kinds of the findings about each recording.
func kinds(report upkeep.VerifyReport) map[string][]job.Kind {
	found := map[string][]job.Kind{}
	for _, finding := range report.Findings.Listed {
		if !finding.ID.IsZero() {
			id := finding.ID.String()
			found[id] = append(found[id], finding.Kind)
		}
	}
	return found
}

func TestVerifyFindsNothingInASoundStore(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, bob := d.newPatient(t), d.newPatient(t)
		const large = 17<<20 + 1
		sizes := []int{0, 1, 65_480, 65_481, 200_000}
		for _, size := range sizes {
			d.put(t, alice, size)
		}
		d.put(t, bob, large)
		require.NoError(t, d.admin.Rotate(t.Context(), alice.keyID))
		d.put(t, alice, 10)
		d.orphan(t, bob, 10)
		before := d.Names(t)

		report := d.verify(t, scope.All(), upkeep.VerifyOptions{})
		assert.True(t, report.Complete(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+2, report.Recordings)
		assert.EqualValues(t, len(sizes)+2, report.Checked)
		assert.EqualValues(t, 1, report.Uncommitted.Count)
		assert.Zero(t, report.Read)

		var last job.Progress
		report = d.verify(t, scope.All(), upkeep.VerifyOptions{
			Vault: d.vault, Grant: grants(bob),
			Progress: func(p job.Progress) { last = p },
		})
		assert.True(t, report.Complete(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+2, report.Checked)
		assert.EqualValues(t, 1, report.Read, "that of the patient for whom there is a grant")
		assert.EqualValues(t, large, report.BytesRead)
		assert.True(t, last.Final)
		assert.Equal(t, job.Progress{
			Verb: "verify", Scope: "all", Elapsed: last.Elapsed, Fraction: 1, Patients: 2,
			Recordings: len(sizes) + 2, Done: len(sizes) + 2, Bytes: large, Final: true,
		}, last)

		report = d.verify(t, scope.Of(alice.keyID), upkeep.VerifyOptions{Vault: d.vault, Grant: grants(alice, bob)})
		assert.True(t, report.Complete(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+1, report.Read)
		assert.Equal(t, before, d.Names(t))

		text, err := json.Marshal(report)
		require.NoError(t, err)
		var again upkeep.VerifyReport
		require.NoError(t, json.Unmarshal(text, &again))
		assert.Equal(t, report, again)
	})
}

// reseal changes a recording's envelope, as anyone with access to the store can.
func (d *deployment) reseal(t *testing.T, id vault.ID, change func(*envelope.Envelope)) {
	t.Helper()
	sealed, err := envelope.Parse(teststore.Read(t, d.Store, d.objects.EnvelopeName(id)))
	require.NoError(t, err)
	change(&sealed)
	teststore.Write(t, d.Store, d.objects.EnvelopeName(id), sealed.Encode())
}

// relabel changes the version in the label of a wrapped key.
func relabel(t *testing.T, wrapped *keys.WrappedKey, version int) {
	t.Helper()
	keyring, _, ciphertext, err := wrapped.Parse()
	require.NoError(t, err)
	*wrapped = keys.NewWrappedKey(keyring, version, ciphertext)
}

// corrupt flips a bit of a wrapped key.
func corrupt(t *testing.T, wrapped *keys.WrappedKey) {
	t.Helper()
	keyring, version, ciphertext, err := wrapped.Parse()
	require.NoError(t, err)
	ciphertext[len(ciphertext)-1] ^= 1
	*wrapped = keys.NewWrappedKey(keyring, version, ciphertext)
}

func TestVerifyFindsEveryDamage(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		sound := d.put(t, alice, 1000)
		change := func(name string, change func([]byte) []byte) {
			teststore.Write(t, d.Store, name, change(teststore.Read(t, d.Store, name)))
		}
		reseal := func(id vault.ID, change func(*envelope.Envelope)) { d.reseal(t, id, change) }
		put := func(size int, damage func(id vault.ID)) vault.ID {
			id := d.put(t, alice, size)
			damage(id)
			return id
		}

		keyless := map[string][]job.Kind{} // what Verify finds without a grant
		note := func(kind job.Kind, id vault.ID) { keyless[id.String()] = []job.Kind{kind} }
		note(upkeep.KindMissingMedia, put(100, func(id vault.ID) { d.remove(t, d.objects.MediaName(id)) }))
		note(upkeep.KindMalformedMedia, put(100_000, func(id vault.ID) {
			change(d.objects.MediaName(id), func(media []byte) []byte { return media[:segment.Size+16] })
		}))
		note(upkeep.KindMalformedMedia, put(100, func(id vault.ID) { teststore.Write(t, d.Store, d.objects.MediaName(id), nil) }))
		plain := put(100, func(id vault.ID) {
			teststore.Write(t, d.Store, d.objects.MediaName(id), []byte(strings.Repeat("webm", 100)))
		})
		note(upkeep.KindMalformedMedia, plain)
		for _, text := range []string{"", "{}", "null", `{"version":2}`, strings.Repeat(" ", envelope.MaxSize+1)} {
			note(upkeep.KindMalformedEnvelope, put(100, func(id vault.ID) { teststore.Write(t, d.Store, d.objects.EnvelopeName(id), []byte(text)) }))
		}
		note(upkeep.KindMalformedEnvelope, put(100, func(id vault.ID) {
			change(d.objects.EnvelopeName(id), func(text []byte) []byte { return append(text, '\n') })
		}))
		note(upkeep.KindMisplaced, put(100, func(id vault.ID) {
			teststore.Write(t, d.Store, d.objects.EnvelopeName(id), teststore.Read(t, d.Store, d.objects.EnvelopeName(sound)))
		}))
		note(upkeep.KindUnknownVersion, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { relabel(t, &e.WrappedKey, 9) })
		}))
		note(upkeep.KindUnknownVersion, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { relabel(t, &e.WrappedMetadataKey, 9) })
		}))

		authentic := map[string][]job.Kind{} // what Verify finds with a grant, in place of that or beside it
		note = func(kind job.Kind, id vault.ID) { authentic[id.String()] = []job.Kind{kind} }
		note(upkeep.KindUnauthentic, plain)
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(d.objects.MediaName(id), func(media []byte) []byte { media[150_000] ^= 1; return media })
		}))
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(d.objects.MediaName(id), func(media []byte) []byte { return media[:150_000] })
		}))
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(d.objects.MediaName(id), func(media []byte) []byte { return media[:segment.Size] })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { e.Sealed[20] ^= 1 })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { e.Commitment[0] ^= 1 })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { corrupt(t, &e.WrappedKey) })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { corrupt(t, &e.WrappedMetadataKey) })
		}))
		one, other := d.put(t, alice, 1000), d.put(t, alice, 1000)
		first := teststore.Read(t, d.Store, d.objects.MediaName(one))
		teststore.Write(t, d.Store, d.objects.MediaName(one), teststore.Read(t, d.Store, d.objects.MediaName(other)))
		teststore.Write(t, d.Store, d.objects.MediaName(other), first)
		note(upkeep.KindUnauthentic, one)
		note(upkeep.KindUnauthentic, other)

		stray := d.objects.Patient(alice.keyID) + "notes"
		teststore.Write(t, d.Store, stray, []byte("not ours"))
		total := int64(len(keyless) + len(authentic)) // plain is in both, and sound in neither

		// The keyring compares labels only. TestVerifyProvesWrappedKeys has one that may re-wrap.
		report := d.verifyWith(t, labelsOnly{d.auditor}, scope.All(), upkeep.VerifyOptions{})
		assert.False(t, report.Complete())
		assert.Equal(t, keyless, kinds(report))
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindStray])
		assert.Zero(t, report.Proved)
		assert.Equal(t, total, report.Recordings)
		assert.Equal(t, total, report.Checked)

		report = d.verifyWith(t, labelsOnly{d.auditor}, scope.All(), upkeep.VerifyOptions{Vault: d.vault, Grant: grants(alice)})
		for id, kinds := range authentic {
			keyless[id] = kinds
		}
		assert.Equal(t, keyless, kinds(report))
		assert.EqualValues(t, 1, report.Read)
		for _, finding := range report.Findings.Listed {
			if finding.Kind == upkeep.KindStray {
				assert.Equal(t, stray, finding.Object)
			}
		}
	})
}

func TestVerifyFindsRecordingsWhoseKeyIsGone(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		retired, trimmed, erased, reinstated := d.newPatient(t), d.newPatient(t), d.newPatient(t), d.newPatient(t)
		want := map[string][]job.Kind{
			d.put(t, retired, 10).String(): {upkeep.KindRetired},
			d.put(t, trimmed, 10).String(): {upkeep.KindRetired},
			d.put(t, erased, 10).String():  {upkeep.KindErased},
		}
		d.put(t, reinstated, 10)
		for _, p := range []patient{retired, trimmed, reinstated} {
			require.NoError(t, d.admin.Rotate(t.Context(), p.keyID))
			d.put(t, p, 10)
			require.NoError(t, d.admin.Retire(t.Context(), p.keyID, 2))
		}
		require.NoError(t, d.admin.Trim(t.Context(), trimmed.keyID, 2))
		require.NoError(t, d.admin.Reinstate(t.Context(), reinstated.keyID, 1))
		require.NoError(t, d.admin.Erase(t.Context(), erased.keyID))
		sealer := envelope.NewSealer(keys.NewKeyID(random(keys.KeyIDBytes)), keys.NewKey())
		stranger := sealer.ID()
		sealed, err := sealer.Seal(keys.NewWrappedKey("vault", 1, random(60)), keys.NewWrappedKey("vault", 1, random(60)), envelope.Metadata{
			CreatedAt: time.Now(), MediaSize: 56,
			MediaHeader: segment.Header(append([]byte{segment.HeaderSize}, random(segment.HeaderSize-1)...)),
		})
		require.NoError(t, err)
		teststore.Write(t, d.Store, d.objects.EnvelopeName(stranger), sealed.Encode())
		teststore.Write(t, d.Store, d.objects.MediaName(stranger), append([]byte{segment.HeaderSize}, random(55)...))
		want[stranger.String()] = []job.Kind{upkeep.KindNotEnrolled}

		report := d.verify(t, scope.All(), upkeep.VerifyOptions{})
		assert.Equal(t, want, kinds(report))
		assert.EqualValues(t, 8, report.Checked)

		// Without a keyring, Verify finds what a grant shows.
		all := grants(retired, trimmed, erased, reinstated)
		report, err = upkeep.Verify(t.Context(), nil, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix, Vault: d.vault, Grant: all})
		require.NoError(t, err)
		delete(want, stranger.String())
		assert.Equal(t, want, kinds(report))
		assert.EqualValues(t, 4, report.Read)
		assert.False(t, report.KeysAsked)

		report, err = upkeep.Verify(t.Context(), nil, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix})
		require.NoError(t, err)
		assert.True(t, report.Complete(), "without either, nothing shows: %v", report.Findings)
	})
}

func TestVerifyReportsWhatItCouldNotCheck(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, bob := d.newPatient(t), d.newPatient(t)
		id := d.put(t, alice, 10)
		wrong := func(keys.KeyID) (keys.Grant, bool) { return bob.grant, true }
		report := d.verify(t, scope.All(), upkeep.VerifyOptions{Vault: d.vault, Grant: wrong})
		assert.Equal(t, map[string][]job.Kind{id.String(): {upkeep.KindUnchecked}}, kinds(report))
		assert.False(t, report.Complete())
		text, err := json.Marshal(report)
		require.NoError(t, err)
		for _, secret := range []string{string(alice.patient), string(bob.patient), bob.grant.Token()} {
			assert.NotContains(t, string(text), secret)
		}

		d.put(t, alice, 10)
		d.Store = spy{d.Store, func(_ context.Context, verb, name string) error {
			if verb == "get" && name == d.objects.EnvelopeName(id) {
				return fmt.Errorf("%w: of all times", storage.ErrUnavailable)
			}
			return nil
		}}
		report = d.verify(t, scope.All(), upkeep.VerifyOptions{})
		assert.Equal(t, map[string][]job.Kind{id.String(): {upkeep.KindUnchecked}}, kinds(report))
		assert.EqualValues(t, 2, report.Recordings)
	})
}

func TestVerifyReportsNoDamageDuringChanges(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		deleted, rewrapped := d.put(t, alice, 10), d.put(t, alice, 10)
		var done atomic.Bool
		d.Store = spy{d.Store, func(ctx context.Context, verb, name string) error {
			if verb != "get" || !done.CompareAndSwap(false, true) {
				return nil
			}
			// The listing has been read, and the first check begins.
			d.remove(t, d.objects.EnvelopeName(deleted))
			d.remove(t, d.objects.MediaName(deleted))
			require.NoError(t, d.admin.Rotate(ctx, alice.keyID))
			sealed, err := envelope.Parse(teststore.Read(t, d.Store, d.objects.EnvelopeName(rewrapped)))
			require.NoError(t, err)
			results, err := d.admin.Rewrap(ctx, alice.keyID, sealed.Wraps())
			require.NoError(t, err)
			sealed.WrappedKey, sealed.WrappedMetadataKey = results[0].Wrapped, results[1].Wrapped
			teststore.Write(t, d.Store, d.objects.EnvelopeName(rewrapped), sealed.Encode())
			return nil
		}}
		stale := stale{d.auditor, new(atomic.Bool), keys.Versions{Latest: 1, MinDecryption: 1, MinAvailable: 1}}
		report, err := upkeep.Verify(t.Context(), stale, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix, Concurrency: 1})
		require.NoError(t, err)
		assert.True(t, stale.asked.Load())
		assert.True(t, report.Complete(), "%v", report.Findings)
		assert.EqualValues(t, 1, report.Recordings)
	})
}

// stale is a keyring that gives an old answer first.
type stale struct {
	upkeep.KeyVersions
	asked *atomic.Bool
	old   keys.Versions
}

func (s stale) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	if s.asked.CompareAndSwap(false, true) {
		return s.old, nil
	}
	return s.KeyVersions.Versions(ctx, id)
}

// counting is a keyring that counts calls.
type counting struct {
	upkeep.KeyVersions
	calls *atomic.Int64
}

func (c counting) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	c.calls.Add(1)
	return c.KeyVersions.Versions(ctx, id)
}

func TestVerifyAsksForVersionsOncePerPatient(t *testing.T) {
	d := embedded(t)
	for range 3 {
		p := d.newPatient(t)
		for range 4 {
			d.put(t, p, 10)
		}
	}
	calls := new(atomic.Int64)
	report, err := upkeep.Verify(t.Context(), counting{d.auditor, calls}, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix})
	require.NoError(t, err)
	assert.EqualValues(t, 12, report.Checked)
	assert.EqualValues(t, 3, calls.Load())
}

func TestASampleDependsOnItsSeedAlone(t *testing.T) {
	d := embedded(t)
	const total = 300
	alice := d.newPatient(t)
	id := d.put(t, alice, 10)
	sealed, media := teststore.Read(t, d.Store, d.objects.EnvelopeName(id)), teststore.Read(t, d.Store, d.objects.MediaName(id))
	for range total - 1 { // misplaced, so that the report lists those in the sample
		other := keystest.NewRecordingID(keys.NewKeyID(random(keys.KeyIDBytes)))
		teststore.Write(t, d.Store, d.objects.MediaName(other), media)
		teststore.Write(t, d.Store, d.objects.EnvelopeName(other), sealed)
	}
	draw := func(s scope.Scope, fraction float64, seed uint64) map[string][]job.Kind {
		report := d.verify(t, s, upkeep.VerifyOptions{Sample: fraction, Seed: seed})
		assert.InDelta(t, len(kinds(report)), report.Checked, 1, "all but one are misplaced")
		return kinds(report)
	}
	third := draw(scope.All(), 1.0/3, 1)
	assert.InDelta(t, total/3, len(third), 50) // six standard deviations
	assert.Equal(t, third, draw(scope.All(), 1.0/3, 1))
	assert.NotEqual(t, third, draw(scope.All(), 1.0/3, 2))
	assert.Subset(t, draw(scope.All(), 1.0/2, 1), third)
	assert.Len(t, draw(scope.All(), 0, 1), total-1, "the default is all")
	sharded := map[string][]job.Kind{}
	for i := range 4 {
		shard, err := scope.Shard(i, 4)
		require.NoError(t, err)
		for id, kinds := range draw(shard, 1.0/3, 1) {
			sharded[id] = kinds
		}
	}
	assert.Equal(t, third, sharded)

	d.remove(t, d.objects.MediaName(id))
	report := d.verify(t, scope.All(), upkeep.VerifyOptions{Sample: 1e-9})
	assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindMissingMedia], "the listing shows it for all recordings")
	assert.Zero(t, report.Checked)
	assert.EqualValues(t, total, report.Recordings)
}

func TestAnInterruptedVerifyReportsWhatItDid(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		const total = 20
		for range total {
			d.put(t, alice, 10)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var gets, now, most atomic.Int64
		store := spy{d.Store, func(_ context.Context, verb, _ string) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			if verb == "get" && gets.Add(1) == total {
				cancel()
			}
			return nil
		}}
		report, err := upkeep.Verify(ctx, d.auditor, store, scope.All(), upkeep.VerifyOptions{Prefix: prefix, Concurrency: 2})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Positive(t, report.Recordings)
		assert.Less(t, report.Recordings, int64(total))
		assert.Empty(t, report.Findings.Listed, "an interruption is no failure")
		assert.LessOrEqual(t, most.Load(), int64(2))
	})
}

func TestVerifyEndsInTheMiddleOfARecording(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		const large = 32 << 20
		d.put(t, alice, large)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		report, err := upkeep.Verify(ctx, d.auditor, d.Store, scope.All(), upkeep.VerifyOptions{
			Prefix: prefix, Vault: d.vault, Grant: func(id keys.KeyID) (keys.Grant, bool) {
				cancel()
				return alice.grant, true
			},
		})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Zero(t, report.Read)
		assert.Less(t, report.BytesRead, int64(large))
		assert.Empty(t, report.Findings.Listed)
	})
}

func TestVerifyReadsLargeMediaInLittleMemory(t *testing.T) {
	d := embedded(t)
	alice := d.newPatient(t)
	const large = 64 << 20
	d.put(t, alice, large)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	report := d.verify(t, scope.All(), upkeep.VerifyOptions{Vault: d.vault, Grant: grants(alice)})
	runtime.ReadMemStats(&after)
	assert.True(t, report.Complete())
	assert.EqualValues(t, large, report.BytesRead)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "in total, with what was freed again")
}

func TestVerifyRefusesInvalidOptions(t *testing.T) {
	d := embedded(t)
	for name, o := range map[string]upkeep.VerifyOptions{
		"a sample of too many":  {Sample: 1.01},
		"a sample below zero":   {Sample: -0.1},
		"a sample of no number": {Sample: math.NaN()},
		"too many at once":      {Concurrency: upkeep.MaxConcurrency + 1},
		"a vault and no grants": {Vault: d.vault},
		"grants and no vault":   {Grant: grants()},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := upkeep.Verify(t.Context(), d.auditor, d.Store, scope.All(), o)
			assert.ErrorIs(t, err, upkeep.ErrInvalidOptions)
		})
	}
	t.Run("no scope", func(t *testing.T) {
		_, err := upkeep.Verify(t.Context(), d.auditor, d.Store, scope.Scope{}, upkeep.VerifyOptions{})
		assert.ErrorIs(t, err, upkeep.ErrInvalidOptions)
	})
}

func TestReportsListFindingsInOrder(t *testing.T) {
	d := embedded(t)
	alice := d.newPatient(t)
	for range 30 {
		id := d.put(t, alice, 10)
		teststore.Write(t, d.Store, d.objects.EnvelopeName(id), bytes.Repeat([]byte("x"), 10))
	}
	report := d.verify(t, scope.All(), upkeep.VerifyOptions{})
	require.Len(t, report.Findings.Listed, 30)
	for i, finding := range report.Findings.Listed[1:] {
		assert.Less(t, report.Findings.Listed[i].Object, finding.Object)
	}
}

// refusing is a keyring that answers with an error after so many calls.
type refusing struct {
	upkeep.KeyVersions
	err   error
	after int64
	calls *atomic.Int64
}

func (k refusing) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	if k.calls.Add(1) > k.after {
		return keys.Versions{}, k.err
	}
	return k.KeyVersions.Versions(ctx, id)
}

func TestVerifyEndsWhenEveryRequestFails(t *testing.T) {
	d := embedded(t)
	var first keys.KeyID
	for i := range 40 {
		p := d.newPatient(t)
		if d.put(t, p, 10); i == 0 {
			first = p.keyID
		}
	}
	for _, failure := range []error{keys.ErrUnavailable, keys.ErrDenied, keys.ErrUnauthenticated} {
		t.Run(failure.Error(), func(t *testing.T) {
			for name, s := range map[string]scope.Scope{"all": scope.All(), "one": scope.Of(first)} {
				keyring := refusing{d.auditor, failure, 0, new(atomic.Int64)}
				report, err := upkeep.Verify(t.Context(), keyring, d.Store, s, upkeep.VerifyOptions{Prefix: prefix, Concurrency: 1})
				assert.ErrorIs(t, err, failure, name)
				assert.LessOrEqual(t, keyring.calls.Load(), int64(10), "it does not go on")
				assert.Less(t, report.Recordings, int64(10), name)
			}
			keyring := refusing{d.auditor, failure, 38, new(atomic.Int64)}
			report, err := upkeep.Verify(t.Context(), keyring, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix, Concurrency: 1})
			require.NoError(t, err, "two of forty")
			assert.EqualValues(t, 2, report.Findings.Counts[upkeep.KindUnchecked])
		})
	}
}
