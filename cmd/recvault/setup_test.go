package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

// notSetUp returns a deployment on a Vault that is not set up, with its root token, and an empty bucket.
func notSetUp(t *testing.T, v *testserver.VaultServer) *deployment {
	t.Helper()
	m := testserver.MinIO(t)
	return newDeployment(t).with("VAULT_ADDR", v.Address(), "VAULT_TOKEN", v.RootToken(), "RECVAULT_MOUNT", v.Mount(),
		"RECVAULT_POLICY_PREFIX", v.Prefix(), "AWS_ENDPOINT_URL", "http://"+m.Endpoint(), "AWS_REGION", m.Region(),
		"RECVAULT_BUCKET", m.Bucket(), "AWS_ACCESS_KEY_ID", m.AccessKey(), "AWS_SECRET_ACCESS_KEY", m.SecretKey())
}

func TestSetupListsForeignAliases(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := notSetUp(t, v)
	d.run("setup").ok()
	root := v.Client(v.RootToken())
	mounts, err := root.Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	entity, err := root.Logical().WriteWithContext(t.Context(), "identity/entity", map[string]any{"policies": []string{"mail"}})
	require.NoError(t, err)
	_, err = root.Logical().WriteWithContext(t.Context(), "identity/entity-alias", map[string]any{
		"name": "mail-kek", "canonical_id": entity.Data["id"], "mount_accessor": mounts["token/"].Accessor,
	})
	require.NoError(t, err)
	for _, arguments := range [][]string{{"setup"}, {"setup", "--dry-run"}} {
		printed := d.run(arguments...).exits(exitIncomplete)
		assert.Contains(t, printed.stdout, "nothing to change")
		assert.Contains(t, printed.stdout, `"mail-kek"`)
		assert.Contains(t, printed.stdout, entity.Data["id"])
	}
	printed := d.run("setup", "--output", "json").exits(exitIncomplete).object()
	assert.Equal(t, []any{map[string]any{"alias": "mail-kek", "entity_id": entity.Data["id"], "policies": []any{"mail"}, "groups": 0.0, "logins": 0.0}},
		printed["foreign_aliases"])

	_, err = root.Logical().WriteWithContext(t.Context(), "identity/entity", map[string]any{"name": "another"})
	require.NoError(t, err)
	assert.Contains(t, d.run("setup", "--max-entities", "1").ok().stdout, "entity aliases were not checked: Vault has 2 entities")
}

func TestSetupEndsWithTheDoctor(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := notSetUp(t, v)
	d.run("setup").ok()
	assert.Equal(t, "nothing to change\n", d.runWith(strings.NewReader(v.RootToken()), "setup", "--token-file", "-").ok().stdout)

	require.NoError(t, v.Client(v.RootToken()).Sys().DisableAudit("file"))
	assert.Contains(t, d.run("setup").exits(exitIncomplete).stdout, "Vault logs nothing")
	problems := d.run("setup", "--output", "json").exits(exitIncomplete).object()["problems"].([]any)
	assert.Equal(t, "audit devices", problems[0].(map[string]any)["name"])
	assert.Len(t, problems, 1)
	assert.Equal(t, "nothing to change\n", d.run("setup", "--no-doctor").ok().stdout)
}
