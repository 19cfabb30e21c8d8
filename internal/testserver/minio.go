package testserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/recvault/recvault/internal/testserver/binary"
)

// MinIOServer is one test's view of a MinIO server, with a bucket for this test. The server keeps its data
// on disk.
type MinIOServer struct {
	minio   *minioServer
	options options
	t       testing.TB
	bucket  string
}

// MinIO returns a running MinIO with a new bucket: the server that the tests of this process share, or a
// dedicated one. It must be called from the test's goroutine.
func MinIO(t testing.TB, given ...Option) *MinIOServer {
	t.Helper()
	o := newOptions(given)
	m := obtain(t, o, sharedMinIO, startMinIO)
	return withBucket(t, m, o)
}

// withBucket returns the server with a new bucket, which a shared server removes when the test ends.
func withBucket(t testing.TB, m *minioServer, o options) *MinIOServer {
	t.Helper()
	s := &MinIOServer{minio: m, options: o, t: t, bucket: "t" + randomName(6)}
	check(t, m.makeBucket(t.Context(), s.bucket))
	if !o.dedicated {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), bucketTimeout)
			defer cancel()
			if err := m.removeBucket(ctx, s.bucket); err != nil {
				t.Error("testserver: remove the test's bucket:", err)
			}
		})
	}
	return s
}

// Client returns a new client with the server's root credentials and support for trailing headers.
func (s *MinIOServer) Client() *minio.Client {
	s.t.Helper()
	client, err := s.minio.client(s.Transport(), 0)
	check(s.t, err)
	return client
}

// Endpoint returns the server's host and port.
func (s *MinIOServer) Endpoint() string { return s.minio.address }

// AccessKey returns the root user's name.
func (s *MinIOServer) AccessKey() string { return s.minio.accessKey }

// SecretKey returns the root user's secret.
func (s *MinIOServer) SecretKey() string { return s.minio.secretKey }

// Secure reports whether the server serves TLS.
func (s *MinIOServer) Secure() bool { return s.minio.tls != nil }

// CAFile returns the path of the certificate of the authority that signed the server's certificate, or ""
// if the server does not serve TLS.
func (s *MinIOServer) CAFile() string { return s.minio.caFile() }

// Transport returns a new transport that trusts the server's certificate.
func (s *MinIOServer) Transport() *http.Transport {
	s.t.Helper()
	transport, err := s.minio.transport()
	check(s.t, err)
	s.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// Region returns the server's region.
func (s *MinIOServer) Region() string { return region }

// Bucket returns the name of this test's bucket. The bucket exists, and is removed with its contents when the
// test ends.
func (s *MinIOServer) Bucket() string { return s.bucket }

// Stop shuts the server down and waits until it has ended. The server must be dedicated.
func (s *MinIOServer) Stop(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	check(t, s.minio.stop())
}

// Kill ends the server at once, as a power cut would. The server must be dedicated.
func (s *MinIOServer) Kill(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	s.minio.kill()
}

// Restart starts the server again, with the same data and address. It stops a running server first. The
// server must be dedicated.
func (s *MinIOServer) Restart(t testing.TB) {
	t.Helper()
	requireDedicated(t, s.options)
	check(t, s.minio.stop())
	check(t, s.minio.start(t.Context(), s.minio.configuration))
}

const (
	region        = "us-east-1"      // MinIO's default
	bucketTimeout = 30 * time.Second // for emptying and removing a bucket
)

// minioServer is a MinIO server, or a versitygw, and its root user's credentials, which exist only in memory.
type minioServer struct {
	*server
	accessKey     string
	secretKey     string
	configuration configuration
}

// sharedMinIO returns the shared server. The first call starts it.
var sharedMinIO = sync.OnceValues(func() (*minioServer, error) {
	return startMinIO(context.Background(), options{})
})

func startMinIO(ctx context.Context, o options) (*minioServer, error) {
	s, err := newServer(ctx, binary.MinIO, o)
	if err != nil {
		return nil, err
	}
	m := &minioServer{server: s, accessKey: randomName(8), secretKey: randomName(16)}
	m.configuration = m
	if err := m.start(ctx, m); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	return m, nil
}

func (m *minioServer) command() (arguments, environment []string, err error) {
	arguments = []string{"server", "--address", m.address}
	if m.tls != nil {
		arguments = append(arguments, "--certs-dir", m.tls.dir)
	}
	environment = []string{
		"MINIO_ROOT_USER=" + m.accessKey,
		"MINIO_ROOT_PASSWORD=" + m.secretKey,
		"MINIO_BROWSER=off", // no console, which would need a second port
		"MINIO_UPDATE=off",  // no search for updates on the network
	}
	return append(arguments, filepath.Join(m.dir, "data")), environment, nil
}

// ready requests MinIO's own readiness probe, and then the buckets: only this server accepts the credentials.
func (m *minioServer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	transport, err := m.transport()
	if err != nil {
		return err
	}
	transport.DisableKeepAlives = true
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url()+"/minio/health/ready", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status is %d", response.StatusCode)
	}
	client, err := m.client(transport, 1)
	if err != nil {
		return err
	}
	_, err = client.ListBuckets(ctx)
	return err
}

// client returns a client that attempts each request at most so many times, or as often as minio-go does by
// default if attempts is 0.
func (m *minioServer) client(transport *http.Transport, attempts int) (*minio.Client, error) {
	return minio.New(m.address, &minio.Options{
		Creds:           credentials.NewStaticV4(m.accessKey, m.secretKey, ""),
		Secure:          m.tls != nil,
		Transport:       transport,
		Region:          region,
		TrailingHeaders: true,
		MaxRetries:      attempts,
	})
}

func (m *minioServer) makeBucket(ctx context.Context, name string) error {
	transport, err := m.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client, err := m.client(transport, 0)
	if err != nil {
		return err
	}
	return client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: region})
}

// removeBucket removes a bucket, its objects in all versions and its incomplete uploads. It returns nil if
// the bucket does not exist.
func (m *minioServer) removeBucket(ctx context.Context, name string) error {
	transport, err := m.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	client, err := m.client(transport, 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the listing if an upload cannot be removed
	defer cancel()
	for upload := range client.ListIncompleteUploads(ctx, name, "", true) {
		if upload.Err != nil {
			return ignoreNoBucket(upload.Err)
		}
		if err := client.RemoveIncompleteUpload(ctx, name, upload.Key); err != nil {
			return ignoreNoBucket(err)
		}
	}
	if m.program != binary.MinIO { // removing a bucket with its objects is MinIO's own
		objects := client.ListObjects(ctx, name, minio.ListObjectsOptions{Recursive: true})
		for failure := range client.RemoveObjects(ctx, name, objects, minio.RemoveObjectsOptions{}) {
			return ignoreNoBucket(failure.Err)
		}
	}
	return ignoreNoBucket(client.RemoveBucketWithOptions(ctx, name, minio.RemoveBucketOptions{ForceDelete: m.program == binary.MinIO}))
}

func ignoreNoBucket(err error) error {
	if minio.ToErrorResponse(err).Code == minio.NoSuchBucket {
		return nil
	}
	return err
}
