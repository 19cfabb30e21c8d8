// Package observability tests what otelrecvault exports, and the alerts and the dashboard in docs/, on a real Vault and a real
// MinIO, with OpenTelemetry's SDK and Prometheus's own engine. It is a module of its own because those are heavy.
package observability

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/otelrecvault"
)

// site is a program that uses recvault with telemetry, with every right.
type site struct {
	d         *testdeployment.Deployment
	spans     *tracetest.SpanRecorder
	telemetry *otelrecvault.Telemetry
	keyring   keys.Keyring
	store     storage.Store
	stream    *events.Stream
	vault     *otelrecvault.Vault
}

// open opens a site on a deployment of servers that records its spans. faults stands between the clients and the servers,
// unless it is nil.
func open(t testing.TB, d *testdeployment.Deployment, reader metric.Reader, faults func(http.RoundTripper) http.RoundTripper, options ...otelrecvault.Option) *site {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	s := build(t, d, trace.NewTracerProvider(trace.WithSpanProcessor(spans)), reader, nil, faults, options...)
	s.spans = spans
	return s
}

// build opens a site whose events go to these sinks, and to the metrics.
func build(t testing.TB, d *testdeployment.Deployment, tracers *trace.TracerProvider, reader metric.Reader, sinks []events.Sink, faults func(http.RoundTripper) http.RoundTripper, options ...otelrecvault.Option) *site {
	t.Helper()
	s := &site{d: d}
	var err error
	s.telemetry, err = otelrecvault.New(tracers, metric.NewMeterProvider(metric.WithReader(reader)), options...)
	require.NoError(t, err)
	s.connect(t, faults, s.telemetry.VaultTransport, func(base http.RoundTripper) http.RoundTripper { return s.telemetry.S3Transport(base, d.Place.Bucket) })
	s.keyring, s.store = s.telemetry.Keyring(s.keyring), s.telemetry.Store(s.store)
	s.stream = events.New(append(sinks, s.telemetry.Count)...)
	plain, err := vault.New(s.keyring, s.store, vault.WithEvents(s.stream))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, plain.Close()) })
	s.vault = s.telemetry.Vault(plain)
	return s
}

// connect makes the keyring and the store over transports that are decorated.
func (s *site) connect(t testing.TB, faults, forVault, forS3 func(http.RoundTripper) http.RoundTripper) {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	t.Cleanup(transport.CloseIdleConnections)
	base := http.RoundTripper(transport)
	if faults != nil {
		base = faults(transport)
	}
	place := s.d.Place
	config := api.DefaultConfig()
	config.Address, config.HttpClient.Transport = place.Vault, forVault(base)
	client, err := api.NewClient(config)
	require.NoError(t, err)
	client.SetToken(place.Tokens[testdeployment.Admin])
	s.keyring, err = transit.New(client, transit.Options{Mount: place.Mount, Prefix: place.Prefix})
	require.NoError(t, err)
	bucket, err := s3.NewClient(s3.Config{
		Endpoint: "http://" + place.Endpoint, Transport: forS3(base),
		MaxRetries: 3, Credentials: credentials.NewStaticV4(place.AccessKey, place.SecretKey, ""),
	})
	require.NoError(t, err)
	s.store, err = s3.New(bucket, place.Bucket)
	require.NoError(t, err)
}

// put stores a recording of this many zeroes.
func (s *site) put(t testing.TB, patient keys.Patient, size int) vault.ID {
	t.Helper()
	id, err := s.vault.Put(t.Context(), patient, bytes.NewReader(make([]byte, size)), vault.Metadata{ContentType: "video/webm", Title: canaryTitle})
	require.NoError(t, err)
	return id
}

const canaryTitle = "canary-title"
