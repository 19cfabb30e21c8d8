package rotation_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

func TestKeyIsRotatedUsedRetiredAndTrimmed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.Enrol(t)
		bob, bobID := b.Enrol(t)
		_, without := b.Enrol(t)
		recordings := []recording{b.put(t, alice, 100_000), b.put(t, alice, 0), b.put(t, bob, 1000)}
		before := b.envelope(t, recordings[0].id)

		report := b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{2: 2}, report.After)
		assert.True(t, report.Complete())
		for id, latest := range map[keys.KeyID]int{aliceID: 2, bobID: 2, without: 1} {
			v, err := b.admin.Versions(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, latest, v.Latest, "only patients with recordings are rotated")
		}
		b.requireOpens(t, recordings...)

		report = b.rewrap(t)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 3, Rewrapped: 3}, report.Envelopes)
		assert.Equal(t, map[int]int{1: 3}, report.Before)
		assert.Equal(t, map[int]int{2: 3}, report.After)
		assert.Equal(t, rotation.Requests{Keyring: 2, Lists: 1, Reads: 3, Writes: 3}, report.Requests)
		after := b.envelope(t, recordings[0].id)
		assert.NotEqual(t, before.WrappedKey, after.WrappedKey)
		assert.NotEqual(t, before.WrappedMetadataKey, after.WrappedMetadataKey)
		assert.Equal(t, before, after.WithWraps(before.WrappedKey, before.WrappedMetadataKey), "nothing but the wrapped keys has changed")
		b.requireOpens(t, recordings...)

		report = b.rewrap(t)
		assert.Equal(t, rotation.Envelopes{Seen: 3, Current: 3}, report.Envelopes)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, report.Patients)
		assert.Zero(t, report.Requests.Writes)

		retire := func() rotation.Report {
			report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
			require.NoError(t, err)
			return report
		}
		b.waitForGrace(t, aliceID)
		b.waitForGrace(t, bobID)
		report = retire()
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{2: 2}, report.After)
		results, err := b.rotator.Rewrap(t.Context(), aliceID, before.Wraps())
		require.NoError(t, err)
		assert.ErrorIs(t, results[0].Err, keys.ErrRetired)
		assert.ErrorIs(t, results[1].Err, keys.ErrRetired)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, retire().Patients)

		report, err = b.rotation(t, b.trimmer, hasty()).Trim(t.Context(), scope.Of(aliceID))
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), aliceID)
		require.NoError(t, err)
		assert.Equal(t, 2, v.MinAvailable)
		v, err = b.admin.Versions(t.Context(), bobID)
		require.NoError(t, err)
		assert.Equal(t, 1, v.MinAvailable, "Bob was not in the scope")
		b.requireOpens(t, recordings...)
	})
}

func TestPlanReportsOldEnvelopes(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.Enrol(t)
		bob, _ := b.Enrol(t)
		b.put(t, alice, 10)
		b.rotate(t)
		b.put(t, alice, 10)
		b.put(t, bob, 10)
		b.rotate(t)
		b.put(t, alice, 10)
		b.rotate(t)
		b.put(t, alice, 10)

		plan, err := b.rotation(t, b.rotator, rotation.Options{KeyringRate: 100}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, plan.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 5, Older: 4, Current: 1}, plan.Envelopes)
		assert.Equal(t, map[int]int{1: 2, 2: 1, 3: 1, 4: 1}, plan.Versions)
		assert.Equal(t, map[int]int{0: 1, 1: 1, 2: 2, 3: 1}, plan.Behind)
		v, err := b.admin.Versions(t.Context(), aliceID)
		require.NoError(t, err)
		assert.Equal(t, rotation.PatientPlan{KeyID: aliceID, Envelopes: 4, Older: 3, Latest: 4, Usable: 1, Rotated: v.Rotated.UTC()}, plan.Largest[0])
		assert.Equal(t, map[int]int{1: 2}, plan.Usable)
		assert.False(t, v.Rotated.Before(plan.Keys.Oldest) || v.Rotated.After(plan.Keys.Newest), "%+v", plan.Keys)
		assert.Greater(t, plan.Bytes, int64(5*400))
		assert.Equal(t, rotation.Requests{Keyring: 2, Lists: 1, Reads: 5, Writes: 4}, plan.Rewrap.Requests)
		assert.Equal(t, rotation.Requests{Keyring: 4, Lists: 1, Reads: 5}, plan.Rotate.Requests)
		assert.Equal(t, 40*time.Millisecond, plan.Rotate.Duration, plan.Rotate.Basis)
		assert.Equal(t, 2, plan.Requests.Keyring)
		assert.Zero(t, plan.Requests.Writes)

		report := b.rewrap(t)
		assert.Equal(t, plan.Rewrap.Requests, report.Requests, "it took what was planned")
		plan, err = b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, plan.Patients)
		assert.Empty(t, plan.Largest)
	})
}

func TestDryRunChangesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, id := b.Enrol(t)
		r := b.put(t, alice, 10)
		dry := hasty()
		dry.DryRun = true
		report, err := b.rotation(t, b.rotator, dry).Rotate(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		assert.True(t, report.DryRun)
		b.rotate(t)
		text := teststore.Read(t, b.store, objectName(r.id, "envelope"))
		report, err = b.rotation(t, b.rotator, dry).Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Envelopes{Seen: 1, Rewrapped: 1}, report.Envelopes)
		assert.Equal(t, text, teststore.Read(t, b.store, objectName(r.id, "envelope")))
		b.rewrap(t)
		b.waitForGrace(t, id)
		report, err = b.rotation(t, b.retirer, dry).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		require.NoError(t, b.retirer.Retire(t.Context(), id, 2))
		report, err = b.rotation(t, b.trimmer, dry).Trim(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, keys.Versions{Latest: 2, MinDecryption: 2, MinAvailable: 1, Rotated: v.Rotated, Now: v.Now, Label: v.Label}, v)
	})
}

func TestInterruptedRotateResumesWithOlderThan(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var ids []keys.KeyID
		for range 3 {
			patient, id := b.Enrol(t)
			b.put(t, patient, 10)
			ids = append(ids, id)
		}
		// The first run began after the keys were made, and rotated the key of one patient.
		v, err := b.admin.Versions(t.Context(), ids[2])
		require.NoError(t, err)
		began := v.Rotated.Truncate(time.Second).Add(time.Second)
		require.Eventually(t, func() bool { return time.Now().After(began) }, 10*time.Second, 10*time.Millisecond)
		rotate := func(s scope.Scope) rotation.Report {
			report, err := b.rotation(t, b.rotator, rotation.Options{OlderThan: began}).Rotate(t.Context(), s)
			require.NoError(t, err)
			return report
		}
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, rotate(scope.Of(ids[0])).Patients)
		report := rotate(scope.All())
		assert.Equal(t, rotation.Patients{Seen: 3, Changed: 2, Unchanged: 1}, report.Patients)
		assert.Equal(t, map[int]int{1: 2, 2: 1}, report.Before)
		assert.Equal(t, map[int]int{2: 3}, report.After)
		assert.Equal(t, rotation.Patients{Seen: 3, Unchanged: 3}, rotate(scope.All()).Patients)
	})
}

func TestOnePatientsFailureDoesNotStopTheRun(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var recordings []recording
		for range 3 {
			patient, _ := b.Enrol(t)
			recordings = append(recordings, b.put(t, patient, 10))
		}
		erased, erasedID := b.Enrol(t)
		lost := b.putMany(t, erased, 3)
		b.rotate(t)
		require.NoError(t, b.admin.Erase(t.Context(), erasedID))
		strangers, err := b.admin.KeyID(t.Context(), "never enrolled")
		require.NoError(t, err)
		stranger := keystest.NewRecordingID(strangers)
		e := b.envelope(t, recordings[0].id)
		e.ID = stranger
		teststore.Write(t, b.store, objectName(stranger, "envelope"), e.Encode())
		strangerIsFound := func(findings job.Findings) {
			assert.Equal(t, map[job.Kind]int64{rotation.KindNotEnrolled: 1}, findings.Counts)
			if assert.Len(t, findings.Listed, 1) {
				assert.Equal(t, strangers, findings.Listed[0].KeyID)
			}
		}

		report := b.rewrap(t)
		assert.False(t, report.Complete())
		strangerIsFound(report.Findings)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 7, Rewrapped: 3, Keyless: 4}, report.Envelopes)
		b.requireOpens(t, recordings...)
		_, err = b.read(t, lost[0])
		assert.ErrorIs(t, err, keys.ErrErased)

		report = b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, report.Patients)
		assert.False(t, report.Complete())
		strangerIsFound(report.Findings)
		plan, err := b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, plan.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 7, Older: 3, Keyless: 4}, plan.Envelopes)
		strangerIsFound(plan.Findings)

		require.NoError(t, b.store.Delete(t.Context(), objectName(stranger, "envelope")))
		report = b.rewrap(t)
		assert.Equal(t, rotation.Patients{Seen: 4, Changed: 3, Erased: 1}, report.Patients)
		assert.True(t, report.Complete(), "an erased patient's envelopes need no attention")
	})
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	b := embedded(t)
	for name, options := range map[string]rotation.Options{
		"grace shorter than freshness":  {Freshness: time.Hour},
		"grace equal to freshness":      {Freshness: 15 * time.Minute},
		"grace shorter than the commit": {CommitTimeout: 10 * time.Minute},
		"grace without skew":            {Freshness: 5 * time.Minute, CommitTimeout: 30 * time.Second, Grace: 6 * time.Minute},
		"negative grace":                {Grace: -time.Hour},
		"negative freshness":            {Freshness: -time.Hour},
		"negative skew":                 {ClockSkew: -time.Hour},
		"negative concurrency":          {Concurrency: -1},
		"endless concurrency":           {Concurrency: rotation.MaxConcurrency + 1},
		"negative rate":                 {KeyringRate: -1},
		"no number":                     {StorageRate: math.NaN()},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rotation.New(b.rotator, b.store, options)
			assert.ErrorIs(t, err, rotation.ErrInvalidOptions)
		})
	}
	_, err := rotation.New(b.rotator, b.store, rotation.Options{Prefix: "a"})
	assert.ErrorIs(t, err, storage.ErrInvalidName)
	_, err = rotation.New(nil, b.store, rotation.Options{})
	assert.Error(t, err)
	_, err = rotation.New(b.rotator, b.store, rotation.Options{Freshness: 10 * time.Minute, CommitTimeout: time.Minute, Grace: 12 * time.Minute})
	assert.NoError(t, err)
}
