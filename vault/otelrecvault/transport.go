package otelrecvault

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// VaultTransport decorates the transport of Vault's client: api.Config.HttpClient.Transport, after the TLS settings. Each attempt of a
// request is a span, named after its method and url.template. url.full has "REDACTED" in place of the key's name, or of
// the whole path where that is not known. nil stands for http.DefaultTransport.
func (t *Telemetry) VaultTransport(base http.RoundTripper) http.RoundTripper {
	return &transport{cmp.Or(base, http.DefaultTransport), t, t.describeVault}
}

// S3Transport decorates the transport of an S3 client: s3.Config.Transport. Each attempt of a request is a span, named "S3." and
// the operation. A request that is not about the bucket, such as for credentials, has the operation "_OTHER". nil
// stands for http.DefaultTransport.
func (t *Telemetry) S3Transport(base http.RoundTripper, bucket string) http.RoundTripper {
	return &transport{cmp.Or(base, http.DefaultTransport), t, func(r *http.Request) request { return t.describeS3(r, bucket) }}
}

type transport struct {
	base     http.RoundTripper
	t        *Telemetry
	describe func(*http.Request) request
}

// request is what a request is called.
type request struct {
	name      string             // of the span
	operation attribute.KeyValue // in metrics too
	span      []attribute.KeyValue
}

// methods are the values of http.request.method here.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	described := t.describe(r)
	method := r.Method
	if !slices.Contains(methods, method) { // Vault's LIST, and what is unknown
		method = other
	}
	host := r.URL.Hostname()
	port, err := strconv.Atoi(r.URL.Port())
	if err != nil {
		port = map[string]int{"http": 80, "https": 443}[r.URL.Scheme]
	}
	attributes := append(described.span, described.operation,
		semconv.HTTPRequestMethodKey.String(method), semconv.ServerAddress(host), semconv.ServerPort(port))
	failures, _ := r.Context().Value(failuresKey{}).(*failures)
	before := failures.before(r)
	if before > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(before))
		t.t.retries.Add(r.Context(), 1, metric.WithAttributes(described.operation))
	}
	ctx, span := t.t.tracer.Start(r.Context(), described.name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attributes...))
	began := time.Now()
	response, err := t.base.RoundTrip(r.WithContext(ctx))
	took := time.Since(began)
	o := outcome{operation: described.operation.Value.AsString(), method: method, host: host, port: port}
	if err != nil {
		o.class = errorType(ctx, err)
	} else if o.status = response.StatusCode; o.status >= 400 {
		o.class = strconv.Itoa(o.status)
	}
	failures.note(r, err != nil || o.status >= 500 || o.status == http.StatusTooManyRequests || o.status == http.StatusRequestTimeout, before)
	answer := o.answer()
	t.t.requests.Record(ctx, took.Seconds(), t.t.cached(o, func() []attribute.KeyValue {
		return append(answer, described.operation,
			semconv.HTTPRequestMethodKey.String(method), semconv.ServerAddress(host), semconv.ServerPort(port))
	}))
	if o.class != "" {
		span.SetStatus(codes.Error, "")
	}
	if err != nil {
		span.SetAttributes(answer...)
		span.End()
		return nil, err
	}
	if id := response.Header.Get("X-Amz-Request-Id"); id != "" && described.operation.Key == semconv.RPCMethodKey {
		answer = append(answer, semconv.AWSRequestID(id))
	}
	span.SetAttributes(answer...)
	response.Body = &responseBody{response.Body, span}
	return response, nil
}

// answer returns the attributes that say how a request ended.
func (o outcome) answer() (attributes []attribute.KeyValue) {
	if o.status != 0 {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(o.status))
	}
	if o.class != "" {
		attributes = append(attributes, semconv.ErrorTypeKey.String(o.class))
	}
	return attributes
}

// errorType returns the error.type of a request without an answer.
func errorType(ctx context.Context, err error) string {
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return canceled
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return semconv.ErrorType(err).Value.AsString()
}

// responseBody ends the span when it is closed.
type responseBody struct {
	io.ReadCloser
	span trace.Span
}

func (b *responseBody) Close() error {
	defer b.span.End()
	return b.ReadCloser.Close()
}

// keyVerbs are the parts of the Transit engine's API that a key's name follows.
var keyVerbs = []string{"encrypt", "decrypt", "rewrap", "hmac", "keys", "datakey"}

// tokenCalls are the calls of Vault's token store that name a token in their body only.
var tokenCalls = []string{"create", "lookup-self", "renew-self", "revoke-self", "lookup-accessor", "revoke-accessor"}

// describeVault names a request to Vault by one of a few templates of its path.
func (t *Telemetry) describeVault(r *http.Request) request {
	template, redacted := vaultTemplate(r.URL.Path)
	path := redacted
	if t.identifiers {
		path = r.URL.Path
	}
	return request{
		name: r.Method + " " + template, operation: semconv.URLTemplate(template),
		span: []attribute.KeyValue{semconv.URLFull(r.URL.Scheme + "://" + r.URL.Host + path)},
	}
}

// vaultTemplate returns the template of a path, and the path with no name in it but those of mounts.
func vaultTemplate(path string) (template, redacted string) {
	segments := strings.Split(strings.TrimPrefix(path, "/v1/"), "/")
	last := len(segments) - 1
	switch {
	case segments[0] == "auth" && last == 2 && slices.Contains(tokenCalls, segments[2]):
		return "/v1/auth/token/" + segments[2], path
	case segments[0] == "auth" && last == 3 && segments[1] == "token" && segments[2] == "create":
		return "/v1/auth/token/create/{role}", path
	case segments[0] == "auth" && segments[last] == "login":
		return "/v1/auth/{mount}/login", path
	case segments[0] == "sys" && segments[last] == "tune":
		return "/v1/sys/mounts/{mount}/tune", path
	case segments[0] == "sys" || segments[0] == "auth" || segments[0] == "identity":
		return "/v1/" + segments[0] + "/{path}", "/v1/" + segments[0] + "/REDACTED"
	case last >= 2 && segments[last-1] == "config" && segments[last] == "keys":
		return "/v1/{mount}/config/keys", path
	}
	for i := last - 1; i > 0; i-- {
		if !slices.Contains(keyVerbs, segments[i]) {
			continue
		}
		mount, rest := strings.Join(segments[:i], "/"), ""
		if i+2 <= last {
			if i+2 < last || !slices.Contains([]string{"rotate", "config", "trim", "sha2-256"}, segments[last]) {
				break
			}
			rest = "/" + segments[last]
		}
		return "/v1/{mount}/" + segments[i] + "/{key}" + rest, "/v1/" + mount + "/" + segments[i] + "/REDACTED" + rest
	}
	return "/v1/{path}", "/v1/REDACTED"
}

// describeS3 names a request to S3 by its operation.
func (t *Telemetry) describeS3(r *http.Request, bucket string) request {
	operation, key := s3Operation(r, bucket)
	span := []attribute.KeyValue{semconv.RPCSystemNameKey.String("aws-api")}
	if operation != other {
		span = append(span, semconv.AWSS3Bucket(bucket))
	}
	if key != "" && t.identifiers {
		span = append(span, semconv.AWSS3Key(key))
	}
	method := "S3/" + operation
	if operation == other {
		method = other
	}
	return request{name: "S3." + operation, operation: semconv.RPCMethod(method), span: span}
}

// s3Operation returns the operation of a request on the bucket, and the object's name.
func s3Operation(r *http.Request, bucket string) (operation, key string) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if !strings.HasPrefix(r.URL.Host, bucket+".") {
		first, rest, _ := strings.Cut(path, "/")
		if first != bucket {
			return other, ""
		}
		path = rest
	}
	var query url.Values
	if r.URL.RawQuery != "" {
		query = r.URL.Query()
	}
	for _, o := range s3Operations {
		if o.method == r.Method && o.object == (path != "") && (o.query == "" || query.Has(o.query)) && (!o.copies || r.Header.Get("X-Amz-Copy-Source") != "") {
			return o.name, path
		}
	}
	return other, path
}

// s3Operations are the operations of S3 that recvault's clients use: the first that fits is a request's.
var s3Operations = []struct {
	method string
	object bool // it is about an object, not the bucket
	query  string
	copies bool
	name   string
}{
	{http.MethodGet, true, "uploadId", false, "ListParts"},
	{http.MethodGet, true, "", false, "GetObject"},
	{http.MethodHead, true, "", false, "HeadObject"},
	{http.MethodPut, true, "partNumber", true, "UploadPartCopy"},
	{http.MethodPut, true, "partNumber", false, "UploadPart"},
	{http.MethodPut, true, "", true, "CopyObject"},
	{http.MethodPut, true, "", false, "PutObject"},
	{http.MethodPost, true, "uploads", false, "CreateMultipartUpload"},
	{http.MethodPost, true, "uploadId", false, "CompleteMultipartUpload"},
	{http.MethodDelete, true, "uploadId", false, "AbortMultipartUpload"},
	{http.MethodDelete, true, "", false, "DeleteObject"},
	{http.MethodGet, false, "location", false, "GetBucketLocation"},
	{http.MethodGet, false, "uploads", false, "ListMultipartUploads"},
	{http.MethodGet, false, "versions", false, "ListObjectVersions"},
	{http.MethodGet, false, "versioning", false, "GetBucketVersioning"},
	{http.MethodGet, false, "lifecycle", false, "GetBucketLifecycleConfiguration"},
	{http.MethodGet, false, "list-type", false, "ListObjectsV2"},
	{http.MethodHead, false, "", false, "HeadBucket"},
	{http.MethodPost, false, "delete", false, "DeleteObjects"},
}
