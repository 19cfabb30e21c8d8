package transit_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

func TestSetupTwiceChangesNothing(t *testing.T) {
	f := newBareFixture(t)
	f.setup.ExpectedPatients = 5000
	first := f.setUp()
	assert.Len(t, first.Changes, 19, "%v", first)
	assert.Contains(t, first.String(), "engine at "+f.options.Mount+": absent -> transit")
	assert.Contains(t, first.String(), "keys in Vault's memory: 0 -> 5000")
	second := f.setUp()
	assert.Empty(t, second.Changes, "%v", second)
	assert.Equal(t, "nothing to change", transit.Report{Changes: second.Changes}.String())
}

func TestDryRunReportsWhatSetupChanges(t *testing.T) {
	f := newBareFixture(t)
	f.setup.ExpectedPatients = 5000
	f.installSetupPolicy()
	dryRun := func() []transit.Change {
		options := f.setup
		options.DryRun = true
		report, err := transit.Setup(t.Context(), f.server.Client(f.token("setup")), options)
		require.NoError(t, err)
		return report.Changes
	}
	planned := dryRun()
	assert.Len(t, planned, 19)
	assert.Equal(t, planned, dryRun(), "a dry run changed something")
	reads := 0
	for _, entry := range f.server.Audit(t) {
		path := entry.Request.Path
		if strings.Contains(path, f.options.Mount) || strings.HasPrefix(path, "auth/token/roles/"+f.options.Prefix) ||
			strings.HasPrefix(path, "sys/policies/acl/"+f.options.Prefix) && !strings.HasSuffix(path, "-setup") {
			reads++
			assert.Equal(t, "read", entry.Request.Operation, path)
		}
	}
	assert.Greater(t, reads, 2*10)
	assert.Equal(t, planned, f.setUp().Changes)
	assert.Empty(t, dryRun())

	name := f.options.Prefix + "-writer"
	require.NoError(t, f.admin.Sys().PutPolicyWithContext(t.Context(), name, "# nothing"))
	planned = dryRun()
	require.Len(t, planned, 1)
	assert.Equal(t, "policy "+name, planned[0].What)
	assert.Equal(t, planned, f.setUp().Changes)
}

// TestSetupCallsAreTheWholeSetup sends the calls as the comment of SetupCalls describes.
func TestSetupCallsAreTheWholeSetup(t *testing.T) {
	f := newBareFixture(t)
	f.setup.ExpectedPatients = 5000
	f.setup.MaxGrantTTL = time.Hour
	options := f.setup
	options.Store = ""
	calls, err := transit.SetupCalls(options)
	require.NoError(t, err)

	reads := 0
	accessor := transit.TokenAccessor
	for _, call := range calls {
		if call.Method == http.MethodGet {
			reads++
			require.Equal(t, "sys/auth", call.Path)
			answer, err := f.admin.Logical().ReadWithContext(t.Context(), call.Path)
			require.NoError(t, err)
			accessor = answer.Data["token/"].(data)["accessor"].(string)
			continue
		}
		require.Equal(t, http.MethodPost, call.Method)
		text, err := json.Marshal(call.Body)
		require.NoError(t, err)
		var body data
		require.NoError(t, json.Unmarshal(text, &body))
		if policy, ok := body["policy"].(string); ok {
			body["policy"] = strings.ReplaceAll(policy, transit.TokenAccessor, accessor)
		}
		if description, ok := body["description"].(string); ok {
			body["description"] = strings.ReplaceAll(description, transit.StorePlaceholder, string(f.setup.Store))
		}
		_, err = f.admin.Logical().WriteWithContext(t.Context(), call.Path, body)
		require.NoError(t, err, call.Path)
	}
	assert.Equal(t, 1, reads)
	assert.Empty(t, f.setUp().Changes)

	k := f.roles()
	patient, id := f.enrol(k)
	f.opens(k, f.grant(k, patient), f.record(k, id))

	_, err = transit.SetupCalls(transit.SetupOptions{Mount: "a*"})
	assert.Error(t, err)
}

func TestSetupRunsWithItsOwnPolicy(t *testing.T) {
	f := newBareFixture(t)
	f.setup.ExpectedPatients = 20
	f.installSetupPolicy()
	client := f.server.Client(f.token("setup"))
	report, err := transit.Setup(t.Context(), client, f.setup)
	require.NoError(t, err)
	assert.Len(t, report.Changes, 19)
	report, err = transit.Setup(t.Context(), client, f.setup)
	require.NoError(t, err)
	assert.Empty(t, report.Changes, "%v", report)

	k := f.roles()
	patient, id := f.enrol(k)
	f.opens(k, f.grant(k, patient), f.record(k, id))
}

// Each of these changes would weaken what Vault enforces.
func TestSetupCorrectsManualChanges(t *testing.T) {
	f := newFixture(t)
	role := "auth/token/roles/" + f.options.Prefix + "-grant"
	type manualChange struct {
		path string
		data data
		what string
	}
	changes := map[string]manualChange{
		"bindings hidden from the audit log": {"sys/mounts/" + f.options.Mount + "/tune", data{"audit_non_hmac_request_keys": []string{}}, "audit log"},
		"upsert":                             {f.options.Mount + "/config/keys", data{"disable_upsert": false}, "disable_upsert"},
		"more policies":                      {role, data{"allowed_policies": []string{f.options.Prefix + "-grant", "default"}}, "token role"},
		"policies by glob":                   {role, data{"allowed_policies_glob": []string{"*"}}, "token role"},
		"no aliases":                         {role, data{"allowed_entity_aliases": []string{}}, "token role"},
		"not orphans":                        {role, data{"orphan": false}, "token role"},
		"renewable":                          {role, data{"renewable": true}, "token role"},
		"long grants":                        {role, data{"token_explicit_max_ttl": "24h"}, "token role"},
		"endless grants":                     {role, data{"token_explicit_max_ttl": 0}, "token role"},
		"default policy":                     {role, data{"token_no_default_policy": false}, "token role"},
		"periodic":                           {role, data{"token_period": "1h"}, "token role"},
		"batch tokens":                       {role, data{"token_type": "default-batch"}, "token role"},
	}
	for _, name := range []string{"enroller", "writer", "granter", "revoker", "grant", "describe", "rotator", "retirer", "trimmer", "eraser", "auditor"} {
		policy := f.options.Prefix + "-" + name
		changes["policy of the "+name] = manualChange{
			"sys/policies/acl/" + policy, data{"policy": `path "*" { capabilities = ["read"] }`}, "policy " + policy,
		}
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			f := f.with(t)
			_, err := f.admin.Logical().WriteWithContext(t.Context(), change.path, change.data)
			require.NoError(t, err)
			report := f.setUp()
			if assert.Len(t, report.Changes, 1) {
				assert.Contains(t, report.Changes[0].What, change.what)
			}
			assert.Empty(t, f.setUp().Changes)
		})
	}

	require.NoError(t, f.admin.Sys().DeletePolicyWithContext(t.Context(), f.options.Prefix+"-writer"))
	assert.Equal(t, "policy "+f.options.Prefix+"-writer: absent -> as it should be", f.setUp().Changes[0].String())
	_, err := f.admin.Logical().DeleteWithContext(t.Context(), role)
	require.NoError(t, err)
	assert.Equal(t, "token role "+f.options.Prefix+"-grant: absent -> as it should be", f.setUp().Changes[0].String())
}

func TestSetupKeepsOtherTuning(t *testing.T) {
	f := newFixture(t)
	tune, description := "sys/mounts/"+f.options.Mount+"/tune", "ours (recvault store "+string(f.setup.Store)+")"
	_, err := f.admin.Logical().WriteWithContext(t.Context(), tune,
		data{"audit_non_hmac_request_keys": []string{"key_version"}, "description": description, "max_lease_ttl": "2h"})
	require.NoError(t, err)
	assert.Len(t, f.setUp().Changes, 1)
	tuning, err := f.admin.Logical().ReadWithContext(t.Context(), tune)
	require.NoError(t, err)
	assert.ElementsMatch(t, []any{"key_version", "context"}, tuning.Data["audit_non_hmac_request_keys"])
	assert.Equal(t, description, tuning.Data["description"])
	assert.EqualValues(t, "7200", tuning.Data["max_lease_ttl"])
}

func TestSetupNeverReplacesThePseudonymKey(t *testing.T) {
	f := newFixture(t)
	path := f.options.Mount + "/keys/pseudonym"
	patient := newPatient()
	id, err := f.keyringOf(f.admin).KeyID(t.Context(), patient)
	require.NoError(t, err)
	same := func() {
		t.Helper()
		assert.Empty(t, f.setUp().Changes)
		again, err := f.keyringOf(f.admin).KeyID(t.Context(), patient) // of a new keyring, with an empty cache
		require.NoError(t, err)
		assert.Equal(t, id, again)
	}
	same()
	_, err = f.admin.Logical().WriteWithContext(t.Context(), path+"/rotate", nil)
	require.NoError(t, err)
	same()

	_, err = f.admin.Logical().WriteWithContext(t.Context(), path+"/config", data{"deletion_allowed": true})
	require.NoError(t, err)
	_, err = f.admin.Logical().DeleteWithContext(t.Context(), path)
	require.NoError(t, err)
	_, err = f.admin.Logical().WriteWithContext(t.Context(), path, data{"type": "aes256-gcm96"})
	require.NoError(t, err)
	report, err := transit.Setup(t.Context(), f.admin, f.setup)
	assert.ErrorIs(t, err, transit.ErrNotSetUp)
	assert.ErrorContains(t, err, "aes256-gcm96")
	assert.Empty(t, report.Changes)
}

func TestSetupLeavesAnotherEngineAlone(t *testing.T) {
	f := newBareFixture(t)
	f.setup.Mount = "cubbyhole"
	report, err := transit.Setup(t.Context(), f.admin, f.setup)
	assert.ErrorIs(t, err, transit.ErrNotSetUp)
	assert.ErrorContains(t, err, "the engine at cubbyhole is cubbyhole")
	assert.Empty(t, report.Changes)

	f.setup.Mount = strings.Split(f.options.Mount, "/")[0] // a path above an engine that exists
	f.options.Mount = f.setup.Mount + "/below"
	below := f.setup
	below.Mount = f.options.Mount
	_, err = transit.Setup(t.Context(), f.admin, below)
	require.NoError(t, err)
	report, err = transit.Setup(t.Context(), f.admin, f.setup)
	assert.ErrorContains(t, err, "already in use")
	assert.Empty(t, report.Changes)

	// A dry run reads and finds another engine. It cannot find that Vault would refuse the mount.
	for mount, want := range map[string]error{"cubbyhole": transit.ErrNotSetUp, f.setup.Mount: nil} {
		report, err = transit.Setup(t.Context(), f.admin, transit.SetupOptions{Mount: mount, Prefix: f.setup.Prefix, DryRun: true})
		assert.ErrorIs(t, err, want)
		assert.Equal(t, want == nil, len(report.Changes) > 0)
	}
}

func TestInterruptedSetupCanBeRunAgain(t *testing.T) {
	f := newBareFixture(t)
	policies, err := transit.Policies(f.options, f.tokenAccessor())
	require.NoError(t, err)
	// Without the right to the token role, Setup stops there.
	incomplete := strings.ReplaceAll(policies[0].HCL, "auth/token/roles/", "auth/token/other/")
	require.NotEqual(t, policies[0].HCL, incomplete)
	require.NoError(t, f.admin.Sys().PutPolicyWithContext(t.Context(), policies[0].Name, incomplete))
	report, err := transit.Setup(t.Context(), f.server.Client(f.token("setup")), f.setup)
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.Len(t, report.Changes, 16, "%v", report)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report, err = transit.Setup(ctx, f.admin, f.setup)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, report.Changes)

	dry := f.setup
	dry.DryRun = true
	planned, err := transit.Setup(t.Context(), f.admin, dry)
	require.NoError(t, err)
	report = f.setUp()
	assert.Len(t, report.Changes, 2, "%v", report)
	assert.Equal(t, report, planned)
}

func TestSetupRefusesInvalidOptions(t *testing.T) {
	server := testserver.Vault(t)
	for name, spoil := range map[string]func(*transit.SetupOptions){
		"wildcard mount":    func(o *transit.SetupOptions) { o.Mount = "rec+" },
		"mount with quotes": func(o *transit.SetupOptions) { o.Mount = `rec" {}` },
		"mount with dots":   func(o *transit.SetupOptions) { o.Mount = "a/../b" },
		"empty segment":     func(o *transit.SetupOptions) { o.Mount = "a//b" },
		"template mount":    func(o *transit.SetupOptions) { o.Mount = "{{x}}" },
		"upper-case prefix": func(o *transit.SetupOptions) { o.Prefix = "Rec" },
		"prefix with slash": func(o *transit.SetupOptions) { o.Prefix = "a/b" },
		"prefix with star":  func(o *transit.SetupOptions) { o.Prefix = "a*" },
		"endless grants":    func(o *transit.SetupOptions) { o.MaxGrantTTL = 25 * time.Hour },
		"negative TTL":      func(o *transit.SetupOptions) { o.MaxGrantTTL = -time.Hour },
		"odd TTL":           func(o *transit.SetupOptions) { o.MaxGrantTTL = 1500 * time.Millisecond },
		"negative patients": func(o *transit.SetupOptions) { o.ExpectedPatients = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			options := transit.SetupOptions{Mount: server.Mount(), Prefix: server.Prefix()}
			spoil(&options)
			report, err := transit.Setup(t.Context(), server.Client(server.RootToken()), options)
			assert.Error(t, err)
			assert.Empty(t, report.Changes)
		})
	}
}

func TestPoliciesHaveNoPlaceholders(t *testing.T) {
	policies, err := transit.Policies(transit.Options{}, "auth_token_1a2b")
	require.NoError(t, err)
	assert.Len(t, policies, 12)
	for _, policy := range policies {
		assert.Equal(t, "recvault-"+policy.Role, policy.Name)
		assert.NotContains(t, policy.HCL, "<", policy.Name)
		assert.True(t, strings.HasPrefix(policy.HCL, "# Held by "), "%s does not start with its holder", policy.Name)
	}
	open, err := transit.Policies(transit.Options{}, transit.TokenAccessor)
	require.NoError(t, err)
	assert.Contains(t, open[5].HCL, "aliases."+transit.TokenAccessor+".name")
	for _, accessor := range []string{"", "a b", `a"}`, "{{x}}", "*"} {
		_, err := transit.Policies(transit.Options{}, accessor)
		assert.Error(t, err, accessor)
	}
}
