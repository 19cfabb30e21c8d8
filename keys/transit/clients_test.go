package transit_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

// What Vault Enterprise's licence counts. docs/operations.md says so.
func TestUsedGrantsOfAPatientAreOneClient(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	_, err := f.admin.Logical().WriteWithContext(t.Context(), "sys/internal/counters/config", data{"enabled": "enable"})
	require.NoError(t, err)
	k := f.roles()
	const patients = 5
	all := map[keys.Patient]recording{}
	for range patients {
		patient, id := f.enrol(k)
		all[patient] = f.record(k, id)
	}
	clients := func(kind string) int64 {
		counted, err := f.admin.Logical().ReadWithContext(t.Context(), "sys/internal/counters/activity/monthly")
		require.NoError(t, err)
		n, err := counted.Data[kind].(json.Number).Int64()
		require.NoError(t, err)
		return n
	}
	open := func() {
		for patient, rec := range all {
			f.opens(k, f.grant(k, patient), rec)
		}
	}
	for patient := range all {
		f.grant(k, patient)
	}
	assert.Zero(t, clients("entity_clients"), "issued and not used")
	// Vault counts in the background.
	reaches := func(want int64) {
		t.Helper()
		require.Eventually(t, func() bool { return clients("entity_clients") >= want }, 10*time.Second, 10*time.Millisecond)
	}
	open()
	reaches(patients)
	open()
	list, err := f.admin.Logical().ListWithContext(t.Context(), "identity/entity/id")
	require.NoError(t, err)
	_, err = f.admin.Logical().WriteWithContext(t.Context(), "identity/entity/batch-delete", data{"entity_ids": list.Data["keys"]})
	require.NoError(t, err)
	open()
	reaches(2 * patients)
	assert.EqualValues(t, 2*patients, clients("entity_clients"), "a second grant counts again only if the entity was deleted")
	assert.EqualValues(t, 3, clients("non_entity_clients"), "the tokens of the enroller, the writer and the granter")
}
