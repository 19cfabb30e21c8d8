package transitcheck_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	kwp "github.com/tink-crypto/tink-go/v2/kwp/subtle"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/transitcheck"
)

func (d *deployment) driftOptions() transitcheck.DriftOptions {
	return transitcheck.DriftOptions{Mount: d.server.Mount(), Prefix: d.server.Prefix(), Store: d.store, MaxGrantTTL: time.Hour}
}

func (d *deployment) drift(t *testing.T, options transitcheck.DriftOptions) transitcheck.DriftReport {
	t.Helper()
	report, err := transitcheck.FindDrift(t.Context(), d.root, options)
	require.NoError(t, err)
	return report
}

// found returns the differences of a report as lines: the comparison, what differs, what was expected and found.
func found(report transitcheck.DriftReport) []string {
	lines := []string{}
	for _, c := range report.Comparisons {
		for _, drift := range c.Drifts {
			lines = append(lines, fmt.Sprintf("%s: %s: expected %s, found %s", c.Name, drift.What, drift.Expected, drift.Found))
		}
	}
	return lines
}

// notes returns what a report leaves to the reader to judge.
func notes(report transitcheck.DriftReport) string {
	var all []string
	for _, c := range report.Comparisons {
		all = append(all, c.Notes...)
	}
	return strings.Join(all, "\n")
}

// requireSound checks that a Vault is as it should be, and that all of it was compared.
func (d *deployment) requireSound(t *testing.T) {
	t.Helper()
	report := d.drift(t, d.driftOptions())
	require.Empty(t, found(report))
	require.Zero(t, report.Drifts())
	require.Zero(t, report.Unchecked())
}

func TestFreshSetupHasNoDrift(t *testing.T) {
	d := deployBare(t)
	keyring, err := transit.New(d.root, transit.Options{Mount: d.server.Mount(), Prefix: d.server.Prefix()})
	require.NoError(t, err)
	id, err := keyring.Enrol(t.Context(), "canary-patient")
	require.NoError(t, err)
	_, err = keyring.Issue(t.Context(), "canary-patient", keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
	require.NoError(t, err)
	require.NoError(t, keyring.Rotate(t.Context(), id))
	require.NoError(t, keyring.Retire(t.Context(), id, 2))
	d.requireSound(t)

	report := d.drift(t, transitcheck.DriftOptions{Mount: d.server.Mount(), Prefix: d.server.Prefix()})
	assert.Zero(t, report.Drifts(), "without what was chosen at setup")
	assert.Equal(t, "1.21.2", report.VaultVersion)
	assert.Len(t, report.ClusterID, 36)
	assert.Equal(t, "root", report.Namespace)
	for _, c := range report.Comparisons {
		assert.NotEmpty(t, c.Compared, c.Name)
	}
	assert.Regexp(t, `second/ is of type file: {"file_path":"/`, notes(report))
	assert.Contains(t, notes(report), "it serves store "+string(d.store))
	assert.Contains(t, notes(report), "a grant lasts at most 1h0m0s")
	assert.Contains(t, notes(report), "expected: default: read on identity/entity/id/{{identity.entity.id}}")
}

// TestEachDriftIsNamed plants drifts in a Vault, each of which must be named, alone, and be gone after it was put back.
func TestEachDriftIsNamed(t *testing.T) {
	d := deployBare(t)
	mount, prefix := d.server.Mount(), d.server.Prefix()
	write := func(t *testing.T, path string, data map[string]any) *api.Secret {
		t.Helper()
		secret, err := d.root.Logical().Write(path, data)
		require.NoError(t, err)
		return secret
	}
	remove := func(path string) func(t *testing.T) {
		return func(t *testing.T) {
			_, err := d.root.Logical().Delete(path)
			require.NoError(t, err)
		}
	}
	mounts, err := d.root.Sys().ListAuth()
	require.NoError(t, err)
	accessor := mounts["token/"].Accessor
	patient, err := keys.ParseKeyID(strings.Repeat("a", 32))
	require.NoError(t, err)
	key := patient.String() + "-kek"
	sound := map[string]any{"type": "aes256-gcm96", "derived": true}
	write(t, mount+"/keys/"+key, sound)
	mark := "erased-" + strings.Repeat("b", 32) + "-kek"
	write(t, mount+"/keys/"+mark, map[string]any{"type": "hmac", "key_size": 32})
	d.requireSound(t)

	// written plants a setting, and puts another value in its place.
	type data = map[string]any
	type planted struct {
		name, want string // want is a part of the only line that is found
		plant      func(t *testing.T)
		undo       func(t *testing.T)
	}
	written := func(name, path string, plant, undo data, want string) planted {
		return planted{name, want, func(t *testing.T) { write(t, path, plant) }, func(t *testing.T) { write(t, path, undo) }}
	}
	// keyed plants a patient's key that was made in another way.
	keyed := func(name string, make data, config data, want string) planted {
		path := mount + "/keys/" + strings.Repeat("c", 32) + "-kek"
		return planted{name, want, func(t *testing.T) {
			write(t, path, make)
			if config != nil {
				write(t, path+"/config", config)
			}
		}, func(t *testing.T) {
			write(t, path+"/config", data{"deletion_allowed": true})
			remove(path)(t)
		}}
	}
	// policy plants a policy of somebody else's.
	policy := func(name, text, want string) planted {
		return planted{
			name, want, func(t *testing.T) { require.NoError(t, d.root.Sys().PutPolicy("other", text)) },
			func(t *testing.T) { require.NoError(t, d.root.Sys().DeletePolicy("other")) },
		}
	}
	// quota plants a limit of requests.
	quota := func(name string, plant data, want string) planted {
		const path = "sys/quotas/rate-limit/other"
		return planted{name, want, func(t *testing.T) { write(t, path, plant) }, remove(path)}
	}
	// edited plants a change of a role's policy.
	edited := func(name, role, old, new, want string) planted {
		return planted{name, want, func(t *testing.T) {
			text, err := d.root.Sys().GetPolicy(prefix + "-" + role)
			require.NoError(t, err)
			require.Contains(t, text, old)
			require.NoError(t, d.root.Sys().PutPolicy(prefix+"-"+role, strings.Replace(text, old, new, 1)))
		}, d.setUp}
	}
	var accessors []string // of tokens to end
	token := func(name string, request api.TokenCreateRequest, want string) planted {
		return planted{name, want, func(t *testing.T) {
			secret, err := d.root.Auth().Token().CreateOrphan(&request)
			require.NoError(t, err)
			accessors = append(accessors, secret.Auth.Accessor)
		}, func(t *testing.T) {
			require.NoError(t, d.root.Auth().Token().RevokeAccessor(accessors[len(accessors)-1]))
		}}
	}
	grantRole, otherRole := "auth/token/roles/"+prefix+"-grant", "auth/token/roles/other"
	tune, pseudonym := "sys/mounts/"+mount+"/tune", mount+"/keys/pseudonym"
	yes := true
	for _, drift := range []planted{
		{"no audit device", "audit devices: audit devices: expected at least one, found none", func(t *testing.T) {
			require.NoError(t, d.root.Sys().DisableAudit("file"))
			require.NoError(t, d.root.Sys().DisableAudit("second"))
		}, func(t *testing.T) {
			d.audit(t, "file")
			d.audit(t, "second")
		}},
		{"a raw audit device", "audit devices: log_raw of third/: expected false", func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuditWithOptions("third", &api.EnableAuditOptions{
				Type: "file", Options: map[string]string{"file_path": t.TempDir() + "/log", "log_raw": "true"},
			}))
		}, func(t *testing.T) { require.NoError(t, d.root.Sys().DisableAudit("third")) }},
		{"an audit device that keeps nothing", "audit devices: file_path of third/: expected a place that keeps the log, found /dev/null", func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuditWithOptions("third", &api.EnableAuditOptions{
				Type: "file", Options: map[string]string{"file_path": "/dev/null"},
			}))
		}, func(t *testing.T) { require.NoError(t, d.root.Sys().DisableAudit("third")) }},
		{"tokens in the audit log", "headers in the audit log: header x-vault-token:", func(t *testing.T) {
			write(t, "sys/config/auditing/request-headers/X-Vault-Token", data{"hmac": false})
		}, remove("sys/config/auditing/request-headers/X-Vault-Token")},
		written("the token mount's answers in clear", "sys/auth/token/tune", data{"audit_non_hmac_response_keys": "id"},
			data{"audit_non_hmac_response_keys": ""}, "auth/token/ audit_non_hmac_response_keys: expected none"),
		written("the token mount's requests in clear", "sys/auth/token/tune", data{"audit_non_hmac_request_keys": "token"},
			data{"audit_non_hmac_request_keys": ""}, "auth/token/ audit_non_hmac_request_keys: expected none"),
		written("identity's requests in clear", "sys/mounts/identity/tune", data{"audit_non_hmac_request_keys": "name"},
			data{"audit_non_hmac_request_keys": ""}, "identity/ audit_non_hmac_request_keys: expected none"),
		{"a login's secret in clear", "auth/approle/ in clear: expected no credentials, found secret_id", func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
			write(t, "sys/auth/approle/tune", data{"audit_non_hmac_request_keys": "secret_id"})
		}, func(t *testing.T) { require.NoError(t, d.root.Sys().DisableAuth("approle")) }},

		quota("a quota for the keys", data{"path": mount + "/", "rate": 500, "interval": "60s"},
			"quotas: quota other: expected the audit log has what it refuses (enable_rate_limit_audit_logging), found 500 requests in 60 s to "+mount+"/"),
		quota("a quota for one operation", data{"path": mount + "/decrypt/*", "rate": 5}, "s to "+mount+"/decrypt/*"),
		quota("a quota for logouts", data{"path": "auth/token/revoke-self", "rate": 5}, "s to auth/token/revoke-self"),
		quota("a quota for everything", data{"path": "", "rate": 5000}, "found 5000 requests in 1 s to all of Vault"),

		written("recording keys in clear", tune, data{"audit_non_hmac_request_keys": "context,plaintext"},
			data{"audit_non_hmac_request_keys": "context"}, `audit_non_hmac_request_keys: expected ["context"], found ["context","plaintext"]`),
		written("bindings not in clear", tune, data{"audit_non_hmac_request_keys": ""},
			data{"audit_non_hmac_request_keys": "context"}, `audit_non_hmac_request_keys: expected ["context"], found none`),
		written("answers in clear", tune, data{"audit_non_hmac_response_keys": "plaintext"},
			data{"audit_non_hmac_response_keys": ""}, "audit_non_hmac_response_keys: expected none"),
		written("a mount that is shown to everybody", tune, data{"listing_visibility": "unauth"},
			data{"listing_visibility": ""}, "listing_visibility: expected none, found unauth"),
		written("headers passed to the engine", tune, data{"passthrough_request_headers": "X-Other"},
			data{"passthrough_request_headers": ""}, "passthrough_request_headers: expected none"),
		written("leases of the engine", tune, data{"max_lease_ttl": "1h"}, data{"max_lease_ttl": "0"}, "max_lease_ttl: expected none, found 3600"),
		written("no store", tune, data{"description": "recvault: envelope keys"},
			data{"description": "recvault: envelope keys (recvault store " + string(d.store) + ")"}, "store that the keyring serves: expected "+string(d.store)+", found none"),
		written("another store", tune, data{"description": "recvault: envelope keys (recvault store " + strings.Repeat("A", 26) + ")"},
			data{"description": "recvault: envelope keys (recvault store " + string(d.store) + ")"}, "found "+strings.Repeat("A", 26)),
		written("encrypting makes keys", mount+"/config/keys", data{"disable_upsert": false}, data{"disable_upsert": true},
			"settings of the engine: disable_upsert: expected true, found false"),

		{"a key that Vault keeps under a wrapping token", "wrapped answers: answers of " + mount + "/decrypt/" + key + ": expected none under a wrapping token", func(t *testing.T) {
			secret := write(t, mount+"/encrypt/"+key, data{"plaintext": "", "context": "YQ=="})
			wrapping, err := d.root.Clone()
			require.NoError(t, err)
			wrapping.SetToken(d.root.Token())
			wrapping.SetWrappingLookupFunc(func(_, _ string) string { return "1h" })
			_, err = wrapping.Logical().Write(mount+"/decrypt/"+key, data{"ciphertext": secret.Data["ciphertext"], "context": "YQ=="})
			require.NoError(t, err)
		}, func(t *testing.T) { write(t, "sys/leases/revoke-prefix/"+mount, nil) }},

		written("a pseudonym key that may be deleted", pseudonym+"/config", data{"deletion_allowed": true},
			data{"deletion_allowed": false}, "pseudonym key: deletion_allowed: expected false, found true"),
		written("a pseudonym key that rotates", pseudonym+"/config", data{"auto_rotate_period": "24h"},
			data{"auto_rotate_period": 0}, "pseudonym key: auto_rotate_period: expected 0, found 86400"),
		{"an exportable pseudonym key", "pseudonym key: exportable: expected false, found true", func(t *testing.T) {
			write(t, pseudonym+"/config", data{"exportable": true})
		}, func(t *testing.T) {
			write(t, pseudonym+"/config", data{"deletion_allowed": true})
			remove(pseudonym)(t)
			d.setUp(t)
		}},
		{"a pseudonym key that was rotated", "pseudonym key: latest_version: expected 1, found 2", func(t *testing.T) {
			write(t, pseudonym+"/rotate", nil)
		}, func(t *testing.T) {
			write(t, pseudonym+"/config", data{"deletion_allowed": true})
			remove(pseudonym)(t)
			d.setUp(t)
		}},

		keyed("a key that ignores the binding", data{"type": "aes256-gcm96"}, nil, "derived: expected true, found false"),
		keyed("a key of another type", data{"type": "chacha20-poly1305", "derived": true}, nil, "type: expected aes256-gcm96, found chacha20-poly1305"),
		keyed("a convergent key", with(sound, "convergent_encryption", true), nil, "convergent_encryption: expected false, found true"),
		keyed("an exportable key", with(sound, "exportable", true), nil, "exportable: expected false, found true"),
		keyed("a key that can be backed up in clear", with(sound, "allow_plaintext_backup", true), nil, "allow_plaintext_backup: expected false, found true"),
		keyed("a key that rotates by itself", with(sound, "auto_rotate_period", "24h"), nil, "auto_rotate_period: expected 0, found 86400"),
		keyed("a key that may be deleted", sound, data{"deletion_allowed": true}, "deletion_allowed: expected false, found true"),
		{"a key that was imported", "imported_key: expected false, found true", func(t *testing.T) {
			d.importKey(t, strings.Repeat("c", 32)+"-kek")
		}, func(t *testing.T) {
			path := mount + "/keys/" + strings.Repeat("c", 32) + "-kek"
			write(t, path+"/config", data{"deletion_allowed": true})
			remove(path)(t)
		}},
		{"a key restored from an edited backup", "restore_info: expected none", func(t *testing.T) {
			d.restoreKey(t, strings.Repeat("c", 32)+"-kek")
		}, func(t *testing.T) {
			path := mount + "/keys/" + strings.Repeat("c", 32) + "-kek"
			write(t, path+"/config", data{"deletion_allowed": true})
			remove(path)(t)
		}},
		{"a retirement by hand", "versions: expected min_encryption of at least", func(t *testing.T) {
			path := mount + "/keys/" + strings.Repeat("c", 32) + "-kek"
			write(t, path, sound)
			write(t, path+"/rotate", nil)
			write(t, path+"/config", data{"min_decryption_version": 2})
		}, func(t *testing.T) {
			path := mount + "/keys/" + strings.Repeat("c", 32) + "-kek"
			write(t, path+"/config", data{"deletion_allowed": true})
			remove(path)(t)
		}},
		written("a mark that may be deleted", mount+"/keys/"+mark+"/config", data{"deletion_allowed": true},
			data{"deletion_allowed": false}, mark+" deletion_allowed: expected false, found true"),
		{"a key of somebody else", "keys of patients: key stray: expected absent, found present", func(t *testing.T) {
			write(t, mount+"/keys/stray", sound)
		}, func(t *testing.T) {
			write(t, mount+"/keys/stray/config", data{"deletion_allowed": true})
			remove(mount + "/keys/stray")(t)
		}},

		edited("a line changed", "writer", `capabilities       = ["update"]`, `capabilities       = ["update", "list"]`,
			`policy `+prefix+`-writer: line 5: expected   capabilities       = ["update"], found   capabilities       = ["update", "list"]`),
		edited("a line added", "auditor", "\npath", "\n# A line.\npath", "found # A line."),
		edited("a line removed", "granter", `    "renewable"         = [false]`+"\n", "", `expected     "renewable"         = [false], found no line`),
		{"a policy removed", "policy " + prefix + "-trimmer: policy: expected present, found absent", func(t *testing.T) {
			require.NoError(t, d.root.Sys().DeletePolicy(prefix+"-trimmer"))
		}, d.setUp},
		{"a policy of setup that is wider", "policy " + prefix + "-setup: line", func(t *testing.T) {
			policies, err := transit.Policies(transit.Options{Mount: mount, Prefix: prefix}, transit.TokenAccessor)
			require.NoError(t, err)
			require.NoError(t, d.root.Sys().PutPolicy(prefix+"-setup", policies[0].HCL+`path "`+mount+`/decrypt/*" { capabilities = ["update"] }`))
		}, func(t *testing.T) { require.NoError(t, d.root.Sys().DeletePolicy(prefix+"-setup")) }},

		written("grants that renew", grantRole, data{"renewable": true}, data{"renewable": false}, "token role "+prefix+"-grant: renewable: expected false, found true"),
		written("grants for any alias", grantRole, data{"allowed_entity_aliases": "*"}, data{"allowed_entity_aliases": "*-kek"},
			`allowed_entity_aliases: expected ["*-kek"], found ["*"]`),
		written("grants with other policies", grantRole, data{"allowed_policies": []string{prefix + "-grant", "default"}},
			data{"allowed_policies": prefix + "-grant"}, "allowed_policies: expected"),
		written("grants that live longer", grantRole, data{"token_explicit_max_ttl": 7200}, data{"token_explicit_max_ttl": 3600},
			"token_explicit_max_ttl: expected 3600, found 7200"),
		written("grants of another type", grantRole, data{"token_type": "default-service"}, data{"token_type": "service"},
			"token_type: expected service, found default-service"),
		written("a field that setup leaves alone", grantRole, data{"token_bound_cidrs": "10.0.0.0/8"}, data{"token_bound_cidrs": ""}, "token_bound_cidrs: expected none"),
		{"no token role", "token role " + prefix + "-describe: token role: expected present, found absent", remove("auth/token/roles/" + prefix + "-describe"), d.setUp},

		{"an alias with rights", "entity aliases: entity alias: expected only patients'", func(t *testing.T) {
			entity := write(t, "identity/entity", data{"name": "mail", "policies": []string{"mail"}})
			write(t, "identity/entity-alias", data{"name": "mail-kek", "canonical_id": entity.Data["id"], "mount_accessor": accessor})
		}, remove("identity/entity/name/mail")},
		{"a login that is a patient's entity", "entity aliases: entity alias: expected only patients', without rights and logins, found foreign entity alias \"" + key, func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
			mounts, err := d.root.Sys().ListAuth()
			require.NoError(t, err)
			entity := write(t, "identity/entity", data{"name": "patient"})
			write(t, "identity/entity-alias", data{"name": key, "canonical_id": entity.Data["id"], "mount_accessor": accessor})
			write(t, "identity/entity-alias", data{"name": "mail", "canonical_id": entity.Data["id"], "mount_accessor": mounts["approle/"].Accessor})
		}, func(t *testing.T) {
			remove("identity/entity/name/patient")(t)
			require.NoError(t, d.root.Sys().DisableAuth("approle"))
		}},

		policy("a policy for a key", `path "`+mount+`/decrypt/`+key+`" { capabilities = ["update"] }`,
			"other policies: policy other: expected no rule that reaches keys, found update on "+mount+"/decrypt/"+key),
		policy("a policy for every path", `path "*" { capabilities = ["read", "sudo"] }`, "found read, sudo on *"),
		policy("a policy with a prefix", `path "`+prefix+`/rec*" { capabilities = ["list"] }`, "found list on "+prefix+"/rec*"),
		policy("a policy with segments", `path "+/recordings/decrypt/+" { capabilities = ["update"] }`, "found update on +/recordings/decrypt/+"),
		policy("a policy with a segment and a prefix", `path "+/+/dec*" { capabilities = ["update"] }`, "found update on +/+/dec*"),
		policy("a policy with a template", `path "{{identity.entity.metadata.team}}/keys/+" { capabilities = ["read"] }`, "reaches keys"),
		policy("a policy with a slash before it", `path "/`+mount+`/keys" { capabilities = ["list"] }`, "found list on "+mount+"/keys"),
		policy("a policy of the older style", `path "`+mount+`/*" { policy = "write" }`, "found create, read, update, delete, list on "+mount+"/*"),
		policy("a policy in JSON", `{"path": {"`+mount+`/export/*": {"capabilities": ["read"]}}}`, "found read on "+mount+"/export/*"),
		policy("a policy for policies", `path "sys/policies/acl/`+prefix+`-grant" { capabilities = ["update"] }`, "no rule that reaches policies"),
		policy("a policy for policies, by their older path", `path "sys/policy/+" { capabilities = ["update"] }`, "no rule that reaches policies"),
		policy("a policy for the token role", `path "auth/token/create/`+prefix+`-grant" { capabilities = ["update"] }`, "no rule that reaches grants"),
		policy("a policy for token roles", `path "auth/token/roles/new" { capabilities = ["create"] }`, "no rule that reaches token roles"),
		policy("a policy for any token", `path "auth/token/create" { capabilities = ["update", "sudo"] }`, "tokens with any policy"),
		policy("a policy for aliases", `path "identity/entity-alias" { capabilities = ["update"] }`, "no rule that reaches entities"),
		policy("a policy for groups", `path "identity/group/id/+" { capabilities = ["update"] }`, "no rule that reaches groups"),
		policy("a policy for the mount", `path "sys/mounts/+/recordings/tune" { capabilities = ["update"] }`, "no rule that reaches the mount"),
		policy("a policy for audit devices", `path "sys/audit/file" { capabilities = ["delete", "sudo"] }`, "no rule that reaches audit devices"),
		policy("a policy for any token, by a role", `path "auth/token/create/other" { capabilities = ["update", "sudo"] }`, "tokens with any policy"),
		policy("a policy for others' tokens", `path "auth/token/revoke-accessor" { capabilities = ["update"] }`, "other users' tokens"),
		policy("a policy that lists leases", `path "sys/leases/lookup/*" { capabilities = ["list", "sudo"] }`, "other users' tokens"),
		policy("a policy that ends leases", `path "sys/leases/revoke-prefix/auth/*" { capabilities = ["update", "sudo"] }`, "other users' tokens"),
		policy("a policy that ends leases by force", `path "sys/leases/revoke-force/+/token/*" { capabilities = ["update", "sudo"] }`, "other users' tokens"),
		policy("a policy that ends leases, by their older path", `path "sys/revoke-prefix/*" { capabilities = ["update", "sudo"] }`, "other users' tokens"),
		policy("a policy for quotas", `path "sys/quotas/rate-limit/+" { capabilities = ["create"] }`, "no rule that reaches quotas"),
		policy("a policy for the token mount", `path "sys/mounts/auth/token/tune" { capabilities = ["update"] }`, "no rule that reaches auth methods"),
		policy("a policy for the audit log of identities", `path "sys/mounts/identity/tune" { capabilities = ["update"] }`, "no rule that reaches audit devices"),
		policy("a policy for hashes in the audit log", `path "sys/audit-hash/file" { capabilities = ["update"] }`, "what the audit log hides"),
		policy("a policy that restores snapshots", `path "sys/storage/raft/snapshot-force" { capabilities = ["update"] }`, "Vault's storage"),
		policy("a policy that lists Vault's storage", `path "sys/raw" { capabilities = ["list"] }`, "Vault's storage"),
		policy("a policy for plugins", `path "sys/plugins/catalog/secret/transit" { capabilities = ["update", "sudo"] }`, "no rule that reaches plugins"),
		{"a policy for logins", "who may log in with which policy, found update on auth/+/role/+", func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
			require.NoError(t, d.root.Sys().PutPolicy("other", `path "auth/+/role/+" { capabilities = ["update"] }`))
		}, func(t *testing.T) {
			require.NoError(t, d.root.Sys().DisableAuth("approle"))
			require.NoError(t, d.root.Sys().DeletePolicy("other"))
		}},
		{"a policy for what Vault vouches for", "who may log in with which policy, found create, update on identity/oidc/role/*", func(t *testing.T) {
			require.NoError(t, d.root.Sys().EnableAuthWithOptions("jwt", &api.EnableAuthOptions{Type: "jwt"}))
			require.NoError(t, d.root.Sys().PutPolicy("other", `path "identity/oidc/role/*" { capabilities = ["create", "update"] }`))
		}, func(t *testing.T) {
			require.NoError(t, d.root.Sys().DisableAuth("jwt"))
			require.NoError(t, d.root.Sys().DeletePolicy("other"))
		}},
		{"a policy that Vault does not list", "other policies: policy .: expected no rule that reaches keys", func(t *testing.T) {
			body := fmt.Sprintf(`{"policy": "path \"%s/keys\" { capabilities = [\"list\"] }"}`, mount)
			d.pointPolicy(t, http.MethodPut, body)
			secret, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{"."}, ExplicitMaxTTL: "1h"})
			require.NoError(t, err)
			accessors = append(accessors, secret.Auth.Accessor)
			_, err = d.server.Client(secret.Auth.ClientToken).Logical().List(mount + "/keys")
			require.NoError(t, err, "it counts")
			names, err := d.root.Sys().ListPolicies()
			require.NoError(t, err)
			require.NotContains(t, names, ".")
		}, func(t *testing.T) {
			require.NoError(t, d.root.Auth().Token().RevokeAccessor(accessors[len(accessors)-1]))
			d.pointPolicy(t, http.MethodDelete, "")
		}},
		{"a wider default policy", "other policies: policy default: expected no rule that reaches keys", func(t *testing.T) {
			text, err := d.root.Sys().GetPolicy("default")
			require.NoError(t, err)
			require.NoError(t, d.root.Sys().PutPolicy("default", text+"\n"+`path "`+mount+`/keys/*" { capabilities = ["read"] }`))
		}, func(t *testing.T) {
			text, err := d.root.Sys().GetPolicy("default")
			require.NoError(t, err)
			before, _, _ := strings.Cut(text, `path "`+mount)
			require.NoError(t, d.root.Sys().PutPolicy("default", before))
		}},

		{"a token role that gives grants", "other token roles: token role other: expected none but setup's", func(t *testing.T) {
			write(t, otherRole, data{"allowed_policies_glob": prefix + "-g*t", "renewable": false})
		}, remove(otherRole)},
		{"a token role that allows what it does not name", "token role other: expected none but setup's", func(t *testing.T) {
			write(t, otherRole, data{"disallowed_policies": "administrators", "renewable": false})
		}, remove(otherRole)},
		{"a token role without an end", "token role other: expected an explicit maximum", func(t *testing.T) {
			write(t, otherRole, data{"allowed_policies": prefix + "-writer", "token_period": "24h"})
		}, remove(otherRole)},
		{"a token role without a maximum", "renewable without an explicit maximum", func(t *testing.T) {
			write(t, otherRole, data{"allowed_policies": prefix + "-writer"})
		}, remove(otherRole)},

		token("a periodic token", api.TokenCreateRequest{Policies: []string{prefix + "-writer"}, Period: "24h"}, "periodic (86400 s); orphan"),
		token("a token without a maximum", api.TokenCreateRequest{Policies: []string{prefix + "-granter"}, TTL: "1h", Renewable: &yes},
			"renewable without an explicit maximum; orphan"),
		{"a token of a role without a maximum", "renewable without an explicit maximum", func(t *testing.T) {
			write(t, otherRole, nil) // it names no policies, so it gives none by itself
			secret := write(t, "auth/token/create/other", data{"policies": []string{prefix + "-writer"}})
			accessors = append(accessors, secret.Auth.Accessor)
		}, func(t *testing.T) {
			require.NoError(t, d.root.Auth().Token().RevokeAccessor(accessors[len(accessors)-1]))
			remove(otherRole)(t)
		}},
		{"a grant from a time when they could live longer", "expected a grant of at most 1h0m0s, found 2h0m0s, until 20", func(t *testing.T) {
			write(t, grantRole, data{"token_explicit_max_ttl": 7200})
			secret := write(t, "auth/token/create/"+prefix+"-grant", data{"entity_alias": key, "ttl": "2h", "meta": map[string]string{"purpose": "TREAT"}})
			accessors = append(accessors, secret.Auth.Accessor)
			write(t, grantRole, data{"token_explicit_max_ttl": 3600})
		}, func(t *testing.T) {
			require.NoError(t, d.root.Auth().Token().RevokeAccessor(accessors[len(accessors)-1]))
		}},
		token("a root token", api.TokenCreateRequest{Policies: []string{"root"}}, "expected no root token but that of this run"),
		token("a grant that was made by hand", api.TokenCreateRequest{Policies: []string{prefix + "-grant"}, TTL: "1h", ExplicitMaxTTL: "1h"},
			"expected a grant as setup's token role makes it"),
	} {
		t.Run(drift.name, func(t *testing.T) {
			drift.plant(t)
			report := d.drift(t, d.driftOptions())
			lines := found(report)
			if assert.Len(t, lines, 1) {
				assert.Contains(t, lines[0], drift.want)
			}
			assert.Equal(t, len(lines), report.Drifts())
			assert.Zero(t, report.Unchecked())
			drift.undo(t)
			d.requireSound(t)
		})
	}
}

func with(settings map[string]any, name string, value any) map[string]any {
	changed := map[string]any{name: value}
	for name, value := range settings {
		changed[name] = value
	}
	return changed
}

// importKey makes an envelope key that is known outside of Vault.
func (d *deployment) importKey(t *testing.T, name string) {
	t.Helper()
	secret, err := d.root.Logical().Read(d.server.Mount() + "/wrapping_key")
	require.NoError(t, err)
	block, _ := pem.Decode([]byte(secret.Data["public_key"].(string)))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	require.NoError(t, err)
	ephemeral, imported := make([]byte, 32), make([]byte, 32)
	_, _ = rand.Read(ephemeral)
	_, _ = rand.Read(imported)
	wrapper, err := kwp.NewKWP(ephemeral)
	require.NoError(t, err)
	wrapped, err := wrapper.Wrap(imported)
	require.NoError(t, err)
	sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public.(*rsa.PublicKey), ephemeral, nil)
	require.NoError(t, err)
	_, err = d.root.Logical().Write(d.server.Mount()+"/keys/"+name+"/import", map[string]any{
		"ciphertext": base64.StdEncoding.EncodeToString(append(sealed, wrapped...)), "type": "aes256-gcm96", "derived": true,
		"hash_function": "SHA256",
	})
	require.NoError(t, err)
}

// pointPolicy writes or deletes the policy ".".
func (d *deployment) pointPolicy(t *testing.T, method, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, d.root.Address()+"/v1/sys/policies/acl/%2e", strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("X-Vault-Token", d.root.Token())
	response, err := d.root.CloneConfig().HttpClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusNoContent, response.StatusCode)
}

// restoreKey makes an envelope key that is known outside of Vault, and that shows no setting of one.
func (d *deployment) restoreKey(t *testing.T, name string) {
	t.Helper()
	path := d.server.Mount() + "/keys/" + name
	write := func(path string, body map[string]any) {
		_, err := d.root.Logical().Write(path, body)
		require.NoError(t, err)
	}
	write(path, map[string]any{"type": "aes256-gcm96", "derived": true, "exportable": true, "allow_plaintext_backup": true})
	secret, err := d.root.Logical().Read(d.server.Mount() + "/backup/" + name)
	require.NoError(t, err)
	text, err := base64.StdEncoding.DecodeString(secret.Data["backup"].(string))
	require.NoError(t, err)
	backup := map[string]map[string]any{}
	require.NoError(t, json.Unmarshal(text, &backup))
	require.NotEmpty(t, backup["policy"]["keys"].(map[string]any)["1"].(map[string]any)["key"])
	backup["policy"]["exportable"], backup["policy"]["allow_plaintext_backup"], backup["policy"]["backup_info"] = false, false, nil
	text, err = json.Marshal(backup)
	require.NoError(t, err)
	write(path+"/config", map[string]any{"deletion_allowed": true})
	_, err = d.root.Logical().Delete(path)
	require.NoError(t, err)
	write(d.server.Mount()+"/restore/"+name, map[string]any{"backup": base64.StdEncoding.EncodeToString(text)})
}

// What may be beside recvault in the same Vault is no drift.
func TestWhatIsAllowedIsNoDrift(t *testing.T) {
	d := deployBare(t)
	mount, prefix := d.server.Mount(), d.server.Prefix()
	require.NoError(t, d.root.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
	require.NoError(t, d.root.Sys().PutPolicy("other", `
path "`+mount+`2/*"               { capabilities = ["update"] }
path "`+prefix+`/+"               { capabilities = ["update"] }
path "+/decrypt/*"                { capabilities = ["update"] }
path "`+mount+`/*"                { capabilities = ["deny"] }
path "auth/token/create"          { capabilities = ["update"] }
path "auth/token/create/another"  { capabilities = ["update"] }
path "identity/oidc/*"            { capabilities = ["read"] }
path "identity/oidc/role/*"       { capabilities = ["create", "update"] }
path "sys/leases/+"               { capabilities = ["update"] }
path "sys/leases/lookup/*"        { capabilities = ["list"] }
path "sys/leases/revoke-prefix/database/*" { capabilities = ["update", "sudo"] }
path "sys/quotas/*"               { capabilities = ["read", "list"] }
path "auth/approle/role/*"        { capabilities = ["read"] }
path "sys/plugins/*"              { capabilities = ["read"] }
path "sys/storage/raft/snapshot"  { capabilities = ["read"] }
path "secret/data/{{identity.entity.id}}/*" { capabilities = ["read"] }`))
	_, err := d.root.Logical().Write("auth/token/roles/other", map[string]any{"allowed_policies": "other", "token_period": "24h"})
	require.NoError(t, err)
	_, err = d.root.Logical().Write("auth/token/roles/services", map[string]any{"allowed_policies": prefix + "-writer", "token_explicit_max_ttl": "1h"})
	require.NoError(t, err)
	_, err = d.root.Logical().Write("auth/token/create/services", nil)
	require.NoError(t, err)
	no := false
	for _, request := range []api.TokenCreateRequest{
		{Policies: []string{"other"}, Period: "24h"},
		{Policies: []string{prefix + "-writer"}, TTL: "1h", Renewable: &no},
		{Policies: []string{prefix + "-writer"}, ExplicitMaxTTL: "1h"},
	} {
		_, err := d.root.Auth().Token().CreateOrphan(&request)
		require.NoError(t, err)
	}
	d.requireSound(t)

	require.NoError(t, d.root.Sys().EnableAuditWithOptions("third", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": t.TempDir() + "/log", "hmac_accessor": "0"},
	}))
	d.requireSound(t)
	assert.Contains(t, notes(d.drift(t, d.driftOptions())), "third/ shows accessors in clear")

	for path, body := range map[string]map[string]any{
		"sys/quotas/rate-limit/other":      {"path": "auth/approle/", "rate": 5},
		"sys/quotas/rate-limit/everything": {"path": "", "rate": 5000},
		"sys/quotas/config":                {"enable_rate_limit_audit_logging": true},
		"sys/auth/token/tune":              {"max_lease_ttl": "120s", "listing_visibility": "unauth"},
	} {
		_, err := d.root.Logical().Write(path, body)
		require.NoError(t, err)
	}
	d.requireSound(t)
	judged := notes(d.drift(t, d.driftOptions()))
	assert.Contains(t, judged, "quota everything: 5000 requests in 1 s to all of Vault; beyond that,")
	assert.NotContains(t, judged, "quota other")
	assert.Contains(t, judged, "max_lease_ttl is 120 s: no grant lasts longer")
	assert.Contains(t, judged, "listing_visibility is unauth")

	// An erasure that broke off after its mark, and one before it.
	for _, name := range []string{strings.Repeat("a", 32) + "-kek", strings.Repeat("b", 32) + "-kek"} {
		_, err := d.root.Logical().Write(mount+"/keys/"+name, map[string]any{"type": "aes256-gcm96", "derived": true})
		require.NoError(t, err)
		_, err = d.root.Logical().Write(mount+"/keys/"+name+"/config", map[string]any{"deletion_allowed": true})
		require.NoError(t, err)
	}
	_, err = d.root.Logical().Write(mount+"/keys/erased-"+strings.Repeat("a", 32)+"-kek", map[string]any{"type": "hmac", "key_size": 32})
	require.NoError(t, err)
	report := d.drift(t, d.driftOptions())
	assert.Equal(t, []string{"keys of patients: " + strings.Repeat("b", 32) + "-kek deletion_allowed: expected false, found true"}, found(report))
	assert.Contains(t, notes(report), strings.Repeat("a", 32)+"-kek may be deleted, and has the mark of an erasure")
}

func TestExpectedPoliciesAreListedAndNoDrift(t *testing.T) {
	d := deployBare(t)
	require.NoError(t, d.root.Sys().PutPolicy("administrators", `path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }`))
	require.Len(t, found(d.drift(t, d.driftOptions())), 1)
	options := d.driftOptions()
	options.Expected = []string{"administrators"}
	report := d.drift(t, options)
	assert.Empty(t, found(report))
	assert.Contains(t, notes(report), "expected: administrators: create, read, update, delete, list, sudo on * (reaches keys, ")

	_, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{"administrators"}, Period: "24h"})
	require.NoError(t, err)
	lines := found(d.drift(t, options))
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "expected a token that ends, found policies administrators")
}

// TestDriftSamples checks that the bounds hold, and that the report says what was left out.
func TestDriftSamples(t *testing.T) {
	d := deployBare(t)
	for _, letter := range []string{"a", "b", "c", "d", "e"} {
		_, err := d.root.Logical().Write(d.server.Mount()+"/keys/"+strings.Repeat(letter, 32)+"-kek", map[string]any{"type": "aes256-gcm96"})
		require.NoError(t, err)
	}
	for range 3 {
		_, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{"root"}})
		require.NoError(t, err)
	}
	options := d.driftOptions()
	options.Keys, options.Tokens = 2, 1
	report := d.drift(t, options)
	var drifts []string
	for _, c := range report.Comparisons {
		switch c.Name {
		case "keys of patients":
			assert.Len(t, c.Drifts, 2)
			assert.Equal(t, "2 of 5 keys, drawn at random", c.Compared)
			assert.Equal(t, []string{"3 keys were not in the sample"}, c.Notes)
		case "tokens":
			assert.Regexp(t, "^1 of 4 tokens", c.Compared)
		default:
			drifts = append(drifts, found(transitcheck.DriftReport{Comparisons: []transitcheck.Comparison{c}})...)
		}
	}
	assert.Empty(t, drifts)
}

// TestDriftPolicySuffices runs a comparison with the policy that is made for it, and with less.
func TestDriftPolicySuffices(t *testing.T) {
	d := deployBare(t)
	where := transit.Options{Mount: d.server.Mount(), Prefix: d.server.Prefix()}
	text, err := transitcheck.DriftPolicy(where)
	require.NoError(t, err)
	require.NoError(t, d.root.Sys().PutPolicy("comparisons", text))
	token := func(policy string) *api.Client {
		secret, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{policy}, NoDefaultPolicy: true, ExplicitMaxTTL: "1h"})
		require.NoError(t, err)
		return d.server.Client(secret.Auth.ClientToken)
	}
	report, err := transitcheck.FindDrift(t.Context(), token("comparisons"), d.driftOptions())
	require.NoError(t, err)
	assert.Zero(t, report.Unchecked())
	require.Len(t, found(report), 1)
	assert.Contains(t, found(report)[0], "no root token but that of this run")
	assert.Contains(t, notes(report), "expected: comparisons, for comparisons such as this one")

	// It changes nothing and uses no key.
	key := strings.Repeat("a", 32) + "-kek"
	for _, path := range []string{
		where.Mount + "/decrypt/" + key, where.Mount + "/encrypt/" + key, where.Mount + "/rewrap/" + key, where.Mount + "/keys/" + key,
		where.Mount + "/keys/" + key + "/config", where.Mount + "/hmac/pseudonym", "sys/policies/acl/" + where.Prefix + "-grant", "sys/audit/file",
		"auth/token/roles/" + where.Prefix + "-grant", "auth/token/create", "auth/token/create/" + where.Prefix + "-grant", "auth/token/lookup",
		"auth/token/revoke-accessor", "identity/entity", "identity/entity-alias", "sys/mounts/" + where.Mount + "/tune", "sys/auth/approle",
		"sys/config/auditing/request-headers/X-Vault-Token", "sys/quotas/rate-limit/other", "sys/quotas/config", "sys/leases/revoke",
		where.Mount + "/config/keys", where.Mount + "/export/encryption-key/" + key,
	} {
		capabilities, err := d.root.Sys().Capabilities(token("comparisons").Token(), path)
		require.NoError(t, err)
		for _, capability := range capabilities {
			assert.Contains(t, []string{"deny", "read", "list"}, capability, path)
		}
	}

	report, err = transitcheck.FindDrift(t.Context(), token(where.Prefix+"-auditor"), d.driftOptions())
	require.NoError(t, err)
	assert.Empty(t, found(report))
	for _, c := range report.Comparisons {
		switch c.Name {
		case "audit devices":
			assert.Equal(t, []string{"needs read and sudo on sys/audit"}, c.Unchecked)
		case "headers in the audit log", "quotas", "wrapped answers", "entity aliases", "other policies", "other token roles", "tokens":
			assert.Len(t, c.Unchecked, 1, c.Name)
			assert.Empty(t, c.Compared, c.Name)
		case "what the audit log shows of other mounts":
			assert.Equal(t, []string{"needs read on sys/mounts"}, c.Unchecked)
		default:
			assert.Empty(t, c.Unchecked, c.Name)
			assert.NotEmpty(t, c.Compared, c.Name)
		}
	}
}

// Tokens that end while they are compared are no drift, and leave nothing unchecked.
func TestDriftOfWhatEndsInBetween(t *testing.T) {
	d := deployBare(t)
	mount := d.server.Mount()
	var accessors []string
	for range 100 {
		secret, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{Policies: []string{d.server.Prefix() + "-writer"}, ExplicitMaxTTL: "1h"})
		require.NoError(t, err)
		accessors = append(accessors, secret.Auth.Accessor)
	}
	removed := make(chan error)
	go func() {
		for n, accessor := range accessors {
			if err := d.root.Auth().Token().RevokeAccessor(accessor); err != nil {
				removed <- fmt.Errorf("token %d: %w", n, err)
				return
			}
		}
		removed <- nil
	}()
	for done := false; !done; {
		report := d.drift(t, transitcheck.DriftOptions{Mount: mount, Prefix: d.server.Prefix()})
		assert.Empty(t, found(report))
		for _, c := range report.Comparisons {
			assert.Empty(t, c.Unchecked, c.Name)
		}
		select {
		case err := <-removed:
			require.NoError(t, err)
			done = true
		default:
		}
	}
}

func TestDriftErrors(t *testing.T) {
	d := deployBare(t)
	compare := func(client *api.Client) error {
		_, err := transitcheck.FindDrift(t.Context(), client, d.driftOptions())
		return err
	}
	require.ErrorIs(t, compare(d.server.Client("hvs.unknown")), keys.ErrUnauthenticated)
	require.ErrorIs(t, compare(d.server.Client(d.token(t, "revoker"))), keys.ErrDenied)
	ended, end := context.WithCancel(t.Context())
	end()
	_, err := transitcheck.FindDrift(ended, d.root, d.driftOptions())
	require.ErrorIs(t, err, context.Canceled)
	for name, options := range map[string]transitcheck.DriftOptions{
		"mount": {Mount: "a b"}, "prefix": {Prefix: "A"}, "store": {Store: "x"}, "keys": {Keys: -1}, "tokens": {Tokens: -1}, "TTL": {MaxGrantTTL: 1},
	} {
		_, err := transitcheck.FindDrift(t.Context(), d.root, options)
		require.Error(t, err, name)
	}
	d.server.Seal(t)
	require.ErrorIs(t, compare(d.root), keys.ErrUnavailable)
	d.server.Stop(t)
	require.ErrorIs(t, compare(d.root), keys.ErrUnavailable)
}
