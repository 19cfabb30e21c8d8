package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

const (
	openOneCore   = "recvault open, 1 core"
	stdlibOneCore = "AES-256-GCM open, 1 core"

	viewersOfOne  = "200 viewers of one recording"
	viewersOfMany = "200 viewers of 200 recordings"
	viewers       = 200
)

// BenchmarkDecryption measures decryption with recvault and with the standard library, each limited to one
// core.
func BenchmarkDecryption(b *testing.B) {
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	size := int64(setting(b, "RECVAULT_BENCH_MIB", 1024)) << 20
	t := newTable("Decrypting in memory, one core", size, openOneCore, stdlibOneCore)
	for round := range rounds {
		for _, name := range rotated(t.rows, round) {
			t.add(name, spawn(b, job{Case: name, Size: size, Cores: 1}))
		}
	}
	t.print()
}

// counting counts the requests that a client sends.
type counting struct {
	http.RoundTripper
	gets atomic.Int64
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		c.gets.Add(1)
	}
	return c.RoundTripper.RoundTrip(r)
}

// deployment is recvault on real servers of the benchmark's own.
type deployment struct {
	server    *testserver.MinIOServer
	client    *minio.Client
	transport *counting
	store     storage.Store
	keyring   *transit.Keyring
	vault     *testserver.VaultServer
	grant     keys.Grant
}

const benchmarkPatient = keys.Patient("benchmark")

func deploy(b *testing.B, secure bool) *deployment {
	b.Helper()
	scheme, options := "http://", []testserver.Option{testserver.Dedicated()}
	if secure {
		scheme, options = "https://", []testserver.Option{testserver.TLS()}
	}
	d := &deployment{server: testserver.MinIO(b, options...), vault: testserver.Vault(b, options...)}
	d.transport = &counting{RoundTripper: d.server.Transport()}
	var err error
	d.client, err = s3.NewClient(s3.Config{
		Endpoint: scheme + d.server.Endpoint(), Transport: d.transport,
		Credentials: credentials.NewStaticV4(d.server.AccessKey(), d.server.SecretKey(), ""),
	})
	require.NoError(b, err)
	d.store, err = s3.New(d.client, d.server.Bucket())
	require.NoError(b, err)
	store, err := vault.StoreID(b.Context(), d.store, "")
	require.NoError(b, err)
	root := d.vault.Client(d.vault.RootToken())
	_, err = transit.Setup(b.Context(), root, transit.SetupOptions{Mount: d.vault.Mount(), Prefix: d.vault.Prefix(), Store: store})
	require.NoError(b, err)
	d.keyring, err = transit.New(root, transit.Options{Mount: d.vault.Mount(), Prefix: d.vault.Prefix()})
	require.NoError(b, err)
	_, err = d.keyring.Enrol(b.Context(), benchmarkPatient)
	require.NoError(b, err)
	d.grant, err = d.keyring.Issue(b.Context(), benchmarkPatient, keys.GrantOptions{TTL: time.Hour, Subject: "benchmark", Purpose: keys.HealthOperations})
	require.NoError(b, err)
	return d
}

func (d *deployment) open(b *testing.B, options ...vault.Option) *vault.Vault {
	b.Helper()
	v, err := vault.New(d.keyring, d.store, options...)
	require.NoError(b, err)
	return v
}

// putBoth stores the same amount of data as a recording and as a plain object.
func (d *deployment) putBoth(b *testing.B, size int64) (id vault.ID, plain string) {
	b.Helper()
	id, err := d.open(b).Put(b.Context(), benchmarkPatient, noise(size), vault.Metadata{}, vault.WithSize(size))
	require.NoError(b, err)
	plain = "plain"
	_, err = d.client.PutObject(b.Context(), d.server.Bucket(), plain, noise(size), size, minio.PutObjectOptions{PartSize: 16 << 20})
	require.NoError(b, err)
	return id, plain
}

// getRange reads a range without recvault.
func (d *deployment) getRange(b *testing.B, name string, offset, length int64) {
	b.Helper()
	var options minio.GetObjectOptions
	require.NoError(b, options.SetRange(offset, offset+length-1))
	body, _, _, err := minio.Core{Client: d.client}.GetObject(b.Context(), d.server.Bucket(), name, options)
	require.NoError(b, err)
	defer body.Close()
	n, err := io.Copy(io.Discard, body)
	require.NoError(b, err)
	require.Equal(b, length, n)
}

func timed(f func()) float64 {
	start := time.Now()
	f()
	return float64(time.Since(start).Microseconds()) / 1000
}

func randomOffset(b *testing.B, size int64) int64 {
	b.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(size))
	require.NoError(b, err)
	return n.Int64()
}

// BenchmarkRandomRead reads 64 KiB at random offsets of an open recording, and by a plain ranged GET.
func BenchmarkRandomRead(b *testing.B) {
	const size, length, reads = 256 << 20, 64 << 10, 1000
	for _, secure := range []bool{false, true} {
		d := deploy(b, secure)
		id, plain := d.putBoth(b, size)
		recording, err := d.open(b).Open(b.Context(), d.grant, id)
		require.NoError(b, err)
		var ours, theirs []float64
		p := make([]byte, length)
		var gets int64
		for i := range reads + 50 {
			offset := randomOffset(b, size-length)
			read := func() float64 {
				before := d.transport.gets.Load()
				took := timed(func() {
					_, err := recording.ReadAt(p, offset)
					require.NoError(b, err)
				})
				gets = max(gets, d.transport.gets.Load()-before)
				return took
			}
			get := func() float64 { return timed(func() { d.getRange(b, plain, offset, length) }) }
			// They take turns in going first.
			var a, t float64
			if i%2 == 0 {
				a, t = read(), get()
			} else {
				t, a = get(), read()
			}
			if i >= 50 { // the first ones warm up
				ours, theirs = append(ours, a), append(theirs, t)
			}
		}
		require.NoError(b, recording.Close())
		fmt.Printf("\n64 KiB at a random offset of 256 MiB, key cached, over %s (p50 of %d reads): recvault %.2f ms, plain ranged GET %.2f ms, ratio %.2f; at most %d GET per read\n",
			protocolName(secure), reads, median(ours), median(theirs), median(ours)/median(theirs), gets)
	}
}

func protocolName(secure bool) string {
	if secure {
		return "TLS"
	}
	return "HTTP"
}

// BenchmarkFirstByte opens a recording that has no cached key, and reads its first byte. The envelope is read first;
// then the unwrapping overlaps with the read of the media's first part.
func BenchmarkFirstByte(b *testing.B) {
	const size, rounds = 64 << 20, 300
	for _, secure := range []bool{false, true} {
		d := deploy(b, secure)
		id, plain := d.putBoth(b, size)
		v := d.open(b, vault.WithKeyCache(0, 1))
		envelope := "recordings/" + strings.Replace(id.String(), ".", "/", 1) + "/envelope"
		info, err := d.store.Stat(b.Context(), envelope)
		require.NoError(b, err)
		// A Transit decrypt of the same kind, with the grant's own token.
		binding := id.Binding()
		wrapped, err := d.keyring.Wrap(b.Context(), binding, keys.NewKey())
		require.NoError(b, err)
		logical := d.vault.Client(d.grant.Token()).Logical()
		series := map[string][]float64{}
		for i := range rounds + 20 {
			measure := map[string]func(){
				"open": func() {
					recording, err := v.Open(b.Context(), d.grant, id)
					require.NoError(b, err)
					_, err = io.ReadFull(recording, make([]byte, 1))
					require.NoError(b, err)
					require.NoError(b, recording.Close())
				},
				"small GET": func() { d.getRange(b, envelope, 0, info.Size) },
				"decrypt":   func() { decrypt(b, logical, d.vault.Mount(), binding, wrapped) },
				"GET":       func() { d.getRange(b, plain, 0, 64<<10) },
			}
			names := rotated([]string{"open", "small GET", "decrypt", "GET"}, i)
			for _, name := range names {
				took := timed(measure[name])
				if i >= 20 {
					series[name] = append(series[name], took)
				}
			}
		}
		sum := median(series["small GET"]) + median(series["decrypt"]) + median(series["GET"])
		fmt.Printf("\nTime to first byte, cold, over %s (p50 of %d): recvault %.2f ms; small GET %.2f + Transit decrypt %.2f + ranged GET %.2f = %.2f ms; ratio %.2f\n",
			protocolName(secure), rounds, median(series["open"]), median(series["small GET"]), median(series["decrypt"]),
			median(series["GET"]), sum, median(series["open"])/sum)
	}
}

func decrypt(b *testing.B, logical *api.Logical, mount string, binding keys.Binding, wrapped keys.WrappedKey) {
	b.Helper()
	_, err := logical.WriteWithContext(b.Context(), mount+"/decrypt/"+binding.KeyID().String()+"-kek", map[string]any{
		"ciphertext": string(wrapped), "context": base64.StdEncoding.EncodeToString(binding.Bytes()),
	})
	require.NoError(b, err)
}

// BenchmarkViewers has 200 viewers read 16 MiB each at once, over HTTP, from real MinIO.
func BenchmarkViewers(b *testing.B) {
	server := testserver.MinIO(b, testserver.Dedicated())
	for _, name := range []string{viewersOfOne, viewersOfMany} {
		r := spawn(b, job{
			Case: name, Size: 16 << 20, Endpoint: "http://" + server.Endpoint(), AccessKey: server.AccessKey(),
			SecretKey: server.SecretKey(), Bucket: server.Bucket(), Dir: b.TempDir(),
		})
		fmt.Printf("\n%s at once, 16 MiB each: %.0f MB/s in all, peak %d MiB, %d unwraps\n",
			name, float64(viewers*16<<20)/r.Seconds/1e6, r.Peak>>20, r.Unwraps)
		removeAll(b, server)
	}
}

// countingKeyring counts unwraps.
type countingKeyring struct {
	vault.Keyring
	unwraps atomic.Int64
}

func (k *countingKeyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	k.unwraps.Add(1)
	return k.Keyring.Unwrap(ctx, grant, binding, wrapped)
}

func watch(j job, recordings int) (result, error) {
	ctx := context.Background()
	keyring, v, err := openVault(j, bucket)
	if err != nil {
		return result{}, err
	}
	if _, err := keyring.Enrol(ctx, benchmarkPatient); err != nil {
		return result{}, err
	}
	grant, err := keyring.Issue(ctx, benchmarkPatient, keys.GrantOptions{TTL: time.Hour, Subject: "benchmark", Purpose: keys.HealthOperations})
	if err != nil {
		return result{}, err
	}
	var ids []vault.ID
	data := make([]byte, j.Size)
	for range recordings {
		id, err := v.Put(ctx, benchmarkPatient, bytes.NewReader(data), vault.Metadata{})
		if err != nil {
			return result{}, err
		}
		ids = append(ids, id)
	}
	store, err := bucket(j)
	if err != nil {
		return result{}, err
	}
	counter := &countingKeyring{Keyring: keyring}
	if v, err = vault.New(counter, store); err != nil {
		return result{}, err
	}
	errs := make([]error, viewers)
	r, err := measured(func() error {
		var wg sync.WaitGroup
		for i := range viewers {
			wg.Go(func() {
				recording, err := v.Open(ctx, grant, ids[i%len(ids)])
				if err != nil {
					errs[i] = err
					return
				}
				defer recording.Close()
				errs[i] = drain(recording, j.Size)
			})
		}
		wg.Wait()
		if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
			return errs[i]
		}
		return nil
	})
	r.Unwraps = counter.unwraps.Load()
	return r, err
}
