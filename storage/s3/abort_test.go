package s3_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
)

// TestPartStoredAfterAbortIsRemoved: the server stores a part after it has answered the first abort.
func TestPartStoredAfterAbortIsRemoved(t *testing.T) {
	server := testserver.VersityGW(t)
	aborted, stored := make(chan struct{}), make(chan struct{})
	var aborting, storing sync.Once
	var uploadID string
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	late := startInterceptor(t, server, func(r *http.Request, forward func() *http.Response) *http.Response {
		switch {
		case isPart(r, "2"):
			r.Body = &heldBody{ReadCloser: r.Body, left: r.ContentLength, hold: func() {
				cancel()
				<-aborted // longer than the store waits for the part's answer
			}}
			response := forward()
			storing.Do(func() { close(stored) })
			return response
		case r.Method == http.MethodDelete:
			response := forward()
			aborting.Do(func() {
				uploadID = r.URL.Query().Get("uploadId")
				close(aborted)
				<-stored
			})
			return response
		}
		return forward()
	})
	_, err := late.Put(ctx, "object", bytes.NewReader(make([]byte, 2*partSize)), -1, storage.Condition{})
	assert.ErrorIs(t, err, context.Canceled)
	// versitygw does not list an upload that only a late part has brought back.
	_, err = minio.Core{Client: server.Client()}.ListObjectParts(t.Context(), server.Bucket(), "object", uploadID, 0, 10)
	assert.Equal(t, minio.NoSuchUpload, minio.ToErrorResponse(err).Code)
}

// TestAbortFollowsThePartsInFlight: the store waits for the answer to a part that it has sent in full.
func TestAbortFollowsThePartsInFlight(t *testing.T) {
	server := testserver.VersityGW(t)
	aborted := make(chan struct{})
	var aborting sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	inFlight := true
	slow := startInterceptor(t, server, func(r *http.Request, forward func() *http.Response) *http.Response {
		switch {
		case isPart(r, "2"):
			r.Body = &heldBody{ReadCloser: r.Body, left: r.ContentLength, hold: func() {
				cancel()
				select {
				case <-aborted:
				case <-time.After(300 * time.Millisecond):
					inFlight = false
				}
			}}
		case r.Method == http.MethodDelete:
			aborting.Do(func() { close(aborted) })
		}
		return forward()
	})
	_, err := slow.Put(ctx, "object", bytes.NewReader(make([]byte, 2*partSize)), -1, storage.Condition{})
	assert.ErrorIs(t, err, context.Canceled)
	assert.False(t, inFlight, "the abort came before the part's end")
	assert.Empty(t, open(t, server, server.Bucket()).Leftovers(t))
}

func isPart(r *http.Request, number string) bool {
	return r.Method == http.MethodPut && r.URL.Query().Get("partNumber") == number
}

// startInterceptor returns a store whose requests to the server pass through handle.
func startInterceptor(
	t *testing.T, server *testserver.MinIOServer, handle func(r *http.Request, forward func() *http.Response) *http.Response,
) inspected {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: server.Endpoint()}
	transport := server.Transport()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			var failure error
			response := handle(r, func() *http.Response {
				// The server gets all of a request whose client has gone.
				response, err := transport.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
				failure = err
				return response
			})
			return response, failure
		}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the signature covers it
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	})
	t.Cleanup(front.Close)
	return openEndpointOf(t, server, front)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// heldBody is a request's body that calls hold once, before it yields its end.
type heldBody struct {
	io.ReadCloser
	left int64
	hold func()
	once sync.Once
}

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left <= 0 {
		b.once.Do(b.hold)
	}
	return n, err
}
