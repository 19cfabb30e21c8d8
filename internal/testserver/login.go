package testserver

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Lifetime says how long tokens that come from a login live.
type Lifetime struct {
	TTL, Max  time.Duration
	NoDefault bool // without Vault's policy "default", so that they cannot be renewed
}

// Login is a role of an auth method that gives tokens with the policy of one role, "<Prefix>-<role>".
type Login struct {
	Mount string // of the auth method
	Role  string // its name, or the role ID of an AppRole
	File  string // with the secret ID, or the JWT
}

// AppRole enables AppRole at a mount of its own, with one role.
func (s *VaultServer) AppRole(t testing.TB, role string, life Lifetime) Login {
	t.Helper()
	l := Login{Mount: s.prefix + "/" + randomName(4)}
	path := "auth/" + l.Mount + "/role/" + role
	check(t, s.root(t).Sys().EnableAuthWithOptionsWithContext(t.Context(), l.Mount, &api.EnableAuthOptions{Type: "approle"}))
	s.write(t, path, s.withLife(role, life))
	id, err := s.root(t).Logical().ReadWithContext(t.Context(), path+"/role-id")
	check(t, err)
	l.Role = id.Data["role_id"].(string)
	l.File = secretFile(t, s.write(t, path+"/secret-id", nil).Data["secret_id"].(string))
	return l
}

// JWT enables the JWT auth method at a mount of its own, with one role. A login by Kubernetes sends the same request.
func (s *VaultServer) JWT(t testing.TB, role string, life Lifetime) Login {
	t.Helper()
	l := Login{Mount: s.prefix + "/" + randomName(4), Role: "recvault-" + role}
	public, private, err := ed25519.GenerateKey(nil)
	check(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	check(t, err)
	check(t, s.root(t).Sys().EnableAuthWithOptionsWithContext(t.Context(), l.Mount, &api.EnableAuthOptions{Type: "jwt"}))
	s.write(t, "auth/"+l.Mount+"/config", map[string]any{
		"jwt_validation_pubkeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
		"jwt_supported_algs":     []string{"EdDSA"},
	})
	data := s.withLife(role, life)
	data["role_type"], data["user_claim"], data["bound_subject"] = "jwt", "sub", l.Role
	s.write(t, "auth/"+l.Mount+"/role/"+l.Role, data)
	claims, err := json.Marshal(map[string]any{"sub": l.Role, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
	check(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode(claims)
	l.File = secretFile(t, text+"."+encode(ed25519.Sign(private, []byte(text))))
	return l
}

func (s *VaultServer) withLife(role string, life Lifetime) map[string]any {
	return map[string]any{
		"token_policies": []string{s.prefix + "-" + role}, "token_no_default_policy": life.NoDefault,
		"token_ttl": life.TTL.String(), "token_max_ttl": life.Max.String(),
	}
}

func (s *VaultServer) root(t testing.TB) *api.Client {
	t.Helper()
	client, closeIdle, err := s.vault.client(s.RootToken())
	check(t, err)
	t.Cleanup(closeIdle)
	return client
}

func (s *VaultServer) write(t testing.TB, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := s.root(t).Logical().WriteWithContext(t.Context(), path, data)
	check(t, err)
	return secret
}

func secretFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(path, []byte(text+"\n"), 0o600))
	return path
}
