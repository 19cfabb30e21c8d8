package fhir_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// repository is a small FHIR server for AuditEvents.
type repository struct {
	*httptest.Server

	mu       sync.Mutex
	stored   []json.RawMessage
	requests int
	fail     func(n int, resource []byte) int // the status of the nth request, from 1 on; 0 means that it is stored
}

// serve starts a server that fails as said.
func serve(t *testing.T, fail func(n int, resource []byte) int) *repository {
	r := &repository{fail: fail}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /fhir/AuditEvent", r.create)
	r.Server = httptest.NewServer(mux)
	t.Cleanup(r.Close)
	return r
}

func (r *repository) create(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	text, err := io.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var resource struct{ ResourceType, Recorded string }
	switch {
	case request.Header.Get("Content-Type") != "application/fhir+json":
		w.WriteHeader(http.StatusUnsupportedMediaType)
		return
	case json.Unmarshal(text, &resource) != nil || resource.ResourceType != "AuditEvent" || resource.Recorded == "":
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if status := r.fail(r.requests, text); status != 0 {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"processing"}]}`)
		return
	}
	r.stored = append(r.stored, text)
	w.Header().Set("Location", r.URL+"/fhir/AuditEvent/1/_history/1")
	w.WriteHeader(http.StatusCreated)
}

func (r *repository) all() []json.RawMessage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]json.RawMessage(nil), r.stored...)
}

func sink(t *testing.T, r *repository) events.Sink {
	t.Helper()
	s, err := encoder(t).Sink(r.URL+"/fhir", r.Client())
	require.NoError(t, err)
	return s
}

// logged makes the default logger write to a buffer for the time of a test.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	before := slog.Default()
	var log bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return &log
}

func ok(int, []byte) int { return 0 }

func TestEveryKindReachesTheServer(t *testing.T) {
	r := serve(t, ok)
	stream := events.New(sink(t, r))
	var want []json.RawMessage
	for _, kind := range kinds {
		stream.Emit(eventOf(kind))
		want = append(want, encoder(t).Encode(eventOf(kind))...)
	}
	require.NoError(t, stream.Flush(t.Context()))
	assert.Equal(t, want, r.all())
}

// A server that is down, overloaded or refuses the login for a while gets every event once, in order.
func TestAServerThatFailsGetsTheEventsLater(t *testing.T) {
	for name, status := range map[string]int{"unavailable": 503, "overloaded": 429, "no login": 401, "a page for the login": 200} {
		t.Run(name, func(t *testing.T) {
			logged(t)
			// The first post fails, and so does that of the second half of the reassignment.
			r := serve(t, func(n int, _ []byte) int {
				if n == 1 || n == 4 {
					return status
				}
				return 0
			})
			stream := events.New(sink(t, r))
			var want []json.RawMessage
			for _, kind := range []events.Kind{events.Opened, events.Reassigned, events.Deleted} {
				stream.Emit(eventOf(kind))
				want = append(want, encoder(t).Encode(eventOf(kind))...)
			}
			require.Eventually(t, func() bool { return len(r.all()) == len(want) }, 10*time.Second, 10*time.Millisecond)
			require.NoError(t, stream.Flush(t.Context()))
			assert.Equal(t, want, r.all())
		})
	}
}

func TestWhatTheServerRejectsHoldsBackNothing(t *testing.T) {
	for _, status := range []int{400, 413, 422} {
		log := logged(t)
		r := serve(t, func(_ int, resource []byte) int {
			if bytes.Contains(resource, []byte(`"code":"described"`)) {
				return status
			}
			return 0
		})
		stream := events.New(sink(t, r))
		stream.Emit(eventOf(events.Described))
		stream.Emit(eventOf(events.Opened))
		require.NoError(t, stream.Flush(t.Context()))
		assert.EqualValues(t, encoder(t).Encode(eventOf(events.Opened)), r.all())
		assert.Equal(t, 2, r.requests, "what is rejected is not sent again")
		assert.Contains(t, log.String(), "rejected an event")
		assert.Contains(t, log.String(), "OperationOutcome")
		assert.Contains(t, log.String(), recording.String(), "the event stands in the log")
	}
}

// A server that never answers holds up neither who emits nor another sink.
func TestAServerThatHangsHoldsUpNothing(t *testing.T) {
	release := make(chan struct{})
	r := serve(t, func(int, []byte) int { <-release; return 0 })
	other := make(chan events.Event, 100)
	stream := events.New(sink(t, r), func(e events.Event) error { other <- e; return nil })
	const n = 100
	for range n {
		e := eventOf(events.Opened)
		e.Recording = copied
		stream.Emit(e)
	}
	select {
	case <-other:
	case <-time.After(5 * time.Second):
		t.Error("the other sink gets nothing")
	}
	close(release)
	require.NoError(t, stream.Flush(t.Context()))
	count := 0
	for _, text := range r.all() {
		count += countOf(t, text)
	}
	assert.Equal(t, n, count, "nothing is lost")
}

// countOf returns how many events a resource stands for.
func countOf(t *testing.T, text []byte) int {
	t.Helper()
	for _, e := range list(decoded(t, text), "entity") {
		for _, d := range list(e, "detail") {
			if d["type"] == "count" {
				var n int
				require.NoError(t, json.Unmarshal([]byte(d["valueString"].(string)), &n))
				return n
			}
		}
	}
	return 1
}

func TestTheServersBaseIsChecked(t *testing.T) {
	for _, base := range []string{"", "audit.hospital.example/fhir", "/fhir", "https://", ":"} {
		_, err := encoder(t).Sink(base, nil)
		assert.Error(t, err, base)
	}
}

// The error of a post names no credentials: it stands in the log.
func TestAFailureNamesNoCredentials(t *testing.T) {
	s, err := encoder(t).Sink("http://recvault:canary-password@127.0.0.1:1/fhir", nil)
	require.NoError(t, err)
	err = s(events.Event{Kind: events.GrantRevoked, Time: at, Count: 1, Grant: keys.GrantDetails{Accessor: "a"}})
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "canary-password")
	assert.True(t, strings.HasPrefix(err.Error(), "fhir: "))
}
