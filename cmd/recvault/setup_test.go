package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

func TestSetupListsForeignAliases(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := newDeployment(t).with("VAULT_ADDR", v.Address(), "VAULT_TOKEN", v.RootToken(),
		"RECVAULT_MOUNT", v.Mount(), "RECVAULT_POLICY_PREFIX", v.Prefix())
	store := string(keys.NewStoreID())
	d.run("setup", "--store-id", store).ok()
	root := v.Client(v.RootToken())
	mounts, err := root.Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	entity, err := root.Logical().WriteWithContext(t.Context(), "identity/entity", map[string]any{"policies": []string{"mail"}})
	require.NoError(t, err)
	_, err = root.Logical().WriteWithContext(t.Context(), "identity/entity-alias", map[string]any{
		"name": "mail-kek", "canonical_id": entity.Data["id"], "mount_accessor": mounts["token/"].Accessor,
	})
	require.NoError(t, err)
	for _, arguments := range [][]string{{"setup", "--store-id", store}, {"setup", "--store-id", store, "--dry-run"}} {
		printed := d.run(arguments...).exits(exitIncomplete)
		assert.Contains(t, printed.stdout, "nothing to change")
		assert.Contains(t, printed.stdout, `"mail-kek"`)
		assert.Contains(t, printed.stdout, entity.Data["id"])
	}
	printed := d.run("setup", "--store-id", store, "--output", "json").exits(exitIncomplete).object()
	assert.Equal(t, []any{map[string]any{"alias": "mail-kek", "entity_id": entity.Data["id"], "policies": []any{"mail"}, "groups": 0.0}},
		printed["foreign_aliases"])

	_, err = root.Logical().WriteWithContext(t.Context(), "identity/entity", map[string]any{"name": "another"})
	require.NoError(t, err)
	assert.Contains(t, d.run("setup", "--store-id", store, "--max-entities", "1").ok().stdout, "entity aliases were not checked: Vault has 2 entities")
}
