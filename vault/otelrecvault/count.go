package otelrecvault

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/recvault/recvault/vault/events"
)

// The attributes of the metrics of events.
const (
	kindKey     = attribute.Key("recvault.event.kind")
	severityKey = attribute.Key("recvault.event.severity")
	ofKey       = attribute.Key("recvault.event.of")
	hitKey      = attribute.Key("recvault.key_cache.hit")
)

// Count is a sink of events (an [events.Sink]) that adds them to the metrics: how many there are of each kind, how many bytes were
// delivered, and how often the key cache had the keys.
func (t *Telemetry) Count(e events.Event) error {
	n := int64(max(e.Count, 1))
	t.eventCount.Add(context.Background(), n, metric.WithAttributeSet(eventAttributes(e)))
	kind := e.Kind
	if kind == events.Overflow {
		kind = e.Of
	}
	switch kind {
	case events.Opened:
		t.deliveredBytes.Add(context.Background(), e.Bytes)
		fallthrough
	case events.Described:
		misses := min(int64(e.Unwraps), n)
		t.lookups.Add(context.Background(), n-misses, metric.WithAttributes(hitKey.Bool(true)))
		t.lookups.Add(context.Background(), misses, metric.WithAttributes(hitKey.Bool(false)))
	}
	return nil
}

func eventAttributes(e events.Event) attribute.Set {
	severity := "info"
	if e.Level() >= slog.LevelWarn {
		severity = "warn"
	}
	attributes := []attribute.KeyValue{kindKey.String(string(e.Kind)), severityKey.String(severity)}
	if e.Of != "" {
		attributes = append(attributes, ofKey.String(string(e.Of)))
	}
	return attribute.NewSet(attributes...)
}

// zero makes the series of what an alert waits for. A counter that appears with its first event has not increased.
func (t *Telemetry) zero() {
	for _, e := range []events.Event{
		{Kind: events.WrongPatient},
		{Kind: events.Refused},
		{Kind: events.Exhausted},
		{Kind: events.Damaged},
		{Kind: events.Unsupported},
		{Kind: events.Gone},
		{Kind: events.Failed},
		{Kind: events.Failed, Status: 404},
		{Kind: events.Opened},
		{Kind: events.Described},
		{Kind: events.Overflow, Of: events.Opened},
		{Kind: events.GrantIssued},
	} {
		t.eventCount.Add(context.Background(), 0, metric.WithAttributeSet(eventAttributes(e)))
	}
}
