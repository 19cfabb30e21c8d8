package observability

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	apitrace "go.opentelemetry.io/otel/trace"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/otelrecvault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// named returns the spans with this name.
func (s *site) named(name string) (found []trace.ReadOnlySpan) {
	for _, span := range s.spans.Ended() {
		if span.Name() == name {
			found = append(found, span)
		}
	}
	return found
}

// one returns the last span with this name, and its attributes.
func (s *site) one(t *testing.T, name string) (trace.ReadOnlySpan, map[attribute.Key]any) {
	t.Helper()
	found := s.named(name)
	require.NotEmpty(t, found, name)
	span, attributes := found[len(found)-1], map[attribute.Key]any{}
	for _, kv := range span.Attributes() {
		attributes[kv.Key] = kv.Value.AsInterface()
	}
	return span, attributes
}

// counts returns the sums of counters, and the counts of histograms, by metric and attributes.
func counts(t *testing.T, reader *metric.ManualReader) map[string]int64 {
	t.Helper()
	var collected metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &collected))
	found := map[string]int64{}
	for _, scope := range collected.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					found[series(m.Name, point.Attributes)] += point.Value
				}
			case metricdata.Histogram[float64]:
				for _, point := range data.DataPoints {
					found[series(m.Name, point.Attributes)] += int64(point.Count)
				}
			default:
				t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	return found
}

// series writes a metric with its attributes, but for those that say which server it was.
func series(name string, attributes attribute.Set) string {
	var texts []string
	for _, kv := range attributes.ToSlice() {
		if kv.Key != "server.address" && kv.Key != "server.port" {
			texts = append(texts, string(kv.Key)+"="+kv.Value.String())
		}
	}
	return name + "{" + strings.Join(texts, ",") + "}"
}

// hasChild reports whether a span with this name has a child with that name.
func (s *site) hasChild(parent, name string) bool {
	for _, p := range s.named(parent) {
		if slices.ContainsFunc(s.named(name), func(span trace.ReadOnlySpan) bool {
			return p.SpanContext().SpanID() == span.Parent().SpanID()
		}) {
			return true
		}
	}
	return false
}

func TestSpansAndMetricsOfARealRun(t *testing.T) {
	reader := metric.NewManualReader()
	s := open(t, testdeployment.Servers(t), reader, nil)
	ctx := t.Context()
	alice, aliceID := s.d.Enrol(t)
	bob, _ := s.d.Enrol(t)
	id := s.put(t, alice, 1<<20)
	grant, stranger := s.d.Grant(t, alice), s.d.Grant(t, bob)
	for range 2 { // the second time, the key is cached
		recording, err := s.vault.Open(ctx, grant, id)
		require.NoError(t, err)
		n, err := recording.WriteTo(io.Discard)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, n)
		require.NoError(t, recording.Close())
	}
	_, err := s.vault.Stat(ctx, grant, id)
	require.NoError(t, err)
	_, err = s.vault.Open(ctx, stranger, id)
	require.ErrorIs(t, err, keys.ErrDenied)
	request := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	request.Header.Set("Range", "bytes=70000-70099")
	answer := httptest.NewRecorder()
	s.vault.ServeRecording(answer, request, grant, id)
	require.Equal(t, http.StatusPartialContent, answer.Code)
	s.vault.ServeRecording(httptest.NewRecorder(), request, stranger, id)
	w, err := s.vault.Create(ctx, alice, vault.Metadata{})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, w.Close())
	w, err = s.vault.Create(ctx, alice, vault.Metadata{})
	require.NoError(t, err)
	w.Abort()
	require.NoError(t, s.keyring.Rotate(ctx, aliceID))
	rotated, err := rotation.New(s.keyring, s.store, rotation.Options{})
	require.NoError(t, err)
	report, err := rotated.Rewrap(ctx, scope.Of(aliceID))
	require.NoError(t, err)
	s.telemetry.AddRotation(report)
	require.NoError(t, s.stream.Flush(ctx))

	span, attributes := s.one(t, "recvault.put")
	assert.Equal(t, "github.com/recvault/recvault", span.InstrumentationScope().Name)
	assert.Empty(t, attributes)
	assert.Len(t, s.named("recvault.create"), 2, "one each, though one was closed twice")
	for _, pair := range [][2]string{
		{"recvault.put", "recvault.wrap"},
		{"recvault.wrap", "PUT /v1/{mount}/encrypt/{key}"},
		{"recvault.put", "recvault.store.put"},
		{"recvault.store.put", "S3.PutObject"},
		{"recvault.open", "recvault.unwrap"},
		{"recvault.unwrap", "PUT /v1/{mount}/decrypt/{key}"},
		{"recvault.open", "recvault.range"},
		{"recvault.serve", "recvault.range"},
		{"recvault.range", "S3.GetObject"},
		{"recvault.describe", "recvault.unwrap"},
		{"recvault.rewrap", "PUT /v1/{mount}/rewrap/{key}"},
	} {
		assert.True(t, s.hasChild(pair[0], pair[1]), "no %s is a child of a %s", pair[1], pair[0])
	}
	span, attributes = s.one(t, "recvault.open")
	assert.Equal(t, "wrong_patient", attributes["error.type"])
	assert.Equal(t, codes.Error, span.Status().Code)
	_, attributes = s.one(t, "recvault.serve")
	assert.Equal(t, map[attribute.Key]any{"error.type": "wrong_patient", "http.response.status_code": int64(403)}, attributes)
	assert.True(t, slices.ContainsFunc(s.named("recvault.range"), func(span trace.ReadOnlySpan) bool {
		set := attribute.NewSet(span.Attributes()...)
		start, _ := set.Value("recvault.range.start")
		read, _ := set.Value("recvault.bytes")
		return start.AsInt64() > 0 && read.AsInt64() > 900_000
	}), "no range covers the rest of the recording")

	host, port := address(t, "http://"+s.d.Place.Endpoint)
	span, attributes = s.one(t, "S3.PutObject")
	assert.Equal(t, apitrace.SpanKindClient, span.SpanKind())
	require.NotEmpty(t, attributes["aws.request_id"])
	delete(attributes, "aws.request_id")
	assert.Equal(t, map[attribute.Key]any{
		"rpc.system.name": "aws-api", "rpc.method": "S3/PutObject", "aws.s3.bucket": s.d.Place.Bucket, "http.request.method": "PUT",
		"http.response.status_code": int64(200), "server.address": host, "server.port": port,
	}, attributes)
	host, port = address(t, s.d.Place.Vault)
	span, attributes = s.one(t, "PUT /v1/{mount}/decrypt/{key}")
	assert.Equal(t, apitrace.SpanKindClient, span.SpanKind())
	assert.Equal(t, map[attribute.Key]any{
		"http.request.method": "PUT", "url.template": "/v1/{mount}/decrypt/{key}", "http.response.status_code": int64(403), "error.type": "403",
		"url.full": s.d.Place.Vault + "/v1/" + s.d.Place.Mount + "/decrypt/REDACTED", "server.address": host, "server.port": port,
	}, attributes)

	got := counts(t, reader)
	for name, n := range map[string]int64{
		"recvault.operation.duration{recvault.operation=put}":                                                                                       1,
		"recvault.operation.duration{recvault.operation=open}":                                                                                      2,
		"recvault.operation.duration{error.type=wrong_patient,recvault.operation=open}":                                                             1,
		"recvault.operation.duration{recvault.operation=describe}":                                                                                  1,
		"recvault.operation.duration{recvault.operation=serve}":                                                                                     1,
		"recvault.operation.duration{error.type=wrong_patient,recvault.operation=serve}":                                                            1,
		"recvault.operation.duration{recvault.operation=create}":                                                                                    1,
		"recvault.operation.duration{error.type=aborted,recvault.operation=create}":                                                                 1,
		"recvault.operation.duration{recvault.operation=unwrap}":                                                                                    2,
		"recvault.operation.duration{error.type=wrong_patient,recvault.operation=unwrap}":                                                           2,
		"recvault.operation.duration{recvault.operation=rotate}":                                                                                    1,
		"recvault.operation.duration{recvault.operation=rewrap}":                                                                                    1,
		"http.client.request.duration{http.request.method=PUT,http.response.status_code=200,url.template=/v1/{mount}/decrypt/{key}}":                2,
		"http.client.request.duration{error.type=403,http.request.method=PUT,http.response.status_code=403,url.template=/v1/{mount}/decrypt/{key}}": 2,
		"recvault.events{recvault.event.kind=opened,recvault.event.severity=info}":                                                                  3,
		"recvault.events{recvault.event.kind=described,recvault.event.severity=info}":                                                               1,
		"recvault.events{recvault.event.kind=wrong-patient,recvault.event.severity=warn}":                                                           2,
		"recvault.events{recvault.event.kind=damaged,recvault.event.severity=warn}":                                                                 0,
		"recvault.delivered{}": 2<<20 + 100,
		"recvault.key_cache.lookups{recvault.key_cache.hit=true}":                     2,
		"recvault.key_cache.lookups{recvault.key_cache.hit=false}":                    2,
		"recvault.rewrap.keys{}":                                                      4, // two for each recording
		"recvault.job.envelopes{recvault.job.verb=rewrap,recvault.outcome=rewrapped}": 2,
		"recvault.job.envelopes{recvault.job.verb=rewrap,recvault.outcome=damaged}":   0,
	} {
		value, ok := got[name]
		assert.True(t, ok, "there is no %s", name)
		assert.Equal(t, n, value, name)
	}
	assert.Positive(t, got["http.client.request.duration{http.request.method=PUT,http.response.status_code=200,rpc.method=S3/PutObject}"])
	if t.Failed() {
		for name, n := range got {
			t.Log(name, n)
		}
	}
}

// address returns the host and the port of a URL.
func address(t *testing.T, url string) (string, int64) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	require.NoError(t, err)
	var port int64
	_, err = fmt.Sscan(r.URL.Port(), &port)
	require.NoError(t, err)
	return r.URL.Hostname(), port
}

// flaky answers every third request itself: that the server is overloaded.
type flaky struct {
	http.RoundTripper
	requests, refused atomic.Int64
}

func (f *flaky) RoundTrip(r *http.Request) (*http.Response, error) {
	if f.requests.Add(1)%3 != 0 {
		return f.RoundTripper.RoundTrip(r)
	}
	f.refused.Add(1)
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return &http.Response{
		Status: "503 Service Unavailable", StatusCode: 503, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: r,
	}, nil
}

func TestRetriesAreCounted(t *testing.T) {
	reader, f := metric.NewManualReader(), &flaky{}
	s := open(t, testdeployment.Servers(t), reader, func(base http.RoundTripper) http.RoundTripper {
		f.RoundTripper = base
		return f
	})
	alice, _ := s.d.Enrol(t)
	id := s.put(t, alice, 100)
	recording, err := s.vault.Open(t.Context(), s.d.Grant(t, alice), id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	require.Positive(t, f.refused.Load())
	var retries, overloaded int64
	for name, n := range counts(t, reader) {
		if strings.HasPrefix(name, "recvault.request.retries{") {
			retries += n
		}
		if strings.HasPrefix(name, "http.client.request.duration{error.type=503,") {
			overloaded += n
		}
	}
	assert.Equal(t, f.refused.Load(), retries, "each refused request was repeated")
	assert.Equal(t, f.refused.Load(), overloaded)
	resent := 0
	for _, span := range s.spans.Ended() {
		for _, kv := range span.Attributes() {
			if kv.Key == "http.request.resend_count" {
				resent++
				assert.Positive(t, kv.Value.AsInt64())
			}
		}
	}
	assert.EqualValues(t, retries, resent)
}

// everything returns all text of all spans and metrics.
func (s *site) everything(t *testing.T, reader *metric.ManualReader) string {
	t.Helper()
	var text strings.Builder
	for _, span := range s.spans.Ended() {
		fmt.Fprintln(&text, span.Name(), span.Status(), span.Attributes(), span.Events(), span.Links())
	}
	var collected metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &collected))
	for name := range counts(t, reader) {
		fmt.Fprintln(&text, name)
	}
	fmt.Fprintf(&text, "%+v", collected)
	return text.String()
}

func TestNoIdentifierIsExportedUnlessAskedFor(t *testing.T) {
	for name, asked := range map[string]bool{"default": false, "asked for": true} {
		t.Run(name, func(t *testing.T) {
			var options []otelrecvault.Option
			if asked {
				options = append(options, otelrecvault.WithIdentifiers())
			}
			reader := metric.NewManualReader()
			s := open(t, testdeployment.Servers(t), reader, nil, options...)
			ctx := t.Context()
			alice, aliceID := s.d.Enrol(t)
			bob, bobID := s.d.Enrol(t)
			id := s.put(t, alice, 100_000)
			grant, err := s.keyring.Issue(ctx, alice, keys.GrantOptions{
				TTL: time.Minute, Subject: "canary-subject", Purpose: keys.BreakTheGlass, Reason: "canary-reason", RequestID: "canary-request",
			})
			require.NoError(t, err)
			stranger := s.d.Grant(t, bob)
			_, _ = s.vault.Open(ctx, stranger, id)
			_, err = s.vault.Stat(ctx, grant, id)
			require.NoError(t, err)
			_, err = s.vault.ListInfo(ctx, grant)
			require.NoError(t, err)
			for _, err := range s.vault.List(ctx, alice) {
				require.NoError(t, err)
			}
			_, err = s.vault.Update(ctx, grant, id, func(m *vault.Metadata) error {
				m.Title = canaryTitle + "-2"
				return nil
			})
			require.NoError(t, err)
			copied, err := s.vault.Copy(ctx, grant, id, bob)
			require.NoError(t, err)
			s.vault.ServeRecording(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx), grant, id)
			require.NoError(t, s.vault.Delete(ctx, bob, copied))
			require.NoError(t, s.keyring.Revoke(ctx, stranger.Accessor()))
			require.NoError(t, s.vault.EndGrant(ctx, grant))
			_, _ = s.vault.Open(ctx, grant, id)
			_, _ = s.keyring.Versions(ctx, keys.KeyID{})
			require.NoError(t, s.keyring.Erase(ctx, aliceID))
			require.NoError(t, s.keyring.Erase(ctx, bobID))
			require.NoError(t, s.stream.Flush(ctx))

			text := s.everything(t, reader)
			require.Contains(t, text, "S3.GetObject")
			for what, canary := range map[string]string{
				"a patient": string(alice), "another patient": string(bob), "a title": canaryTitle, "a grant's token": grant.Token(),
				"the process's token": s.d.Place.Tokens[testdeployment.Admin], "the S3 secret": s.d.Place.SecretKey, "an accessor": grant.Accessor(),
				"a subject": "canary-subject", "a reason": "canary-reason", "a request ID": "canary-request", "any other canary": "canary",
			} {
				assert.NotContains(t, text, canary, what)
			}
			var onMetrics strings.Builder
			for name := range counts(t, reader) {
				fmt.Fprintln(&onMetrics, name)
			}
			for what, identifier := range map[string]string{
				"a pseudonym": aliceID.String(), "another pseudonym": bobID.String(), "a recording": id.String(),
				"an object": "recordings/" + aliceID.String() + "/" + id.Rec() + "/media",
			} {
				assert.NotContains(t, onMetrics.String(), identifier, what)
				if asked {
					assert.Contains(t, text, identifier, what)
				} else {
					assert.NotContains(t, text, identifier, what)
				}
			}
			assert.Equal(t, asked, strings.Contains(text, id.Rec()))
			if asked {
				_, attributes := s.one(t, "recvault.put")
				assert.Equal(t, map[attribute.Key]any{"recvault.key_id": aliceID.String(), "recvault.recording": id.String()}, attributes)
				_, attributes = s.one(t, "S3.PutObject")
				assert.Contains(t, attributes["aws.s3.key"], "recordings/")
			}
		})
	}
}

// TestAttributesAreFew: more patients, recordings and purposes make no more series.
func TestAttributesAreFew(t *testing.T) {
	reader := metric.NewManualReader()
	s := open(t, testdeployment.Servers(t), reader, nil)
	play := func(purpose keys.Purpose) {
		patient, _ := s.d.Enrol(t)
		s.issue(t, patient, purpose)
		id, grant := s.put(t, patient, 100), s.d.Grant(t, patient)
		_, err := s.vault.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		recording, err := s.vault.Open(t.Context(), grant, id)
		require.NoError(t, err)
		require.NoError(t, recording.Close())
		require.NoError(t, s.stream.Flush(t.Context()))
	}
	play(keys.Treatment)
	before := counts(t, reader)
	for i := range 20 {
		play(keys.Purpose(fmt.Sprint(keys.OwnPurpose, i)))
	}
	after := counts(t, reader)
	assert.Len(t, after, len(before))
	assert.EqualValues(t, 20, after["recvault.events{recvault.event.kind=grant-issued,recvault.event.severity=info,recvault.grant.purpose=other}"])
}

// TestStoreKeepsItsAbilities: what a store can do, the decorated one can do.
func TestStoreKeepsItsAbilities(t *testing.T) {
	s := open(t, testdeployment.Servers(t), metric.NewManualReader(), nil)
	assert.Implements(t, (*storage.Copier)(nil), s.store)
	assert.Implements(t, (*storage.UploadLister)(nil), s.store)
	plain := s.telemetry.Store(struct{ storage.Store }{s.store})
	assert.NotImplements(t, (*storage.Copier)(nil), plain)
	assert.NotImplements(t, (*storage.UploadLister)(nil), plain)
}
