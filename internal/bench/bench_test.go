// Package bench measures recvault side by side with what it is built on: minio-go for storage, and tink-go and the
// standard library for encryption. Run it with `make bench`.
//
// Every measurement runs in a process of its own, which shows its peak memory. Each of several rounds runs every
// case once, so that other load on the machine affects all cases. The benchmarks print medians over the rounds, and
// ratios to a named case of the same rounds.
//
// Settings from the environment: RECVAULT_BENCH_ROUNDS (default 5) and RECVAULT_BENCH_MIB, the size of a transfer
// (default 1024).
package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

// job is what a child process measures, and on which server.
type job struct {
	Case      string
	Size      int64
	Endpoint  string
	AccessKey string
	SecretKey string
	CAFile    string
	Bucket    string
	Dir       string // for the embedded keyring or store
	Object    string // what a get reads: an object's name, or a recording's ID
	Grant     string
	Cores     int // the most that the case may use; 0 means all

	Vault, VaultToken, VaultMount string
}

// result is the measurement of a child process.
type result struct {
	Seconds float64
	Peak    int64 // resident memory, in bytes
	Object  string
	Grant   string
	Unwraps int64
}

const jobVariable = "RECVAULT_BENCH_JOB"

func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		if err := child(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	if j.Cores > 0 {
		runtime.GOMAXPROCS(j.Cores)
	}
	run, ok := cases[j.Case]
	if !ok {
		return fmt.Errorf("no such case: %s", j.Case)
	}
	r, err := run(j)
	if err != nil {
		return fmt.Errorf("%s: %w", j.Case, err)
	}
	if r.Peak, err = peakMemory(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func spawn(b *testing.B, j job) result {
	b.Helper()
	text, err := json.Marshal(j)
	require.NoError(b, err)
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(b, err, "%s: %s", j.Case, stderr.String())
	var r result
	require.NoError(b, json.Unmarshal(out, &r))
	return r
}

func setting(b *testing.B, name string, fallback int) int {
	b.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	require.NoError(b, err, name)
	require.Positive(b, n, name)
	return n
}

// table collects the measurements of some cases, and prints their medians.
type table struct {
	title string
	size  int64
	rows  []string
	runs  map[string][]result
}

func newTable(title string, size int64, rows ...string) *table {
	return &table{title: title, size: size, rows: rows, runs: map[string][]result{}}
}

func (t *table) add(name string, r result) { t.runs[name] = append(t.runs[name], r) }

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[n/2] + values[(n-1)/2]) / 2
}

// print writes the table. The ratio of two cases is the median of the ratios of their rounds.
func (t *table) print() {
	fmt.Printf("\n%s (%d MiB, medians of %d rounds)\n", t.title, t.size>>20, len(t.runs[t.rows[0]]))
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "case\tMB/s\tpeak MiB\t")
	for _, row := range t.rows[1:] {
		fmt.Fprintf(w, "vs %s\t", row)
	}
	fmt.Fprintln(w)
	for _, row := range t.rows {
		var speeds, peaks []float64
		for _, r := range t.runs[row] {
			speeds = append(speeds, float64(t.size)/r.Seconds/1e6)
			peaks = append(peaks, float64(r.Peak)/(1<<20))
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t", row, median(speeds), slices.Max(peaks))
		for _, other := range t.rows[1:] {
			var ratios []float64
			for i, r := range t.runs[row] {
				ratios = append(ratios, t.runs[other][i].Seconds/r.Seconds)
			}
			fmt.Fprintf(w, "%.2f\t", median(ratios))
		}
		fmt.Fprintln(w)
	}
	_ = w.Flush()
}

// The names of the cases, as tables print them.
const (
	putRecvault = "recvault Put"
	putTuned    = "minio-go, tuned"
	putDefault  = "minio-go, defaults"
	getRecvault = "recvault Open"
	getPlain    = "minio-go GetObject"

	sealRecvault = "recvault seal"
	sealTink     = "tink-go seal"
	sealStdlib   = "AES-256-GCM seal"
	openRecvault = "recvault open"
	openTink     = "tink-go open"
	openStdlib   = "AES-256-GCM open"

	putDir = "recvault Put, storage/dir"
	getDir = "recvault Open, storage/dir"
)

// rotated returns the cases in another order each round, so that no case always runs with full caches.
func rotated(rows []string, round int) []string {
	at := round % len(rows)
	return slices.Concat(rows[at:], rows[:at])
}

func BenchmarkStorage(b *testing.B) {
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	size := int64(setting(b, "RECVAULT_BENCH_MIB", 1024)) << 20
	for _, secure := range []bool{false, true} {
		protocol, scheme, options := "HTTP", "http://", []testserver.Option{testserver.Dedicated()}
		if secure {
			protocol, scheme, options = "TLS", "https://", []testserver.Option{testserver.TLS()}
		}
		server := testserver.MinIO(b, options...)
		base := job{
			Size: size, Endpoint: scheme + server.Endpoint(), AccessKey: server.AccessKey(), SecretKey: server.SecretKey(),
			CAFile: server.CAFile(), Bucket: server.Bucket(),
		}
		puts := newTable("Put of unknown length, real MinIO over "+protocol, size, putRecvault, putTuned, putDefault)
		gets := newTable("Sequential read, real MinIO over "+protocol, size, getRecvault, getPlain)
		for round := range rounds {
			base.Dir = b.TempDir() // a keyring serves one store, and the bucket is emptied after the round
			stored := map[string]result{}
			for _, name := range rotated(puts.rows, round) {
				j := base
				j.Case = name
				stored[name] = spawn(b, j)
				puts.add(name, stored[name])
			}
			for _, name := range rotated(gets.rows, round) {
				j := base
				j.Case, j.Object = name, stored[putTuned].Object
				if name == getRecvault {
					j.Object, j.Grant = stored[putRecvault].Object, stored[putRecvault].Grant
				}
				gets.add(name, spawn(b, j))
			}
			removeAll(b, server)
		}
		puts.print()
		gets.print()
	}
}

func BenchmarkDirectory(b *testing.B) {
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	size := int64(setting(b, "RECVAULT_BENCH_MIB", 1024)) << 20
	t := newTable("Embedded default: a directory, with fsync", size, putDir, getDir)
	for range rounds {
		base := job{Size: size, Dir: b.TempDir()}
		base.Case = putDir
		r := spawn(b, base)
		t.add(putDir, r)
		base.Case, base.Object, base.Grant = getDir, r.Object, r.Grant
		t.add(getDir, spawn(b, base))
		require.NoError(b, os.RemoveAll(base.Dir))
	}
	t.print()
}

func BenchmarkMemory(b *testing.B) {
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	size := int64(setting(b, "RECVAULT_BENCH_MIB", 1024)) << 20
	for _, t := range []*table{
		newTable("Sealing in memory, one goroutine", size, sealRecvault, sealTink, sealStdlib),
		newTable("Opening in memory, one goroutine", size, openRecvault, openTink, openStdlib),
	} {
		for round := range rounds {
			for _, name := range rotated(t.rows, round) {
				t.add(name, spawn(b, job{Case: name, Size: size}))
			}
		}
		t.print()
	}
}

// measured returns the time that f takes.
func measured(f func() error) (result, error) {
	start := time.Now()
	err := f()
	return result{Seconds: time.Since(start).Seconds()}, err
}
