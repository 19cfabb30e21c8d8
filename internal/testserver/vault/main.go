// Command vault is HashiCorp Vault's server with the parts that recvault's tests use: the Transit secrets
// engine, AppRole and JWT authentication, the file audit device and the file storage backend. It is built from
// Vault's own packages, without the user interface, database drivers and cloud plugins, because the tests
// cannot download a Vault binary.
//
// It takes the arguments of Vault's own command, so that a test can start either:
//
//	vault server -config=FILE
//	vault version
//
// With VAULT_DISABLE_SERVER_SIDE_CONSISTENT_TOKENS=true, a variable of Vault 1.10 to 1.13, tokens start with "s.", as
// those of Vault before 1.10 and of OpenBao do.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
	"github.com/hashicorp/vault/version"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vault:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "version" {
		fmt.Printf("Vault v%s (recvault test build)\n", version.GetVersion().VersionNumber())
		return nil
	}
	if len(args) == 0 || args[0] != "server" {
		return errors.New("usage: vault server -config=FILE | vault version")
	}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	path := flags.String("config", "", "configuration `file`, in HCL or JSON")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	config, err := server.LoadConfigFile(*path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return serve(ctx, config)
}

func serve(ctx context.Context, config *server.Config) error {
	if len(config.Listeners) != 1 || config.Storage == nil || config.Storage.Type != "file" {
		return errors.New("configuration: it must have exactly one listener and file storage")
	}
	logger := hclog.New(&hclog.LoggerOptions{
		Name: "vault", Level: hclog.LevelFromString(config.LogLevel), Output: os.Stderr,
	})
	storage, err := file.NewFileBackend(config.Storage.Config, logger.Named("storage"))
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        config.Storage.Type,
		RawConfig:          config,
		Logger:             logger,
		DisableMlock:       true,
		RedirectAddr:       config.APIAddr,
		BuiltinRegistry:    registry{},
		AuditBackends:      map[string]audit.Factory{audit.TypeFile: audit.NewFileBackend},
		LogicalBackends:    map[string]logical.Factory{"transit": transit.Factory},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory, "jwt": jwt.Factory},
		DisableSSCTokens:   os.Getenv("VAULT_DISABLE_SERVER_SIDE_CONSISTENT_TOKENS") == "true",
	})
	if err != nil {
		return fmt.Errorf("core: %w", err)
	}
	listenerConfig := config.Listeners[0]
	listener, err := listen(listenerConfig)
	if err != nil {
		return err
	}
	httpServer := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vault.HandlerProperties{
			Core:           core,
			ListenerConfig: listenerConfig,
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	failed := make(chan error, 1)
	go func() { failed <- httpServer.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String())
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	if err := core.Shutdown(); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	return httpServer.Close()
}

func listen(config *configutil.Listener) (net.Listener, error) {
	listener, err := net.Listen("tcp", config.Address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if config.TLSDisable {
		return listener, nil
	}
	certificate, err := tls.LoadX509KeyPair(config.TLSCertFile, config.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return tls.NewListener(listener, &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{certificate},
	}), nil
}

// registry lists the built-in plugins for Vault's core.
type registry struct{}

var builtins = map[consts.PluginType][]string{
	consts.PluginTypeSecrets:    {"transit"},
	consts.PluginTypeCredential: {"approle", "jwt"},
}

func (registry) Contains(name string, kind consts.PluginType) bool {
	return slices.Contains(builtins[kind], name)
}

func (registry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	switch {
	case kind == consts.PluginTypeSecrets && name == "transit":
		return func() (any, error) { return logical.Factory(transit.Factory), nil }, true
	case kind == consts.PluginTypeCredential && name == "approle":
		return func() (any, error) { return logical.Factory(approle.Factory), nil }, true
	case kind == consts.PluginTypeCredential && name == "jwt":
		return func() (any, error) { return logical.Factory(jwt.Factory), nil }, true
	}
	return nil, false
}

func (registry) Keys(kind consts.PluginType) []string { return builtins[kind] }

func (r registry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	if r.Contains(name, kind) {
		return consts.Supported, true
	}
	return consts.Unknown, false
}

func (registry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
