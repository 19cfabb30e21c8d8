package testserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/internal/testserver/binary"
)

// VaultServer is one test's view of a Vault server, which is initialised and unsealed and has a file audit
// device. The server keeps its data on disk.
type VaultServer struct {
	vault     *vault
	options   options
	t         testing.TB
	prefix    string
	auditFrom int64 // the size of the audit file when the test began
}

// Vault returns a running Vault: the server that the tests of this process share, or a dedicated one. It must
// be called from the test's goroutine.
func Vault(t testing.TB, given ...Option) *VaultServer {
	t.Helper()
	o := newOptions(given)
	v := obtain(t, o, sharedVault, startVault)
	if o.legacyTokens && !strings.HasPrefix(v.rootToken, "s.") {
		t.Skip("testserver: this Vault has no tokens that start with \"s.\"")
	}
	return &VaultServer{vault: v, options: o, t: t, prefix: "t" + randomName(6), auditFrom: fileSize(v.auditFile())}
}

// Client returns a new client with the given token, or without one if it is empty. The client has the default
// retries of Vault's library.
func (s *VaultServer) Client(token string) *api.Client {
	s.t.Helper()
	client, closeIdle, err := s.vault.client(token)
	check(s.t, err)
	s.t.Cleanup(closeIdle)
	return client
}

// RootToken returns the root token, which has all rights.
func (s *VaultServer) RootToken() string { return s.vault.rootToken }

// RoleToken returns a token that is valid for an hour and has one policy, that of a role: "<Prefix>-<role>".
func (s *VaultServer) RoleToken(role string) string {
	s.t.Helper()
	client, closeIdle, err := s.vault.client(s.RootToken())
	check(s.t, err)
	defer closeIdle()
	secret, err := client.Auth().Token().CreateOrphanWithContext(s.t.Context(), &api.TokenCreateRequest{
		Policies: []string{s.prefix + "-" + role}, NoDefaultPolicy: true, TTL: "1h", ExplicitMaxTTL: "1h",
	})
	check(s.t, err)
	return secret.Auth.ClientToken
}

// Mount returns a mount path for this test, such as "t1a2b3c4d5e6f/recordings". Nothing is mounted there yet.
func (s *VaultServer) Mount() string { return s.prefix + "/recordings" }

// Prefix returns a prefix for the names of this test's policies and token roles, such as "t1a2b3c4d5e6f".
func (s *VaultServer) Prefix() string { return s.prefix }

// Address returns the server's URL.
func (s *VaultServer) Address() string { return s.vault.url() }

// CAFile returns the path of the certificate of the authority that signed the server's certificate, or ""
// if the server does not serve TLS.
func (s *VaultServer) CAFile() string { return s.vault.caFile() }

// PID returns the server's process ID. The server must be dedicated and running.
func (s *VaultServer) PID(t testing.TB) int {
	t.Helper()
	requireDedicated(t, s.options)
	s.vault.mu.Lock()
	defer s.vault.mu.Unlock()
	if s.vault.process == nil {
		t.Fatal("testserver: the server is stopped")
	}
	return s.vault.process.PID()
}

// DataDir returns the directory of the server's data.
func (s *VaultServer) DataDir() string { return s.vault.dataDir() }

// Seal seals the server, which must be dedicated.
func (s *VaultServer) Seal(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	check(t, s.vault.seal(t.Context()))
}

// Unseal unseals the server.
func (s *VaultServer) Unseal(t testing.TB) {
	t.Helper()
	check(t, s.vault.unseal(t.Context()))
}

// Stop shuts the server down and waits until it has ended. The server must be dedicated.
func (s *VaultServer) Stop(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	check(t, s.vault.stop())
}

// Kill ends the server at once, as a power cut would. The server must be dedicated.
func (s *VaultServer) Kill(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	s.vault.kill()
}

// Restart starts the server again, with the same data and address, and unseals it. It stops a running server
// first. The server must be dedicated.
func (s *VaultServer) Restart(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	check(t, s.vault.stop())
	check(t, s.vault.start(t.Context(), s.vault))
	check(t, s.vault.unseal(t.Context()))
}

// vault is a Vault server and its secrets, which exist only in memory.
type vault struct {
	*server
	identity     string // sent in a header; distinguishes this server from others on its port
	legacyTokens bool
	rootToken    string
	unsealKey    string
}

// sharedVault returns the shared server. The first call starts it.
var sharedVault = sync.OnceValues(func() (*vault, error) {
	return startVault(context.Background(), options{})
})

func startVault(ctx context.Context, o options) (*vault, error) {
	s, err := newServer(ctx, binary.Vault, o)
	if err != nil {
		return nil, err
	}
	v := &vault{server: s, identity: randomName(16), legacyTokens: o.legacyTokens}
	if err := v.start(ctx, v); err != nil {
		return nil, errors.Join(err, v.remove())
	}
	if err := v.initialise(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w:\n%s", err, v.logTail(0)), v.remove())
	}
	return v, nil
}

const identityHeader = "Recvault-Test-Server"

func (v *vault) command() (arguments, environment []string, err error) {
	listener := map[string]any{
		"address":                 v.address,
		"tls_disable":             v.tls == nil,
		"custom_response_headers": map[string]any{"default": map[string]any{identityHeader: []string{v.identity}}},
	}
	if v.tls != nil {
		listener["tls_cert_file"], listener["tls_key_file"] = v.tls.cert, v.tls.key
	}
	config, err := json.Marshal(map[string]any{
		"listener":      map[string]any{"tcp": listener},
		"storage":       map[string]any{"file": map[string]any{"path": v.dataDir()}},
		"api_addr":      v.url(),
		"disable_mlock": true,
		"log_level":     "info",
	})
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(v.dir, "config.json")
	if v.legacyTokens {
		environment = []string{"VAULT_DISABLE_SERVER_SIDE_CONSISTENT_TOKENS=true"}
	}
	return []string{"server", "-config=" + path}, environment, os.WriteFile(path, config, 0o600)
}

func (v *vault) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	transport, err := v.transport()
	if err != nil {
		return err
	}
	transport.DisableKeepAlives = true
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, v.url()+"/v1/sys/seal-status", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || response.Header.Get(identityHeader) != v.identity {
		return fmt.Errorf("another server answers, or status is %d", response.StatusCode)
	}
	return nil
}

func (v *vault) initialise(ctx context.Context) error {
	client, closeIdle, err := v.client("")
	if err != nil {
		return err
	}
	defer closeIdle()
	secrets, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialise vault: %w", err)
	}
	v.rootToken, v.unsealKey = secrets.RootToken, secrets.KeysB64[0]
	if err := v.unseal(ctx); err != nil {
		return err
	}
	client.SetToken(v.rootToken)
	audit := api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": v.auditFile()}}
	if err := client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &audit); err != nil {
		return fmt.Errorf("enable vault's audit device: %w", err)
	}
	return nil
}

func (v *vault) unseal(ctx context.Context) error {
	client, closeIdle, err := v.client("")
	if err != nil {
		return err
	}
	defer closeIdle()
	status, err := client.Sys().UnsealWithContext(ctx, v.unsealKey)
	if err != nil {
		return fmt.Errorf("unseal vault: %w", err)
	}
	if status.Sealed {
		return errors.New("unseal vault: the server is still sealed")
	}
	return nil
}

func (v *vault) seal(ctx context.Context) error {
	client, closeIdle, err := v.client(v.rootToken)
	if err != nil {
		return err
	}
	defer closeIdle()
	if err := client.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("seal vault: %w", err)
	}
	return nil
}

// client returns a client, and a function that closes its idle connections. It ignores the developer's own
// VAULT_* variables.
func (v *vault) client(token string) (*api.Client, func(), error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, nil, config.Error
	}
	transport, err := v.transport()
	if err != nil {
		return nil, nil, err
	}
	config.Address, config.AgentAddress = v.url(), ""
	config.HttpClient.Transport = transport
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, err
	}
	client.ClearNamespace()
	client.SetToken(token)
	return client, transport.CloseIdleConnections, nil
}

func (v *vault) auditFile() string { return filepath.Join(v.dir, "audit.log") }

func (v *vault) dataDir() string { return filepath.Join(v.dir, "data") }
