package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

func TestAuditSetupNamesDrift(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := notSetUp(t, v)
	d.secrets = append(d.secrets, v.RootToken())
	d.run("setup", "--no-doctor").ok()
	root := v.Client(v.RootToken())

	page := d.run("audit", "setup").ok().stdout
	for _, part := range []string{
		"RESULT: no difference; nothing was left out", v.Address() + ", version 1.21.2", "namespace  root", v.Mount(),
		"Name       ____", "Date       ____", "Signature  ____", "policy " + v.Prefix() + "-writer", "there is one device",
	} {
		assert.Contains(t, page, part)
	}
	assert.NotContains(t, page, "DIFFERENCES\n")
	object := d.run("audit", "setup", "--output", "json").ok().object()
	assert.EqualValues(t, 0, object["drift_count"])
	assert.EqualValues(t, 0, object["unchecked_count"])
	health, err := root.Sys().Health()
	require.NoError(t, err)
	assert.Equal(t, health.ClusterID, object["cluster_id"])
	assert.Contains(t, page, health.ClusterID)

	text, err := root.Sys().GetPolicy(v.Prefix() + "-writer")
	require.NoError(t, err)
	require.NoError(t, root.Sys().PutPolicy(v.Prefix()+"-writer", text+"# \x1b[2Jhidden"))
	page = d.run("audit", "setup").exits(exitIncomplete).stdout
	assert.Contains(t, page, "RESULT: 1 difference; nothing was left out")
	assert.Contains(t, page, "1. policy "+v.Prefix()+"-writer: line 26\n     expected  \n     found     # ?[2Jhidden\n")
	o := d.run("audit", "setup", "--output", "json").exits(exitIncomplete)
	assert.Equal(t, "drift", o.failure().Code)
	assert.EqualValues(t, 1, o.object()["drift_count"])
	fields := map[string]bool{} // on which scripts rely
	collect(fields, "", o.object())
	assert.Subset(t, slices.Collect(maps.Keys(fields)), []string{
		"began", "cluster_id", "cluster_name", "comparisons[].compared", "comparisons[].drifts[].expected", "comparisons[].drifts[].found",
		"comparisons[].drifts[].what", "comparisons[].name", "comparisons[].notes", "drift_count", "ended", "limits", "mount", "namespace",
		"prefix", "recvault.version", "unchecked_count", "vault_address", "vault_version",
	})
	require.NoError(t, root.Sys().PutPolicy(v.Prefix()+"-writer", text))

	require.NoError(t, root.Sys().PutPolicy("administrators", `path "*" { capabilities = ["read"] }`))
	assert.Contains(t, d.run("audit", "setup").exits(exitIncomplete).stdout, "policy administrators")
	assert.Contains(t, d.run("audit", "setup", "--expect-policy", "administrators").ok().stdout, "expected: administrators: read on *")
	require.NoError(t, root.Sys().DeletePolicy("administrators"))

	d.run("audit", "setup", "--max-grant-ttl", "4h").ok()
	assert.Contains(t, d.run("audit", "setup", "--max-grant-ttl", "1h").exits(exitIncomplete).stdout, "expected  3600\n     found     14400\n")
	assert.Contains(t, d.run("audit", "setup", "--store-id", strings.Repeat("A", 26)).exits(exitIncomplete).stdout, "store that the keyring serves")
	d.wants(exitNotFound, "not_found", "audit", "setup", "--prefix", "another/")
}

func TestAuditSetupSaysWhatItMayNotRead(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := notSetUp(t, v)
	d.run("setup", "--no-doctor").ok()
	auditor := d.with("VAULT_TOKEN", v.RoleToken("auditor"))
	page := auditor.run("audit", "setup").exits(exitIncomplete).stdout
	assert.Contains(t, page, "RESULT: no difference; 9 things not checked")
	assert.Contains(t, page, "  - audit devices: needs read and sudo on sys/audit\n")
	assert.Contains(t, page, "  - tokens: needs list and sudo on auth/token/accessors\n")
	o := auditor.run("audit", "setup", "--output", "json").exits(exitIncomplete)
	assert.Equal(t, "incomplete", o.failure().Code)
	assert.Equal(t, []any{"needs read and sudo on sys/audit"}, o.object()["comparisons"].([]any)[0].(map[string]any)["unchecked"])

	text := newDeployment(t).with("RECVAULT_MOUNT", v.Mount()).run("audit", "setup", "--print-policy").ok().stdout
	root := v.Client(v.RootToken())
	require.NoError(t, root.Sys().PutPolicy("comparisons", text))
	secret, err := root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{"comparisons"}, ExplicitMaxTTL: "1h"})
	require.NoError(t, err)
	require.NoError(t, root.Auth().Token().RevokeTree(auditor.environment["VAULT_TOKEN"])) // it has no explicit maximum
	require.NoError(t, root.Auth().Token().RevokeSelf(""))
	page = d.with("VAULT_TOKEN", secret.Auth.ClientToken).run("audit", "setup").ok().stdout
	assert.Contains(t, page, "RESULT: no difference; nothing was left out")
}

func TestAuditSetupExitCodes(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := notSetUp(t, v)
	d.run("setup", "--no-doctor").ok()
	d.with("VAULT_TOKEN", v.RoleToken("revoker")).wants(exitDenied, "denied", "audit", "setup")
	d.with("VAULT_TOKEN", "hvs.unknown").wants(exitDenied, "unauthenticated", "audit", "setup")
	for _, args := range [][]string{{"--keys", "0"}, {"--tokens", "-1"}, {"--max-grant-ttl", "48h"}, {"--store-id", "x"}, {"x"}} {
		d.wants(exitUsage, "usage", append([]string{"audit", "setup"}, args...)...)
	}
	inDirectory(t).wants(exitUsage, "usage", "audit", "setup")
	v.Stop(t)
	d.wants(exitUnavailable, "unavailable", "audit", "setup")
}
