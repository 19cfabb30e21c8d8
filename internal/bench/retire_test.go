package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// BenchmarkRetire compares retiring and trimming with rewrapping, for patients with one recording each, and a plan of
// patients who are named with one of all. RECVAULT_BENCH_ENVELOPES is how many patients there are (default 10,000).
func BenchmarkRetire(b *testing.B) {
	patients := setting(b, "RECVAULT_BENCH_ENVELOPES", 10_000)
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	d := deployForMany(b)
	ids := d.populate(b, patients, patients)
	r, err := rotation.New(d.keyring, d.store, rotation.Options{
		Concurrency: rewrapWorkers, Freshness: time.Nanosecond, CommitTimeout: time.Nanosecond, ClockSkew: time.Nanosecond, Grace: time.Second,
	})
	require.NoError(b, err)
	rate := func(run func() (int, error)) float64 {
		start := time.Now()
		changed, err := run()
		require.NoError(b, err)
		require.Equal(b, patients, changed)
		return float64(patients) / time.Since(start).Seconds()
	}
	var rewraps, retires, trims, retireRatios, trimRatios, named, all, namedRatios []float64
	for range rounds {
		rate(func() (int, error) {
			report, err := r.Rotate(b.Context(), scope.All())
			return report.Patients.Changed, err
		})
		rewrap := rate(func() (int, error) {
			report, err := r.Rewrap(b.Context(), scope.All())
			return report.Patients.Changed, err
		})
		time.Sleep(2500 * time.Millisecond) // the grace period, by a clock that is read to the second
		retire := rate(func() (int, error) {
			report, err := r.Retire(b.Context(), scope.All())
			return report.Patients.Changed, err
		})
		trim := rate(func() (int, error) {
			report, err := r.Trim(b.Context(), scope.All())
			return report.Patients.Changed, err
		})
		planned := func(s scope.Scope) float64 {
			return rate(func() (int, error) {
				plan, err := r.Plan(b.Context(), s)
				return plan.Patients.Seen, err
			})
		}
		one, other := planned(scope.Of(ids...)), planned(scope.All())
		rewraps, retires, trims, named, all = append(rewraps, rewrap), append(retires, retire), append(trims, trim), append(named, one), append(all, other)
		retireRatios, trimRatios, namedRatios = append(retireRatios, retire/rewrap), append(trimRatios, trim/rewrap), append(namedRatios, one/other)
	}
	fmt.Printf("\nRetiring and trimming %d patients with a recording each, real Vault and MinIO, %d workers (medians of %d rounds)\n",
		patients, rewrapWorkers, rounds)
	fmt.Printf("rewrap %.0f/s, retire %.0f/s, ratio %.2f, trim %.0f/s, ratio %.2f\n",
		median(rewraps), median(retires), median(retireRatios), median(trims), median(trimRatios))
	fmt.Printf("plan of named patients %.0f/s, of all %.0f/s, ratio %.2f\n", median(named), median(all), median(namedRatios))
}
