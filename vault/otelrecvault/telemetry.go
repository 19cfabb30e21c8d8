package otelrecvault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/rotation"
)

// The attributes of recvault's own spans and metrics.
const (
	operationKey = attribute.Key("recvault.operation") // on the metric only: a span is named after it
	keyIDKey     = attribute.Key("recvault.key_id")    // only with WithIdentifiers
	recordingKey = attribute.Key("recvault.recording") // only with WithIdentifiers
	bytesKey     = attribute.Key("recvault.bytes")
	verbKey      = attribute.Key("recvault.job.verb")
	outcomeKey   = attribute.Key("recvault.outcome")
)

// Telemetry makes spans and metrics. It decorates what a program builds its vault from: the clients' transports, the
// keyring, the store and the vault itself. Each decoration works without the others.
//
// Spans are named "recvault." and the operation: put, open, serve, describe, unwrap, range and so on. Spans of the requests to
// Vault and S3 follow OpenTelemetry's semantic conventions 1.43.0 for HTTP clients and for AWS S3, and are their children.
// Requests carry no trace context to the servers.
//
// The metrics are:
//
//   - recvault.operation.duration, a histogram in seconds, by recvault.operation and, for failures, error.type. Its count is
//     how often each operation ran. That of range is the time to the first byte, and that of create ends with the commit.
//   - http.client.request.duration, a histogram in seconds, as the conventions have it, with url.template for Vault
//     and rpc.method for S3. It is the time to the answer's header; the span lasts until the body is closed.
//   - recvault.request.retries: requests that repeat one that had failed, by url.template or rpc.method.
//   - recvault.events, by recvault.event.kind and recvault.event.severity (info or warn); for an overflow or a held by
//     recvault.event.of; for a grant-issued by recvault.grant.purpose: one of the purposes that package keys has constants for,
//     or "other".
//   - recvault.delivered, in bytes; recvault.key_cache.lookups, by recvault.key_cache.hit. The sink [Telemetry.Count] adds to
//     these and to recvault.events.
//   - recvault.rewrap.keys: wrapped keys that the keyring was asked to re-wrap, by error.type for those it did not.
//   - recvault.job.envelopes, by recvault.job.verb and recvault.outcome: see [Telemetry.AddRotation].
//
// The values of error.type are a fixed set, such as wrong_patient, denied, invalid_grant, damaged and unavailable, or "_OTHER";
// of a request, the status or the Go type of the error. No attribute has a patient's identifier, a title, a token or a
// key, the text of an error, or the subject of a grant. None has a pseudonym, the ID of a recording or the name of an object
// either, but on spans [WithIdentifiers].
type Telemetry struct {
	tracer      trace.Tracer
	identifiers bool
	outcomes    cache[outcome, metric.RecordOption]

	operations, requests                metric.Float64Histogram
	retries, rewraps, envelopes         metric.Int64Counter
	eventCount, deliveredBytes, lookups metric.Int64Counter
}

// Option configures a [Telemetry].
type Option func(*Telemetry)

// WithIdentifiers adds pseudonyms, IDs of recordings and names of objects to spans: recvault.key_id, recvault.recording,
// aws.s3.key, and url.full with the pseudonym. Such traces are personal data. Metrics never have them.
func WithIdentifiers() Option { return func(t *Telemetry) { t.identifiers = true } }

// New returns a Telemetry whose spans go to tracers and whose metrics go to meters. nil means that there are none. It returns
// an error if meters refuses an instrument.
func New(tracers trace.TracerProvider, meters metric.MeterProvider, options ...Option) (*Telemetry, error) {
	if tracers == nil {
		tracers = tracenoop.NewTracerProvider()
	}
	if meters == nil {
		meters = noop.NewMeterProvider()
	}
	t := &Telemetry{tracer: tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL))}
	for _, option := range options {
		option(t)
	}
	meter := meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var errs []error
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	var err error
	t.operations, err = meter.Float64Histogram("recvault.operation.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of the library's operations."),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300))
	errs = append(errs, err)
	requests, err := httpconv.NewClientRequestDuration(meter)
	t.requests = requests.Float64Histogram
	errs = append(errs, err)
	t.retries = counter("recvault.request.retries", "{request}", "Requests that repeat one that had failed.")
	t.rewraps = counter("recvault.rewrap.keys", "{key}", "Wrapped keys that the keyring was asked to re-wrap.")
	t.envelopes = counter("recvault.job.envelopes", "{envelope}", "Envelopes that rotation jobs have finished.")
	t.eventCount = counter("recvault.events", "{event}", "Events of recordings and grants.")
	t.deliveredBytes = counter("recvault.delivered", "By", "Plaintext that was delivered.")
	t.lookups = counter("recvault.key_cache.lookups", "{lookup}", "Recordings opened or described, by whether all keys were cached.")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("otelrecvault: %w", err)
	}
	t.zero()
	return t, nil
}

// AddRotation adds a report's envelopes to recvault.job.envelopes, by outcome: the names of the report's JSON form. Call it when
// the job ends. A dry run adds nothing.
func (t *Telemetry) AddRotation(report rotation.Report) {
	if report.DryRun {
		return
	}
	e := report.Envelopes
	for outcome, n := range map[string]int{
		"rewrapped": e.Rewrapped, "current": e.Current, "older": e.Older, "superseded": e.Superseded, "deleted": e.Deleted,
		"keyless": e.Keyless, "damaged": e.Damaged, "unsupported": e.Unsupported, "failed": e.Failed,
	} {
		t.envelopes.Add(context.Background(), int64(n), metric.WithAttributes(verbKey.String(report.Verb), outcomeKey.String(outcome)))
	}
}

// operation is one run of an operation.
type operation struct {
	t     *Telemetry
	name  string
	began time.Time
	span  trace.Span
}

// start starts an operation on a patient's keys or a recording. Either ID may be zero.
func (t *Telemetry) start(ctx context.Context, name string, keyID keys.KeyID, id keys.RecordingID) (context.Context, *operation) {
	if ctx.Value(failuresKey{}) == nil {
		ctx = context.WithValue(ctx, failuresKey{}, &failures{})
	}
	ctx, span := t.tracer.Start(ctx, "recvault."+name)
	if t.identifiers {
		if !keyID.IsZero() {
			span.SetAttributes(keyIDKey.String(keyID.String()))
		}
		if !id.IsZero() {
			span.SetAttributes(recordingKey.String(id.String()))
		}
	}
	return ctx, &operation{t, name, time.Now(), span}
}

// end ends an operation with the class of its error, "" for none. The text of an error names recordings, so no span has it.
func (o *operation) end(class string) {
	o.measure(class)
	o.span.End()
}

// measure records the duration and the outcome.
func (o *operation) measure(class string) {
	if class != "" {
		o.fail(class)
	}
	option := o.t.outcomes.get(outcome{o.name, class}, func() metric.RecordOption {
		attributes := []attribute.KeyValue{operationKey.String(o.name)}
		if class != "" {
			attributes = append(attributes, semconv.ErrorTypeKey.String(class))
		}
		return metric.WithAttributeSet(attribute.NewSet(attributes...))
	})
	o.t.operations.Record(context.Background(), time.Since(o.began).Seconds(), option)
}

// outcome is how an operation ended.
type outcome struct{ operation, class string }

// cache keeps what is made once for each of a few keys. To sort the attributes of a measurement takes longer than the
// measurement.
type cache[K comparable, V any] struct {
	mu     sync.RWMutex
	values map[K]V
}

// get returns the value of a key, and makes it if it is missing.
func (c *cache[K, V]) get(key K, create func() V) V {
	c.mu.RLock()
	value, ok := c.values[key]
	c.mu.RUnlock()
	if ok {
		return value
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil {
		c.values = map[K]V{}
	}
	if value, ok = c.values[key]; !ok {
		value = create()
		c.values[key] = value
	}
	return value
}

func (o *operation) fail(class string) {
	o.span.SetAttributes(semconv.ErrorTypeKey.String(class))
	if class != notFound && class != conflict && class != canceled { // these are answers
		o.span.SetStatus(codes.Error, class)
	}
}

// failures counts the failed attempts of each request of an operation, until it succeeds.
type failures struct {
	mu     sync.Mutex
	counts map[string]int
}

type failuresKey struct{}

// identity is what differs between the requests of an operation.
func identity(r *http.Request) string {
	return r.Method + " " + r.URL.String() + " " + r.Header.Get("Range")
}

// before returns how often a request has failed in its operation. A nil failures knows of none.
func (f *failures) before(r *http.Request) int {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.counts) == 0 {
		return 0
	}
	return f.counts[identity(r)]
}

// note notes whether a request has failed, as it did so many times before.
func (f *failures) note(r *http.Request, failed bool, before int) {
	if f == nil || !failed && before == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !failed {
		delete(f.counts, identity(r))
		return
	}
	if f.counts == nil {
		f.counts = map[string]int{}
	}
	f.counts[identity(r)]++
}
