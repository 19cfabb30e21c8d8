package transit_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

// attempts returns the audit entries of attempts to decrypt with a patient's key, one for each.
func (f *fixture) attempts(id keys.KeyID) []testserver.AuditEntry {
	var found []testserver.AuditEntry
	for _, entry := range f.server.Audit(f.t) {
		if entry.Type == "response" && entry.Request.Path == f.options.Mount+"/decrypt/"+id.String()+"-kek" {
			found = append(found, entry)
		}
	}
	return found
}

func TestAuditLogShowsEveryAttempt(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	alice, aliceID := f.enrol(k)
	bob, bobID := f.enrol(k)
	rec := f.record(k, aliceID)
	context := base64.StdEncoding.EncodeToString(rec.binding.Bytes())

	bobs := keys.GrantOptions{TTL: grantOptions().TTL, Subject: "account-of-bob", Purpose: keys.BreakTheGlass, Reason: "unconscious", RequestID: "session-41"}
	grant, err := k.Issue(t.Context(), bob, bobs)
	require.NoError(t, err)
	_, err = k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
	require.ErrorIs(t, err, keys.ErrDenied)

	attempts := f.attempts(aliceID)
	require.Len(t, attempts, 1)
	refused := attempts[0]
	assert.Contains(t, refused.Error, "permission denied")
	assert.Equal(t, "update", refused.Request.Operation)
	assert.Equal(t, context, refused.Request.Data["context"], "the binding is not in clear")
	assert.Equal(t, map[string]string{
		"key_id": bobID.String(), "subject": "account-of-bob", "purpose": "BTG", "reason": "unconscious", "request_id": "session-41",
	}, refused.Auth.Metadata)
	assert.NotEmpty(t, refused.Auth.EntityID)

	f.opens(k, f.grant(k, alice), rec)
	attempts = f.attempts(aliceID)
	require.Len(t, attempts, 2)
	opened := attempts[1]
	assert.Empty(t, opened.Error)
	assert.WithinDuration(t, time.Now(), opened.Time, time.Minute)
	assert.Equal(t, context, opened.Request.Data["context"])
	assert.Equal(t, map[string]string{
		"key_id": aliceID.String(), "subject": "dr-lee", "purpose": "TREAT", "request_id": "case-7",
	}, opened.Auth.Metadata)

	// An attempt with an ended grant is logged too, though without the grant's details.
	require.NoError(t, k.RevokeSelf(t.Context(), grant))
	_, err = k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
	require.ErrorIs(t, err, keys.ErrInvalidGrant)
	attempts = f.attempts(aliceID)
	require.Len(t, attempts, 3)
	assert.Contains(t, attempts[2].Error, "invalid token")
	assert.Equal(t, context, attempts[2].Request.Data["context"])

	// A rewrap is logged with its bindings.
	_, err = k.Rewrap(t.Context(), aliceID, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
	require.NoError(t, err)
	entries := f.server.Audit(t)
	last := entries[len(entries)-1]
	assert.Equal(t, f.options.Mount+"/rewrap/"+aliceID.String()+"-kek", last.Request.Path)
	require.IsType(t, []any{}, last.Request.Data["batch_input"])
	assert.Equal(t, context, last.Request.Data["batch_input"].([]any)[0].(data)["context"])
}

// TestAQuotaHidesAttemptsAndStopsLogouts: this is why a comparison of Vault names quotas.
func TestAQuotaHidesAttemptsAndStopsLogouts(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	alice, aliceID := f.enrol(k)
	rec, grant := f.record(k, aliceID), f.grant(k, alice)
	for name, path := range map[string]string{"keys": f.options.Mount + "/", "logouts": "auth/token/revoke-self"} {
		_, err := f.admin.Logical().Write("sys/quotas/rate-limit/"+name, data{"path": path, "rate": 1, "interval": "1h"})
		require.NoError(t, err)
	}
	attempt := func() {
		t.Helper()
		_, err := k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
		require.ErrorIs(t, err, keys.ErrUnavailable)
		require.ErrorContains(t, err, "rate limit quota exceeded")
	}
	lines := func() (n int) {
		for _, entry := range f.server.Audit(t) {
			if entry.Request.Path == f.options.Mount+"/decrypt/"+aliceID.String()+"-kek" {
				n++
			}
		}
		return n
	}
	f.opens(k, grant, rec)
	before := lines()
	attempt()
	assert.Equal(t, before, lines(), "the attempt is not in the log")
	_, err := f.admin.Logical().Write("sys/quotas/config", data{"enable_rate_limit_audit_logging": true})
	require.NoError(t, err)
	attempt()
	assert.Greater(t, lines(), before)

	require.NoError(t, k.RevokeSelf(t.Context(), f.grant(k, alice)))
	require.ErrorIs(t, k.RevokeSelf(t.Context(), grant), keys.ErrUnavailable, "the grant lives on")
}

// TestTuningOfTheTokenMountOnlyShortensGrants: a comparison of Vault notes it, and it is no difference.
func TestTuningOfTheTokenMountOnlyShortensGrants(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	alice, _ := f.enrol(k)
	for name, c := range map[string]struct {
		tuned     string
		ask, want time.Duration
	}{
		"longer":  {"8760h", 20 * time.Hour, 4 * time.Hour},
		"shorter": {"120s", 15 * time.Minute, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.admin.Logical().Write("sys/auth/token/tune", data{"max_lease_ttl": c.tuned, "default_lease_ttl": "100s"})
			require.NoError(t, err)
			options := grantOptions()
			options.TTL = c.ask
			grant, err := k.Issue(t.Context(), alice, options)
			require.NoError(t, err)
			assert.WithinDuration(t, time.Now().Add(c.want), grant.Details().Expires, 30*time.Second)
		})
	}
}

func TestAuditLogShowsEveryGrant(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient, id := f.enrol(k)
	for _, kind := range []string{"grant", "describe"} {
		options := grantOptions()
		options.DescribeOnly = kind == "describe"
		_, err := k.Issue(t.Context(), patient, options)
		require.NoError(t, err)
		_, err = f.keyring("writer").Issue(t.Context(), patient, options)
		require.ErrorIs(t, err, keys.ErrDenied)

		var found []testserver.AuditEntry
		for _, entry := range f.server.Audit(t) {
			if entry.Type == "response" && entry.Request.Path == "auth/token/create/"+f.options.Prefix+"-"+kind {
				found = append(found, entry)
			}
		}
		require.Len(t, found, 2)
		assert.Equal(t, []string{f.options.Prefix + "-granter"}, found[0].Auth.Policies, "by whom")
		var line struct {
			Response struct{ Auth testserver.AuditAuth }
		}
		require.NoError(t, json.Unmarshal(found[0].Raw, &line))
		assert.Equal(t, map[string]string{
			"key_id": id.String(), "subject": "dr-lee", "purpose": "TREAT", "request_id": "case-7",
		}, line.Response.Auth.Metadata)
		assert.Equal(t, []string{f.options.Prefix + "-" + kind}, line.Response.Auth.Policies)
		assert.Contains(t, found[1].Error, "permission denied")
		assert.Equal(t, []string{f.options.Prefix + "-writer"}, found[1].Auth.Policies)
	}
}

// TestVaultLogsNoSecret searches Vault's log, and its names of keys and entities, for secrets that
// were in requests and answers.
func TestVaultLogsNoSecret(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	grant := f.grant(k, patient)
	f.opens(k, grant, rec)
	stranger, _ := f.enrol(k)
	_, err := k.Unwrap(t.Context(), f.grant(k, stranger), rec.binding, rec.wrapped)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NoError(t, k.Rotate(t.Context(), id))
	_, err = k.Rewrap(t.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
	require.NoError(t, err)
	require.NoError(t, k.Revoke(t.Context(), grant.Accessor()))
	require.NoError(t, k.Erase(t.Context(), id))

	log, err := os.ReadFile(f.server.AuditFile())
	require.NoError(t, err)
	list, err := f.admin.Logical().ListWithContext(t.Context(), f.options.Mount+"/keys")
	require.NoError(t, err)
	names, err := f.admin.Logical().ListWithContext(t.Context(), "identity/entity/name")
	require.NoError(t, err)
	known := string(log)
	for _, name := range append(list.Data["keys"].([]any), names.Data["keys"].([]any)...) {
		known += "\n" + name.(string)
	}
	require.Contains(t, known, id.String(), "the search cannot find what is there")
	require.Contains(t, known, "erased-"+id.String()+"-kek")
	for what, secret := range map[string][]byte{
		"patient": []byte(patient), "token": []byte(grant.Token()), "recording key": rec.key.Bytes(),
		"accessor": []byte(grant.Accessor()),
	} {
		t.Run(what, func(t *testing.T) {
			for _, form := range []string{
				string(secret), hex.EncodeToString(secret),
				base64.RawStdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
			} {
				assert.GreaterOrEqual(t, len(form), 8)
				assert.NotContains(t, known, form)
			}
		})
	}
}
