package rotation_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// backUp copies the keyring, as a snapshot of Vault or a copy of the directory does. restore puts the copy in the
// place of the keyring. A Vault must be dedicated.
func (b *backend) backUp(t *testing.T) (restore func()) {
	t.Helper()
	const lock = "lock" // of the embedded default, which keeps it open
	from, stop, restart := filepath.Join(b.Place.Dir, "keys"), func() {}, func() {}
	if b.Vault != nil {
		from, stop, restart = b.Vault.DataDir(), func() { b.Vault.Stop(t) }, func() { b.Vault.Restart(t) }
	}
	copied := t.TempDir()
	stop()
	require.NoError(t, os.CopyFS(copied, os.DirFS(from)))
	restart()
	if err := os.Remove(filepath.Join(copied, lock)); b.Vault == nil {
		require.NoError(t, err)
	}
	return func() {
		t.Helper()
		stop()
		defer restart()
		entries, err := os.ReadDir(from)
		require.NoError(t, err)
		for _, entry := range entries {
			if b.Vault != nil || entry.Name() != lock {
				require.NoError(t, os.RemoveAll(filepath.Join(from, entry.Name())))
			}
		}
		require.NoError(t, os.CopyFS(from, os.DirFS(copied)))
		// Tink's directory is private to its user.
		require.NoError(t, filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		}))
	}
}

// onEachKeyring runs a test on backends whose keyring can be backed up and restored.
func onEachKeyring(t *testing.T, test func(t *testing.T, b *backend)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { test(t, embedded(t)) })
	t.Run("Vault and MinIO", func(t *testing.T) { test(t, servers(t, testserver.Dedicated())) })
}

// replace puts an envelope in the place of a recording's.
func (b *backend) replace(t *testing.T, e envelope.Envelope) {
	t.Helper()
	teststore.Write(t, b.store, objectName(e.ID, "envelope"), e.Encode())
}

// relabel returns a wrapped key under another version in its label, as an editor of the bucket can make it.
func relabel(t *testing.T, wrapped keys.WrappedKey, version int) keys.WrappedKey {
	t.Helper()
	keyring, _, ciphertext, err := wrapped.Parse()
	require.NoError(t, err)
	return keys.NewWrappedKey(keyring, version, ciphertext)
}

func (b *backend) minDecryption(t *testing.T, id keys.KeyID) int {
	t.Helper()
	v, err := b.admin.Versions(t.Context(), id)
	require.NoError(t, err)
	return v.MinDecryption
}

// requireRefused requires Retire and Trim to change nothing for a patient, and to find this about the patient and
// these about recordings. The newest version must be old enough, and above version 1, which is not retired.
func (b *backend) requireRefused(t *testing.T, id keys.KeyID, wrap func(rotation.Keyring) rotation.Keyring, want job.Kind, others map[job.Kind]int64) {
	t.Helper()
	v, err := b.admin.Versions(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 1, v.MinDecryption)
	require.Greater(t, v.Latest, 1)
	refused := func(report rotation.Report, err error) {
		t.Helper()
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients, "%+v", report.Findings)
		assert.False(t, report.Complete())
		counts := map[job.Kind]int64{want: 1}
		for kind, n := range others {
			counts[kind] += n
		}
		assert.Equal(t, counts, report.Findings.Counts, "%+v", report.Findings)
		require.NotEmpty(t, report.Findings.Listed)
		found := report.Findings.Listed[0]
		assert.Equal(t, want, found.Kind)
		assert.Equal(t, id, found.KeyID)
		assert.NotEmpty(t, found.Detail)
		e := report.Envelopes
		assert.Equal(t, e.Seen, e.Current+e.Older+e.Deleted+e.Keyless+e.Damaged+e.Unsupported+e.Failed, "%+v", e)
	}
	b.waitForGrace(t, id)
	for _, dry := range []bool{true, false} {
		options := hasty()
		options.DryRun = dry
		refused(b.rotation(t, wrap(b.retirer), options).Retire(t.Context(), scope.Of(id)))
	}
	assert.Equal(t, 1, b.minDecryption(t, id), "nothing is retired")

	require.NoError(t, b.retirer.Retire(t.Context(), id, v.Latest))
	refused(b.rotation(t, wrap(b.trimmer), hasty()).Trim(t.Context(), scope.Of(id)))
	require.NoError(t, b.retirer.Reinstate(t.Context(), id, 1), "nothing is trimmed")
}

func asIs(k rotation.Keyring) rotation.Keyring { return k }

func (b *backend) retireAndTrim(t *testing.T, id keys.KeyID) {
	t.Helper()
	b.waitForGrace(t, id)
	for _, run := range []func(context.Context, scope.Scope) (rotation.Report, error){
		b.rotation(t, b.retirer, hasty()).Retire, b.rotation(t, b.trimmer, hasty()).Trim,
	} {
		report, err := run(t.Context(), scope.Of(id))
		require.NoError(t, err)
		require.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients, "%+v", report.Findings)
	}
}

func TestRestoredKeyringRetiresNothing(t *testing.T) {
	onEachKeyring(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		recordings := b.putMany(t, patient, 3)
		b.rotate(t)
		b.rewrap(t)
		restoreOld := b.backUp(t)
		b.rotate(t)
		b.rewrap(t)
		b.requireOpens(t, recordings...)
		restoreNew := b.backUp(t)

		// Version 3, which wraps every recording, is missing.
		restoreOld()
		b.requireRefused(t, id, asIs, rotation.KindUnknownVersion, map[job.Kind]int64{rotation.KindUnknownVersion: 3})
		report := b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
		assert.Equal(t, map[job.Kind]int64{rotation.KindUnknownVersion: 4}, report.Findings.Counts)
		require.NotEmpty(t, report.Findings.Listed)
		assert.Contains(t, report.Findings.Listed[0].Detail, "Restore a newer backup")
		v, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, 2, v.Latest, "no second version 3")

		// A second version 3, made by other means, has the number of the missing one.
		require.NoError(t, b.admin.Rotate(t.Context(), id))
		b.requireRefused(t, id, asIs, rotation.KindUnproved, map[job.Kind]int64{rotation.KindUnauthentic: 3})

		restoreNew()
		b.requireOpens(t, recordings...)
		b.retireAndTrim(t, id)
		b.requireOpens(t, recordings...)
	})
}

func TestEditedLabelRetiresNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		edited := b.put(t, patient, 10)
		old := b.envelope(t, edited.id)
		b.rotate(t)
		current := b.put(t, patient, 10)
		b.replace(t, old.WithWraps(relabel(t, old.WrappedKey, 2), relabel(t, old.WrappedMetadataKey, 2)))
		require.Equal(t, 2, b.version(t, edited.id))

		b.requireRefused(t, id, asIs, rotation.KindUnproved, map[job.Kind]int64{rotation.KindUnauthentic: 1})
		assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Damaged: 1}, b.rewrap(t).Envelopes)

		// The version that it needs is still there.
		b.replace(t, old)
		b.requireOpens(t, edited)
		b.rewrap(t)
		b.retireAndTrim(t, id)
		b.requireOpens(t, edited, current)
	})
}

func TestOneBadWrapRetiresNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		r, other := b.put(t, patient, 10), b.put(t, patient, 10)
		old := b.envelope(t, r.id)
		b.rotate(t)
		b.rewrap(t)
		moved := b.envelope(t, r.id)
		for detail, spoilt := range map[string]envelope.Envelope{
			"wrapped key: ":          moved.WithWraps(relabel(t, old.WrappedKey, 2), moved.WrappedMetadataKey),
			"wrapped metadata key: ": moved.WithWraps(moved.WrappedKey, relabel(t, old.WrappedMetadataKey, 2)),
		} {
			b.replace(t, spoilt)
			b.requireRefused(t, id, asIs, rotation.KindUnproved, map[job.Kind]int64{rotation.KindUnauthentic: 1})
			report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
			require.NoError(t, err)
			assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Damaged: 1}, report.Envelopes)
			assert.Equal(t, r.id, report.Findings.Listed[1].ID)
			assert.Contains(t, report.Findings.Listed[1].Detail, ": "+detail)

			report = b.rewrap(t)
			assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Damaged: 1}, report.Envelopes)
			assert.Equal(t, spoilt, b.envelope(t, r.id), "it is left alone")
		}
		b.replace(t, moved)
		b.retireAndTrim(t, id)
		b.requireOpens(t, r, other)
	})
}

// particular is a keyring that knows the wraps of another kind of keyring from its own.
type particular struct{ rotation.Keyring }

func (k particular) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := k.Keyring.Rewrap(ctx, id, items)
	for i, item := range items {
		if err == nil && strings.HasPrefix(string(item.Wrapped), "kms:") {
			results[i] = keys.RewrapResult{Err: keys.ErrUnsupported}
		}
	}
	return results, err
}

func TestUnsupportedIsLeftAlone(t *testing.T) {
	kms := func(version int) keys.WrappedKey { return keys.NewWrappedKey("kms", version, []byte("ciphertext")) }
	for name, change := range map[string]func(e envelope.Envelope) []byte{
		"version 2": func(e envelope.Envelope) []byte {
			return []byte(strings.Replace(string(e.Encode()), `{"version":1,`, `{"version":2,"cipher":"x",`, 1))
		},
		"another keyring":                      func(e envelope.Envelope) []byte { return e.WithWraps(kms(1), kms(1)).Encode() },
		"another keyring, up to date":          func(e envelope.Envelope) []byte { return e.WithWraps(kms(2), kms(2)).Encode() },
		"another keyring, a higher version":    func(e envelope.Envelope) []byte { return e.WithWraps(kms(9), kms(9)).Encode() },
		"another keyring for the key":          func(e envelope.Envelope) []byte { return e.WithWraps(kms(2), e.WrappedMetadataKey).Encode() },
		"another keyring for the metadata key": func(e envelope.Envelope) []byte { return e.WithWraps(e.WrappedKey, kms(2)).Encode() },
	} {
		t.Run(name, func(t *testing.T) {
			onEachBackend(t, func(t *testing.T, b *backend) {
				wrap := func(k rotation.Keyring) rotation.Keyring { return particular{k} }
				patient, id := b.Enrol(t)
				r := b.put(t, patient, 10)
				later := b.envelope(t, b.put(t, patient, 10).id)
				text := change(later)
				teststore.Write(t, b.store, objectName(later.ID, "envelope"), text)

				report, err := b.rotation(t, wrap(b.rotator), rotation.Options{}).Rotate(t.Context(), scope.All())
				require.NoError(t, err)
				assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
				assert.True(t, report.Complete(), "%+v", report.Findings)
				plan, err := b.rotation(t, wrap(b.rotator), rotation.Options{}).Plan(t.Context(), scope.All())
				require.NoError(t, err)
				assert.Equal(t, rotation.Envelopes{Seen: 2, Older: 1, Unsupported: 1}, plan.Envelopes)
				assert.True(t, plan.Complete(), "%+v", plan.Findings)
				for _, want := range []rotation.Envelopes{{Seen: 2, Rewrapped: 1, Unsupported: 1}, {Seen: 2, Current: 1, Unsupported: 1}} {
					report, err = b.rotation(t, wrap(b.rotator), rotation.Options{}).Rewrap(t.Context(), scope.All())
					require.NoError(t, err)
					assert.Equal(t, want, report.Envelopes)
					assert.True(t, report.Complete(), "%+v", report.Findings)
				}
				b.requireRefused(t, id, wrap, rotation.KindUnsupported, nil)
				assert.Equal(t, string(text), string(teststore.Read(t, b.store, objectName(later.ID, "envelope"))))

				require.NoError(t, b.store.Delete(t.Context(), objectName(later.ID, "envelope")))
				b.retireAndTrim(t, id)
				b.requireOpens(t, r)
			})
		})
	}
}

// TestUnsupportedAmongManyIsLeftAlone has more envelopes than a batch, so that later batches know the newest version,
// which the label of the unsupported ones names too.
func TestUnsupportedAmongManyIsLeftAlone(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	e := b.envelope(t, b.put(t, patient, 10).id)
	kms := keys.NewWrappedKey("kms", 1, []byte("ciphertext"))
	for range 300 {
		e.ID = keystest.NewRecordingID(e.ID.KeyID())
		b.replace(t, e.WithWraps(kms, kms))
	}
	report, err := b.rotation(t, particular{b.rotator}, rotation.Options{Concurrency: 1}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Envelopes{Seen: 301, Current: 1, Unsupported: 300}, report.Envelopes)
}

// slowClock is a keyring whose newest versions are 20 minutes old by this host's clock, and this old by its own.
type slowClock struct {
	rotation.Keyring
	age time.Duration
}

func (k slowClock) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.Keyring.Versions(ctx, id)
	v.Rotated = time.Now().Add(-20 * time.Minute)
	v.Now = v.Rotated.Add(k.age)
	return v, err
}

func TestFastHostDoesNotShortenGrace(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		r := b.put(t, patient, 10)
		b.rotate(t)
		b.rewrap(t)
		early := slowClock{b.retirer, 10 * time.Minute} // this host is ten minutes fast
		report, err := b.rotation(t, early, rotation.Options{}).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Unresolved: 1}, report.Patients)
		assert.Equal(t, map[job.Kind]int64{rotation.KindGrace: 1}, report.Findings.Counts)
		assert.Equal(t, 1, b.minDecryption(t, id))
		require.NoError(t, b.retirer.Retire(t.Context(), id, 2))
		early.Keyring = b.trimmer
		report, err = b.rotation(t, early, rotation.Options{}).Trim(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[job.Kind]int64{rotation.KindGrace: 1}, report.Findings.Counts)
		require.NoError(t, b.retirer.Reinstate(t.Context(), id, 1))

		report, err = b.rotation(t, slowClock{b.retirer, 16 * time.Minute}, rotation.Options{}).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		b.requireOpens(t, r)
	})
}

func TestEnvelopeIsAtTheOlderOfItsVersions(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		r := b.put(t, patient, 10)
		old := b.envelope(t, r.id)
		b.rotate(t)
		b.rewrap(t)
		moved := b.envelope(t, r.id)
		v, err := vault.New(b.server, b.store)
		require.NoError(t, err)
		for name, half := range map[string]envelope.Envelope{
			"the metadata key is left": old.WithWraps(moved.WrappedKey, old.WrappedMetadataKey),
			"the key is left":          old.WithWraps(old.WrappedKey, moved.WrappedMetadataKey),
		} {
			b.replace(t, half)
			assert.Equal(t, 1, b.version(t, r.id), name)
			plan, err := b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
			require.NoError(t, err)
			assert.Equal(t, rotation.Envelopes{Seen: 1, Older: 1}, plan.Envelopes, name)
			assert.Equal(t, map[int]int{1: 1}, plan.Versions, name)
			b.requireRefused(t, id, asIs, rotation.KindOlder, nil)

			report := b.rewrap(t)
			assert.Equal(t, rotation.Envelopes{Seen: 1, Rewrapped: 1}, report.Envelopes, name)
			assert.Equal(t, map[int]int{1: 1}, report.Before, name)
			assert.Equal(t, map[int]int{2: 1}, report.After, name)
			for _, item := range b.envelope(t, r.id).Wraps() {
				version, err := item.Wrapped.Version()
				require.NoError(t, err)
				assert.Equal(t, 2, version, name)
			}
			b.requireOpens(t, r)
			info, err := v.Stat(t.Context(), b.Grant(t, patient), r.id)
			require.NoError(t, err)
			assert.Equal(t, "Follow-up", info.Title, name)
		}
		b.retireAndTrim(t, id)
		b.requireOpens(t, r)
		_, err = v.Stat(t.Context(), b.Grant(t, patient), r.id)
		require.NoError(t, err)
	})
}

func TestRotationDuringScanIsNoUnknownVersion(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.Enrol(t)
		r := b.put(t, patient, 10)
		happened := false
		keyring := &afterVersions{b.rotator, func() {
			if !happened {
				happened = true
				b.rotate(t)
				b.rewrap(t)
			}
		}}
		report, err := b.rotation(t, keyring, rotation.Options{}).Rotate(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients, "%+v", report.Findings)
		b.requireOpens(t, r)
	})
}

func TestCancelledProofRaisesNothing(t *testing.T) {
	b := embedded(t)
	patient, id := b.Enrol(t)
	b.putMany(t, patient, 200)
	b.rotate(t)
	b.rewrap(t)
	b.waitForGrace(t, id)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	report, err := b.rotation(t, stuck{b.retirer}, hasty()).Retire(ctx, scope.All())
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, rotation.Patients{Seen: 1}, report.Patients)
	assert.Zero(t, report.Envelopes.Current, "none is proved")
	assert.Empty(t, report.Findings.Listed)
	assert.Equal(t, 1, b.minDecryption(t, id))
}

func TestDeniedProofRaisesNothing(t *testing.T) {
	b := embedded(t)
	patient, id := b.Enrol(t)
	b.putMany(t, patient, 200)
	b.rotate(t)
	b.rewrap(t)
	b.waitForGrace(t, id)
	keyring := &failing{Keyring: b.retirer, err: keys.ErrDenied, after: 1}
	report, err := b.rotation(t, keyring, hasty()).Retire(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 1, Failed: 1}, report.Patients)
	assert.Equal(t, map[job.Kind]int64{rotation.KindDenied: 1}, report.Findings.Counts)
	assert.Equal(t, 1, b.minDecryption(t, id))
}

// forgetful is a keyring that answers for fewer items than it was given: none, or all but one.
type forgetful struct {
	rotation.Keyring
	none bool
}

func (k forgetful) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := k.Keyring.Rewrap(ctx, id, items)
	if err != nil || k.none {
		return nil, err
	}
	return results[:len(results)-1], nil
}

func TestIncompleteAnswersProveAndChangeNothing(t *testing.T) {
	for name, none := range map[string]bool{"none": true, "one fewer": false} {
		t.Run(name, func(t *testing.T) {
			b := embedded(t)
			patient, id := b.Enrol(t)
			r := b.put(t, patient, 10)
			b.rotate(t)
			before := b.envelope(t, r.id)
			report, err := b.rotation(t, forgetful{b.rotator, none}, rotation.Options{}).Rewrap(t.Context(), scope.All())
			require.NoError(t, err)
			assert.Equal(t, rotation.Envelopes{Seen: 1, Failed: 1}, report.Envelopes)
			assert.Equal(t, before, b.envelope(t, r.id))

			b.rewrap(t)
			b.waitForGrace(t, id)
			report, err = b.rotation(t, forgetful{b.retirer, none}, hasty()).Retire(t.Context(), scope.All())
			require.NoError(t, err)
			assert.Equal(t, rotation.Patients{Seen: 1, Failed: 1}, report.Patients)
			assert.Equal(t, 1, b.minDecryption(t, id))
		})
	}
}
