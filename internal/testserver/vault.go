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
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/internal/testserver/binary"
)

// VaultServer is a Vault that runs, is initialised and unsealed, and has a file audit device, as one
// test sees it. It keeps its data on disk.
type VaultServer struct {
	vault     *vault
	options   options
	t         testing.TB
	prefix    string
	auditFrom int64 // the size of the audit file when the test began
}

// Vault returns a running Vault: the one that the process's tests share, or one of the test's own. It must
// be called from the test's own goroutine.
func Vault(t testing.TB, given ...Option) *VaultServer {
	t.Helper()
	o := gather(given)
	v := obtain(t, o, sharedVault, startVault)
	return &VaultServer{vault: v, options: o, t: t, prefix: "t" + randomName(6), auditFrom: fileSize(v.auditFile())}
}

// Client returns a new client with the given token, or with none if it is empty. It retries as Vault's
// own library does by default.
func (s *VaultServer) Client(token string) *api.Client {
	s.t.Helper()
	client, closeIdle, err := s.vault.client(token)
	check(s.t, err)
	s.t.Cleanup(closeIdle)
	return client
}

// RootToken returns the token that may do everything.
func (s *VaultServer) RootToken() string { return s.vault.rootToken }

// RoleToken returns a token for an hour with the policy of a role, "<Prefix>-<role>", and with no other.
func (s *VaultServer) RoleToken(role string) string {
	s.t.Helper()
	client, closeIdle, err := s.vault.client(s.RootToken())
	check(s.t, err)
	defer closeIdle()
	secret, err := client.Auth().Token().CreateOrphanWithContext(s.t.Context(), &api.TokenCreateRequest{
		Policies: []string{s.prefix + "-" + role}, NoDefaultPolicy: true, TTL: "1h",
	})
	check(s.t, err)
	return secret.Auth.ClientToken
}

// Mount returns a mount path of this test's own, such as "t1a2b3c4d5e6f/recordings". Nothing is mounted
// there yet.
func (s *VaultServer) Mount() string { return s.prefix + "/recordings" }

// Prefix returns a name of this test's own, such as "t1a2b3c4d5e6f", for policies and token roles.
func (s *VaultServer) Prefix() string { return s.prefix }

// Address returns the server's URL.
func (s *VaultServer) Address() string { return s.vault.url() }

// CAFile returns the file with the certificate of the authority that vouches for the server, or "" if
// it does not serve TLS.
func (s *VaultServer) CAFile() string { return s.vault.caFile() }

// PID returns the process ID of the server, which must be the test's own and running.
func (s *VaultServer) PID(t testing.TB) int {
	t.Helper()
	mine(t, s.options)
	s.vault.mu.Lock()
	defer s.vault.mu.Unlock()
	if s.vault.process == nil {
		t.Fatal("testserver: the server is stopped")
	}
	return s.vault.process.pid
}

// DataDir returns the folder in which the server keeps its data.
func (s *VaultServer) DataDir() string { return s.vault.dataDir() }

// Seal seals the server, which must be the test's own.
func (s *VaultServer) Seal(t testing.TB) {
	t.Helper()
	mine(t, s.options)
	check(t, s.vault.seal(t.Context()))
}

// Unseal unseals the server.
func (s *VaultServer) Unseal(t testing.TB) {
	t.Helper()
	check(t, s.vault.unseal(t.Context()))
}

// Stop ends the server, which must be the test's own, in good order, and waits until it has ended.
func (s *VaultServer) Stop(t testing.TB) {
	t.Helper()
	mine(t, s.options)
	check(t, s.vault.stop())
}

// Kill ends the server, which must be the test's own, as a power cut would.
func (s *VaultServer) Kill(t testing.TB) {
	t.Helper()
	mine(t, s.options)
	s.vault.kill()
}

// Restart starts the server, which must be the test's own, with its data at its address, and unseals
// it. If it is running, it is stopped first.
func (s *VaultServer) Restart(t testing.TB) {
	t.Helper()
	mine(t, s.options)
	check(t, s.vault.stop())
	check(t, s.vault.start(t.Context(), s.vault))
	check(t, s.vault.unseal(t.Context()))
}

// vault is a Vault and the secrets that came with it, which are nowhere but in memory.
type vault struct {
	*server
	identity  string // tells it from a server that took its port
	rootToken string
	unsealKey string
}

// sharedVault returns the process's Vault, which the first test that asks for it starts.
var sharedVault = sync.OnceValues(func() (*vault, error) {
	return startVault(context.Background(), options{})
})

func startVault(ctx context.Context, o options) (*vault, error) {
	s, err := newServer(ctx, binary.Vault, o)
	if err != nil {
		return nil, err
	}
	v := &vault{server: s, identity: randomName(16)}
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
	return []string{"server", "-config=" + path}, nil, os.WriteFile(path, config, 0o600)
}

func (v *vault) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
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
		return errors.New("unseal vault: it is still sealed")
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

// client returns a client, and what closes its idle connections. What the developer's own VAULT_*
// variables say of another server does not reach it.
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
