package bench

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

const (
	scaleWorkers = 8
	scaleCalls   = 500    // measured, of each kind, at each step
	scaleGrants  = 10_000 // patients for whom grants are issued, if so many are enrolled
)

// BenchmarkScale measures what a Vault with many patients costs: the time of a call at growing numbers of enrolled
// keys, and the memory and storage of keys and of grants. The steps cannot take turns, so each also times Vault's
// health endpoint, which uses no keys: if that has become slower, the machine has. RECVAULT_BENCH_KEYS (default
// 50,000) is the largest number of keys.
func BenchmarkScale(b *testing.B) {
	limit := setting(b, "RECVAULT_BENCH_KEYS", 50_000)
	s := newScale(b)
	steps := slices.DeleteFunc([]int{100, 1000, 10_000, 50_000}, func(n int) bool { return n > limit })
	if !slices.Contains(steps, limit) {
		steps = append(steps, limit)
	}
	var costs []cost
	for _, n := range steps {
		before, enrolled := s.usage(), len(s.ids)
		s.enrol(n)
		after := s.usage()
		costs = append(costs, cost{keys: n, growth: after.since(before, n-enrolled), usage: after, p50: s.calls()})
	}
	printCosts(costs)
	s.boundCache()
	s.grantMany(min(scaleGrants, limit))
}

// scale is a Vault of the benchmark's own, with a keyring for each role.
type scale struct {
	b                                  *testing.B
	server                             *testserver.VaultServer
	root                               *api.Client
	enroller, writer, granter, rotator *transit.Keyring
	revoker                            *transit.Keyring
	patients                           []keys.Patient
	ids                                []keys.KeyID
}

func newScale(b *testing.B) *scale {
	b.Helper()
	s := &scale{b: b, server: testserver.Vault(b, testserver.Dedicated())}
	s.root = s.server.Client(s.server.RootToken())
	_, err := transit.Setup(b.Context(), s.root, transit.SetupOptions{Mount: s.server.Mount(), Prefix: s.server.Prefix()})
	require.NoError(b, err)
	for role, keyring := range map[string]**transit.Keyring{
		"enroller": &s.enroller, "writer": &s.writer, "granter": &s.granter, "rotator": &s.rotator, "revoker": &s.revoker,
	} {
		client := s.server.Client(s.token(s.server.Prefix() + "-" + role))
		*keyring, err = transit.New(client, transit.Options{Mount: s.server.Mount(), Prefix: s.server.Prefix()})
		require.NoError(b, err)
	}
	return s
}

func (s *scale) token(policy string) string {
	s.b.Helper()
	secret, err := s.root.Auth().Token().CreateOrphanWithContext(s.b.Context(), &api.TokenCreateRequest{
		Policies: []string{policy}, NoDefaultPolicy: true, TTL: "4h",
	})
	require.NoError(s.b, err)
	return secret.Auth.ClientToken
}

// parallel calls f for 0 to n-1 and returns how many calls there were per second.
func (s *scale) parallel(n int, f func(ctx context.Context, i int) error) float64 {
	s.b.Helper()
	ctx, cancel := context.WithCancelCause(s.b.Context())
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range scaleWorkers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	require.NoError(s.b, context.Cause(ctx))
	return float64(n) / time.Since(start).Seconds()
}

// enrol enrols patients until there are n.
func (s *scale) enrol(n int) {
	s.b.Helper()
	from := len(s.ids)
	for i := from; i < n; i++ {
		s.patients = append(s.patients, keys.Patient("patient-"+strconv.Itoa(i)))
	}
	s.ids = append(s.ids, make([]keys.KeyID, n-from)...)
	s.parallel(n-from, func(ctx context.Context, i int) (err error) {
		s.ids[from+i], err = s.enroller.Enrol(ctx, s.patients[from+i])
		return err
	})
}

func (s *scale) issue(ctx context.Context, i int) (keys.Grant, error) {
	return s.granter.Issue(ctx, s.patients[i], keys.GrantOptions{TTL: time.Hour, Subject: "benchmark", Purpose: keys.HealthOperations})
}

// The calls that are timed, as the table names them.
var scaleKinds = []string{"open", "wrap", "rewrap", "health"}

// firstWrap comes before them: Vault may have to load the key for it.
const firstWrap = "first wrap"

// calls times calls for randomly chosen patients, of all kinds in turn, and returns the medians in milliseconds. An
// open is its part in Vault: unwrapping with a grant.
func (s *scale) calls() map[string]float64 {
	s.b.Helper()
	ctx := s.b.Context()
	series := map[string][]float64{}
	for i := range scaleCalls + 50 {
		at := rand.IntN(len(s.ids))
		binding, key := keystest.NewRecordingID(s.ids[at]).Binding(), keys.NewKey()
		grant, err := s.issue(ctx, at)
		require.NoError(s.b, err)
		var wrapped keys.WrappedKey
		first := timed(func() { wrapped, err = s.writer.Wrap(ctx, binding, key) })
		require.NoError(s.b, err)
		if i >= 50 { // the ones before warm up
			series[firstWrap] = append(series[firstWrap], first)
		}
		for _, kind := range rotated(scaleKinds, i) {
			took := timed(func() {
				switch kind {
				case "open":
					_, err = s.writer.Unwrap(ctx, grant, binding, wrapped)
				case "wrap":
					_, err = s.writer.Wrap(ctx, binding, key)
				case "rewrap":
					_, err = s.rotator.Rewrap(ctx, s.ids[at], []keys.RewrapItem{{Binding: binding, Wrapped: wrapped}})
				case "health":
					_, err = s.root.Sys().HealthWithContext(ctx)
				}
			})
			require.NoError(s.b, err, kind)
			if i >= 50 {
				series[kind] = append(series[kind], took)
			}
		}
		require.NoError(s.b, s.revoker.Revoke(ctx, grant.Accessor()))
	}
	p50 := map[string]float64{}
	for kind, values := range series {
		p50[kind] = median(values)
	}
	return p50
}

// usage is what Vault uses, in bytes.
type usage struct {
	resident float64 // memory of the process, including memory that its garbage collector has not returned
	heap     float64 // memory in use, after a collection
	stored   float64 // the lengths of the files that it keeps
}

func (u usage) since(before usage, n int) usage {
	per := 10_000 / float64(n)
	return usage{(u.resident - before.resident) * per, (u.heap - before.heap) * per, (u.stored - before.stored) * per}
}

func (s *scale) usage() usage {
	s.b.Helper()
	u := usage{heap: s.heap()}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.server.PID(s.b)))
	require.NoError(s.b, err)
	u.resident = 1024 * field(s.b, string(status), "VmRSS:")
	require.NoError(s.b, filepath.WalkDir(s.server.DataDir(), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			u.stored += float64(info.Size())
		}
		return err
	}))
	return u
}

// heap makes Vault collect its garbage, and returns the memory that is still in use.
func (s *scale) heap() float64 {
	s.b.Helper()
	answer, err := s.root.Logical().ReadRawWithDataWithContext(s.b.Context(), "sys/pprof/heap", map[string][]string{"gc": {"1"}, "debug": {"1"}})
	require.NoError(s.b, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(s.b, err)
	return field(s.b, string(text), "# HeapAlloc =")
}

// field returns the number that follows a name at the beginning of a line.
func field(b *testing.B, text, name string) float64 {
	b.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			require.NoError(b, err)
			return n
		}
	}
	require.Fail(b, "no "+name)
	return 0
}

// cost is the measurement of a step.
type cost struct {
	keys   int
	p50    map[string]float64
	growth usage // per 10,000 keys enrolled in this step
	usage  usage // of Vault in all, after enrolling
}

const mib = 1 << 20

// printCosts writes the table in Markdown that docs/operations.md has. The open, wrap and rewrap columns without a
// unit are the times relative to the first step's, divided by the same ratio for the health endpoint.
func printCosts(costs []cost) {
	fmt.Printf("\nVault with growing numbers of enrolled keys (p50 of %d calls for random patients, one at a time)\n\n", scaleCalls)
	w := markdown()
	fmt.Fprintln(w, "| Keys\t| open ms\t| wrap ms\t| rewrap ms\t| health ms\t| open\t| wrap\t| rewrap\t| resident MiB\t| in use MiB\t| stored MiB\t|")
	fmt.Fprintln(w, "|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|")
	for _, c := range costs {
		fmt.Fprintf(w, "| %d\t", c.keys)
		for _, kind := range scaleKinds {
			fmt.Fprintf(w, "| %.2f\t", c.p50[kind])
		}
		for _, kind := range scaleKinds[:3] {
			fmt.Fprintf(w, "| %.2f\t", c.p50[kind]/costs[0].p50[kind]*costs[0].p50["health"]/c.p50["health"])
		}
		fmt.Fprintf(w, "| %.0f\t| %.0f\t| %.1f\t|\n", c.usage.resident/mib, c.usage.heap/mib, c.usage.stored/mib)
	}
	_ = w.Flush()
	last := costs[len(costs)-1]
	fmt.Printf("\nPer 10,000 enrolled (the last step): %.0f MiB resident, %.0f MiB in use, %.1f MiB stored\n",
		last.growth.resident/mib, last.growth.heap/mib, last.growth.stored/mib)
}

func markdown() *tabwriter.Writer { return tabwriter.NewWriter(os.Stdout, 0, 0, 1, ' ', 0) }

// boundCache bounds the keys that Vault keeps in memory, so that most do not fit, and times their loading.
func (s *scale) boundCache() {
	s.b.Helper()
	bound := max(10, len(s.ids)/50)
	before := s.usage()
	_, err := transit.Setup(s.b.Context(), s.root, transit.SetupOptions{
		Mount: s.server.Mount(), Prefix: s.server.Prefix(), ExpectedPatients: bound,
	})
	require.NoError(s.b, err)
	p50, after := s.calls(), s.usage()
	fmt.Printf("\nThe same %d keys, of which Vault keeps %d in memory: %.2f ms for a wrap that has to load its key, %.2f ms for the next "+
		"(health: %.2f ms); %.0f MiB in use instead of %.0f\n", len(s.ids), bound, p50[firstWrap], p50["wrap"], p50["health"],
		after.heap/mib, before.heap/mib)
}

// cleaner may remove the entities of patients who had grants, and nothing else. It is the policy in
// docs/operations.md.
const cleaner = `
path "identity/entity/id"           { capabilities = ["list"] }
path "identity/entity/batch-delete" { capabilities = ["update"] }
`

// grantMany issues a grant for each of n patients, revokes the grants, and removes the entities that remain.
func (s *scale) grantMany(n int) {
	s.b.Helper()
	policy := s.server.Prefix() + "-cleaner"
	require.NoError(s.b, s.root.Sys().PutPolicyWithContext(s.b.Context(), policy, cleaner))
	client := s.server.Client(s.token(policy))
	s.removeEntities(client) // of the calls before
	before := s.usage()

	fmt.Printf("\n%d patients are granted, per 10,000 of them\n\n", n)
	w := markdown()
	fmt.Fprintln(w, "| \t| per second\t| resident MiB\t| in use MiB\t| stored MiB\t|")
	fmt.Fprintln(w, "|---\t|---:\t|---:\t|---:\t|---:\t|")
	row := func(name string, rate float64) {
		u := s.usage().since(before, n)
		fmt.Fprintf(w, "| %s\t| %.0f\t| %.0f\t| %.1f\t| %.1f\t|\n", name, rate, u.resident/mib, u.heap/mib, u.stored/mib)
	}
	accessors := make([]string, n)
	issue := func(ctx context.Context, i int) error {
		grant, err := s.issue(ctx, i)
		accessors[i] = grant.Accessor()
		return err
	}
	end := func(ctx context.Context, i int) error { return s.revoker.Revoke(ctx, accessors[i]) }
	row("first grants issued", s.parallel(n, issue))
	row("all of them revoked", s.parallel(n, end))
	row("second grants issued", s.parallel(n, issue))
	row("all of them revoked", s.parallel(n, end))
	start := time.Now()
	removed := s.removeEntities(client)
	row("entities removed", float64(removed)/time.Since(start).Seconds())
	_ = w.Flush()
	require.Equal(s.b, n, removed)
}

// removeEntities removes the entities of patients, and returns how many there were.
func (s *scale) removeEntities(client *api.Client) int {
	s.b.Helper()
	list, err := client.Logical().ListWithContext(s.b.Context(), "identity/entity/id")
	require.NoError(s.b, err)
	if list == nil {
		return 0
	}
	var ours []string
	for id, info := range list.Data["key_info"].(map[string]any) {
		aliases, _ := info.(map[string]any)["aliases"].([]any)
		if len(aliases) != 1 {
			continue
		}
		name, _ := aliases[0].(map[string]any)["name"].(string)
		if strings.HasSuffix(name, "-kek") {
			ours = append(ours, id)
		}
	}
	for batch := range slices.Chunk(ours, 1000) {
		_, err := client.Logical().WriteWithContext(s.b.Context(), "identity/entity/batch-delete", map[string]any{"entity_ids": batch})
		require.NoError(s.b, err)
	}
	return len(ours)
}
