package upkeep_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

func TestVerifyProvesWrappedKeys(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		reseal := func(change func(*envelope.Envelope)) vault.ID {
			id := d.put(t, alice, 10)
			d.reseal(t, id, change)
			return id
		}
		for range 3 {
			d.put(t, alice, 10)
		}
		relabeled := []vault.ID{d.put(t, alice, 10), d.put(t, alice, 10), d.put(t, alice, 10)}
		require.NoError(t, d.admin.Rotate(t.Context(), alice.keyID))
		for i, id := range relabeled {
			d.reseal(t, id, func(e *envelope.Envelope) {
				if i != 1 {
					relabel(t, &e.WrappedKey, 2)
				}
				if i != 0 {
					relabel(t, &e.WrappedMetadataKey, 2)
				}
			})
		}
		of := func(kind job.Kind, ids ...vault.ID) map[string][]job.Kind {
			want := map[string][]job.Kind{}
			for _, id := range ids {
				want[id.String()] = []job.Kind{kind}
			}
			return want
		}
		want := of(upkeep.KindUnauthentic, append(relabeled,
			reseal(func(e *envelope.Envelope) { corrupt(t, &e.WrappedKey) }),
			reseal(func(e *envelope.Envelope) { corrupt(t, &e.WrappedMetadataKey) }),
			reseal(func(e *envelope.Envelope) {
				e.WrappedKey, e.WrappedMetadataKey = e.WrappedMetadataKey, e.WrappedKey
			}))...)
		both := reseal(func(e *envelope.Envelope) { corrupt(t, &e.WrappedKey); relabel(t, &e.WrappedMetadataKey, 3) })
		want[both.String()] = []job.Kind{upkeep.KindUnauthentic, upkeep.KindUnknownVersion}

		report := d.verifyWith(t, d.Keyring(testdeployment.Rotator), scope.All(), upkeep.VerifyOptions{})
		assert.Equal(t, want, kinds(report))
		assert.EqualValues(t, 3, report.Proved)
		assert.Zero(t, report.Compared)
		assert.EqualValues(t, 10, report.Checked)
		for _, finding := range report.Findings.Listed {
			if finding.ID == relabeled[1] {
				assert.True(t, strings.HasPrefix(finding.Detail, "metadata key: "), "says which one: %s", finding.Detail)
			}
		}

		// A keyring that compares labels sees none of it, and the report says so.
		report = d.verifyWith(t, labelsOnly{d.auditor}, scope.All(), upkeep.VerifyOptions{})
		assert.Equal(t, of(upkeep.KindUnknownVersion, both), kinds(report))
		assert.Zero(t, report.Proved)
		assert.EqualValues(t, 10, report.Compared)
	})
}

func TestVerifySeesAKeyringFromBeforeARotation(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		restore := d.backUp(t, alice)
		require.NoError(t, d.admin.Rotate(t.Context(), alice.keyID))
		lost := d.put(t, alice, 10).String()
		restore()

		for name, keyring := range map[string]upkeep.KeyVersions{
			"with the right to re-wrap": d.Keyring(testdeployment.Rotator), "without it": labelsOnly{d.auditor},
		} {
			report := d.verifyWith(t, keyring, scope.All(), upkeep.VerifyOptions{})
			assert.Equal(t, map[string][]job.Kind{lost: {upkeep.KindUnknownVersion}}, kinds(report), name)
			assert.False(t, report.Complete(), name)
			assert.Zero(t, report.Proved, name)
		}

		// Another version of the same number hides it from a comparison of labels.
		require.NoError(t, d.admin.Rotate(t.Context(), alice.keyID))
		report := d.verifyWith(t, d.Keyring(testdeployment.Rotator), scope.All(), upkeep.VerifyOptions{})
		assert.Equal(t, map[string][]job.Kind{lost: {upkeep.KindUnauthentic}}, kinds(report))
		report = d.verifyWith(t, labelsOnly{d.auditor}, scope.All(), upkeep.VerifyOptions{})
		assert.True(t, report.Complete())
		assert.EqualValues(t, 1, report.Compared)
	})
}

// backUp backs up a patient's key, and returns a function that restores it. Vault has no backup of one key, so there the
// restored key is a new one, of the same version.
func (d *deployment) backUp(t *testing.T, p patient) (restore func()) {
	t.Helper()
	if d.Place.Dir == "" {
		return func() {
			require.NoError(t, d.admin.Erase(t.Context(), p.keyID))
			_, err := d.admin.Enrol(t.Context(), p.patient)
			require.NoError(t, err)
		}
	}
	file := filepath.Join(d.Place.Dir, "keys", "patients", p.keyID.String()+".json")
	copied, err := os.ReadFile(file)
	require.NoError(t, err)
	return func() { require.NoError(t, os.WriteFile(file, copied, 0o600)) }
}

// rewrapSpy is a keyring that counts calls to Rewrap, and may answer in the keyring's place.
type rewrapSpy struct {
	keys.Keyring
	calls  *atomic.Int64
	answer func(items []keys.RewrapItem) ([]keys.RewrapResult, error) // if not nil
}

func (s rewrapSpy) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	s.calls.Add(1)
	if s.answer != nil {
		return s.answer(items)
	}
	return s.Keyring.Rewrap(ctx, id, items)
}

func TestVerifyAsksOnceForARightItHasNot(t *testing.T) {
	d := servers(t)
	const total = 12
	for range total / 3 {
		p := d.newPatient(t)
		for range 3 {
			d.put(t, p, 10)
		}
	}
	spy := rewrapSpy{Keyring: d.Keyring(testdeployment.Auditor), calls: new(atomic.Int64)}
	report := d.verifyWith(t, spy, scope.All(), upkeep.VerifyOptions{})
	assert.True(t, report.Complete(), "%v", report.Findings)
	assert.EqualValues(t, 1, spy.calls.Load())
	assert.Zero(t, report.Proved)
	assert.EqualValues(t, total, report.Compared)

	// Without the right, a keyring still recognises another kind of keyring.
	p := d.newPatient(t)
	d.unsupported(t, p)
	spy = rewrapSpy{Keyring: d.Keyring(testdeployment.Auditor), calls: new(atomic.Int64)}
	report = d.verifyWith(t, knowsLabels{spy}, scope.All(), upkeep.VerifyOptions{})
	assert.EqualValues(t, 2, report.Unsupported)
	assert.EqualValues(t, total, report.Compared)
	assert.True(t, report.Complete(), "%v", report.Findings)
	assert.EqualValues(t, 1, spy.calls.Load(), "for its own kind")
	for _, name := range d.Objects(t, prefix, p.keyID) {
		d.remove(t, name)
	}

	spy = rewrapSpy{Keyring: d.Keyring(testdeployment.Rotator), calls: new(atomic.Int64)}
	report = d.verifyWith(t, spy, scope.All(), upkeep.VerifyOptions{})
	assert.True(t, report.Complete(), "%v", report.Findings)
	assert.EqualValues(t, total, spy.calls.Load())
	assert.EqualValues(t, total, report.Proved)
	assert.Zero(t, report.Compared)
}

func TestVerifyProvesNothingByAnIncompleteAnswer(t *testing.T) {
	d := embedded(t)
	id := d.put(t, d.newPatient(t), 10)
	for name, answer := range map[string]func([]keys.RewrapItem) ([]keys.RewrapResult, error){
		"no results":       func([]keys.RewrapItem) ([]keys.RewrapResult, error) { return nil, nil },
		"too few results":  func([]keys.RewrapItem) ([]keys.RewrapResult, error) { return make([]keys.RewrapResult, 1), nil },
		"too many results": func([]keys.RewrapItem) ([]keys.RewrapResult, error) { return make([]keys.RewrapResult, 3), nil },
		"a failure": func([]keys.RewrapItem) ([]keys.RewrapResult, error) {
			return nil, fmt.Errorf("%w: of all times", keys.ErrUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			spy := rewrapSpy{d.admin, new(atomic.Int64), answer}
			report, err := upkeep.Verify(t.Context(), spy, d.Store, scope.All(), upkeep.VerifyOptions{Prefix: prefix})
			assert.ErrorIs(t, err, keys.ErrUnavailable)
			assert.Equal(t, map[string][]job.Kind{id.String(): {upkeep.KindUnchecked}}, kinds(report))
			assert.Zero(t, report.Proved)
			assert.Zero(t, report.Compared)
		})
	}
}

// TestVerifyUnwrapsBothKeysWithAGrant makes a recording that opens and cannot be described, as a writer could.
func TestVerifyUnwrapsBothKeysWithAGrant(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		d.put(t, alice, 10)
		id := d.put(t, alice, 10)
		wrapped, err := d.Keyring(testdeployment.Writer).Wrap(t.Context(), id.MetadataBinding(), keys.NewKey())
		require.NoError(t, err)
		d.reseal(t, id, func(e *envelope.Envelope) { e.WrappedMetadataKey = wrapped })
		d.open(t, alice, id)

		keyless := d.verifyWith(t, d.Keyring(testdeployment.Rotator), scope.All(), upkeep.VerifyOptions{})
		assert.True(t, keyless.Complete(), "without a grant nothing shows it")
		assert.EqualValues(t, 2, keyless.Proved)

		report := d.verify(t, scope.All(), upkeep.VerifyOptions{Vault: d.vault, Grant: grants(alice)})
		assert.Equal(t, map[string][]job.Kind{id.String(): {upkeep.KindUnauthentic}}, kinds(report))
		assert.Equal(t, d.objects.EnvelopeName(id), report.Findings.Listed[0].Object)
		assert.EqualValues(t, 1, report.Read)
		assert.False(t, report.Complete())
	})
}

// knowsLabels is a keyring that recognises wrapped keys of another kind of keyring.
type knowsLabels struct{ keys.Keyring }

func foreign(wrapped keys.WrappedKey) bool { return strings.HasPrefix(string(wrapped), "kms:") }

func (k knowsLabels) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results := make([]keys.RewrapResult, len(items))
	for i, item := range items {
		if foreign(item.Wrapped) {
			results[i].Err = fmt.Errorf("rewrap: %w", keys.ErrUnsupported)
			continue
		}
		answer, err := k.Keyring.Rewrap(ctx, id, items[i:i+1])
		if err != nil {
			return nil, err
		}
		results[i] = answer[0]
	}
	return results, nil
}

func (k knowsLabels) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	if foreign(wrapped) {
		return nil, fmt.Errorf("unwrap: %w", keys.ErrUnsupported)
	}
	return k.Keyring.Unwrap(ctx, grant, binding, wrapped)
}

// unsupported leaves a recording of another version of the format, with media such as version 1 has not, and one with
// keys of another kind of keyring.
func (d *deployment) unsupported(t *testing.T, p patient) (otherVersion, otherKeyring vault.ID) {
	t.Helper()
	otherVersion, otherKeyring = d.put(t, p, 10), d.put(t, p, 10)
	teststore.Write(t, d.Store, d.objects.EnvelopeName(otherVersion), []byte(`{"version":2,"keys":{}}`))
	teststore.Write(t, d.Store, d.objects.MediaName(otherVersion), []byte("x"))
	d.reseal(t, otherKeyring, func(e *envelope.Envelope) {
		e.WrappedKey = keys.NewWrappedKey("kms", 1, random(60))
		e.WrappedMetadataKey = keys.NewWrappedKey("kms", 1, random(60))
	})
	return otherVersion, otherKeyring
}

func TestVerifyCountsWhatIsUnsupported(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		d.put(t, alice, 10)
		otherVersion, otherKeyring := d.unsupported(t, alice)
		want := map[string][]job.Kind{
			otherVersion.String(): {upkeep.KindUnsupported}, otherKeyring.String(): {upkeep.KindUnsupported},
		}
		before := d.Names(t)
		keyring := knowsLabels{d.Keyring(testdeployment.Rotator)}
		v, err := vault.New(knowsLabels{d.Keyring(testdeployment.Server)}, d.Store, vault.WithPrefix(prefix))
		require.NoError(t, err)
		defer v.Close()
		for name, c := range map[string]struct {
			keyring upkeep.KeyVersions
			options upkeep.VerifyOptions
			read    int64
		}{
			"by the keyring":               {keyring, upkeep.VerifyOptions{}, 0},
			"by the keyring and the vault": {keyring, upkeep.VerifyOptions{Vault: v, Grant: grants(alice)}, 1},
			"by the vault":                 {nil, upkeep.VerifyOptions{Vault: v, Grant: grants(alice)}, 1},
		} {
			t.Run(name, func(t *testing.T) {
				report := d.verifyWith(t, c.keyring, scope.All(), c.options)
				assert.Equal(t, want, kinds(report))
				assert.EqualValues(t, 2, report.Unsupported)
				assert.EqualValues(t, 3, report.Recordings)
				assert.Equal(t, c.read, report.Read)
				assert.True(t, report.Complete(), "it is not damaged")
			})
		}
		report := d.verify(t, scope.All(), upkeep.VerifyOptions{Sample: 1e-9})
		assert.True(t, report.Complete(), "outside the sample neither: %v", report.Findings)
		assert.Equal(t, before, d.Names(t))

		// What is damaged besides is still found.
		d.remove(t, d.objects.MediaName(otherVersion))
		d.reseal(t, otherKeyring, func(e *envelope.Envelope) { e.WrappedKey = keys.NewWrappedKey("kms", 1, random(60)) })
		damaged := d.put(t, alice, 10)
		d.reseal(t, damaged, func(e *envelope.Envelope) {
			corrupt(t, &e.WrappedKey)
			e.WrappedMetadataKey = keys.NewWrappedKey("kms", 1, random(60))
		})
		want[otherVersion.String()] = []job.Kind{upkeep.KindMissingMedia, upkeep.KindUnsupported}
		want[damaged.String()] = []job.Kind{upkeep.KindUnauthentic, upkeep.KindUnsupported}
		report = d.verifyWith(t, keyring, scope.All(), upkeep.VerifyOptions{})
		got := kinds(report)
		for id := range want {
			assert.ElementsMatch(t, want[id], got[id])
		}
		assert.False(t, report.Complete())
	})
}

func TestSweepLeavesUnsupportedRecordingsAlone(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice := d.newPatient(t)
		otherVersion, _ := d.unsupported(t, alice)
		want := map[string][]byte{}
		for _, name := range d.Names(t) {
			want[name] = teststore.Read(t, d.Store, name)
		}
		require.Len(t, want, 4)
		d.orphan(t, alice, 10)
		report := d.sweep(t, scope.All())
		assert.EqualValues(t, 2, report.Recordings)
		assert.EqualValues(t, 1, report.Orphans.Count)
		assert.True(t, report.Complete(), "%v", report.Findings)

		// Listed as an orphan, the media of an unsupported envelope that came just now stays too.
		text := want[d.objects.EnvelopeName(otherVersion)]
		d.remove(t, d.objects.EnvelopeName(otherVersion))
		files := d.Store
		d.Store = listingSpy{spy{files, func(_ context.Context, verb, name string) error {
			if verb == "stat" && name == d.objects.EnvelopeName(otherVersion) {
				teststore.Write(t, files, name, text)
			}
			return nil
		}}, files.(storage.UploadLister)}
		report = d.sweep(t, scope.All())
		d.Store = files
		assert.EqualValues(t, 2, report.Recordings)
		assert.Zero(t, report.Orphans.Count)
		for name, data := range want {
			assert.Equal(t, data, teststore.Read(t, d.Store, name))
		}
	})
}
