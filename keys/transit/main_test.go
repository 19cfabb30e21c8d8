package transit_test

import (
	"context"
	"crypto/rand"
	"flag"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

// update makes TestRoleMatrix write its golden file instead of comparing it.
var update = flag.Bool("update", false, "write docs/roles.md")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// fixture is a real Vault that is set up, with tokens for the roles.
type fixture struct {
	t       testing.TB
	server  *testserver.VaultServer
	admin   *api.Client
	options transit.Options
	setup   transit.SetupOptions
}

func newFixture(t testing.TB, options ...testserver.Option) *fixture {
	t.Helper()
	f := newBareFixture(t, options...)
	f.setUp()
	return f
}

// newBareFixture returns a fixture whose Vault is not set up.
func newBareFixture(t testing.TB, options ...testserver.Option) *fixture {
	t.Helper()
	server := testserver.Vault(t, options...)
	return &fixture{
		t:       t,
		server:  server,
		admin:   server.Client(server.RootToken()),
		options: transit.Options{Mount: server.Mount(), Prefix: server.Prefix()},
		setup:   transit.SetupOptions{Mount: server.Mount(), Prefix: server.Prefix(), Store: keystest.Store},
	}
}

// with returns the fixture for a subtest.
func (f *fixture) with(t testing.TB) *fixture {
	sub := *f
	sub.t = t
	return &sub
}

func (f *fixture) setUp() transit.Report {
	f.t.Helper()
	report, err := transit.Setup(f.t.Context(), f.admin, f.setup)
	require.NoError(f.t, err)
	return report
}

// token returns a token with the policy of one role and no other.
func (f *fixture) token(role string) string {
	f.t.Helper()
	return f.server.RoleToken(role)
}

// keyring returns a keyring with the token of one role, or with none.
func (f *fixture) keyring(role string) *transit.Keyring {
	f.t.Helper()
	token := ""
	if role != "" {
		token = f.token(role)
	}
	return f.keyringOf(f.server.Client(token))
}

func (f *fixture) keyringOf(client *api.Client) *transit.Keyring {
	f.t.Helper()
	keyring, err := transit.New(client, f.options)
	require.NoError(f.t, err)
	return keyring
}

// roles is the keyring of a deployment in which every role has its own token. The unwrapper has none.
type roles struct {
	keys.Enroller
	keys.Wrapper
	keys.Unwrapper
	keys.Granter
	keys.Revoker
	keys.Rotator
	keys.Retirer
	keys.Trimmer
	keys.Eraser
}

// CheckStore uses the retirer's token. The trimmer has the method too.
func (r roles) CheckStore(ctx context.Context, store keys.StoreID) error {
	return r.Retirer.CheckStore(ctx, store)
}

// Versions uses the rotator's token. The retirer and the trimmer have the method too.
func (r roles) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	return r.Rotator.Versions(ctx, id)
}

func (f *fixture) roles() roles {
	f.t.Helper()
	return roles{
		Enroller:  f.keyring("enroller"),
		Wrapper:   f.keyring("writer"),
		Unwrapper: f.keyring(""),
		Granter:   f.keyring("granter"),
		Revoker:   f.keyring("revoker"),
		Rotator:   f.keyring("rotator"),
		Retirer:   f.keyring("retirer"),
		Trimmer:   f.keyring("trimmer"),
		Eraser:    f.keyring("eraser"),
	}
}

// recording is a wrapped recording key and what it must unwrap to.
type recording struct {
	binding keys.Binding
	wrapped keys.WrappedKey
	key     *keys.Key
}

func newPatient() keys.Patient { return keys.Patient("patient-" + rand.Text()) }

func (f *fixture) enrol(k keys.Enroller) (keys.Patient, keys.KeyID) {
	f.t.Helper()
	patient := newPatient()
	id, err := k.Enrol(f.t.Context(), patient)
	require.NoError(f.t, err)
	return patient, id
}

func (f *fixture) record(k keys.Wrapper, id keys.KeyID) recording {
	f.t.Helper()
	rec := recording{binding: keystest.NewRecordingID(id).Binding(), key: keys.NewKey()}
	var err error
	rec.wrapped, err = k.Wrap(f.t.Context(), rec.binding, rec.key)
	require.NoError(f.t, err)
	return rec
}

// grantOptions returns the options of an ordinary grant.
func grantOptions() keys.GrantOptions {
	return keys.GrantOptions{TTL: 10 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, RequestID: "case-7"}
}

func (f *fixture) grant(k keys.Granter, patient keys.Patient) keys.Grant {
	f.t.Helper()
	grant, err := k.Issue(f.t.Context(), patient, grantOptions())
	require.NoError(f.t, err)
	return grant
}

// opens fails unless the grant opens the recording.
func (f *fixture) opens(k keys.Unwrapper, grant keys.Grant, rec recording) {
	f.t.Helper()
	key, err := k.Unwrap(f.t.Context(), grant, rec.binding, rec.wrapped)
	require.NoError(f.t, err)
	require.Equal(f.t, rec.key.Bytes(), key.Bytes())
}
