package transit_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// entity makes an entity with rights of its own and an alias on the token mount, as another team may have done.
func (f *fixture) entity(alias string, policies ...string) string {
	f.t.Helper()
	entity, err := f.admin.Logical().WriteWithContext(f.t.Context(), "identity/entity", data{"policies": policies})
	require.NoError(f.t, err)
	id := entity.Data["id"].(string)
	_, err = f.admin.Logical().WriteWithContext(f.t.Context(), "identity/entity-alias",
		data{"name": alias, "canonical_id": id, "mount_accessor": f.tokenAccessor()})
	require.NoError(f.t, err)
	return id
}

// issueFor asks for a grant with an alias of the thief's choice.
func (f *fixture) issueFor(client *api.Client, alias string) (*api.Secret, error) {
	f.t.Helper()
	return client.Logical().WriteWithContext(f.t.Context(), "auth/token/create/"+f.options.Prefix+"-grant",
		data{"entity_alias": alias, "ttl": "60s", "meta": data{"subject": "mallory"}})
}

// A stolen granter's token must not become somebody else's entity. The control is a token role that takes any alias.
func TestAStolenGranterBecomesNoForeignEntity(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	f.entity("deployer", f.options.Prefix+"-eraser")
	granter := f.server.Client(f.token("granter"))
	for _, alias := range []string{"deployer", "DEPLOYER", "deployer-kek", "xdeployer"} {
		secret, err := f.issueFor(granter, alias)
		if err == nil {
			assert.Equal(t, []string{f.options.Prefix + "-grant"}, secret.Auth.Policies, alias)
		}
	}
	_, err := f.issueFor(f.admin, "deployer")
	require.ErrorContains(t, err, "invalid 'entity_alias' value")
	_, err = f.admin.Logical().WriteWithContext(t.Context(), "auth/token/roles/"+f.options.Prefix+"-grant",
		data{"allowed_entity_aliases": []string{"*"}})
	require.NoError(t, err)
	_, err = f.issueFor(granter, "deployer")
	var refused *api.ResponseError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, http.StatusForbidden, refused.StatusCode, "the granter's policy and the token role each refuse it")
	secret, err := f.issueFor(f.admin, "deployer")
	require.NoError(t, err)
	assert.Contains(t, secret.Auth.Policies, f.options.Prefix+"-eraser", "the attack does not work without the defence")
}

func TestSetupReportsForeignAliases(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	f.installSetupPolicy()
	k := f.roles()
	run := func(options transit.SetupOptions) transit.Report {
		report, err := transit.Setup(t.Context(), f.server.Client(f.token("setup")), options)
		require.NoError(t, err)
		return report
	}
	f.entity("deployer", f.options.Prefix+"-eraser") // out of a granter's reach
	for range 5 {
		patient, _ := f.enrol(k)
		f.grant(k, patient)
	}
	assert.Equal(t, "nothing to change", run(f.setup).String())

	lee := f.entity("mail-kek", "mail")
	junk := strings.Repeat("b", 100_000) + "-kek" // of a stolen granter's token
	_, err := f.issueFor(f.server.Client(f.token("granter")), junk)
	require.NoError(t, err)
	patient, id := f.enrol(k)
	f.grant(k, patient)
	entity, err := f.admin.Logical().WriteWithContext(t.Context(), "identity/lookup/entity",
		data{"alias_name": id.String() + "-kek", "alias_mount_accessor": f.tokenAccessor()})
	require.NoError(t, err)
	_, err = f.admin.Logical().WriteWithContext(t.Context(), "identity/group",
		data{"name": "staff", "policies": []string{"mail"}, "member_entity_ids": []string{entity.Data["id"].(string), lee}})
	require.NoError(t, err)

	for _, dry := range []bool{true, false} {
		options := f.setup
		options.DryRun = dry
		report := run(options)
		assert.Empty(t, report.Changes)
		require.Len(t, report.Foreign, 3)
		found := map[string]transit.ForeignAlias{}
		for _, alias := range report.Foreign {
			found[alias.Alias] = alias
		}
		assert.Equal(t, transit.ForeignAlias{Alias: "mail-kek", EntityID: lee, Policies: []string{"mail"}, Groups: 1}, found["mail-kek"])
		assert.Empty(t, found[junk[:64]].Policies)
		assert.NotEmpty(t, found[junk[:64]].EntityID)
		assert.Equal(t, 1, found[id.String()+"-kek"].Groups)
		assert.Contains(t, report.String(), `foreign entity alias "mail-kek": entity `+lee+`, policies ["mail"], groups 1`)
		assert.Less(t, len(report.String()), 2000)
	}

	options := f.setup
	options.MaxEntities = 3
	report := run(options)
	assert.Greater(t, report.UncheckedEntities, 3)
	assert.Empty(t, report.Foreign)
	assert.Contains(t, report.String(), "entity aliases not checked")
}

func TestSetupReportsManyForeignAliasesInBrief(t *testing.T) {
	f := newFixture(t, testserver.Dedicated())
	granter := f.server.Client(f.token("granter"))
	for i := range 150 {
		_, err := f.issueFor(granter, fmt.Sprintf("no-key%s-kek", strings.Repeat("x", i)))
		require.NoError(t, err)
	}
	report := f.setUp()
	assert.Len(t, report.Foreign, 100)
	assert.Equal(t, 50, report.MoreForeign)
	assert.Contains(t, report.String(), "and 50 foreign entity aliases more")
}

// A large deployment has an alias for every patient who was granted. Setup reads them as they come.
func TestSetupReadsManyAliasesAsAStream(t *testing.T) {
	const aliases = 300_000
	f := newFixture(t, testserver.Dedicated())
	accessor, foreign := f.tokenAccessor(), f.entity("mail-kek", "mail")
	behind, err := url.Parse(f.server.Address())
	require.NoError(t, err)
	var heap uint64 // in use in mid-answer
	forward := httputil.NewSingleHostReverseProxy(behind)
	forward.Transport = new(http.Transport)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.URL.Query().Has("list") {
			forward.ServeHTTP(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"request_id":"x","lease_id":"","data":{"key_info":{`)
		write := func(i int, entity, name string) {
			_, _ = fmt.Fprintf(w, `"%d":{"canonical_id":%q,"custom_metadata":{},"local":false,"metadata":null,"mount_accessor":%q,`+
				`"mount_path":"auth/token/","mount_type":"token","name":%q}`, i, entity, accessor, name)
		}
		for i := range aliases {
			id := make([]byte, keys.KeyIDBytes)
			binary.BigEndian.PutUint32(id, uint32(i))
			write(i, foreign[:30]+fmt.Sprintf("%06d", i), keys.NewKeyID(id).String()+"-kek")
			_, _ = io.WriteString(w, ",")
			if i == aliases*3/4 {
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				heap = stats.HeapAlloc
			}
		}
		write(aliases, foreign, "mail-kek")
		_, _ = io.WriteString(w, `},"keys":["x"]},"warnings":null}`)
	}))
	defer front.Close()
	defer forward.Transport.(*http.Transport).CloseIdleConnections()
	config := api.DefaultConfig()
	config.Address = front.URL
	client, err := api.NewClient(config)
	require.NoError(t, err)
	defer client.CloneConfig().HttpClient.CloseIdleConnections()
	client.SetToken(f.server.RootToken())
	report, err := transit.Setup(t.Context(), client, f.setup)
	require.NoError(t, err)
	require.Len(t, report.Foreign, 1)
	assert.Equal(t, "mail-kek", report.Foreign[0].Alias)
	assert.NotZero(t, heap)
	assert.Less(t, heap, uint64(32<<20))
}

// The clean-up in docs/operations.md removes what grants left behind, and what a stolen granter's token did, and nothing
// of others.
func TestCleanUpTakesEveryAlias(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("the script in docs/operations.md needs bash, curl and jq: install them to run this test")
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	require.NoError(t, err)
	section := regexp.MustCompile(`(?s)### Cleaning up\n.*?\n## `).FindString(string(text))
	script := regexp.MustCompile(`(?s)\n(    curl .*?\n)\n`).FindStringSubmatch(section)
	require.NotNil(t, script)
	var policy strings.Builder
	for _, rule := range regexp.MustCompile(`(?m)^    (path ".*)$`).FindAllStringSubmatch(section, -1) {
		policy.WriteString(rule[1] + "\n")
	}

	f := newFixture(t, testserver.Dedicated())
	k := f.roles()
	for range 3 {
		patient, _ := f.enrol(k)
		f.grant(k, patient)
	}
	granter := f.server.Client(f.token("granter"))
	for i := range 100 {
		_, err := f.issueFor(granter, fmt.Sprintf("%s%s-kek", strings.Repeat("h", 20_000), strings.Repeat("x", i)))
		require.NoError(t, err)
	}
	deployer := f.entity("deployer", "mail")
	require.NoError(t, f.admin.Sys().PutPolicyWithContext(t.Context(), f.options.Prefix+"-cleaner", policy.String()))
	run := exec.Command("bash", "-o", "pipefail", "-e", "-c", script[1])
	run.Env = append(os.Environ(), "VAULT_TOKEN="+f.token("cleaner"), "VAULT_ADDR="+f.server.Address())
	printed, err := run.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	left, err := f.admin.Logical().ListWithContext(t.Context(), "identity/entity/id")
	require.NoError(t, err)
	assert.Equal(t, []any{deployer}, left.Data["keys"])
	assert.Empty(t, f.setUp().Foreign)
}

// The grant policy names its paths by the alias. Without one, nothing is left but to end the token.
func TestAGrantWithoutAnAliasCanOnlyEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testserver.Dedicated())
	for _, kind := range []string{"grant", "describe"} {
		for _, section := range matrixSections {
			for _, op := range section.operations {
				c := newCell(t, f, kind)
				secret, err := f.admin.Logical().WriteWithContext(t.Context(), "auth/token/create/"+f.options.Prefix+"-"+kind, data{"ttl": "60s"})
				require.NoError(t, err)
				require.Empty(t, secret.Auth.EntityID)
				c.use(secret.Auth.ClientToken)
				outcome := c.outcome(op)
				if op.name == "end itself" {
					assert.Equal(t, allowed, outcome)
				} else if !strings.HasPrefix(outcome, "refused (500)") { // requests of no form, whoever sends them
					assert.Equal(t, denied, outcome, "%s: %s", kind, op.name)
				}
			}
		}
	}
}

// The metadata of a grant is what its issuer wrote. Its patient is the alias.
func TestMetaKeyIDGivesNoRight(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	_, id := f.enrol(k)
	_, otherID := f.enrol(k)
	rec, other := f.record(k, id), f.record(k, otherID)
	secret, err := f.server.Client(f.token("granter")).Logical().WriteWithContext(t.Context(), "auth/token/create/"+f.options.Prefix+"-grant",
		data{"entity_alias": id.String() + "-kek", "ttl": "60s", "meta": data{"key_id": otherID.String()}})
	require.NoError(t, err)
	grant := keys.NewGrant(keys.GrantDetails{KeyID: otherID}, secret.Auth.ClientToken)
	f.opens(k, grant, rec)
	_, err = k.Unwrap(t.Context(), grant, other.binding, other.wrapped)
	assert.ErrorIs(t, err, keys.ErrDenied)
}
