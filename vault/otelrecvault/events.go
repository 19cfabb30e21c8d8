// Package otelrecvault connects recvault to OpenTelemetry: [Events] makes log records of its events, and a [Telemetry] makes
// spans and metrics of what it does. It imports OpenTelemetry's API only: the program brings the SDK and the exporters.
//
// It is a module of its own, so that a program which does not use OpenTelemetry has none of it, not even in its go.mod.
package otelrecvault

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"

	"github.com/recvault/recvault/vault/events"
)

// scope is the name of the instrumentation scope.
const scope = "github.com/recvault/recvault"

// Events is a sink that emits each event as a log record of the provider. The record's event name is "recvault." and the
// kind, its severity is INFO or WARN, as [events.Event.Level] says, and its attributes are "recvault." and the names of the
// JSON form of the event, with a dot for "recvault.grant.subject" and the like. Times are RFC 3339, and ranges are text such
// as "0-65536".
//
// A record has pseudonyms and the subjects of grants. Send it where audit logs go.
//
// What the stream has delivered may still wait in the SDK: call the provider's Shutdown after the Close of the vault.
func Events(provider log.LoggerProvider) events.Sink {
	logger := provider.Logger(scope)
	return func(e events.Event) error {
		logger.Emit(context.Background(), record(e))
		return nil
	}
}

func record(e events.Event) log.Record {
	var r log.Record
	r.SetEventName("recvault." + string(e.Kind))
	r.SetTimestamp(e.Time)
	severity := log.SeverityInfo
	if e.Level() >= slog.LevelWarn {
		severity = log.SeverityWarn
	}
	r.SetSeverity(severity)
	r.SetSeverityText(e.Level().String())
	add(&r, "recvault", e.LogValue())
	return r
}

// add adds a value as the attribute of this name, and each of a group as one of its own.
func add(r *log.Record, name string, value slog.Value) {
	if value.Kind() == slog.KindGroup {
		for _, attr := range value.Group() {
			add(r, name+"."+attr.Key, attr.Value)
		}
		return
	}
	r.AddAttributes(attribute.KeyValue{Key: attribute.Key(name), Value: convert(value)})
}

func convert(value slog.Value) attribute.Value {
	switch value.Kind() {
	case slog.KindInt64:
		return attribute.Int64Value(value.Int64())
	case slog.KindBool:
		return attribute.BoolValue(value.Bool())
	case slog.KindTime:
		return attribute.StringValue(value.Time().Format(time.RFC3339Nano))
	}
	if ranges, ok := value.Any().([]events.Range); ok {
		texts := make([]string, len(ranges))
		for i, r := range ranges {
			texts[i] = r.String()
		}
		return attribute.StringSliceValue(texts)
	}
	return attribute.StringValue(value.String())
}
