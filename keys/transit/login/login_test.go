package login_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/login"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// short is the life of tokens that end while a test runs, and long of those that do not.
var (
	short = testserver.Lifetime{TTL: 5 * time.Second, Max: 10 * time.Second}
	long  = testserver.Lifetime{TTL: time.Hour, Max: time.Hour}
)

// durationEnv is how long services run in TestServicesOutliveTheirTokens, such as "1m"; default 12s.
const durationEnv = "RECVAULT_LOGINS"

func TestServicesOutliveTheirTokens(t *testing.T) {
	duration := 12 * time.Second
	if text := os.Getenv(durationEnv); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err)
	}
	noDefault := short
	noDefault.NoDefault = true
	for name, method := range map[string]func(t *testing.T, d *testdeployment.Deployment, role string) api.AuthMethod{
		"AppRole, renewed": func(t *testing.T, d *testdeployment.Deployment, role string) api.AuthMethod {
			return appRole(d.Vault.AppRole(t, role, short))
		},
		"AppRole, not renewable": func(t *testing.T, d *testdeployment.Deployment, role string) api.AuthMethod {
			return appRole(d.Vault.AppRole(t, role, noDefault))
		},
		"JWT": func(t *testing.T, d *testdeployment.Deployment, role string) api.AuthMethod {
			l := d.Vault.JWT(t, role, short)
			return login.JWT(l.Mount, l.Role, l.File) // as Kubernetes
		},
		"file": func(t *testing.T, d *testdeployment.Deployment, role string) api.AuthMethod {
			return login.File(agent(t, d, appRole(d.Vault.AppRole(t, role, short))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := testdeployment.Servers(t)
			keyring := func(role string) (*transit.Keyring, *tokens) {
				client := d.Vault.Client("")
				session := start(t, client, method(t, d, role))
				return newKeyring(t, d, client, session.Refresh), watch(t, client)
			}
			writer, written := keyring("writer")
			granter, granted := keyring("granter")
			rotator, rotated := keyring("rotator")
			patient, _ := d.Enrol(t)
			server, err := vault.New(d.Keyring(testdeployment.Server), d.Store)
			require.NoError(t, err)
			recorder, err := vault.New(writer, d.Store)
			require.NoError(t, err)
			jobs, err := rotation.New(rotator, d.Store, rotation.Options{})
			require.NoError(t, err)

			var puts, plays, rewraps int
			var group sync.WaitGroup
			end := time.Now().Add(duration)
			group.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					id, err := recorder.Put(t.Context(), patient, strings.NewReader("a consultation"), vault.Metadata{})
					if !assert.NoError(t, err, "put %d", puts) {
						return
					}
					puts++
					grant, err := granter.Issue(t.Context(), patient, keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
					if !assert.NoError(t, err, "grant %d", plays) {
						return
					}
					recording, err := server.Open(t.Context(), grant, id)
					if !assert.NoError(t, err, "play %d", plays) {
						return
					}
					text, err := io.ReadAll(recording)
					assert.NoError(t, errors.Join(err, recording.Close()))
					assert.Equal(t, "a consultation", string(text))
					plays++
				}
			})
			group.Go(func() {
				for time.Now().Before(end) && !t.Failed() {
					_, err := jobs.Rotate(t.Context(), scope.All())
					if !assert.NoError(t, err, "rotation %d", rewraps) {
						return
					}
					report, err := jobs.Rewrap(t.Context(), scope.All())
					if !assert.NoError(t, err, "rewrap %d", rewraps) {
						return
					}
					assert.Zero(t, report.Envelopes.Failed, "%v", report.Findings)
					rewraps++
				}
			})
			group.Wait()
			t.Logf("%d puts, %d plays, %d rewraps, and tokens: writer %d, granter %d, rotator %d",
				puts, plays, rewraps, written.count(), granted.count(), rotated.count())
			for _, seen := range []*tokens{written, granted, rotated} {
				assert.GreaterOrEqual(t, seen.count(), int(duration/short.Max)+1, "the tokens did not end during the test")
			}
		})
	}
}

// agent keeps a file with a token, as Vault Agent does, and returns its path.
func agent(t *testing.T, d *testdeployment.Deployment, method api.AuthMethod) string {
	client := d.Vault.Client("")
	start(t, client, method)
	path := filepath.Join(t.TempDir(), "token")
	replace(t, path, client.Token())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for last := client.Token(); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			if token := client.Token(); token != last {
				replace(t, path, token)
				last = token
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return path
}

// replace puts a file in the place of another, as Vault Agent does.
func replace(t *testing.T, path, token string) {
	assert.NoError(t, os.WriteFile(path+".new", []byte(token), 0o600))
	assert.NoError(t, os.Rename(path+".new", path))
}

func appRole(l testserver.Login) api.AuthMethod { return login.AppRole(l.Mount, l.Role, l.File) }

// start starts a session that ends with the test and has no failures.
func start(t *testing.T, client *api.Client, method api.AuthMethod) *login.Session {
	t.Helper()
	session, err := login.Start(t.Context(), client, method, func(err error) { assert.NoError(t, err) })
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	return session
}

func newKeyring(t *testing.T, d *testdeployment.Deployment, client *api.Client, refresh func(context.Context, string) error) *transit.Keyring {
	t.Helper()
	keyring, err := transit.New(client, transit.Options{Mount: d.Place.Mount, Prefix: d.Place.Prefix, Refresh: refresh})
	require.NoError(t, err)
	return keyring
}

// tokens are the different tokens that a client had.
type tokens struct{ seen atomic.Int64 }

func (s *tokens) count() int { return int(s.seen.Load()) }

func watch(t *testing.T, client *api.Client) *tokens {
	s := &tokens{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for last := ""; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			if token := client.Token(); token != last {
				s.seen.Add(1)
				last = token
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return s
}

// A token that was revoked is replaced at the first call that needs it, by one login for all callers.
func TestRevokedTokenIsReplaced(t *testing.T) {
	d := testdeployment.Servers(t)
	patient, id := d.Enrol(t)
	l := d.Vault.AppRole(t, "writer", long)
	client := d.Vault.Client("")
	keyring := newKeyring(t, d, client, start(t, client, appRole(l)).Refresh)
	revoke(t, d, client.Token())

	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			_, err := keyring.Wrap(t.Context(), keystest.NewRecordingID(id).Binding(), keys.NewKey())
			assert.NoError(t, err)
		})
	}
	group.Wait()
	logins := 0
	for _, entry := range d.Vault.Audit(t) {
		if entry.Type == "response" && entry.Request.Path == "auth/"+l.Mount+"/login" {
			logins++
		}
	}
	assert.Equal(t, 2, logins)

	without := newKeyring(t, d, client, nil)
	revoke(t, d, client.Token())
	_, err := without.KeyID(t.Context(), patient)
	assert.ErrorIs(t, err, keys.ErrUnauthenticated)
}

func revoke(t *testing.T, d *testdeployment.Deployment, token string) {
	t.Helper()
	require.NoError(t, d.Vault.Client(d.Vault.RootToken()).Auth().Token().RevokeOrphanWithContext(t.Context(), token))
}

func TestTokenFileIsReadAgain(t *testing.T) {
	d := testdeployment.Servers(t)
	patient, _ := d.Enrol(t)
	path := filepath.Join(t.TempDir(), "token")
	first, second, third := d.Vault.RoleToken("writer"), d.Vault.RoleToken("writer"), d.Vault.RoleToken("writer")
	replace(t, path, first+"\n")
	client := d.Vault.Client("")
	failed := make(chan error, 100)
	session, err := login.Start(t.Context(), client, login.File(path), func(err error) { failed <- err })
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	assert.Equal(t, first, client.Token())

	replace(t, path, second)
	require.Eventually(t, func() bool { return client.Token() == second }, 10*time.Second, 10*time.Millisecond)

	// A call waits for the program that keeps the file, and not for ever.
	keyring := newKeyring(t, d, client, session.Refresh)
	revoke(t, d, second)
	_, err = keyring.KeyID(t.Context(), patient)
	assert.ErrorIs(t, err, keys.ErrUnauthenticated)
	timer := time.AfterFunc(1500*time.Millisecond, func() { replace(t, path, third) })
	defer timer.Stop()
	require.Eventually(t, func() bool { // a call within a second of the failure returns it
		_, err = keyring.KeyID(t.Context(), patient)
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	assert.Equal(t, third, client.Token())

	require.NoError(t, os.Remove(path))
	assert.ErrorIs(t, <-failed, os.ErrNotExist)
	assert.Equal(t, third, client.Token(), "the last token stays in use")
	replace(t, path, first)
	require.Eventually(t, func() bool { return client.Token() == first }, 10*time.Second, 10*time.Millisecond)
}

// Tokens that ended while Vault was sealed are replaced once it is unsealed.
func TestSessionOutlivesASealedVault(t *testing.T) {
	d := testdeployment.Servers(t, testserver.Dedicated())
	patient, _ := d.Enrol(t)
	client := d.Vault.Client("")
	failed := make(chan error, 100)
	l := d.Vault.AppRole(t, "writer", testserver.Lifetime{TTL: 2 * time.Second, Max: 4 * time.Second})
	session, err := login.Start(t.Context(), client, appRole(l), func(err error) { failed <- err })
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, session.Close()) })
	keyring := newKeyring(t, d, client, session.Refresh)
	ended := client.Token()
	d.Vault.Seal(t)
	assert.ErrorIs(t, <-failed, keys.ErrUnavailable)
	d.Vault.Unseal(t)
	require.Eventually(t, func() bool {
		_, err := keyring.KeyID(t.Context(), patient)
		return err == nil
	}, 30*time.Second, 100*time.Millisecond)
	assert.NotEqual(t, ended, client.Token())
}

func TestStartRefuses(t *testing.T) {
	d := testdeployment.Servers(t)
	l, j := d.Vault.AppRole(t, "writer", long), d.Vault.JWT(t, "writer", long)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	absent := filepath.Join(t.TempDir(), "absent")
	for name, test := range map[string]struct {
		method api.AuthMethod
		err    error
	}{
		"a wrong secret ID":      {login.AppRole(l.Mount, l.Role, file("canary-secret")), keys.ErrUnauthenticated},
		"a wrong role ID":        {login.AppRole(l.Mount, "canary-secret", l.File), keys.ErrUnauthenticated},
		"a wrong mount":          {login.AppRole(l.Mount+"x", l.Role, l.File), keys.ErrUnauthenticated},
		"no secret ID":           {login.AppRole(l.Mount, l.Role, absent), os.ErrNotExist},
		"a wrong JWT":            {login.JWT(j.Mount, j.Role, file("canary-secret")), keys.ErrUnauthenticated},
		"a wrong role":           {login.JWT(j.Mount, j.Role+"x", j.File), keys.ErrUnauthenticated},
		"no JWT":                 {login.Kubernetes(j.Mount, j.Role, absent), os.ErrNotExist},
		"an empty JWT":           {login.Kubernetes(j.Mount, j.Role, file("\n")), keys.ErrUnauthenticated},
		"no token file":          {login.File(absent), os.ErrNotExist},
		"an empty token file":    {login.File(file("\n")), keys.ErrUnauthenticated},
		"a token file of 65 KiB": {login.File(file(strings.Repeat("t", 65<<10))), keys.ErrUnauthenticated},
		"a token file of lines":  {login.File(file("canary-secret\ncanary-secret")), keys.ErrUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			client := d.Vault.Client("")
			_, err := login.Start(t.Context(), client, test.method, nil)
			require.ErrorIs(t, err, test.err)
			assert.NotContains(t, err.Error(), "canary-secret")
			assert.Empty(t, client.Token())
		})
	}
	t.Run("Vault does not answer", func(t *testing.T) {
		client := d.Vault.Client("")
		client.SetMaxRetries(0)
		require.NoError(t, client.SetAddress("http://127.0.0.1:1"))
		_, err := login.Start(t.Context(), client, appRole(l), nil)
		assert.ErrorIs(t, err, keys.ErrUnavailable)
	})
	t.Run("a context that has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := login.Start(ctx, d.Vault.Client(""), appRole(l), nil)
		assert.ErrorIs(t, err, context.Canceled)
	})
	t.Run("no method", func(t *testing.T) {
		_, err := login.Start(t.Context(), d.Vault.Client(""), nil, nil)
		assert.Error(t, err)
	})
}
