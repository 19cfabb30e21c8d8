package observability

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/otelrecvault"
)

// BenchmarkPlayback plays a recording without telemetry, and with all of it, with one trace in ten or all traces: to its end in one
// request, as a browser's player asks for it, and in ranges of 1 MiB, as if somebody sought all the time. The three take turns,
// with the same servers and cached keys.
func BenchmarkPlayback(b *testing.B) {
	const size, piece = 64 << 20, 1 << 20
	d := testdeployment.Servers(b, testserver.Dedicated())
	nothing := &site{d: d}
	plain := func(base http.RoundTripper) http.RoundTripper { return base }
	nothing.connect(b, nil, plain, plain)
	bare, err := vault.New(nothing.keyring, nothing.store)
	require.NoError(b, err)
	defer bare.Close()
	some, all := everything(b, d, trace.TraceIDRatioBased(0.1)), everything(b, d, trace.AlwaysSample())
	patient, _ := d.Enrol(b)
	id, grant := all.put(b, patient, size), d.Grant(b, patient)
	serves := []func(http.ResponseWriter, *http.Request, keys.Grant, vault.ID){
		bare.ServeRecording, some.vault.ServeRecording, all.vault.ServeRecording,
	}
	for _, shape := range []struct {
		what                string
		size, rounds, warms int
		ask                 func(round int) string
	}{
		{"64 MiB in one request", size, 401, 3, func(int) string { return "bytes=0-" }},
		{"a range of 1 MiB", piece, 4001, 100, func(round int) string {
			start := round * piece % size
			return fmt.Sprintf("bytes=%d-%d", start, start+piece-1)
		}},
	} {
		took := make([][]float64, len(serves))
		for round := range shape.rounds + shape.warms {
			for turn := range serves {
				i := (round + turn) % len(serves)
				r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(b.Context())
				r.Header.Set("Range", shape.ask(round))
				w := &player{header: http.Header{}}
				began := time.Now()
				serves[i](w, r, grant, id)
				if round >= shape.warms {
					took[i] = append(took[i], time.Since(began).Seconds())
				}
				require.Equal(b, http.StatusPartialContent, w.status)
				require.Equal(b, shape.size, w.n)
			}
		}
		fmt.Printf("\nPlaying %s, key cached (medians of %d rounds, side by side)\n  without telemetry: %.2f ms\n", shape.what, shape.rounds, median(took[0])*1e3)
		for i, traces := range []string{"one trace in ten", "all traces"} {
			var ratios []float64
			for round, with := range took[i+1] {
				ratios = append(ratios, with/took[0][round])
			}
			fmt.Printf("  with events, logs, metrics and %s: %.2f ms, %.1f %% more (bound: 3 %%)\n", traces, median(took[i+1])*1e3, (median(ratios)-1)*100)
		}
	}
}

func median(numbers []float64) float64 { return slices.Sorted(slices.Values(numbers))[len(numbers)/2] }

// everything opens a site with all telemetry: events to slog and as lines of JSON, each in a file, and OpenTelemetry's logs,
// metrics and traces, by OTLP.
func everything(b *testing.B, d *testdeployment.Deployment, sampler trace.Sampler) *site {
	b.Helper()
	c := &collector{}
	sender := &http.Client{Transport: c}
	logs, err := otlploghttp.New(b.Context(), otlploghttp.WithHTTPClient(sender))
	require.NoError(b, err)
	metrics, err := otlpmetrichttp.New(b.Context(), otlpmetrichttp.WithHTTPClient(sender))
	require.NoError(b, err)
	spans, err := otlptracehttp.New(b.Context(), otlptracehttp.WithHTTPClient(sender))
	require.NoError(b, err)
	loggers := log.NewLoggerProvider(log.WithProcessor(log.NewBatchProcessor(logs)))
	reader := metric.NewPeriodicReader(metrics)
	tracers := trace.NewTracerProvider(trace.WithSampler(sampler), trace.WithBatcher(spans))
	text, lines := file(b), file(b)
	b.Cleanup(func() {
		for _, provider := range []interface{ Shutdown(context.Context) error }{loggers, reader, tracers} {
			require.NoError(b, provider.Shutdown(context.Background()))
		}
		for _, path := range []string{"/v1/logs", "/v1/metrics", "/v1/traces"} {
			_, ok := c.paths.Load(path)
			require.True(b, ok, "nothing was sent to %s", path)
		}
		for _, f := range []*os.File{text, lines} {
			info, err := f.Stat()
			require.NoError(b, err)
			require.Positive(b, info.Size())
		}
	})
	return build(b, d, tracers, reader, []events.Sink{
		events.Log(slog.New(slog.NewJSONHandler(text, nil))), events.JSON(lines), otelrecvault.Events(loggers),
	}, nil)
}

func file(b *testing.B) *os.File {
	b.Helper()
	f, err := os.CreateTemp(b.TempDir(), "")
	require.NoError(b, err)
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// collector is a collector of OTLP that takes everything at once.
type collector struct{ paths sync.Map }

func (c *collector) RoundTrip(r *http.Request) (*http.Response, error) {
	c.paths.Store(r.URL.Path, true)
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// player is a client that takes everything at once.
type player struct {
	header    http.Header
	status, n int
}

func (p *player) Header() http.Header         { return p.header }
func (p *player) WriteHeader(status int)      { p.status = status }
func (p *player) Write(b []byte) (int, error) { p.n += len(b); return len(b), nil }
