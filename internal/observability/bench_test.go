package observability

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// discard is an exporter that sends nothing.
type discard struct{}

func (discard) ExportSpans(context.Context, []trace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                          { return nil }

// BenchmarkPlayback plays a recording as a player does, in ranges of 1 MiB: without telemetry, with all metrics and one trace in
// ten, and with all metrics and all traces. The three take turns, with the same servers and cached keys.
func BenchmarkPlayback(b *testing.B) {
	const size, piece, rounds = 64 << 20, 1 << 20, 2001
	d := testdeployment.Servers(b, testserver.Dedicated())
	open := func(sampler trace.Sampler) *site {
		return build(b, d, trace.NewTracerProvider(trace.WithSampler(sampler), trace.WithBatcher(discard{})), metric.NewManualReader(), nil)
	}
	some, all := open(trace.TraceIDRatioBased(0.1)), open(trace.AlwaysSample())
	without := &site{d: d}
	plain := func(base http.RoundTripper) http.RoundTripper { return base }
	without.connect(b, nil, plain, plain)
	bare, err := vault.New(without.keyring, without.store)
	require.NoError(b, err)
	defer bare.Close()
	patient, _ := d.Enrol(b)
	id, grant := all.put(b, patient, size), d.Grant(b, patient)
	serves := []func(http.ResponseWriter, *http.Request, keys.Grant, vault.ID){
		bare.ServeRecording, some.vault.ServeRecording, all.vault.ServeRecording,
	}
	took := make([][]float64, len(serves))
	for round := range rounds + 100 {
		start := round * piece % size
		for turn := range serves {
			i := (round + turn) % len(serves)
			r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(b.Context())
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, start+piece-1))
			w := &sink{header: http.Header{}}
			began := time.Now()
			serves[i](w, r, grant, id)
			if round >= 100 { // the first ones warm up
				took[i] = append(took[i], time.Since(began).Seconds())
			}
			require.Equal(b, http.StatusPartialContent, w.status)
			require.Equal(b, piece, w.n)
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	p50 := func(i int) float64 { return took[i][rounds/2] * 1e3 }
	fmt.Printf("\nA range of 1 MiB of a recording, key cached (p50 of %d, side by side): %.2f ms; with metrics and 1 trace in 10 %.2f ms, ratio %.3f; with all traces %.2f ms, ratio %.3f\n",
		rounds, p50(0), p50(1), p50(1)/p50(0), p50(2), p50(2)/p50(0))
}

// sink is a client that takes everything at once.
type sink struct {
	header    http.Header
	status, n int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }
