package main

import (
	"cmp"
	"context"
	"os"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys/transit/login"
)

// refresh gives a client of Vault another token: see transit.Options.
type refresh func(ctx context.Context, refused string) error

// authenticate gives a client of Vault the operator's token, which should have the role, and keeps it valid until the
// command ends.
func (c *cli) authenticate(ctx context.Context, client *api.Client, role string) (refresh, error) {
	c.client, c.role = client, role
	method, err := c.loginMethod()
	if err != nil {
		return nil, err
	}
	if method == nil {
		token, err := c.vaultToken(ctx)
		if err != nil {
			return nil, err
		}
		client.SetToken(token)
		if !isFile(c.settings.tokenFile) {
			return nil, nil
		}
		method = login.File(c.settings.tokenFile)
	}
	session, err := login.Start(ctx, client, method, func(err error) { c.note("%s", oneLine(err)) })
	if err != nil {
		return nil, (&input{flag: "RECVAULT_LOGIN_FILE or --login-file"}).withoutName(err)
	}
	c.closers = append(c.closers, session.Close)
	return session.Refresh, nil
}

// isFile reports whether a file can be read more than once, as standard input and pipes cannot.
func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// loginMethod returns how the command logs in to Vault, or nil if it is given a token.
func (c *cli) loginMethod() (api.AuthMethod, error) {
	s := c.settings
	name := c.setting(s.login, "RECVAULT_LOGIN")
	switch {
	case s.login != "" && s.tokenFile != "":
		return nil, usagef("--login and --token-file are two sources of the Vault token: choose one")
	case name == "" || s.tokenFile != "":
		return nil, nil
	case s.login == "" && c.getenv("VAULT_TOKEN") != "":
		return nil, usagef("RECVAULT_LOGIN and VAULT_TOKEN are both set: choose with --login or --token-file")
	}
	mount := c.setting(s.loginMount, "RECVAULT_LOGIN_MOUNT")
	role := c.setting(s.loginRole, "RECVAULT_LOGIN_ROLE")
	file := c.setting(s.loginFile, "RECVAULT_LOGIN_FILE")
	if role == "" {
		return nil, usagef("no role for the login: set RECVAULT_LOGIN_ROLE or --login-role")
	}
	switch name {
	case "approle":
		if file == "" {
			return nil, usagef("no secret ID: name a file that holds it with RECVAULT_LOGIN_FILE or --login-file")
		}
		return login.AppRole(cmp.Or(mount, name), role, file), nil
	case "kubernetes", "jwt":
		return login.Kubernetes(cmp.Or(mount, name), role, cmp.Or(file, login.ServiceAccountFile)), nil
	}
	return nil, usagef("RECVAULT_LOGIN or --login must be approle, kubernetes or jwt")
}
