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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

func (b *backend) verify(t *testing.T, o upkeep.VerifyOptions) upkeep.VerifyReport {
	t.Helper()
	o.Prefix = prefix
	report, err := upkeep.Verify(t.Context(), b.auditor, b.store, o)
	require.NoError(t, err)
	return report
}

// grants returns what finds the grants of these patients.
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

// kinds returns what was found of each recording.
func kinds(report upkeep.VerifyReport) map[string][]upkeep.Kind {
	found := map[string][]upkeep.Kind{}
	for _, finding := range report.Findings.Listed {
		if !finding.ID.IsZero() {
			id := finding.ID.String()
			found[id] = append(found[id], finding.Kind)
		}
	}
	return found
}

func TestVerifyFindsNothingInASoundStore(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		const large = 17<<20 + 1
		sizes := []int{0, 1, 65_480, 65_481, 200_000}
		for _, size := range sizes {
			b.put(t, alice, size)
		}
		b.put(t, bob, large)
		require.NoError(t, b.admin.Rotate(t.Context(), alice.keyID))
		b.put(t, alice, 10)
		b.orphan(t, bob, 10)
		before := teststore.Names(t, b.store, "")

		report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All()})
		assert.True(t, report.OK(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+2, report.Recordings)
		assert.EqualValues(t, len(sizes)+2, report.Checked)
		assert.EqualValues(t, 1, report.Uncommitted.Count)
		assert.Zero(t, report.Read)

		var last upkeep.Progress
		report = b.verify(t, upkeep.VerifyOptions{
			Scope: scope.All(), Vault: b.vault, Grant: grants(bob),
			Progress: func(p upkeep.Progress) { last = p },
		})
		assert.True(t, report.OK(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+2, report.Checked)
		assert.EqualValues(t, 1, report.Read, "of the patient whose grant it has")
		assert.EqualValues(t, large, report.BytesRead)
		assert.True(t, last.Final)
		assert.Equal(t, upkeep.Progress{Elapsed: last.Elapsed, Recordings: report.Recordings, Bytes: large, Final: true}, last)

		report = b.verify(t, upkeep.VerifyOptions{Scope: scope.Of(alice.keyID), Vault: b.vault, Grant: grants(alice, bob)})
		assert.True(t, report.OK(), "%v", report.Findings)
		assert.EqualValues(t, len(sizes)+1, report.Read)
		assert.Equal(t, before, teststore.Names(t, b.store, ""))

		text, err := json.Marshal(report)
		require.NoError(t, err)
		var again upkeep.VerifyReport
		require.NoError(t, json.Unmarshal(text, &again))
		assert.Equal(t, report, again)
	})
}

func TestVerifyFindsEveryDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		sound := b.put(t, alice, 1000)
		change := func(name string, change func([]byte) []byte) {
			teststore.Write(t, b.store, name, change(teststore.Read(t, b.store, name)))
		}
		reseal := func(id vault.ID, change func(*envelope.Envelope)) {
			sealed, err := envelope.Parse(teststore.Read(t, b.store, b.layout.Envelope(id)))
			require.NoError(t, err)
			change(&sealed)
			teststore.Write(t, b.store, b.layout.Envelope(id), sealed.Encode())
		}
		put := func(size int, damage func(id vault.ID)) vault.ID {
			id := b.put(t, alice, size)
			damage(id)
			return id
		}

		keyless := map[string][]upkeep.Kind{} // what is found without a grant
		note := func(kind upkeep.Kind, id vault.ID) { keyless[id.String()] = []upkeep.Kind{kind} }
		note(upkeep.KindMissingMedia, put(100, func(id vault.ID) { b.remove(t, b.layout.Media(id)) }))
		note(upkeep.KindMalformedMedia, put(100_000, func(id vault.ID) {
			change(b.layout.Media(id), func(media []byte) []byte { return media[:segment.Size+16] })
		}))
		note(upkeep.KindMalformedMedia, put(100, func(id vault.ID) { teststore.Write(t, b.store, b.layout.Media(id), nil) }))
		plain := put(100, func(id vault.ID) {
			teststore.Write(t, b.store, b.layout.Media(id), []byte(strings.Repeat("webm", 100)))
		})
		note(upkeep.KindMalformedMedia, plain)
		for _, text := range []string{"", "{}", "null", `{"version":2}`, strings.Repeat(" ", envelope.MaxSize+1)} {
			note(upkeep.KindMalformedEnvelope, put(100, func(id vault.ID) { teststore.Write(t, b.store, b.layout.Envelope(id), []byte(text)) }))
		}
		note(upkeep.KindMalformedEnvelope, put(100, func(id vault.ID) {
			change(b.layout.Envelope(id), func(text []byte) []byte { return append(text, '\n') })
		}))
		note(upkeep.KindMisplaced, put(100, func(id vault.ID) {
			teststore.Write(t, b.store, b.layout.Envelope(id), teststore.Read(t, b.store, b.layout.Envelope(sound)))
		}))
		note(upkeep.KindUnknownVersion, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) {
				keyring, _, ciphertext, err := e.Wrapped.Parse()
				require.NoError(t, err)
				e.Wrapped = keys.NewWrappedKey(keyring, 9, ciphertext)
			})
		}))

		authentic := map[string][]upkeep.Kind{} // and what with one besides
		note = func(kind upkeep.Kind, id vault.ID) { authentic[id.String()] = []upkeep.Kind{kind} }
		note(upkeep.KindUnauthentic, plain)
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(b.layout.Media(id), func(media []byte) []byte { media[150_000] ^= 1; return media })
		}))
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(b.layout.Media(id), func(media []byte) []byte { return media[:150_000] })
		}))
		note(upkeep.KindUnauthentic, put(200_000, func(id vault.ID) {
			change(b.layout.Media(id), func(media []byte) []byte { return media[:segment.Size] })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { e.Sealed[20] ^= 1 })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) { e.Commitment[0] ^= 1 })
		}))
		note(upkeep.KindUnauthentic, put(100, func(id vault.ID) {
			reseal(id, func(e *envelope.Envelope) {
				keyring, version, ciphertext, err := e.Wrapped.Parse()
				require.NoError(t, err)
				ciphertext[len(ciphertext)-1] ^= 1
				e.Wrapped = keys.NewWrappedKey(keyring, version, ciphertext)
			})
		}))
		one, other := b.put(t, alice, 1000), b.put(t, alice, 1000)
		first := teststore.Read(t, b.store, b.layout.Media(one))
		teststore.Write(t, b.store, b.layout.Media(one), teststore.Read(t, b.store, b.layout.Media(other)))
		teststore.Write(t, b.store, b.layout.Media(other), first)
		note(upkeep.KindUnauthentic, one)
		note(upkeep.KindUnauthentic, other)

		stray := b.layout.Patient(alice.keyID) + "notes"
		teststore.Write(t, b.store, stray, []byte("not ours"))
		total := int64(len(keyless) + len(authentic)) // plain is in both, and sound in neither

		report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All()})
		assert.False(t, report.OK())
		assert.Equal(t, keyless, kinds(report))
		assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindStray])
		assert.Equal(t, total, report.Recordings)
		assert.Equal(t, total, report.Checked)

		report = b.verify(t, upkeep.VerifyOptions{Scope: scope.All(), Vault: b.vault, Grant: grants(alice)})
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
	onEachBackend(t, func(t *testing.T, b *backend) {
		retired, trimmed, erased, reinstated := b.enrol(t), b.enrol(t), b.enrol(t), b.enrol(t)
		want := map[string][]upkeep.Kind{
			b.put(t, retired, 10).String(): {upkeep.KindRetired},
			b.put(t, trimmed, 10).String(): {upkeep.KindRetired},
			b.put(t, erased, 10).String():  {upkeep.KindErased},
		}
		b.put(t, reinstated, 10)
		for _, p := range []patient{retired, trimmed, reinstated} {
			require.NoError(t, b.admin.Rotate(t.Context(), p.keyID))
			b.put(t, p, 10)
			require.NoError(t, b.admin.Retire(t.Context(), p.keyID, 2))
		}
		require.NoError(t, b.admin.Trim(t.Context(), trimmed.keyID, 2))
		require.NoError(t, b.admin.Reinstate(t.Context(), reinstated.keyID, 1))
		require.NoError(t, b.admin.Erase(t.Context(), erased.keyID))
		stranger := keys.NewRecordingID(keys.NewKeyID(random(keys.KeyIDBytes)))
		sealed, err := envelope.DeriveKeys(keys.NewRecordingKey(), stranger.Binding()).Seal(keys.NewWrappedKey("vault", 1, random(60)), envelope.Metadata{
			MediaHeader: append([]byte{segment.HeaderSize}, random(segment.HeaderSize-1)...), MediaSize: 56,
		})
		require.NoError(t, err)
		teststore.Write(t, b.store, b.layout.Envelope(stranger), sealed.Encode())
		teststore.Write(t, b.store, b.layout.Media(stranger), append([]byte{segment.HeaderSize}, random(55)...))
		want[stranger.String()] = []upkeep.Kind{upkeep.KindNotEnrolled}

		report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All()})
		assert.Equal(t, want, kinds(report))
		assert.EqualValues(t, 8, report.Checked)

		// Without a keyring, a grant tells what it can.
		all := grants(retired, trimmed, erased, reinstated)
		report, err = upkeep.Verify(t.Context(), nil, b.store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All(), Vault: b.vault, Grant: all})
		require.NoError(t, err)
		delete(want, stranger.String())
		assert.Equal(t, want, kinds(report))
		assert.EqualValues(t, 4, report.Read)
		assert.False(t, report.KeysAsked)

		report, err = upkeep.Verify(t.Context(), nil, b.store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All()})
		require.NoError(t, err)
		assert.True(t, report.OK(), "without either, nothing can be told: %v", report.Findings)
	})
}

func TestVerifySaysWhatItCouldNotCheck(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, 10)
		wrong := func(keys.KeyID) (keys.Grant, bool) { return bob.grant, true }
		report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All(), Vault: b.vault, Grant: wrong})
		assert.Equal(t, map[string][]upkeep.Kind{id.String(): {upkeep.KindUnchecked}}, kinds(report))
		assert.False(t, report.OK())
		text, err := json.Marshal(report)
		require.NoError(t, err)
		for _, secret := range []string{string(alice.patient), string(bob.patient), bob.grant.Token()} {
			assert.NotContains(t, string(text), secret)
		}

		b.put(t, alice, 10)
		b.store = spy{b.store, func(_ context.Context, verb, name string) error {
			if verb == "get" && name == b.layout.Envelope(id) {
				return fmt.Errorf("%w: of all times", storage.ErrUnavailable)
			}
			return nil
		}}
		report = b.verify(t, upkeep.VerifyOptions{Scope: scope.All()})
		assert.Equal(t, map[string][]upkeep.Kind{id.String(): {upkeep.KindUnchecked}}, kinds(report))
		assert.EqualValues(t, 2, report.Recordings)
	})
}

func TestVerifyIsNotMisledByWhatChangesMeanwhile(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		deleted, rewrapped := b.put(t, alice, 10), b.put(t, alice, 10)
		var done atomic.Bool
		b.store = spy{b.store, func(ctx context.Context, verb, name string) error {
			if verb != "get" || !done.CompareAndSwap(false, true) {
				return nil
			}
			// The listing has been read, and the first look begins.
			b.remove(t, b.layout.Envelope(deleted))
			b.remove(t, b.layout.Media(deleted))
			require.NoError(t, b.admin.Rotate(ctx, alice.keyID))
			sealed, err := envelope.Parse(teststore.Read(t, b.store, b.layout.Envelope(rewrapped)))
			require.NoError(t, err)
			results, err := b.admin.Rewrap(ctx, alice.keyID, []keys.RewrapItem{{Binding: rewrapped.Binding(), Wrapped: sealed.Wrapped}})
			require.NoError(t, err)
			sealed.Wrapped = results[0].Wrapped
			teststore.Write(t, b.store, b.layout.Envelope(rewrapped), sealed.Encode())
			return nil
		}}
		stale := stale{b.auditor, new(atomic.Bool), keys.Versions{Latest: 1, MinDecryption: 1, MinAvailable: 1}}
		report, err := upkeep.Verify(t.Context(), stale, b.store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All(), Concurrency: 1})
		require.NoError(t, err)
		assert.True(t, stale.asked.Load())
		assert.True(t, report.OK(), "%v", report.Findings)
		assert.EqualValues(t, 1, report.Recordings)
	})
}

// stale is a keyring whose first answer is an old one.
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

// counting counts what is asked of a keyring.
type counting struct {
	upkeep.KeyVersions
	calls *atomic.Int64
}

func (c counting) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	c.calls.Add(1)
	return c.KeyVersions.Versions(ctx, id)
}

func TestVerifyAsksForVersionsOncePerPatient(t *testing.T) {
	b := embedded(t)
	for range 3 {
		p := b.enrol(t)
		for range 4 {
			b.put(t, p, 10)
		}
	}
	calls := new(atomic.Int64)
	report, err := upkeep.Verify(t.Context(), counting{b.auditor, calls}, b.store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All()})
	require.NoError(t, err)
	assert.EqualValues(t, 12, report.Checked)
	assert.EqualValues(t, 3, calls.Load())
}

func TestASampleIsDrawnAlikeByWhoeverDrawsIt(t *testing.T) {
	b := embedded(t)
	const total = 300
	alice := b.enrol(t)
	id := b.put(t, alice, 10)
	sealed, media := teststore.Read(t, b.store, b.layout.Envelope(id)), teststore.Read(t, b.store, b.layout.Media(id))
	for range total - 1 { // misplaced, so that those in the sample are named
		other := keys.NewRecordingID(keys.NewKeyID(random(keys.KeyIDBytes)))
		teststore.Write(t, b.store, b.layout.Media(other), media)
		teststore.Write(t, b.store, b.layout.Envelope(other), sealed)
	}
	draw := func(s scope.Scope, fraction float64, seed uint64) map[string][]upkeep.Kind {
		report := b.verify(t, upkeep.VerifyOptions{Scope: s, Sample: fraction, Seed: seed})
		assert.InDelta(t, len(kinds(report)), report.Checked, 1, "all but one are misplaced")
		return kinds(report)
	}
	third := draw(scope.All(), 1.0/3, 1)
	assert.InDelta(t, total/3, len(third), 50) // six standard deviations
	assert.Equal(t, third, draw(scope.All(), 1.0/3, 1))
	assert.NotEqual(t, third, draw(scope.All(), 1.0/3, 2))
	assert.Subset(t, draw(scope.All(), 1.0/2, 1), third)
	assert.Len(t, draw(scope.All(), 0, 1), total-1, "all, if nothing is said")
	sharded := map[string][]upkeep.Kind{}
	for i := range 4 {
		shard, err := scope.Shard(i, 4)
		require.NoError(t, err)
		for id, kinds := range draw(shard, 1.0/3, 1) {
			sharded[id] = kinds
		}
	}
	assert.Equal(t, third, sharded)

	b.remove(t, b.layout.Media(id))
	report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All(), Sample: 1e-9})
	assert.EqualValues(t, 1, report.Findings.Counts[upkeep.KindMissingMedia], "which the listing tells of all")
	assert.Zero(t, report.Checked)
	assert.EqualValues(t, total, report.Recordings)
}

func TestVerifyThatIsStoppedTellsWhatItDid(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		const total = 20
		for range total {
			b.put(t, alice, 10)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var gets, now, most atomic.Int64
		store := spy{b.store, func(_ context.Context, verb, _ string) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			if verb == "get" && gets.Add(1) == total {
				cancel()
			}
			return nil
		}}
		report, err := upkeep.Verify(ctx, b.auditor, store, upkeep.VerifyOptions{Prefix: prefix, Scope: scope.All(), Concurrency: 2})
		assert.ErrorIs(t, err, context.Canceled)
		assert.Positive(t, report.Recordings)
		assert.Less(t, report.Recordings, int64(total))
		assert.Empty(t, report.Findings.Listed, "to be stopped is no failure")
		assert.LessOrEqual(t, most.Load(), int64(2))
	})
}

func TestVerifyThatIsStoppedInTheMidstOfARecordingEndsAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		const large = 32 << 20
		b.put(t, alice, large)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		report, err := upkeep.Verify(ctx, b.auditor, b.store, upkeep.VerifyOptions{
			Prefix: prefix, Scope: scope.All(), Vault: b.vault, Grant: func(id keys.KeyID) (keys.Grant, bool) {
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
	b := embedded(t)
	alice := b.enrol(t)
	const large = 64 << 20
	b.put(t, alice, large)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All(), Vault: b.vault, Grant: grants(alice)})
	runtime.ReadMemStats(&after)
	assert.True(t, report.OK())
	assert.EqualValues(t, large, report.BytesRead)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "in all, whether or not it was freed again")
}

func TestVerifyRefusesOptionsThatMakeNoSense(t *testing.T) {
	b := embedded(t)
	for name, o := range map[string]upkeep.VerifyOptions{
		"no scope":              {},
		"a sample of too many":  {Scope: scope.All(), Sample: 1.01},
		"a sample below zero":   {Scope: scope.All(), Sample: -0.1},
		"a sample of no number": {Scope: scope.All(), Sample: math.NaN()},
		"too many at once":      {Scope: scope.All(), Concurrency: upkeep.MaxConcurrency + 1},
		"a vault and no grants": {Scope: scope.All(), Vault: b.vault},
		"grants and no vault":   {Scope: scope.All(), Grant: grants()},
	} {
		_, err := upkeep.Verify(t.Context(), b.auditor, b.store, o)
		assert.ErrorIs(t, err, upkeep.ErrInvalidOptions, name)
	}
}

func TestReportsListFindingsInTheOrderOfTheirNames(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	for range 30 {
		id := b.put(t, alice, 10)
		teststore.Write(t, b.store, b.layout.Envelope(id), bytes.Repeat([]byte("x"), 10))
	}
	report := b.verify(t, upkeep.VerifyOptions{Scope: scope.All()})
	require.Len(t, report.Findings.Listed, 30)
	for i, finding := range report.Findings.Listed[1:] {
		assert.Less(t, report.Findings.Listed[i].Object, finding.Object)
	}
}
