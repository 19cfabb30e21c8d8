package rotation_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

func TestNothingIsRetiredThatAnEnvelopeNeeds(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.enrol(t)
		bob, bobID := b.enrol(t)
		old := b.put(t, alice, 10)
		fresh := b.put(t, bob, 10)
		b.rotate(t)
		_, err := b.rotation(t, b.rotator, rotation.Options{}).Rewrap(t.Context(), scope.Of(bobID))
		require.NoError(t, err)

		patient := rotation.Options{}
		report, err := b.rotation(t, b.retirer, patient).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Left: 2}, report.Patients)
		assert.Equal(t, map[string]int{"grace period has not passed": 2}, report.Reasons)
		assert.Zero(t, report.Requests.Reads)

		b.waitForGrace(t, aliceID)
		b.waitForGrace(t, bobID)
		report, err = b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 1, Left: 1}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Older: 1}, report.Envelopes)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{1: 1, 2: 1}, report.After)
		require.Len(t, report.Left, 1)
		assert.Equal(t, rotation.Left{
			KeyID: aliceID, Reason: "envelopes need older versions", Detail: "1 envelopes at versions below 2: run rewrap",
		}, report.Left[0])
		b.opens(t, old, fresh)

		// Once somebody has retired it too early, nothing is trimmed.
		require.NoError(t, b.retirer.Retire(t.Context(), aliceID, 2))
		report, err = b.rotation(t, b.trimmer, hasty()).Trim(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 1, Left: 1}, report.Patients)
		report, err = b.rotation(t, b.rotator, rotation.Options{}).Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[string]int{keys.ErrRetired.Error(): 1}, report.Reasons)
		plan, err := b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, map[string]int{keys.ErrRetired.Error(): 1}, plan.Reasons)
		require.NoError(t, b.retirer.Reinstate(t.Context(), aliceID, 1))
		b.opens(t, old)
	})
}

// meanwhile is a keyring to which something happens after its versions were read.
type meanwhile struct {
	rotation.Keyring
	happens func()
}

func (m *meanwhile) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := m.Keyring.Versions(ctx, id)
	m.happens()
	return v, err
}

func TestRetireNeverGoesBeyondWhatItKnewBeforeItLooked(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		r := b.put(t, patient, 10)
		b.rotate(t)
		b.rewrap(t)
		b.waitForGrace(t, id)
		var second recording
		keyring := &meanwhile{b.retirer, func() {
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
		b.opens(t, r, second)
	})
}

func TestNothingIsRetiredThatAnUnreadableEnvelopeMayNeed(t *testing.T) {
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
			patient, _ := b.enrol(t)
			pairs[name] = [2]recording{b.put(t, patient, 10), b.put(t, patient, 10)}
		}
		b.rotate(t)
		b.rewrap(t)
		for name, spoil := range damage {
			teststore.Write(t, b.store, objectName(pairs[name][1].id, "envelope"), spoil(teststore.Read(t, b.store, objectName(pairs[name][0].id, "envelope"))))
		}
		for name, pair := range pairs {
			id := pair[0].id.KeyID()
			b.waitForGrace(t, id)
			report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.Of(id))
			require.NoError(t, err)
			assert.Equal(t, rotation.Patients{Seen: 1, Left: 1}, report.Patients, name)
			assert.Equal(t, rotation.Envelopes{Seen: 2, Current: 1, Damaged: 1}, report.Envelopes, name)
			assert.Equal(t, map[string]int{"envelopes could not be read": 1, "envelope is damaged": 1}, report.Reasons, name)
			v, err := b.admin.Versions(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, 1, v.MinDecryption, name)
		}
	})
}

// timeless is a keyring that does not tell when versions were made.
type timeless struct{ rotation.Keyring }

func (k timeless) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.Keyring.Versions(ctx, id)
	v.Rotated = time.Time{}
	return v, err
}

func TestNothingIsRetiredWhileItsAgeIsUnknown(t *testing.T) {
	b := embedded(t)
	patient, _ := b.enrol(t)
	b.put(t, patient, 10)
	b.rotate(t)
	b.rewrap(t)
	report, err := b.rotation(t, timeless{b.retirer}, hasty()).Retire(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, rotation.Patients{Seen: 1, Left: 1}, report.Patients)
}

// TestASlowWriterLosesNothing is the hazard of DESIGN section 8: a writer wraps, uploads for long, and
// commits when everything that could be seen was rewrapped and the version that it used was retired. The
// second writer's settings are not those that the retirer was told of, and what it loses shows that the
// first one is saved by them.
func TestASlowWriterLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, freshness := range map[string]time.Duration{"as configured": hasty().Freshness, "misconfigured": time.Hour} {
			patient, id := b.enrol(t)
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
			require.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients, name)

			_, err = w.Write(data[50_000:])
			require.NoError(t, err)
			require.NoError(t, w.Close())
			b.opens(t, seen)
			late := recording{patient, w.ID(), data}
			if freshness == hasty().Freshness {
				b.opens(t, late)
				continue
			}
			_, err = b.read(t, late)
			require.ErrorIs(t, err, keys.ErrRetired)
			require.NoError(t, b.retirer.Reinstate(t.Context(), id, 1)) // which can be taken back
			b.opens(t, late)
		}
	})
}
