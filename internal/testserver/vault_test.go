package testserver

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestVaultKeepsKeysOverRestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*VaultServer, testing.TB){
		"stopped": (*VaultServer).Stop,
		"killed":  (*VaultServer).Kill,
		"running": func(*VaultServer, testing.TB) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := Vault(t, Dedicated())
			client := v.Client(v.RootToken())
			wrapped := wrap(t, client, v.Mount(), "secret")
			address, process := v.Address(), v.vault.process

			end(v, t)
			v.Restart(t)

			assert.NotSame(t, process, v.vault.process, "Restart starts a new process")
			assert.Equal(t, address, v.Address())
			assert.Equal(t, "secret", unwrap(t, client, v.Mount(), wrapped))
			entries := v.Audit(t)
			require.NotEmpty(t, entries)
			assert.Equal(t, v.Mount()+"/decrypt/kek", entries[len(entries)-1].Request.Path, "the audit device is still enabled")
		})
	}
}

func TestSealedVaultRefusesUntilUnsealed(t *testing.T) {
	t.Parallel()
	v := Vault(t, Dedicated())
	client := v.Client(v.RootToken())
	client.SetMaxRetries(0)
	wrapped := wrap(t, client, v.Mount(), "secret")

	v.Seal(t)
	_, err := client.Logical().WriteWithContext(t.Context(), v.Mount()+"/decrypt/kek", map[string]any{"ciphertext": wrapped})
	var refused *api.ResponseError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)

	v.Unseal(t)
	assert.Equal(t, "secret", unwrap(t, client, v.Mount(), wrapped))
}

func TestVaultReturnsItsPIDAndDataDir(t *testing.T) {
	t.Parallel()
	v := Vault(t, Dedicated())
	stored, err := os.ReadDir(v.DataDir())
	require.NoError(t, err)
	assert.NotEmpty(t, stored)
	process, err := os.FindProcess(v.PID(t))
	require.NoError(t, err)
	require.NoError(t, process.Signal(syscall.Signal(0)), "the process runs")
	v.Kill(t)
	assert.Error(t, process.Signal(syscall.Signal(0)))
}

func TestVaultServesTLS(t *testing.T) {
	t.Parallel()
	v := Vault(t, TLS())
	assert.Regexp(t, `^https://127\.0\.0\.1:\d+$`, v.Address())
	client := v.Client(v.RootToken())
	wrapped := wrap(t, client, v.Mount(), "secret")
	v.Restart(t)
	assert.Equal(t, "secret", unwrap(t, client, v.Mount(), wrapped), "TLS works after a restart too")

	assertTrust(t, v.Address()+"/v1/sys/seal-status", v.CAFile())
}

func TestSharedVaultKeepsTestsApart(t *testing.T) {
	t.Parallel()
	first, second := Vault(t), Vault(t)
	assert.Equal(t, first.Address(), second.Address(), "both tests share one server")
	assert.Empty(t, first.CAFile())
	assert.NotEqual(t, first.Mount(), second.Mount())
	assert.NotEqual(t, first.Prefix(), second.Prefix())

	firstClient, secondClient := first.Client(first.RootToken()), second.Client(second.RootToken())
	wrapped := wrap(t, firstClient, first.Mount(), "secret")
	wrap(t, secondClient, second.Mount(), "other")
	_, err := secondClient.Logical().WriteWithContext(t.Context(), second.Mount()+"/decrypt/kek", map[string]any{"ciphertext": wrapped})
	assert.Error(t, err, "the same key name under another mount is another key")
}

func TestVaultClientUsesGivenTokenOnly(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "the developer's own")
	t.Setenv("VAULT_NAMESPACE", "the developer's own")
	v := Vault(t)
	anonymous := v.Client("")
	anonymous.SetMaxRetries(0)
	_, err := anonymous.Sys().ListMountsWithContext(t.Context())
	var refused *api.ResponseError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, http.StatusForbidden, refused.StatusCode)

	_, err = v.Client(v.RootToken()).Sys().ListMountsWithContext(t.Context())
	assert.NoError(t, err)
}

func TestAuditStartsWithTheTest(t *testing.T) {
	t.Parallel()
	earlier := Vault(t)
	wrap(t, earlier.Client(earlier.RootToken()), earlier.Mount(), "earlier")

	v := Vault(t)
	client := v.Client(v.RootToken())
	require.NoError(t, client.Sys().MountWithContext(t.Context(), v.Mount(), &api.MountInput{
		Type: "transit", Config: api.MountConfigInput{AuditNonHMACRequestKeys: []string{"context"}},
	}))
	_, err := client.Logical().WriteWithContext(t.Context(), v.Mount()+"/keys/kek", map[string]any{"derived": true})
	require.NoError(t, err)
	request := map[string]any{
		"plaintext": base64.StdEncoding.EncodeToString([]byte("secret")),
		"context":   base64.StdEncoding.EncodeToString([]byte("binding")),
	}
	_, err = client.Logical().WriteWithContext(t.Context(), v.Mount()+"/encrypt/kek", request)
	require.NoError(t, err)
	refused := v.Client("no such token")
	_, err = refused.Logical().WriteWithContext(t.Context(), v.Mount()+"/encrypt/kek", request)
	require.Error(t, err)

	var seen []AuditEntry
	for _, entry := range v.Audit(t) {
		assert.NotEqual(t, earlier.Mount()+"/", entry.Request.MountPoint, "an earlier test's request")
		if entry.Request.Path == v.Mount()+"/encrypt/kek" {
			seen = append(seen, entry)
		}
	}
	require.Len(t, seen, 4, "a request and a response of each call")
	for i, kind := range []string{"request", "response"} {
		allowed := seen[i]
		assert.Equal(t, kind, allowed.Type)
		assert.Empty(t, allowed.Error)
		assert.False(t, allowed.Time.IsZero())
		assert.Equal(t, seen[0].Request.ID, allowed.Request.ID)
		assert.Equal(t, "update", allowed.Request.Operation)
		assert.Equal(t, v.Mount()+"/", allowed.Request.MountPoint)
		assert.Equal(t, "root", allowed.Request.Namespace.ID)
		assert.Equal(t, request["context"], allowed.Request.Data["context"], "in clear")
		assert.Regexp(t, "^hmac-sha256:", allowed.Request.Data["plaintext"])
		assert.Equal(t, "root", allowed.Auth.DisplayName)
		assert.Equal(t, []string{"root"}, allowed.Auth.Policies)
		assert.Equal(t, "service", allowed.Auth.TokenType)
		assert.Regexp(t, "^hmac-sha256:", allowed.Auth.Accessor)
		assert.True(t, json.Valid(allowed.Raw))
		assert.Contains(t, string(allowed.Raw), allowed.Request.ID)
	}
	assert.Contains(t, seen[3].Error, "permission denied")
}

func TestVaultLogsNoSecret(t *testing.T) {
	t.Parallel()
	v := Vault(t, Dedicated())
	v.Seal(t)
	v.Restart(t)
	for _, path := range []string{v.vault.logFile(), v.AuditFile(), v.vault.dir + "/config.json"} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NotEmpty(t, content)
			assert.NotContains(t, string(content), v.RootToken())
			assert.NotContains(t, string(content), v.vault.unsealKey)
		})
	}
}

// wrap mounts Transit, makes a key and encrypts the plaintext with it.
func wrap(t *testing.T, client *api.Client, mount, plaintext string) (ciphertext string) {
	t.Helper()
	require.NoError(t, client.Sys().MountWithContext(t.Context(), mount, &api.MountInput{Type: "transit"}))
	_, err := client.Logical().WriteWithContext(t.Context(), mount+"/keys/kek", nil)
	require.NoError(t, err)
	secret, err := client.Logical().WriteWithContext(t.Context(), mount+"/encrypt/kek",
		map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte(plaintext))})
	require.NoError(t, err)
	ciphertext, _ = secret.Data["ciphertext"].(string)
	require.NotEmpty(t, ciphertext)
	return ciphertext
}

func unwrap(t *testing.T, client *api.Client, mount, ciphertext string) (plaintext string) {
	t.Helper()
	secret, err := client.Logical().WriteWithContext(t.Context(), mount+"/decrypt/kek", map[string]any{"ciphertext": ciphertext})
	require.NoError(t, err)
	encoded, _ := secret.Data["plaintext"].(string)
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	return string(decoded)
}

// assertTrust checks that a client trusts a server with its CA file, and does not without.
func assertTrust(t *testing.T, address, caFile string) {
	t.Helper()
	get := func(pool *x509.CertPool) error {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		defer transport.CloseIdleConnections()
		transport.TLSClientConfig.RootCAs = pool
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		require.NoError(t, err)
		response, err := transport.RoundTrip(request)
		return errors.Join(err, func() error {
			if response == nil {
				return nil
			}
			return response.Body.Close()
		}())
	}
	authority, err := os.ReadFile(caFile)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(authority))
	assert.NoError(t, get(pool))

	var unknown x509.UnknownAuthorityError
	assert.ErrorAs(t, get(x509.NewCertPool()), &unknown)
}
