package process

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"os"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/login"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// place is where the keys and the recordings are.
type place struct{ mount, policies, bucket string }

func (p *place) flags() {
	flag.StringVar(&p.mount, "mount", "", "the path of the Transit engine in Vault, if it is not recvault's default")
	flag.StringVar(&p.policies, "policies", "", "the first part of the names of Vault's policies, if it is not recvault's default")
	flag.StringVar(&p.bucket, "bucket", os.Getenv("RECVAULT_BUCKET"), "the bucket of the recordings")
}

// RoleKeyring returns the keyring of a process that has a role at Vault. The token comes from a file that Vault Agent keeps
// (VAULT_TOKEN_FILE), or from an AppRole (VAULT_ROLE_ID and VAULT_SECRET_ID_FILE). It is renewed, and replaced before it ends,
// until stop is called.
func (p *Process) RoleKeyring(ctx context.Context) (keyring *transit.Keyring, stop func() error, err error) {
	var method api.AuthMethod
	switch {
	case os.Getenv("VAULT_TOKEN_FILE") != "":
		method = login.File(os.Getenv("VAULT_TOKEN_FILE"))
	case os.Getenv("VAULT_ROLE_ID") != "":
		method = login.AppRole(cmp.Or(os.Getenv("VAULT_APPROLE_MOUNT"), "approle"), os.Getenv("VAULT_ROLE_ID"), os.Getenv("VAULT_SECRET_ID_FILE"))
	default:
		return nil, nil, errors.New("no token for Vault: set VAULT_TOKEN_FILE, or VAULT_ROLE_ID and VAULT_SECRET_ID_FILE")
	}
	client, err := api.NewClient(nil) // VAULT_ADDR, VAULT_CACERT
	if err != nil {
		return nil, nil, err
	}
	session, err := login.Start(ctx, client, method, func(err error) { p.Log.Warn("login at Vault", "error", err) })
	if err != nil {
		return nil, nil, err
	}
	keyring, err = transit.New(client, transit.Options{Mount: p.place.mount, Prefix: p.place.policies, Refresh: session.Refresh})
	if err != nil {
		return nil, nil, errors.Join(err, session.Close())
	}
	return keyring, session.Close, nil
}

// GrantKeyring returns the keyring of a process that has no right at Vault but what grants bring.
func (p *Process) GrantKeyring() (*transit.Keyring, error) {
	client, err := api.NewClient(nil)
	if err != nil {
		return nil, err
	}
	client.ClearToken()
	return transit.New(client, transit.Options{Mount: p.place.mount, Prefix: p.place.policies})
}

// Store returns the bucket of the recordings, with the credentials of this process alone.
func (p *Process) Store() (storage.Store, error) {
	client, err := s3.NewClient(s3.Config{Endpoint: os.Getenv("AWS_ENDPOINT_URL")})
	if err != nil {
		return nil, err
	}
	return s3.New(client, p.place.bucket)
}
