package events_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault/events"
)

// at is when everything in these tests happens.
var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func keyID(n byte) keys.KeyID {
	mac := make([]byte, keys.KeyIDBytes)
	mac[0] = n
	return keys.NewKeyID(mac)
}

// full returns an event with every field.
func full() events.Event {
	id := keystest.NewRecordingID(keyID(1))
	return events.Event{
		Kind: events.Opened, Of: events.Opened, Time: at, Count: 2, KeyID: id.KeyID(), Recording: id, To: keystest.NewRecordingID(keyID(2)),
		Grant: keys.GrantDetails{
			KeyID: id.KeyID(), Accessor: "accessor-1", Expires: at.Add(time.Hour), Subject: "dr-lee", Purpose: keys.BreakTheGlass,
			Reason: "found unconscious", RequestID: "case-7", MaxUses: 3, DescribeOnly: true,
		},
		Operator: "m.okafor", Reason: "case 7",
		Began: at.Add(-time.Minute), Ended: at, Bytes: 150, Ranges: []events.Range{{Start: 0, End: 100}, {Start: 200, End: 250}}, Coarse: true,
		Unwraps: 1, Entries: 4, Status: 503, Error: "keyring is unavailable",
	}
}

func TestAnEventAsJSON(t *testing.T) {
	event := full()
	text, err := json.Marshal(event)
	require.NoError(t, err)
	assert.JSONEq(t, `{
		"kind": "opened", "of": "opened", "time": "2026-03-01T12:00:00Z", "count": 2,
		"key_id": "`+event.KeyID.String()+`", "recording": "`+event.Recording.String()+`", "to": "`+event.To.String()+`",
		"grant": {
			"key_id": "`+event.KeyID.String()+`", "accessor": "accessor-1", "expires": "2026-03-01T13:00:00Z", "subject": "dr-lee",
			"purpose": "BTG", "reason": "found unconscious", "request_id": "case-7", "max_uses": 3, "describe_only": true
		},
		"operator": "m.okafor", "reason": "case 7",
		"began": "2026-03-01T11:59:00Z", "ended": "2026-03-01T12:00:00Z",
		"bytes": 150, "ranges": [{"start": 0, "end": 100}, {"start": 200, "end": 250}], "ranges_coarse": true,
		"unwraps": 1, "entries": 4, "status": 503, "error": "keyring is unavailable"
	}`, string(text))
	var read events.Event
	require.NoError(t, json.Unmarshal(text, &read))
	assert.Equal(t, event, read)

	text, err = json.Marshal(events.Event{Kind: events.GrantRevoked, Time: at, Count: 1, Grant: keys.GrantDetails{Accessor: "a"}})
	require.NoError(t, err)
	assert.JSONEq(t, `{"kind": "grant-revoked", "time": "2026-03-01T12:00:00Z", "count": 1,
		"grant": {"accessor": "a", "subject": "", "purpose": ""}}`, string(text))
	require.NoError(t, json.Unmarshal(text, &read))
}

// A line of the log reads like a line of JSON.
func TestAnEventInTheLog(t *testing.T) {
	var log bytes.Buffer
	for _, event := range []events.Event{full(), {Kind: events.Stored, Time: at, Count: 1}} {
		log.Reset()
		slog.New(slog.NewJSONHandler(&log, nil)).Info("message", "event", event)
		var line struct{ Event events.Event }
		require.NoError(t, json.Unmarshal(log.Bytes(), &line))
		assert.Equal(t, event, line.Event)
	}
}
