package transit_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
)

// recordAtEachVersion enrols a patient and rotates the envelope key up to version latest. It returns
// one recording wrapped under each version.
func (f *fixture) recordAtEachVersion(k roles, latest int) (keys.Patient, keys.KeyID, []recording) {
	f.t.Helper()
	patient, id := f.enrol(k)
	recs := []recording{f.record(k, id)}
	for len(recs) < latest {
		require.NoError(f.t, k.Rotate(f.t.Context(), id))
		recs = append(recs, f.record(k, id))
	}
	return patient, id, recs
}

func (f *fixture) hasVersions(k roles, id keys.KeyID, want keys.Versions) {
	f.t.Helper()
	versions, err := k.Versions(f.t.Context(), id)
	require.NoError(f.t, err)
	want.Rotated, want.Now, want.Label = versions.Rotated, versions.Now, "vault"
	require.Equal(f.t, want, versions)
}

// The manual retirement sets the minimum version for decryption but not the one for encryption, which
// Vault needs for a trim.
func TestTrimAfterAManualRetirementNeedsRetire(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient, id, recs := f.recordAtEachVersion(k, 4)
	grant := f.grant(k, patient)
	_, err := f.admin.Logical().WriteWithContext(t.Context(), f.options.Mount+"/keys/"+id.String()+"-kek/config",
		data{"min_decryption_version": 3})
	require.NoError(t, err)
	f.hasVersions(k, id, keys.Versions{Latest: 4, MinDecryption: 3, MinAvailable: 1})
	assert.ErrorIs(t, k.Trim(t.Context(), id, 2), keys.ErrInvalidVersion)

	require.NoError(t, k.Retire(t.Context(), id, 2)) // retires no further version, but sets the minimum for encryption
	f.hasVersions(k, id, keys.Versions{Latest: 4, MinDecryption: 3, MinAvailable: 1})
	require.NoError(t, k.Trim(t.Context(), id, 3))
	f.hasVersions(k, id, keys.Versions{Latest: 4, MinDecryption: 3, MinAvailable: 3})
	f.opens(k, grant, recs[2])
	f.opens(k, grant, recs[3])
	_, err = k.Unwrap(t.Context(), grant, recs[1].binding, recs[1].wrapped)
	assert.ErrorIs(t, err, keys.ErrRetired)
}

// Vault stores retired versions separately, and keeps a used key in memory with all its versions. Only
// a restart shows what is stored.
func TestVersionsSurviveARestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	patient, id, recs := f.recordAtEachVersion(k, 6)
	grant := f.grant(k, patient)
	restart := func() {
		t.Helper()
		before, err := k.Versions(t.Context(), id)
		require.NoError(t, err)
		f.server.Restart(t)
		after, err := k.Versions(t.Context(), id)
		require.NoError(t, err)
		before.Now = after.Now
		require.Equal(t, before, after)
	}
	restart()
	require.NoError(t, k.Retire(t.Context(), id, 5))
	restart()
	require.NoError(t, k.Trim(t.Context(), id, 3))
	restart()
	require.ErrorIs(t, k.Reinstate(t.Context(), id, 2), keys.ErrInvalidVersion)
	require.NoError(t, k.Reinstate(t.Context(), id, 4))
	restart()
	require.NoError(t, k.Reinstate(t.Context(), id, 3))
	restart()
	f.hasVersions(k, id, keys.Versions{Latest: 6, MinDecryption: 3, MinAvailable: 3})
	for _, rec := range recs[2:] {
		f.opens(k, grant, rec)
	}
	f.opens(k, grant, f.record(k, id))
	for _, rec := range recs[:2] {
		_, err := k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
		assert.ErrorIs(t, err, keys.ErrRetired)
	}
}

// Whoever may re-wrap may name a version, and no policy can forbid that. After a retirement only the newest is left, while
// the others that are not retired still unwrap.
func TestRetireBarsRewrapsUnderOlderVersions(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient, id := f.enrol(k)
	require.NoError(t, k.Rotate(t.Context(), id))
	rec := f.record(k, id) // under version 2
	require.NoError(t, k.Rotate(t.Context(), id))
	rotator := f.server.Client(f.token("rotator"))
	rewrap := func() data {
		answer, err := rotator.Logical().WriteWithContext(t.Context(), f.options.Mount+"/rewrap/"+id.String()+"-kek", data{"batch_input": []data{{
			"ciphertext": string(rec.wrapped), "context": vaultContext(rec), "key_version": 2,
		}}})
		require.NoError(t, err)
		return answer.Data["batch_results"].([]any)[0].(data)
	}
	back := rewrap()["ciphertext"].(string)
	assert.Contains(t, back, "vault:v2:", "Vault no longer re-wraps under older versions: docs/roles.md can say so")
	f.opens(k, f.grant(k, patient), recording{binding: rec.binding, wrapped: keys.WrappedKey(back), key: rec.key})
	elsewhere := keystest.NewRecordingID(id).Binding()
	_, err := k.Unwrap(t.Context(), f.grant(k, patient), elsewhere, keys.WrappedKey(back))
	require.ErrorIs(t, err, keys.ErrIntegrity, "the key is still bound to its recording")

	require.NoError(t, k.Retire(t.Context(), id, 2))
	assert.Contains(t, rewrap()["error"], "less than the minimum encryption key version")
	f.opens(k, f.grant(k, patient), rec)
	f.opens(k, f.grant(k, patient), f.record(k, id))
}
