package auditlog_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/internal/testserver"
)

// Logins, and requests that a quota refused, leave entries of other shapes. None is a gap, or a use of a key.
func TestLoginsAndQuotasAreNoGaps(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	root := v.Client(v.RootToken())
	second := filepath.Join(t.TempDir(), "second.log")
	require.NoError(t, root.Sys().EnableAuditWithOptions("second", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": second},
	}))
	read := func() *auditlog.Report {
		t.Helper()
		var sources []auditlog.Source
		for _, file := range []string{v.AuditFile(), second} {
			sources = append(sources, auditlog.Source{Name: file, Open: func() (io.ReadCloser, error) { return os.Open(file) }})
		}
		report, err := auditlog.Read(t.Context(), sources, auditlog.Options{Mount: v.Mount(), Prefix: v.Prefix()})
		require.NoError(t, err)
		return report
	}
	before := read().Totals

	login := v.AppRole(t, "writer", testserver.Lifetime{TTL: time.Minute, Max: time.Minute})
	secretID, err := os.ReadFile(login.File)
	require.NoError(t, err)
	wrapping := v.Client("")
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "1m" })
	for _, client := range []*api.Client{root, v.Client(""), wrapping} { // a client may send the token that it has
		_, err = client.Logical().Write("auth/"+login.Mount+"/login", map[string]any{"role_id": login.Role, "secret_id": string(secretID)})
		require.NoError(t, err)
	}
	require.NoError(t, root.Sys().Mount(v.Mount(), &api.MountInput{
		Type: "transit", Config: api.MountConfigInput{AuditNonHMACRequestKeys: []string{"context", "batch_input"}},
	}))
	for path, body := range map[string]map[string]any{
		"sys/quotas/config":           {"enable_rate_limit_audit_logging": true},
		"sys/quotas/rate-limit/other": {"path": v.Mount() + "/", "rate": 1, "interval": "1h"},
	} {
		_, err = root.Logical().Write(path, body)
		require.NoError(t, err)
	}
	root.SetMaxRetries(0)
	for range 3 { // the first is refused because there is no such key
		_, err = root.Logical().Write(v.Mount()+"/decrypt/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-kek", map[string]any{"ciphertext": "vault:v1:", "context": "YQ=="})
		require.Error(t, err)
	}
	require.ErrorContains(t, err, "rate limit quota exceeded")

	after := read().Totals
	assert.Equal(t, before.Unexplained, after.Unexplained)
	assert.Equal(t, before.Outside, after.Outside)
	assert.Zero(t, after.Outside+after.Unexplained)
}

// TestAForgedQuotaHidesNoOpening makes a request whose answer was removed look like one that a quota refused.
func TestAForgedQuotaHidesNoOpening(t *testing.T) {
	request := `{"type":"request","time":"2026-11-26T11:00:00Z","error":"rate limit quota exceeded","auth":{"accessor":"hmac-sha256:1111111111111111",` +
		`"policies":["recvault-grant"],"metadata":{"key_id":"2bt33bqshc2666dvzs4abvwgudvg3lno","subject":"dr-lee"}},` +
		`"request":{"id":"a","operation":"update","path":"recordings/decrypt/2bt33bqshc2666dvzs4abvwgudvg3lno-kek","client_token":"hmac-sha256:2222222222222222"}}`
	report, err := auditlog.Read(t.Context(), []auditlog.Source{inMemory("log", request)}, auditlog.Options{})
	require.NoError(t, err)
	assert.Equal(t, 1, report.Totals.Gaps[auditlog.NoAnswer])
	assert.True(t, report.Problems())
}
