package otelrecvault

import (
	"context"
	"log/slog"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// The attributes of the metrics of events.
const (
	kindKey     = attribute.Key("recvault.event.kind")
	severityKey = attribute.Key("recvault.event.severity")
	ofKey       = attribute.Key("recvault.event.of")
	purposeKey  = attribute.Key("recvault.grant.purpose")
	hitKey      = attribute.Key("recvault.key_cache.hit")
)

// purposes are the values of recvault.grant.purpose. Others are "other", so that no site's own codes make series.
var purposes = []keys.Purpose{
	keys.Treatment, keys.EmergencyAccess, keys.BreakTheGlass, keys.PatientRequest, keys.FamilyRequest, keys.CareManagement,
	keys.HealthOperations, keys.Legal, keys.Research, "other",
}

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
	if e.Kind == events.GrantIssued {
		purpose := e.Grant.Purpose
		if !slices.Contains(purposes, purpose) {
			purpose = "other"
		}
		attributes = append(attributes, purposeKey.String(string(purpose)))
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
	} {
		t.eventCount.Add(context.Background(), 0, metric.WithAttributeSet(eventAttributes(e)))
	}
	for _, purpose := range purposes {
		e := events.Event{Kind: events.GrantIssued, Grant: keys.GrantDetails{Purpose: purpose}}
		t.eventCount.Add(context.Background(), 0, metric.WithAttributeSet(eventAttributes(e)))
	}
}
