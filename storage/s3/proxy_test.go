package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// proxy stands between a store and MinIO. It damages requests and loses replies, as a network does.
type proxy struct {
	store  inspected
	damage func(*http.Request) bool // reports whether to damage a request's body
	lose   func(*http.Request) bool // reports whether to lose the reply to a request
	strip  string                   // a header to remove from replies

	interfered atomic.Int32 // the number of damaged requests and lost replies
}

// startProxy starts a proxy. If secure is true, the store connects to it with TLS.
func startProxy(t *testing.T, secure bool, options ...s3.Option) *proxy {
	t.Helper()
	never := func(*http.Request) bool { return false }
	p := &proxy{damage: never, lose: never}
	server := testserver.MinIO(t)
	target := &url.URL{Scheme: "http", Host: server.Endpoint()}
	front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport: server.Transport(),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // the signature covers it
			if p.damage(r.In) {
				p.interfered.Add(1)
				r.Out.Body = flipped{r.Out.Body}
			}
		},
		ModifyResponse: func(response *http.Response) error {
			if p.lose(response.Request) {
				p.interfered.Add(1)
				io.Copy(io.Discard, response.Body)
				return errors.New("the reply is lost")
			}
			response.Header.Del(p.strip)
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	})
	if secure {
		front.StartTLS()
	} else {
		front.Start()
	}
	t.Cleanup(front.Close)
	p.store = openEndpointOf(t, server, front, options...)
	return p
}

// openEndpointOf returns a store in the server's bucket that sends its requests to the front.
func openEndpointOf(t *testing.T, server *testserver.MinIOServer, front *httptest.Server, options ...s3.Option) inspected {
	t.Helper()
	transport := front.Client().Transport.(*http.Transport)
	client, err := s3.NewClient(s3.Config{
		Endpoint:    front.URL,
		Region:      server.Region(),
		Transport:   transport,
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket(), options...)
	require.NoError(t, err)
	return inspected{store, client, server.Bucket(), transport.CloseIdleConnections}
}

// flipped is a body with flipped bits.
type flipped struct{ io.ReadCloser }

func (f flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 {
		p[n/2] ^= 1 // one bit of each read
	}
	return n, err
}

// isData reports whether a request carries an object's data.
func isData(r *http.Request) bool { return r.Method == http.MethodPut }

// isCommit reports whether a request makes an object.
func isCommit(r *http.Request) bool {
	part := r.URL.Query().Has("partNumber")
	return r.Method == http.MethodPut && !part || r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

// once returns a condition that holds only the first time that the given condition does.
func once(condition func(*http.Request) bool) func(*http.Request) bool {
	var done atomic.Bool
	return func(r *http.Request) bool { return condition(r) && done.CompareAndSwap(false, true) }
}

// variants are the combinations of checksum and connection.
var variants = []struct {
	name    string
	secure  bool
	options []s3.Option
}{
	{"CRC64NVME over HTTP", false, nil},
	{"CRC64NVME over TLS", true, nil},
	{"SHA-256 over HTTP", false, []s3.Option{s3.SignedPayload()}},
	{"SHA-256 over TLS", true, []s3.Option{s3.SignedPayload()}},
}

func TestFlippedBitIsRefused(t *testing.T) {
	for _, variant := range variants {
		for _, size := range []int{1, 1000, partSize, partSize + 1, 3 * partSize} {
			for _, announced := range []int64{int64(size), -1} {
				t.Run(fmt.Sprintf("%s, %d announced as %d", variant.name, size, announced), func(t *testing.T) {
					p := startProxy(t, variant.secure, variant.options...)
					p.damage = isData
					content := noise(size)
					_, err := p.store.Put(t.Context(), "object", bytes.NewReader(content), announced, storage.Condition{})
					assert.ErrorIs(t, err, storage.ErrUnavailable)
					assert.Positive(t, p.interfered.Load())
					_, err = p.store.Stat(t.Context(), "object")
					assert.ErrorIs(t, err, storage.ErrNotFound)
					assert.Empty(t, p.store.Leftovers(t))
				})
			}
		}
	}
}

func TestDamagedRequestIsSentAgain(t *testing.T) {
	for _, variant := range variants {
		for _, size := range []int{1000, 3 * partSize} {
			t.Run(fmt.Sprintf("%s, %d", variant.name, size), func(t *testing.T) {
				p := startProxy(t, variant.secure, variant.options...)
				p.damage = once(isData)
				content := noise(size)
				_, err := p.store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.IfAbsent())
				require.NoError(t, err)
				assert.Equal(t, int32(1), p.interfered.Load())
				assert.True(t, bytes.Equal(content, read(t, p.store, "object")))
			})
		}
	}
}

// TestProxyFlipsBits shows that the tests above would fail without checksums.
func TestProxyFlipsBits(t *testing.T) {
	p := startProxy(t, true)
	p.damage = isData
	content := noise(1000)
	putUnchecked(t, p.store, "object", content)
	got := read(t, p.store, "object")
	assert.Len(t, got, len(content))
	assert.False(t, bytes.Equal(content, got))
}

func TestLostReplyIsNotAFailure(t *testing.T) {
	for _, name := range []string{"the first reply", "every reply"} {
		for _, size := range []int{1000, 2*partSize + 1} {
			for _, condition := range []string{"always", "IfAbsent", "IfMatch"} {
				t.Run(fmt.Sprintf("%s to %d, %s", name, size, condition), func(t *testing.T) {
					p := startProxy(t, false)
					content := noise(size)
					var when storage.Condition
					switch condition {
					case "IfAbsent":
						when = storage.IfAbsent()
					case "IfMatch":
						old, err := p.store.Put(t.Context(), "object", bytes.NewReader([]byte("old")), 3, storage.Condition{})
						require.NoError(t, err)
						when = storage.IfMatch(old.ETag)
					}
					p.lose = isCommit
					if name == "the first reply" {
						p.lose = once(isCommit)
					}
					info, err := p.store.Put(t.Context(), "object", bytes.NewReader(content), int64(size), when)
					require.NoError(t, err)
					assert.Positive(t, p.interfered.Load())
					stat, err := p.store.Stat(t.Context(), "object")
					require.NoError(t, err)
					assert.Equal(t, stat.ETag, info.ETag)
					assert.Equal(t, stat.Size, info.Size)
					assert.True(t, bytes.Equal(content, read(t, p.store, "object")))
					assert.Empty(t, p.store.Leftovers(t))
				})
			}
		}
	}
}

func TestObjectOfAnotherWriterIsErrExists(t *testing.T) {
	p := startProxy(t, false)
	content := []byte("the same bytes")
	_, err := p.store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)
	_, err = p.store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.IfAbsent())
	assert.ErrorIs(t, err, storage.ErrExists)
}

func TestServerWithoutChecksumNeedsSignedPayload(t *testing.T) {
	for _, size := range []int{1000, 2 * partSize} {
		t.Run(fmt.Sprintf("%d with CRC64NVME", size), func(t *testing.T) {
			p := startProxy(t, false)
			p.strip = "X-Amz-Checksum-Crc64nvme"
			_, err := p.store.Put(t.Context(), "object", bytes.NewReader(noise(size)), -1, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrUnavailable)
			assert.ErrorContains(t, err, "SignedPayload")
			assert.Empty(t, p.store.Leftovers(t))
		})
		t.Run(fmt.Sprintf("%d with SignedPayload", size), func(t *testing.T) {
			p := startProxy(t, false, s3.SignedPayload())
			p.strip = "X-Amz-Checksum-Crc64nvme"
			content := noise(size)
			_, err := p.store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.Condition{})
			require.NoError(t, err)
			assert.True(t, bytes.Equal(content, read(t, p.store, "object")))
		})
	}
}

// Amazon S3 answers a HEAD of a missing object or bucket with 404 alone. MinIO adds a code in its own header.
func TestMissingBucketWithoutCodeIsErrNoBucket(t *testing.T) {
	p := startProxy(t, false)
	p.strip = "X-Minio-Error-Code"
	missing, err := s3.New(p.store.client, "no-such-bucket")
	require.NoError(t, err)
	for _, length := range []int64{-1, 0} {
		_, err = missing.Get(t.Context(), "object", 0, length)
		assert.ErrorIs(t, err, storage.ErrNoBucket, "length %d", length)
	}
	_, err = missing.Stat(t.Context(), "object")
	assert.ErrorIs(t, err, storage.ErrNoBucket)
	_, err = p.store.Stat(t.Context(), "object")
	assert.ErrorIs(t, err, storage.ErrNotFound)
}
