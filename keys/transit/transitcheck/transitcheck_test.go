package transitcheck_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/transitcheck"
)

// deployment is a Vault that is set up, with two audit devices and a token for each role.
type deployment struct {
	server  *testserver.VaultServer
	root    *api.Client
	store   keys.StoreID
	options transitcheck.Options
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := deployBare(t)
	server := d.server
	d.options = transitcheck.Options{Mount: server.Mount(), Prefix: server.Prefix(), Store: d.store, Tokens: map[string]string{}}
	for _, role := range transitcheck.Roles() {
		if role == "setup" {
			policies, err := transit.Policies(transit.Options{Mount: server.Mount(), Prefix: server.Prefix()}, transit.TokenAccessor)
			require.NoError(t, err)
			require.NoError(t, d.root.Sys().PutPolicy(policies[0].Name, policies[0].HCL))
		}
		d.options.Tokens[role] = d.token(t, role, "default")
	}
	return d
}

// deployBare is deploy without tokens but the root token.
func deployBare(t *testing.T) *deployment {
	t.Helper()
	server := testserver.Vault(t, testserver.Dedicated())
	d := &deployment{server: server, root: server.Client(server.RootToken()), store: keys.NewStoreID()}
	d.setUp(t)
	d.audit(t, "second")
	return d
}

func (d *deployment) setUp(t *testing.T) {
	t.Helper()
	_, err := transit.Setup(t.Context(), d.root, transit.SetupOptions{
		Mount: d.server.Mount(), Prefix: d.server.Prefix(), Store: d.store, MaxGrantTTL: time.Hour,
	})
	require.NoError(t, err)
}

func (d *deployment) audit(t *testing.T, name string) {
	t.Helper()
	options := &api.EnableAuditOptions{Type: "file", Options: map[string]string{"file_path": t.TempDir() + "/" + name}}
	require.NoError(t, d.root.Sys().EnableAuditWithOptions(name, options))
}

// token returns a token with the policy of a role and others.
func (d *deployment) token(t *testing.T, role string, others ...string) string {
	t.Helper()
	secret, err := d.root.Auth().Token().CreateOrphan(&api.TokenCreateRequest{
		Policies: append(others, d.server.Prefix()+"-"+role), NoDefaultPolicy: !slices.Contains(others, "default"), TTL: "1h",
	})
	require.NoError(t, err)
	return secret.Auth.ClientToken
}

// run returns the results by name.
func (d *deployment) run(t *testing.T, client *api.Client, options transitcheck.Options) map[string]transitcheck.Result {
	t.Helper()
	results, err := transitcheck.Run(t.Context(), client, options)
	require.NoError(t, err)
	named := map[string]transitcheck.Result{}
	for _, result := range results {
		t.Logf("%-16s %-8s %s", result.Name, result.Status, result.Detail)
		for _, token := range options.Tokens {
			assert.NotContains(t, result.Detail, token)
		}
		named[result.Name] = result
	}
	return named
}

// withToken returns the options with another token for a role.
func (d *deployment) withToken(role, token string) transitcheck.Options {
	options := d.options
	options.Tokens = maps.Clone(options.Tokens)
	options.Tokens[role] = token
	return options
}

func TestHealthyVaultPasses(t *testing.T) {
	d := deploy(t)
	checked := d.run(t, d.root, d.options)
	for name, result := range checked {
		assert.Equal(t, transitcheck.OK, result.Status, "%s: %s", name, result.Detail)
	}
	assert.Len(t, checked, 6+len(transitcheck.Roles()))
}

// TestFaultsAreFound plants faults in a Vault, each of which must fail its check and, undone, no more.
func TestFaultsAreFound(t *testing.T) {
	d := deploy(t)
	write := func(t *testing.T, path string, data map[string]any) {
		t.Helper()
		_, err := d.root.Logical().Write(path, data)
		require.NoError(t, err)
	}
	mount, prefix := d.server.Mount(), d.server.Prefix()
	for _, fault := range []struct {
		name, found, detail string
		plant               func(t *testing.T) (*api.Client, transitcheck.Options)
		undo                func(t *testing.T)
	}{
		{"another role's token", "role writer", "lacks update " + mount + "/encrypt/", func(t *testing.T) (*api.Client, transitcheck.Options) {
			return d.root, d.withToken("writer", d.options.Tokens["granter"])
		}, nil},
		{"a token with two roles", "role writer", "may do more than its role: update auth/token/create/", func(t *testing.T) (*api.Client, transitcheck.Options) {
			return d.root, d.withToken("writer", d.token(t, "writer", "default", prefix+"-granter"))
		}, nil},
		{"a root token for a role", "role rotator", "root token", func(*testing.T) (*api.Client, transitcheck.Options) {
			return d.root, d.withToken("rotator", d.server.RootToken())
		}, nil},
		{"a token that was revoked", "role eraser", "does not know the token", func(t *testing.T) (*api.Client, transitcheck.Options) {
			token := d.token(t, "eraser", "default")
			require.NoError(t, d.root.Auth().Token().RevokeOrphan(token))
			return d.root, d.withToken("eraser", token)
		}, nil},
		{"a policy that was widened", "role auditor", "update " + mount + "/decrypt/", func(t *testing.T) (*api.Client, transitcheck.Options) {
			rules, err := d.root.Sys().GetPolicy(prefix + "-auditor")
			require.NoError(t, err)
			require.NoError(t, d.root.Sys().PutPolicy(prefix+"-auditor", rules+"\npath \""+mount+"/decrypt/*\" { capabilities = [\"update\"] }\n"))
			return d.root, d.options
		}, d.setUp},
		{"a policy that was removed", "set-up", "policy " + prefix + "-trimmer", func(t *testing.T) (*api.Client, transitcheck.Options) {
			require.NoError(t, d.root.Sys().DeletePolicy(prefix+"-trimmer"))
			return d.root, d.options
		}, d.setUp},
		{"encrypting makes keys", "set-up", "disable_upsert", func(t *testing.T) (*api.Client, transitcheck.Options) {
			write(t, mount+"/config/keys", map[string]any{"disable_upsert": false})
			return d.root, d.options
		}, d.setUp},
		{"tokens of grants may be renewed", "set-up", "renewable", func(t *testing.T) (*api.Client, transitcheck.Options) {
			write(t, "auth/token/roles/"+prefix+"-grant", map[string]any{"renewable": true})
			return d.root, d.options
		}, d.setUp},
		{"another bucket", "store", "", func(t *testing.T) (*api.Client, transitcheck.Options) {
			options := d.options
			options.Store = keys.NewStoreID()
			return d.root, options
		}, nil},
		{"another mount", "set-up", "absent", func(t *testing.T) (*api.Client, transitcheck.Options) {
			options := d.options
			options.Mount += "-other"
			return d.root, options
		}, nil},
		{"no audit device", "audit devices", "Vault logs nothing", func(t *testing.T) (*api.Client, transitcheck.Options) {
			require.NoError(t, d.root.Sys().DisableAudit("file"))
			require.NoError(t, d.root.Sys().DisableAudit("second"))
			return d.root, d.options
		}, func(t *testing.T) {
			d.audit(t, "file")
			d.audit(t, "second")
		}},
		{"a clock that is wrong", "clock", "more than 1m0s", func(t *testing.T) (*api.Client, transitcheck.Options) {
			return d.clockAhead(t, 5*time.Minute), d.options
		}, nil},
		{"a Vault that is sealed", "seal", "sealed", func(t *testing.T) (*api.Client, transitcheck.Options) {
			d.server.Seal(t)
			return d.root, d.options
		}, func(t *testing.T) {
			d.server.Unseal(t)
			require.Eventually(t, func() bool {
				_, err := d.root.Sys().ListMounts()
				return err == nil
			}, 20*time.Second, 10*time.Millisecond)
		}},
		{"a Vault that is stopped", "reachable", "does not answer", func(t *testing.T) (*api.Client, transitcheck.Options) {
			d.server.Stop(t)
			return d.root, d.options
		}, nil},
	} {
		t.Run(fault.name, func(t *testing.T) {
			client, options := fault.plant(t)
			result := d.run(t, client, options)[fault.found]
			assert.Equal(t, transitcheck.Failed, result.Status)
			assert.Contains(t, result.Detail, fault.detail)
			if fault.undo != nil {
				fault.undo(t)
				for name, result := range d.run(t, d.root, d.options) {
					assert.Equal(t, transitcheck.OK, result.Status, "%s: %s", name, result.Detail)
				}
			}
		})
	}
}

// clockAhead returns a client of a proxy to Vault whose clock is ahead.
func (d *deployment) clockAhead(t *testing.T, ahead time.Duration) *api.Client {
	t.Helper()
	target, err := url.Parse(d.server.Address())
	require.NoError(t, err)
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(response *http.Response) error {
			if response.Request.URL.Path != "/v1/sys/health" {
				return nil
			}
			var health map[string]any
			if err := json.NewDecoder(response.Body).Decode(&health); err != nil {
				return err
			}
			health["server_time_utc"] = time.Now().Add(ahead).Unix()
			text, err := json.Marshal(health)
			response.Body = io.NopCloser(bytes.NewReader(text))
			response.Header.Del("Content-Length")
			response.ContentLength = int64(len(text))
			return err
		},
	})
	t.Cleanup(front.Close)
	client := d.server.Client(d.server.RootToken())
	require.NoError(t, client.SetAddress(front.URL))
	return client
}

func TestTokenWithFewRightsSkips(t *testing.T) {
	d := deploy(t)
	options := d.options
	options.Tokens = map[string]string{"writer": d.token(t, "writer"), "granter": d.options.Tokens["granter"]}
	for name, client := range map[string]*api.Client{"no token": d.server.Client(""), "a role's": d.server.Client(d.options.Tokens["granter"])} {
		t.Run(name, func(t *testing.T) {
			results := d.run(t, client, options)
			for _, skipped := range []string{"audit devices", "set-up", "role writer"} {
				assert.Equal(t, transitcheck.Skipped, results[skipped].Status, skipped)
			}
			for _, checked := range []string{"reachable", "seal", "clock", "store", "role granter"} {
				assert.Equal(t, transitcheck.OK, results[checked].Status, checked)
			}
		})
	}
	assert.Equal(t, transitcheck.OK, d.run(t, d.root, options)["role writer"].Status, "an administrator may ask for the token")
}

func TestWrongOptionsAreRefused(t *testing.T) {
	client := testserver.Vault(t).Client("")
	for name, options := range map[string]transitcheck.Options{
		"role": {Tokens: map[string]string{"grant": "token"}}, "mount": {Mount: "a b"}, "prefix": {Prefix: "A"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := transitcheck.Run(t.Context(), client, options)
			assert.Error(t, err)
		})
	}
	_, err := transitcheck.Run(t.Context(), nil, transitcheck.Options{})
	assert.Error(t, err)
}
