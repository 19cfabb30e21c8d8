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
	return &transport{base: cmp.Or(base, http.DefaultTransport), t: t, operation: t.vaultRequest, describe: describeVault}
}

// S3Transport decorates the transport of an S3 client: s3.Config.Transport. Each attempt of a request is a span, named "S3." and
// the operation. A request that is not about the bucket, such as for credentials, has the operation "_OTHER". nil
// stands for http.DefaultTransport.
func (t *Telemetry) S3Transport(base http.RoundTripper, bucket string) http.RoundTripper {
	return &transport{
		base: cmp.Or(base, http.DefaultTransport), t: t,
		operation: func(r *http.Request) (string, []attribute.KeyValue) { return t.s3Request(r, bucket) },
		describe:  func(_, operation string) description { return describeS3(operation, bucket) },
	}
}

type transport struct {
	base http.RoundTripper
	t    *Telemetry
	// operation returns one of a few names for what a request does, and the attributes of this request's span alone.
	operation func(*http.Request) (name string, own []attribute.KeyValue)
	describe  func(method, operation string) description
	endpoints cache[endpointKey, *endpoint]
}

// description is what requests of one method and operation are called.
type description struct {
	name      string               // of the span
	operation attribute.KeyValue   // in metrics too
	span      []attribute.KeyValue // of the span only
}

// endpoint is an operation of a server, and what is made once for all its requests.
type endpoint struct {
	description
	start      []trace.SpanStartOption
	attributes []attribute.KeyValue // in metrics
	outcomes   cache[answer, metric.RecordOption]
}

type endpointKey struct{ operation, method, scheme, host string }

// methods are the values of http.request.method here.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch}

// endpoint describes what a request is sent to.
func (t *transport) endpoint(r *http.Request, operation string) *endpoint {
	e := &endpoint{description: t.describe(r.Method, operation)}
	method := r.Method
	if !slices.Contains(methods, method) { // Vault's LIST, and what is unknown
		method = other
	}
	port, err := strconv.Atoi(r.URL.Port())
	if err != nil {
		port = map[string]int{"http": 80, "https": 443}[r.URL.Scheme]
	}
	e.attributes = []attribute.KeyValue{
		e.operation, semconv.HTTPRequestMethodKey.String(method), semconv.ServerAddress(r.URL.Hostname()), semconv.ServerPort(port),
	}
	e.start = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(append(e.span, e.attributes...)...)}
	return e
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, own := t.operation(r)
	e := t.endpoints.get(endpointKey{operation, r.Method, r.URL.Scheme, r.URL.Host}, func() *endpoint { return t.endpoint(r, operation) })
	failures, _ := r.Context().Value(failuresKey{}).(*failures)
	before := failures.before(r)
	if before > 0 {
		own = append(own, semconv.HTTPRequestResendCount(before))
		t.t.retries.Add(r.Context(), 1, metric.WithAttributes(e.operation))
	}
	start := e.start
	if len(own) > 0 {
		start = append(slices.Clone(start), trace.WithAttributes(own...))
	}
	ctx, span := t.t.tracer.Start(r.Context(), e.name, start...)
	began := time.Now()
	response, err := t.base.RoundTrip(r.WithContext(ctx))
	took := time.Since(began)
	var a answer
	if err != nil {
		a.class = errorType(ctx, err)
	} else if a.status = response.StatusCode; a.status >= 400 {
		a.class = strconv.Itoa(a.status)
	}
	failures.note(r, err != nil || a.status >= 500 || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout, before)
	t.t.requests.Record(ctx, took.Seconds(), e.outcomes.get(a, func() metric.RecordOption {
		return metric.WithAttributeSet(attribute.NewSet(append(a.attributes(), e.attributes...)...))
	}))
	if a.class != "" {
		span.SetStatus(codes.Error, "")
	}
	if span.IsRecording() {
		attributes := a.attributes()
		if e.operation.Key == semconv.RPCMethodKey && err == nil && response.Header.Get("X-Amz-Request-Id") != "" {
			attributes = append(attributes, semconv.AWSRequestID(response.Header.Get("X-Amz-Request-Id")))
		}
		span.SetAttributes(attributes...)
	}
	if err != nil {
		span.End()
		return nil, err
	}
	response.Body = &responseBody{response.Body, span}
	return response, nil
}

// answer is how a request ended.
type answer struct {
	status int    // 0 if there is no answer
	class  string // error.type, or "" for none
}

func (a answer) attributes() (attributes []attribute.KeyValue) {
	if a.status != 0 {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(a.status))
	}
	if a.class != "" {
		attributes = append(attributes, semconv.ErrorTypeKey.String(a.class))
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

// vaultRequest names a request to Vault by one of a few templates of its path.
func (t *Telemetry) vaultRequest(r *http.Request) (template string, own []attribute.KeyValue) {
	template, path := vaultTemplate(r.URL.Path)
	if t.identifiers {
		path = r.URL.Path
	}
	return template, []attribute.KeyValue{semconv.URLFull(r.URL.Scheme + "://" + r.URL.Host + path)}
}

func describeVault(method, template string) description {
	return description{name: method + " " + template, operation: semconv.URLTemplate(template)}
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

// s3Request names a request to S3 by its operation.
func (t *Telemetry) s3Request(r *http.Request, bucket string) (operation string, own []attribute.KeyValue) {
	operation, key := s3Operation(r, bucket)
	if key != "" && t.identifiers {
		own = append(own, semconv.AWSS3Key(key))
	}
	return operation, own
}

func describeS3(operation, bucket string) description {
	d := description{
		name: "S3." + operation, operation: semconv.RPCMethod("S3/" + operation),
		span: []attribute.KeyValue{semconv.RPCSystemNameKey.String("aws-api")},
	}
	if operation == other {
		d.operation = semconv.RPCMethod(other)
	} else {
		d.span = append(d.span, semconv.AWSS3Bucket(bucket))
	}
	return d
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
