package transit_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

func TestSetupRefusesAnotherStore(t *testing.T) {
	f := newFixture(t)
	f.tune(f.server.Mount()+"/config/keys", data{"disable_upsert": false}) // something to correct
	for _, dryRun := range []bool{true, false} {
		options := f.setup
		options.Store, options.DryRun = keys.NewStoreID(), dryRun
		report, err := transit.Setup(t.Context(), f.admin, options)
		require.ErrorIs(t, err, keys.ErrForeignStore)
		assert.Empty(t, report.Changes, "nothing is changed at the mount of another store")
	}
	writer := f.keyring("writer")
	assert.NoError(t, writer.ClaimStore(t.Context(), keystest.Store))
	assert.Len(t, f.setUp().Changes, 1)
}

func TestStoreIsRecordedBesideADescription(t *testing.T) {
	f := newBareFixture(t)
	store := f.setup.Store
	f.setup.Store = ""
	f.setUp()
	f.tune("sys/mounts/"+f.server.Mount()+"/tune", data{"description": "clinic north"})
	assert.Empty(t, f.setUp().Changes, "a setup without a store leaves the description")
	for _, role := range []string{"writer", "retirer", "trimmer"} {
		err := f.keyring(role).CheckStore(t.Context(), store)
		require.ErrorIs(t, err, keys.ErrForeignStore, role)
		assert.ErrorContains(t, err, "serves none yet, and this is store "+string(store))
	}
	f.setup.Store, f.setup.DryRun = store, true
	planned := f.setUp()
	f.setup.DryRun = false
	assert.Equal(t, planned, f.setUp())
	assert.Empty(t, f.setUp().Changes)
	mount, err := f.admin.Logical().ReadWithContext(t.Context(), "sys/mounts/"+f.server.Mount()+"/tune")
	require.NoError(t, err)
	assert.Equal(t, "clinic north (recvault store "+string(store)+")", mount.Data["description"])
	for _, role := range []string{"writer", "retirer", "trimmer"} {
		assert.NoError(t, f.keyring(role).CheckStore(t.Context(), store), role)
	}
}

func (f *fixture) tune(path string, settings data) {
	f.t.Helper()
	_, err := f.admin.Logical().WriteWithContext(f.t.Context(), path, settings)
	require.NoError(f.t, err)
}
