package transit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

func TestGrantExpiresWithItsToken(t *testing.T) {
	f := newBareFixture(t)
	f.setup.MaxGrantTTL = 20 * time.Minute
	f.setUp()
	granter := f.keyring("granter")
	for asked, want := range map[time.Duration]time.Duration{
		5 * time.Minute:           5 * time.Minute,
		90*time.Second + 999*1e6:  90 * time.Second,
		20 * time.Minute:          20 * time.Minute,
		21 * time.Minute:          20 * time.Minute,
		keys.MaxGrantTTL:          20 * time.Minute,
		keys.MinGrantTTL + 59*1e9: time.Minute,
	} {
		t.Run(asked.String(), func(t *testing.T) {
			options := grantOptions()
			options.TTL, options.Reason = asked, "second opinion"
			before := time.Now()
			grant, err := granter.Issue(t.Context(), newPatient(), options)
			require.NoError(t, err)
			assert.WithinRange(t, grant.Expires(), before.Add(want), time.Now().Add(want))

			token, err := f.admin.Auth().Token().LookupAccessorWithContext(t.Context(), grant.Accessor())
			require.NoError(t, err)
			ends, err := time.Parse(time.RFC3339Nano, token.Data["expire_time"].(string))
			require.NoError(t, err)
			assert.False(t, grant.Expires().After(ends.Add(time.Second)), "the grant ends at %v, the token at %v", grant.Expires(), ends)
			assert.Equal(t, map[string]any{
				"key_id": grant.KeyID().String(), "subject": "dr-lee", "purpose": "TREAT", "reason": "second opinion", "request_id": "case-7",
			}, token.Data["meta"])
			assert.Equal(t, true, token.Data["orphan"])
		})
	}
}

// The token role would limit grants even if the granter's policy were wider.
func TestTokenRoleLimitsAWiderPolicy(t *testing.T) {
	f := newFixture(t)
	create := "auth/token/create/" + f.options.Prefix + "-grant"
	policy := f.options.Prefix + "-wide"
	require.NoError(t, f.admin.Sys().PutPolicyWithContext(t.Context(), policy, `path "`+create+`" { capabilities = ["update"] }`))
	wide := f.server.Client(f.token("wide"))
	wide.SetMaxRetries(0)

	issue := func(d data) (*api.Secret, error) {
		d["entity_alias"] = "alice-kek"
		return wide.Logical().WriteWithContext(t.Context(), create, d)
	}
	for name, d := range map[string]data{
		"another policy":     {"policies": []string{policy}},
		"the default policy": {"policies": []string{"default"}},
		"the root policy":    {"policies": []string{"root"}},
		"one policy more":    {"policies": []string{f.options.Prefix + "-grant", policy}},
		"a period":           {"period": "1h"},
		"a token of its own": {"id": "mine"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issue(d)
			var response *api.ResponseError
			require.ErrorAs(t, err, &response)
			assert.Equal(t, 400, response.StatusCode, "%v", err)
		})
	}
	for name, d := range map[string]data{
		"a long life":              {"ttl": "1000h"},
		"a long life, explicitly":  {"ttl": "1000h", "explicit_max_ttl": "1000h"},
		"renewable":                {"ttl": "1000h", "renewable": true},
		"a batch token":            {"ttl": "1000h", "type": "batch"},
		"with the default policy":  {"ttl": "1000h", "no_default_policy": false},
		"a child of the granter's": {"ttl": "1000h", "no_parent": false},
	} {
		t.Run(name, func(t *testing.T) {
			secret, err := issue(d)
			require.NoError(t, err)
			assert.EqualValues(t, 4*60*60, secret.Auth.LeaseDuration)
			assert.False(t, secret.Auth.Renewable)
			assert.True(t, secret.Auth.Orphan)
			assert.Equal(t, []string{f.options.Prefix + "-grant"}, secret.Auth.Policies)
			assert.True(t, strings.HasPrefix(secret.Auth.ClientToken, "hvs."))
		})
	}
}

// Without the suffix the attack works. So it is the token role's demand for the suffix that makes it fail in
// TestRoleMatrix.
func TestAliasSuffixStopsWildcards(t *testing.T) {
	f := newFixture(t)
	root := f.keyringOf(f.admin)
	_, id := f.enrol(root)
	rec := f.record(root, id)
	name := id.String() + "-kek"
	opens := func(alias string) bool {
		secret, err := f.admin.Logical().WriteWithContext(t.Context(), "auth/token/create/"+f.options.Prefix+"-grant",
			data{"entity_alias": alias, "ttl": "60s"})
		if err != nil {
			assert.ErrorContains(t, err, "invalid 'entity_alias' value")
			return false
		}
		key, err := f.keyring("").Unwrap(t.Context(), keys.NewGrant(keys.GrantDetails{}, secret.Auth.ClientToken), rec.binding, rec.wrapped)
		if err != nil {
			assert.ErrorIs(t, err, keys.ErrDenied)
			return false
		}
		assert.Equal(t, rec.key.Bytes(), key.Bytes())
		return true
	}
	for _, alias := range []string{"*", "+", name[:2] + "*"} {
		assert.False(t, opens(alias), "alias %q, as Setup left it", alias)
	}
	for _, demanded := range []string{"*", "*-kek"} {
		_, err := f.admin.Logical().WriteWithContext(t.Context(), "auth/token/roles/"+f.options.Prefix+"-grant",
			data{"allowed_entity_aliases": []string{demanded}})
		require.NoError(t, err)
		for _, alias := range []string{"*", "+", name[:2] + "*"} {
			assert.Equal(t, demanded == "*", opens(alias), "alias %q where %q is allowed", alias, demanded)
		}
		assert.True(t, opens(name))
		for _, alias := range []string{"*-kek", "+-kek", "+/-kek", name[:2] + "*-kek", name[1:], "a" + name} {
			assert.False(t, opens(alias), "alias %q", alias)
		}
	}
}

// Vault treats an alias in capitals as the same alias and keeps the first spelling. One such grant would
// lock the patient out, as the first part shows.
func TestGranterRefusesOtherSpellingsOfAKeyID(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	granter := f.server.Client(f.token("granter"))
	issue := func(client *api.Client, alias string) error {
		_, err := client.Logical().WriteWithContext(t.Context(), "auth/token/create/"+f.options.Prefix+"-grant", data{
			"entity_alias": alias, "ttl": "60s", "meta": map[string]string{"subject": "mallory"},
		})
		return err
	}
	victim, victimID := f.enrol(k)
	rec := f.record(k, victimID)
	require.NoError(t, issue(f.admin, strings.ToUpper(victimID.String())+"-kek"))
	_, err := k.Unwrap(t.Context(), f.grant(k, victim), rec.binding, rec.wrapped)
	require.ErrorIs(t, err, keys.ErrDenied, "Vault no longer confuses capitals: the granter's policy can be simpler")

	others := 0
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if lower := unicode.ToLower(r); lower != r && lower < unicode.MaxASCII {
			others++
			t.Run(fmt.Sprintf("%U", r), func(t *testing.T) {
				err := issue(granter, "abcdefghijklmnop"+string(r)+"qrstuvwxyz234567-kek")
				var response *api.ResponseError
				require.ErrorAs(t, err, &response)
				assert.Equal(t, 403, response.StatusCode)
			})
		}
	}
	assert.Equal(t, 28, others)

	patient, id := f.enrol(k)
	rec = f.record(k, id)
	assert.Error(t, issue(granter, strings.ToUpper(id.String())+"-kek"))
	f.opens(k, f.grant(k, patient), rec)
}

// A change of the token role, or a policy given to the patient's entity, does not make Issue return a
// token that is more than a grant, or leave it behind.
func TestIssueLeavesNoWiderToken(t *testing.T) {
	f := newFixture(t)
	granter := f.keyring("granter")
	patient := newPatient()
	grant := f.grant(granter, patient)
	grantPolicy, writerPolicy := f.options.Prefix+"-grant", f.options.Prefix+"-writer"
	write := func(path string, d data) *api.Secret {
		secret, err := f.admin.Logical().WriteWithContext(t.Context(), path, d)
		require.NoError(t, err)
		return secret
	}
	accessors := func() []any {
		list, err := f.admin.Logical().ListWithContext(t.Context(), "auth/token/accessors")
		require.NoError(t, err)
		return list.Data["keys"].([]any)
	}
	role := "auth/token/roles/" + grantPolicy
	refused := func(t *testing.T) error {
		wider, err := granter.Issue(t.Context(), patient, grantOptions())
		assert.ErrorIs(t, err, transit.ErrNotSetUp)
		assert.True(t, wider.IsZero())
		return err
	}
	t.Run("more policies", func(t *testing.T) {
		write(role, data{"allowed_policies": []string{grantPolicy, writerPolicy}})
		before := accessors()
		assert.NotContains(t, refused(t).Error(), "accessor")
		assert.ElementsMatch(t, before, accessors())
	})
	t.Run("other policies, which may not revoke", func(t *testing.T) {
		write(role, data{"allowed_policies": []string{writerPolicy}})
		before := accessors()
		err := refused(t)
		left := slices.DeleteFunc(accessors(), func(accessor any) bool { return slices.Contains(before, accessor) })
		require.Len(t, left, 1)
		assert.ErrorContains(t, err, fmt.Sprintf("revoke it by its accessor, %q", left[0]))
		require.NoError(t, f.keyring("revoker").Revoke(t.Context(), left[0].(string)))
	})
	f.setUp()
	f.grant(granter, patient)
	t.Run("policies of the entity", func(t *testing.T) {
		entity := write("identity/lookup/entity", data{"alias_name": grant.KeyID().String() + "-kek", "alias_mount_accessor": f.tokenAccessor()})
		write("identity/entity/id/"+entity.Data["id"].(string), data{"policies": []string{writerPolicy}})
		before := accessors()
		assert.NotContains(t, refused(t).Error(), "accessor")
		assert.ElementsMatch(t, before, accessors())
	})
}

// OpenBao's tokens start with "s.", and those of Vault without server side consistent tokens.
func TestGrantsWithLegacyTokens(t *testing.T) {
	f := newFixture(t, testserver.LegacyTokens())
	k := f.roles()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	grant := f.grant(k, patient)
	require.True(t, strings.HasPrefix(grant.Token(), "s."))
	f.opens(k, grant, rec)
	other, _ := f.enrol(k)
	_, err := k.Unwrap(t.Context(), f.grant(k, other), rec.binding, rec.wrapped)
	assert.ErrorIs(t, err, keys.ErrDenied)
	parsed, err := keys.ParseGrant(grant.Reveal())
	require.NoError(t, err)
	require.NoError(t, k.RevokeSelf(t.Context(), parsed))
	_, err = k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
	second := f.grant(k, patient)
	require.NoError(t, k.Revoke(t.Context(), second.Accessor()))
	_, err = k.Unwrap(t.Context(), second, rec.binding, rec.wrapped)
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
}

func TestGranterTokenWithLimitedUsesIsDenied(t *testing.T) {
	f := newFixture(t)
	secret, err := f.admin.Auth().Token().CreateOrphanWithContext(t.Context(), &api.TokenCreateRequest{
		Policies: []string{f.options.Prefix + "-granter"}, NoDefaultPolicy: true, NumUses: 10,
	})
	require.NoError(t, err)
	_, err = f.keyringOf(f.server.Client(secret.Auth.ClientToken)).Issue(t.Context(), newPatient(), grantOptions())
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.NotErrorIs(t, err, keys.ErrUnavailable)
}

// The accessor ends with a namespace that Vault does not have.
func TestRevokeInAnUnknownNamespaceIsInvalid(t *testing.T) {
	f := newFixture(t)
	err := f.keyring("revoker").Revoke(t.Context(), "6RIMVwMdPiwbxbroJbsvTPff.aB3dE")
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
	assert.NotErrorIs(t, err, keys.ErrUnavailable)
}
