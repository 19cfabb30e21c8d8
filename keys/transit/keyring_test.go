package transit_test

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

func TestConformanceWithSeparateRoles(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	keystest.Run(t, func(*testing.T) keys.Keyring { return k })
}

// operations returns one call of each method, for patients of its own.
func (f *fixture) operations(k keys.Keyring) map[string]func(context.Context) error {
	f.t.Helper()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	grant, ending := f.grant(k, patient), f.grant(k, patient)
	erased, erasedID := f.enrol(k)
	return map[string]func(context.Context) error{
		"Enrol": func(ctx context.Context) error { _, err := k.Enrol(ctx, newPatient()); return err },
		"KeyID": func(ctx context.Context) error { _, err := k.KeyID(ctx, newPatient()); return err },
		"Wrap":  func(ctx context.Context) error { _, err := k.Wrap(ctx, rec.binding, rec.key); return err },
		"Unwrap": func(ctx context.Context) error {
			_, err := k.Unwrap(ctx, grant, rec.binding, rec.wrapped)
			return err
		},
		"RevokeSelf": func(ctx context.Context) error { return k.RevokeSelf(ctx, ending) },
		"Issue":      func(ctx context.Context) error { _, err := k.Issue(ctx, erased, grantOptions()); return err },
		"Revoke":     func(ctx context.Context) error { return k.Revoke(ctx, f.grant(k, patient).Accessor()) },
		"Rotate":     func(ctx context.Context) error { return k.Rotate(ctx, id) },
		"Versions":   func(ctx context.Context) error { _, err := k.Versions(ctx, id); return err },
		"Rewrap": func(ctx context.Context) error {
			_, err := k.Rewrap(ctx, id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
			return err
		},
		"Erase": func(ctx context.Context) error { return k.Erase(ctx, erasedID) },
	}
}

// outage removes the operation that needs a working Vault before its call.
func outage(operations map[string]func(context.Context) error) map[string]func(context.Context) error {
	delete(operations, "Revoke") // issues a grant first
	return operations
}

func TestSealedVaultIsUnavailable(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	operations := outage(f.operations(f.roles()))
	f.server.Seal(t)
	for name, call := range operations {
		t.Run("sealed: "+name, func(t *testing.T) {
			err := call(t.Context())
			assert.ErrorIs(t, err, keys.ErrUnavailable)
			assert.NotErrorIs(t, err, keys.ErrDenied)
			assert.ErrorContains(t, err, "sealed")
		})
	}
	f.server.Unseal(t)
	for name, call := range operations {
		t.Run("unsealed: "+name, func(t *testing.T) { assert.NoError(t, call(t.Context())) })
	}
}

func TestKilledVaultIsUnavailableUntilRestart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	patient, id := f.enrol(k)
	rec, grant := f.record(k, id), f.grant(k, patient)
	operations := outage(f.operations(k))
	f.server.Kill(t)
	for name, call := range operations {
		t.Run("killed: "+name, func(t *testing.T) {
			began := time.Now()
			assert.ErrorIs(t, call(t.Context()), keys.ErrUnavailable)
			assert.Less(t, time.Since(began), 5*time.Second)
		})
	}
	f.server.Restart(t)
	for name, call := range operations {
		t.Run("restarted: "+name, func(t *testing.T) { assert.NoError(t, call(t.Context())) })
	}
	f.opens(k, grant, rec)
}

// A call succeeds if Vault is back before the last retry.
func TestRetriesCoverAShortOutage(t *testing.T) {
	f := newFixture(t)
	target, err := url.Parse(f.server.Address())
	require.NoError(t, err)
	var failures atomic.Int32
	proxy := httputil.NewSingleHostReverseProxy(target)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if failures.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	client := f.server.Client(f.token("enroller"))
	require.NoError(t, client.SetAddress(front.URL))
	k := f.keyringOf(client)

	failures.Store(3)
	_, err = k.KeyID(t.Context(), newPatient())
	assert.NoError(t, err)

	failures.Store(4)
	_, err = k.KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrUnavailable)

	f.options.MaxRetries = -1
	failures.Store(1)
	_, err = f.keyringOf(client).KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrUnavailable)
}

// silent returns the address of a server that accepts connections and sends nothing.
func silent(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	return "http://" + listener.Addr().String()
}

func TestSilentVaultIsUnavailableAfterTheTimeout(t *testing.T) {
	f := newFixture(t)
	client := f.server.Client("hvs.any")
	require.NoError(t, client.SetAddress(silent(t)))
	f.options.Timeout = 200 * time.Millisecond
	k := f.keyringOf(client)

	began := time.Now()
	_, err := k.KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "the caller set no deadline")
	assert.Less(t, time.Since(began), 5*time.Second)
}

func TestContextEndsACallAtOnce(t *testing.T) {
	f := newFixture(t)
	client := f.server.Client("hvs.any")
	require.NoError(t, client.SetAddress(silent(t)))
	f.options.Timeout = time.Minute
	k := f.keyringOf(client)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := k.KeyID(ctx, newPatient())
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.NotErrorIs(t, err, keys.ErrUnavailable)
	assert.Less(t, time.Since(began), 5*time.Second)

	// The context also ends the wait between two attempts.
	require.NoError(t, client.SetAddress("http://127.0.0.1:1"))
	f.options.MaxRetries = 1_000_000
	k = f.keyringOf(client)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	_, err = k.KeyID(ctx, newPatient())
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(began), 5*time.Second)
}

func TestMissingSetupIsErrNotSetUp(t *testing.T) {
	f := newBareFixture(t)
	root := f.keyringOf(f.admin)
	_, err := root.KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, transit.ErrNotSetUp, "no mount")
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	mac := make([]byte, keys.KeyIDBytes)
	_, err = root.Versions(t.Context(), keys.NewKeyID(mac))
	assert.ErrorIs(t, err, transit.ErrNotSetUp, "no mount")
	assert.NotErrorIs(t, err, keys.ErrNotEnrolled)

	f.setUp()
	_, err = f.admin.Logical().DeleteWithContext(t.Context(), "auth/token/roles/"+f.options.Prefix+"-grant")
	require.NoError(t, err)
	_, err = root.Issue(t.Context(), newPatient(), grantOptions())
	assert.ErrorIs(t, err, transit.ErrNotSetUp, "no token role")

	pseudonym := f.options.Mount + "/keys/pseudonym"
	_, err = f.admin.Logical().WriteWithContext(t.Context(), pseudonym+"/config", data{"deletion_allowed": true})
	require.NoError(t, err)
	_, err = f.admin.Logical().DeleteWithContext(t.Context(), pseudonym)
	require.NoError(t, err)
	_, err = root.KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, transit.ErrNotSetUp, "no pseudonym key")
}

func TestEachRoleIsDeniedTheOthersCalls(t *testing.T) {
	f := newFixture(t)
	may := map[string][]string{
		"enroller": {"Enrol", "KeyID"},
		"writer":   {"KeyID", "Wrap", "Versions"},
		"granter":  {"KeyID", "Issue"},
		"revoker":  {"Revoke"},
		"rotator":  {"Rotate", "Versions", "Rewrap"},
		"retirer":  {"Versions", "Rewrap", "Retire", "Reinstate"},
		"trimmer":  {"Versions", "Rewrap", "Trim"},
		"eraser":   {"KeyID", "Erase", "Versions", "Rewrap"},
		"auditor":  {"Versions"},
		"":         {},
	}
	k := f.roles()
	for role, calls := range may {
		one := f.keyring(role)
		_, id := f.enrol(k)
		_, erasable := f.enrol(k)
		_, retirable := f.enrol(k)
		_, retired := f.enrol(k)
		_, trimmable := f.enrol(k)
		for _, id := range []keys.KeyID{retirable, retired, trimmable} {
			require.NoError(t, k.Rotate(t.Context(), id))
		}
		require.NoError(t, k.Retire(t.Context(), retired, 2))
		require.NoError(t, k.Retire(t.Context(), trimmable, 2))
		rec := f.record(k, id)
		for name, call := range map[string]func() error{
			"Enrol":    func() error { _, err := one.Enrol(t.Context(), newPatient()); return err },
			"KeyID":    func() error { _, err := one.KeyID(t.Context(), newPatient()); return err },
			"Wrap":     func() error { _, err := one.Wrap(t.Context(), rec.binding, rec.key); return err },
			"Issue":    func() error { _, err := one.Issue(t.Context(), newPatient(), grantOptions()); return err },
			"Revoke":   func() error { return one.Revoke(t.Context(), f.grant(k, newPatient()).Accessor()) },
			"Versions": func() error { _, err := one.Versions(t.Context(), id); return err },
			"Rotate":   func() error { return one.Rotate(t.Context(), id) },
			"Rewrap": func() error {
				_, err := one.Rewrap(t.Context(), id, []keys.RewrapItem{{Binding: rec.binding, Wrapped: rec.wrapped}})
				return err
			},
			"Retire":    func() error { return one.Retire(t.Context(), retirable, 2) },
			"Reinstate": func() error { return one.Reinstate(t.Context(), retired, 1) },
			"Trim":      func() error { return one.Trim(t.Context(), trimmable, 2) },
			"Erase":     func() error { return one.Erase(t.Context(), erasable) },
		} {
			t.Run(cmp.Or(role, "no token")+": "+name, func(t *testing.T) {
				if err := call(); slices.Contains(calls, name) {
					assert.NoError(t, err)
				} else {
					assert.ErrorIs(t, err, keys.ErrDenied)
					assert.NotErrorIs(t, err, keys.ErrInvalidGrant)
				}
			})
		}
	}
}

// The client's token changes while the keyring is in use, as after a new login.
func TestRenewedTokenIsUsed(t *testing.T) {
	f := newFixture(t)
	client := f.server.Client("")
	k := f.keyringOf(client)
	_, err := k.KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrDenied)
	client.SetToken(f.token("enroller"))
	_, err = k.Enrol(t.Context(), newPatient())
	assert.NoError(t, err)
	client.SetToken(f.token("granter"))
	_, err = k.Enrol(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrDenied)
	f.grant(k, newPatient())
}

// Neither the client's token nor one in the environment replaces the grant's, and neither is changed.
func TestOnlyTheGrantsTokenUnwraps(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	alice, aliceID := f.enrol(k)
	bob, _ := f.enrol(k)
	rec := f.record(k, aliceID)
	bobs, alices := f.grant(k, bob), f.grant(k, alice)

	t.Setenv(api.EnvVaultToken, f.server.RootToken())
	t.Setenv(api.EnvVaultWrapTTL, "60s")
	t.Setenv(api.EnvVaultNamespace, "elsewhere")
	client := f.server.Client(f.server.RootToken())
	almighty := f.keyringOf(client)

	_, err := almighty.Unwrap(t.Context(), bobs, rec.binding, rec.wrapped)
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.NotErrorIs(t, err, keys.ErrInvalidGrant)
	for _, token := range []string{"", " ", "root", "hvs.", "hvs.unknown", alices.Token() + "\n"} {
		forged := keys.NewGrant(alices.Details(), token)
		_, err := almighty.Unwrap(t.Context(), forged, rec.binding, rec.wrapped)
		assert.ErrorIs(t, err, keys.ErrInvalidGrant, "%q", token)
		assert.ErrorIs(t, almighty.RevokeSelf(t.Context(), forged), keys.ErrInvalidGrant, "%q", token)
	}
	f.opens(almighty, alices, rec)
	require.NoError(t, almighty.RevokeSelf(t.Context(), alices))

	assert.Equal(t, f.server.RootToken(), client.Token())
	_, err = client.Auth().Token().LookupSelfWithContext(t.Context())
	assert.NoError(t, err, "the client's own token was revoked")

	// A keyring without a token does not use the one in the environment.
	_, err = f.keyring("").Wrap(t.Context(), rec.binding, rec.key)
	assert.ErrorIs(t, err, keys.ErrDenied)
}

func TestKeyringDoesNotChangeTheClient(t *testing.T) {
	f := newFixture(t)
	client := f.server.Client(f.server.RootToken())
	client.SetNamespace("ns")
	client.SetMaxRetries(7)
	client.SetClientTimeout(3 * time.Second)
	token, headers := client.Token(), client.Headers()
	k := f.keyringOf(client)
	grant := f.grant(f.keyringOf(f.admin), newPatient())
	// Vault Community ignores the namespace.
	_, err := k.Enrol(t.Context(), newPatient())
	assert.NoError(t, err)
	assert.NoError(t, k.RevokeSelf(t.Context(), grant))
	assert.Equal(t, token, client.Token())
	assert.Equal(t, headers, client.Headers())
	assert.Equal(t, 7, client.MaxRetries())
	assert.Equal(t, 3*time.Second, client.ClientTimeout())
	assert.GreaterOrEqual(t, client.MinRetryWait(), time.Second, "Vault's default")
}

// TestNamespaceGoesWithEveryRequest uses a proxy that requires the namespace, as Vault Enterprise would.
func TestNamespaceGoesWithEveryRequest(t *testing.T) {
	f := newBareFixture(t)
	target, err := url.Parse(f.server.Address())
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(target)
	var requests atomic.Int32
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if !assert.Equal(t, "clinic/north", strings.Trim(r.Header.Get("X-Vault-Namespace"), "/"), r.URL.Path) {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	namespaced := func(token string) *api.Client {
		client := f.server.Client(token)
		require.NoError(t, client.SetAddress(front.URL))
		client.SetNamespace("clinic/north/")
		return client
	}

	_, err = transit.Setup(t.Context(), namespaced(f.server.RootToken()), f.setup)
	require.NoError(t, err)
	k := roles{
		Enroller:  f.keyringOf(namespaced(f.token("enroller"))),
		Wrapper:   f.keyringOf(namespaced(f.token("writer"))),
		Unwrapper: f.keyringOf(namespaced("")),
		Granter:   f.keyringOf(namespaced(f.token("granter"))),
		Revoker:   f.keyringOf(namespaced(f.token("revoker"))),
		Rotator:   f.keyringOf(namespaced(f.token("rotator"))),
		Eraser:    f.keyringOf(namespaced(f.token("eraser"))),
	}
	for name, call := range f.operations(k) {
		t.Run(name, func(t *testing.T) { assert.NoError(t, call(t.Context())) })
	}
	assert.Greater(t, requests.Load(), int32(30))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.TLS())
	for name, call := range f.operations(f.roles()) {
		t.Run(name, func(t *testing.T) { assert.NoError(t, call(t.Context())) })
	}
	config := api.DefaultConfig() // without the test's certificate authority
	config.Address = f.server.Address()
	stranger, err := api.NewClient(config)
	require.NoError(t, err)
	_, err = f.keyringOf(stranger).KeyID(t.Context(), newPatient())
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	assert.ErrorContains(t, err, "certificate")
}

// A pseudonym is no hash of the identifier that somebody without the pseudonym key could compute.
func TestPseudonymsDependOnTheMountsKey(t *testing.T) {
	f := newFixture(t)
	other := f.with(t)
	other.options.Mount, other.options.Prefix = f.options.Mount+"-other", f.options.Prefix+"-other"
	other.setup.Mount, other.setup.Prefix = other.options.Mount, other.options.Prefix
	other.setUp()
	patient := newPatient()
	id, err := f.keyringOf(f.admin).KeyID(t.Context(), patient)
	require.NoError(t, err)
	elsewhere, err := other.keyringOf(f.admin).KeyID(t.Context(), patient)
	require.NoError(t, err)
	assert.NotEqual(t, id, elsewhere)
}

func TestPseudonymsAreCached(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	f.options.CacheSize = 2
	k := f.keyring("writer")
	patients := []keys.Patient{newPatient(), newPatient(), newPatient()}
	for _, patient := range patients {
		_, err := k.KeyID(t.Context(), patient)
		require.NoError(t, err)
	}
	f.server.Seal(t)
	for i, patient := range patients {
		_, err := k.KeyID(t.Context(), patient)
		if i == 0 {
			assert.ErrorIs(t, err, keys.ErrUnavailable, "the cache exceeds its size")
		} else {
			assert.NoError(t, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.KeyID(ctx, patients[2])
	assert.ErrorIs(t, err, context.Canceled)
}

func TestZeroKeyIDIsRefused(t *testing.T) {
	f := newFixture(t)
	root := f.keyringOf(f.admin)
	grant := f.grant(root, newPatient())
	var id keys.KeyID
	_, err := root.Wrap(t.Context(), keys.Binding{}, keys.NewKey())
	assert.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = root.Unwrap(t.Context(), grant, keys.Binding{}, keys.NewWrappedKey("vault", 1, []byte("x")))
	assert.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = root.Versions(t.Context(), id)
	assert.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = root.Rewrap(t.Context(), id, nil)
	assert.ErrorIs(t, err, keys.ErrInvalidKeyID)
	assert.ErrorIs(t, root.Rotate(t.Context(), id), keys.ErrInvalidKeyID)
	assert.ErrorIs(t, root.Erase(t.Context(), id), keys.ErrInvalidKeyID)
}

func TestInvalidOptionsAreRefused(t *testing.T) {
	client, err := api.NewClient(nil)
	require.NoError(t, err)
	for name, options := range map[string]transit.Options{
		"wildcard mount":     {Mount: "+/x"},
		"mount with a query": {Mount: "x?y"},
		"upper-case prefix":  {Prefix: "X"},
		"negative cache":     {CacheSize: -1},
		"negative timeout":   {Timeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := transit.New(client, options)
			assert.Error(t, err)
		})
	}
	for name, options := range map[string]transit.Options{
		"defaults":      {},
		"slashes about": {Mount: "/a/b-c_d.e/"},
		"no retries":    {MaxRetries: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := transit.New(client, options)
			assert.NoError(t, err)
		})
	}
}

func TestRefreshIsForTheClientsTokenAlone(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	grant := f.grant(k, patient)
	require.NoError(t, k.RevokeSelf(t.Context(), grant))
	token := f.token("writer")
	require.NoError(t, f.admin.Auth().Token().RevokeOrphanWithContext(t.Context(), token))

	var refused []string
	options := f.options
	options.Refresh = func(_ context.Context, token string) error {
		refused = append(refused, token)
		return keys.ErrUnavailable
	}
	keyring, err := transit.New(f.server.Client(token), options)
	require.NoError(t, err)
	_, err = keyring.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
	assert.ErrorIs(t, err, keys.ErrInvalidGrant)
	assert.ErrorIs(t, keyring.RevokeSelf(t.Context(), grant), keys.ErrInvalidGrant)
	assert.Empty(t, refused)
	_, err = keyring.Wrap(t.Context(), rec.binding, rec.key)
	assert.ErrorIs(t, err, keys.ErrUnavailable)
	assert.Equal(t, []string{token}, refused)
}
