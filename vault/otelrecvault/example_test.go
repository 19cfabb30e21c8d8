package otelrecvault_test

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/otelrecvault"
)

// A service with metrics for Prometheus, under /metrics.
func Example_prometheus() {
	exporter, err := prometheus.New()
	if err != nil {
		panic(err)
	}
	telemetry, err := otelrecvault.New(nil, metric.NewMeterProvider(metric.WithReader(exporter)))
	if err != nil {
		panic(err)
	}
	v, err := open(telemetry)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	http.Handle("/metrics", promhttp.Handler())
	// Serve recordings with v.ServeRecording.
}

// A service that sends metrics, and one trace in ten, to a collector: OTEL_EXPORTER_OTLP_ENDPOINT in the environment.
func Example_otlp() {
	ctx := context.Background()
	spans, err := otlptracehttp.New(ctx)
	if err != nil {
		panic(err)
	}
	metrics, err := otlpmetrichttp.New(ctx)
	if err != nil {
		panic(err)
	}
	tracers := trace.NewTracerProvider(trace.WithBatcher(spans), trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(0.1))))
	defer tracers.Shutdown(ctx)
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(metrics)))
	defer meters.Shutdown(ctx) // after the Close of the vault, which delivers the last events
	telemetry, err := otelrecvault.New(tracers, meters)
	if err != nil {
		panic(err)
	}
	v, err := open(telemetry)
	if err != nil {
		panic(err)
	}
	defer v.Close()
	// Serve recordings with v.ServeRecording.
}

// open decorates all that a vault is built from. What is left out makes no spans and no metrics.
func open(telemetry *otelrecvault.Telemetry) (*otelrecvault.Vault, error) {
	config := api.DefaultConfig()
	config.HttpClient.Transport = telemetry.VaultTransport(config.HttpClient.Transport)
	vaultClient, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	keyring, err := transit.New(vaultClient, transit.Options{})
	if err != nil {
		return nil, err
	}
	s3Client, err := s3.NewClient(s3.Config{Endpoint: "https://minio.example.org", Transport: telemetry.S3Transport(nil, "consultations")})
	if err != nil {
		return nil, err
	}
	store, err := s3.New(s3Client, "consultations")
	if err != nil {
		return nil, err
	}
	v, err := vault.New(telemetry.Keyring(keyring), telemetry.Store(store), vault.WithEvents(events.New(telemetry.Count)))
	if err != nil {
		return nil, err
	}
	return telemetry.Vault(v), nil
}
