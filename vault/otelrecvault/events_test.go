package otelrecvault_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/log/logtest"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/otelrecvault"
)

// emit returns the one record of an event, and its attributes.
func emit(t *testing.T, e events.Event) (logtest.Record, map[string]attribute.Value) {
	t.Helper()
	recorder := logtest.NewRecorder()
	s := events.New(otelrecvault.Events(recorder))
	s.Emit(e)
	require.NoError(t, s.Flush(t.Context()))
	records := recorder.Result()[logtest.Scope{Name: "github.com/recvault/recvault"}]
	require.Len(t, records, 1)
	attributes := map[string]attribute.Value{}
	for _, kv := range records[0].Attributes {
		attributes[string(kv.Key)] = kv.Value
	}
	require.Len(t, attributes, len(records[0].Attributes), "each once")
	return records[0], attributes
}

func TestAnEventIsALogRecord(t *testing.T) {
	id := keystest.NewRecordingID(keys.NewKeyID(make([]byte, keys.KeyIDBytes)))
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	record, attributes := emit(t, events.Event{
		Kind: events.Opened, Time: at, Count: 2, KeyID: id.KeyID(), Recording: id,
		Grant: keys.GrantDetails{KeyID: id.KeyID(), Accessor: "a", Expires: at, Subject: "dr-lee", Purpose: keys.BreakTheGlass, Reason: "unconscious", DescribeOnly: true},
		Began: at, Ended: at, Bytes: 1 << 40, Ranges: []events.Range{{Start: 0, End: 10}, {Start: 20, End: 30}}, Unwraps: 1,
	})
	assert.Equal(t, "recvault.opened", record.EventName)
	assert.Equal(t, at, record.Timestamp)
	assert.Equal(t, log.SeverityInfo, record.Severity)
	text, when := attribute.StringValue, attribute.StringValue("2026-03-01T12:00:00Z")
	assert.Equal(t, map[string]attribute.Value{
		"recvault.kind": text("opened"), "recvault.time": when, "recvault.count": attribute.Int64Value(2),
		"recvault.key_id": text(id.KeyID().String()), "recvault.recording": text(id.String()),
		"recvault.grant.key_id": text(id.KeyID().String()), "recvault.grant.accessor": text("a"), "recvault.grant.expires": when,
		"recvault.grant.subject": text("dr-lee"), "recvault.grant.purpose": text("BTG"), "recvault.grant.reason": text("unconscious"),
		"recvault.grant.describe_only": attribute.BoolValue(true), "recvault.began": when, "recvault.ended": when,
		"recvault.bytes": attribute.Int64Value(1 << 40), "recvault.ranges": attribute.StringSliceValue([]string{"0-10", "20-30"}), "recvault.unwraps": attribute.Int64Value(1),
	}, attributes)

	record, attributes = emit(t, events.Event{Kind: events.WrongPatient, Error: "access denied", Status: 403})
	assert.Equal(t, log.SeverityWarn, record.Severity)
	assert.Equal(t, "WARN", record.SeverityText)
	assert.Equal(t, text("access denied"), attributes["recvault.error"])
	assert.Equal(t, attribute.Int64Value(403), attributes["recvault.status"])
}

// TestEveryFieldIsAnAttribute: what the JSON form has, the record has.
func TestEveryFieldIsAnAttribute(t *testing.T) {
	id := keystest.NewRecordingID(keys.NewKeyID(make([]byte, keys.KeyIDBytes)))
	e := events.Event{
		Kind: events.Opened, Of: events.Opened, Time: time.Now(), Count: 1, KeyID: id.KeyID(), Recording: id, To: id,
		Grant: keys.GrantDetails{
			KeyID: id.KeyID(), Accessor: "a", Expires: time.Now(), Subject: "s", Purpose: "p", Reason: "r", RequestID: "i", MaxUses: 1, DescribeOnly: true,
		},
		Operator: "o", Reason: "r",
		Began: time.Now(), Ended: time.Now(), Bytes: 1, Ranges: []events.Range{{Start: 0, End: 1}}, Coarse: true, Unwraps: 1, Entries: 1, Status: 1, Error: "e",
	}
	_, attributes := emit(t, e)
	line, err := json.Marshal(e)
	require.NoError(t, err)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(line, &fields))
	for name, value := range fields {
		if grant, ok := value.(map[string]any); ok {
			for name := range grant {
				assert.Contains(t, attributes, "recvault.grant."+name)
			}
			continue
		}
		assert.Contains(t, attributes, "recvault."+name)
	}
}

func TestNoSecretIsInARecord(t *testing.T) {
	keyring, err := local.Open(filepath.Join(t.TempDir(), "keys"), local.Options{})
	require.NoError(t, err)
	store, err := dir.Open(filepath.Join(t.TempDir(), "objects"))
	require.NoError(t, err)
	recorder := logtest.NewRecorder()
	stream := events.New(otelrecvault.Events(recorder))
	v, err := vault.New(keyring, store, vault.WithEvents(stream))
	require.NoError(t, err)
	const alice, bob, title = keys.Patient("canary-alice"), keys.Patient("canary-bob"), "canary-title"
	issuer, grants := stream.Issuer(keyring), map[keys.Patient]keys.Grant{}
	for _, patient := range []keys.Patient{alice, bob} {
		_, err := keyring.Enrol(t.Context(), patient)
		require.NoError(t, err)
		grants[patient], err = issuer.Issue(t.Context(), patient, keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
		require.NoError(t, err)
	}
	id, err := v.Put(t.Context(), alice, strings.NewReader("canary-plaintext"), vault.Metadata{Title: title})
	require.NoError(t, err)
	recording, err := v.Open(t.Context(), grants[alice], id)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, recording)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	_, err = v.ListInfo(t.Context(), grants[alice])
	require.NoError(t, err)
	_, err = v.Open(t.Context(), grants[bob], id)
	require.ErrorIs(t, err, keys.ErrDenied)
	_, err = v.Update(t.Context(), grants[alice], id, func(m *vault.Metadata) error { m.Title = title + " 2"; return nil })
	require.NoError(t, err)
	require.NoError(t, v.EndGrant(t.Context(), grants[alice]))
	require.NoError(t, v.Close())
	kinds := map[string]bool{}
	for _, record := range recorder.Result()[logtest.Scope{Name: "github.com/recvault/recvault"}] {
		kinds[record.EventName] = true
		text := fmt.Sprintf("%+v", record)
		for _, kv := range record.Attributes {
			text += " " + kv.Value.String()
		}
		for _, secret := range []string{"canary", grants[alice].Token(), grants[bob].Token()} {
			assert.NotContains(t, text, secret, record.EventName)
		}
	}
	assert.Len(t, kinds, 8) // issued, stored, opened, described, listed, wrong patient, updated, revoked
}

// Programs that do not ask for OpenTelemetry compile none of it, and those that do compile its API only.
func TestOnlyTheAPIIsCompiledAndOnlyIfAskedFor(t *testing.T) {
	dependencies := func(dir string, packages ...string) []string {
		t.Helper()
		list := exec.Command("go", append([]string{"list", "-deps"}, packages...)...)
		list.Dir = dir
		printed, err := list.Output()
		require.NoError(t, err)
		require.Contains(t, string(printed), "github.com/recvault/recvault/vault/events\n")
		var found []string
		for line := range strings.Lines(string(printed)) {
			if line = strings.TrimSpace(line); strings.Contains(line, "opentelemetry") {
				found = append(found, line)
			}
		}
		return found
	}
	assert.Empty(t, dependencies("../..", "./vault/...", "./keys/...", "./storage/...", "./cmd/..."))
	asked := dependencies(".", ".")
	assert.Contains(t, asked, "go.opentelemetry.io/otel/log")
	for _, path := range asked {
		assert.NotContains(t, path, "/sdk")
		assert.NotContains(t, path, "/exporters")
		assert.True(t, strings.HasPrefix(path, "go.opentelemetry.io/otel/"), path)
	}
}
