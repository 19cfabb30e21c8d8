package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

const (
	rewrapWorkers = 8
	rewrapAll     = "rewrap all patients"
	rewrapTenth   = "rewrap a tenth of the patients"
)

// BenchmarkRewrap compares rewrapping with bare conditional PUTs of 1 KiB objects, with the same number of workers:
// for patients with one recording each, for patients with ten, and for one patient with all.
// RECVAULT_BENCH_ENVELOPES is how many envelopes each round rewraps (default 10,000).
func BenchmarkRewrap(b *testing.B) {
	envelopes := setting(b, "RECVAULT_BENCH_ENVELOPES", 10_000)
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	for _, patients := range []int{envelopes, envelopes / 10, 1} {
		d := deployForMany(b)
		ids := d.populate(b, patients, envelopes)
		plain := newPlainObjects(b, d, envelopes)
		r := d.rotation(b)
		parts := []scope.Scope{scope.Of(ids...)}
		if patients > 1 {
			parts = nil
			// Both take turns often, and have enough to do in each turn that its start weighs nothing. A power
			// of two makes shards that take few listings.
			n := 8
			for n > 1 && envelopes/n < 1000 {
				n /= 2
			}
			for i := range n {
				part, err := scope.Shard(i, n)
				require.NoError(b, err)
				parts = append(parts, part)
			}
		}
		var rates, puts, ratios []float64
		calls := 0
		for round := range rounds {
			rotated, err := r.Rotate(b.Context(), scope.All())
			require.NoError(b, err)
			require.Equal(b, patients, rotated.Patients.Changed)
			var rewrapping, putting time.Duration
			next := 0
			calls = 0
			for i, part := range parts {
				var report rotation.Report
				turns := []func(){
					func() {
						start := time.Now()
						report, err = r.Rewrap(b.Context(), part)
						rewrapping += time.Since(start)
						require.NoError(b, err)
						require.Equal(b, report.Envelopes.Seen, report.Envelopes.Rewrapped, "%+v", report)
						calls += report.Requests.Keyring
					},
					func() {
						to := (i + 1) * envelopes / len(parts)
						start := time.Now()
						plain.replace(b, next, to)
						putting += time.Since(start)
						next = to
					},
				}
				turns[(round+i)%2]()
				turns[(round+i+1)%2]()
			}
			rates = append(rates, float64(envelopes)/rewrapping.Seconds())
			puts = append(puts, float64(envelopes)/putting.Seconds())
			ratios = append(ratios, putting.Seconds()/rewrapping.Seconds())
		}
		fmt.Printf("\nRewrap of %d envelopes of %d patients, real Vault and MinIO, %d workers (medians of %d rounds)\n",
			envelopes, patients, rewrapWorkers, rounds)
		fmt.Printf("rewrap %.0f/s, bare If-Match PUT of 1 KiB %.0f/s, ratio %.2f, Vault calls per round %d\n",
			median(rates), median(puts), median(ratios), calls)
	}
}

// BenchmarkRotationMemory compares the peak memory of rotating and rewrapping all patients with the peak for a tenth
// of them. RECVAULT_BENCH_PATIENTS is how many patients there are (default 10,000).
func BenchmarkRotationMemory(b *testing.B) {
	patients := setting(b, "RECVAULT_BENCH_PATIENTS", 10_000)
	d := deployForMany(b)
	d.populate(b, patients, patients)
	j := job{
		Endpoint: "http://" + d.server.Endpoint(), AccessKey: d.server.AccessKey(), SecretKey: d.server.SecretKey(), Bucket: d.server.Bucket(),
		Vault: d.vault.Address(), VaultToken: d.vault.RootToken(), VaultMount: d.vault.Mount(),
	}
	fmt.Printf("\nPeak memory of rotating and rewrapping, %d workers\n", rewrapWorkers)
	for _, name := range []string{rewrapTenth, rewrapAll} {
		j.Case = name
		r := spawn(b, j)
		fmt.Printf("%s: %s patients, peak %.1f MiB\n", name, r.Object, float64(r.Peak)/(1<<20))
	}
}

// rewrapScope is a case: it rotates and rewraps a scope.
func rewrapScope(j job, s scope.Scope) (result, error) {
	config := api.DefaultConfig()
	config.Address = j.Vault
	vaultClient, err := api.NewClient(config)
	if err != nil {
		return result{}, err
	}
	vaultClient.SetToken(j.VaultToken)
	keyring, err := transit.New(vaultClient, transit.Options{Mount: j.VaultMount})
	if err != nil {
		return result{}, err
	}
	store, err := bucket(j)
	if err != nil {
		return result{}, err
	}
	rotate, err := rotation.New(keyring, store, rotation.Options{Concurrency: rewrapWorkers})
	if err != nil {
		return result{}, err
	}
	var report rotation.Report
	r, err := measured(func() error {
		if _, err := rotate.Rotate(context.Background(), s); err != nil {
			return err
		}
		report, err = rotate.Rewrap(context.Background(), s)
		return err
	})
	if err == nil && (report.Patients.Changed == 0 || !report.Complete()) {
		err = fmt.Errorf("not all was rewrapped: %+v", report)
	}
	r.Object = strconv.Itoa(report.Patients.Changed)
	return r, err
}

func tenth() scope.Scope {
	s, err := scope.Shard(0, 10)
	if err != nil {
		panic(err)
	}
	return s
}

// deployForMany returns a deployment whose clients keep a connection for each of many workers. The default
// transports keep two or three, and open a new one for most requests of the other workers, for rewraps and for bare
// PUTs.
func deployForMany(b *testing.B) *deployment {
	b.Helper()
	d := deploy(b, false)
	client := d.vault.Client(d.vault.RootToken())
	for _, transport := range []http.RoundTripper{d.transport.RoundTripper, client.CloneConfig().HttpClient.Transport} {
		transport.(*http.Transport).MaxIdleConnsPerHost = 4 * rewrapWorkers
	}
	var err error
	d.keyring, err = transit.New(client, transit.Options{Mount: d.vault.Mount(), Prefix: d.vault.Prefix()})
	require.NoError(b, err)
	return d
}

func (d *deployment) rotation(b *testing.B) *rotation.Rotation {
	b.Helper()
	r, err := rotation.New(d.keyring, d.store, rotation.Options{Concurrency: rewrapWorkers})
	require.NoError(b, err)
	return r
}

// populate enrols patients and gives them the recordings evenly.
func (d *deployment) populate(b *testing.B, patients, recordings int) []keys.KeyID {
	b.Helper()
	v := d.open(b)
	ids := make([]keys.KeyID, patients)
	var enrolled sync.Mutex
	parallel(b, recordings, func(i int) error {
		patient := keys.Patient("patient-" + strconv.Itoa(i%patients))
		id, err := d.keyring.KeyID(b.Context(), patient)
		if err != nil {
			return err
		}
		enrolled.Lock()
		known := ids[i%patients] == id
		ids[i%patients] = id
		enrolled.Unlock()
		if !known {
			if _, err := d.keyring.Enrol(b.Context(), patient); err != nil {
				return err
			}
		}
		for { // until another goroutine has enrolled the patient
			_, err = v.Put(b.Context(), patient, bytes.NewReader([]byte("a short consultation")), vault.Metadata{ContentType: "video/webm", Title: "Follow-up"})
			if err == nil || !known {
				return err
			}
			if b.Context().Err() != nil {
				return err
			}
		}
	})
	return ids
}

// parallel calls f for 0 to n-1, with rewrapWorkers calls at a time.
func parallel(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	numbers := make(chan int)
	errs := make(chan error, n)
	var workers sync.WaitGroup
	for range rewrapWorkers {
		workers.Go(func() {
			for i := range numbers {
				if err := f(i); err != nil {
					errs <- err
				}
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	workers.Wait()
	close(errs)
	require.NoError(b, <-errs)
}

// plainObjects are objects of 1 KiB.
type plainObjects struct {
	d     *deployment
	etags []string
}

func newPlainObjects(b *testing.B, d *deployment, n int) *plainObjects {
	b.Helper()
	p := &plainObjects{d, make([]string, n)}
	p.replace(b, 0, n)
	return p
}

// replace puts new contents into the objects from, ..., to-1, if their ETags are those of the last write.
func (p *plainObjects) replace(b *testing.B, from, to int) {
	b.Helper()
	parallel(b, to-from, func(n int) error {
		i := from + n
		content := make([]byte, 1<<10)
		_, _ = rand.Read(content)
		var options minio.PutObjectOptions
		if p.etags[i] != "" {
			options.SetMatchETag(p.etags[i])
		}
		info, err := p.d.client.PutObject(b.Context(), p.d.server.Bucket(), fmt.Sprintf("plain/%08d/object", i),
			bytes.NewReader(content), int64(len(content)), options)
		p.etags[i] = info.ETag
		return err
	})
}
