package testserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/recvault/recvault/internal/testserver/binary"
)

// VersityGWServer is one test's view of a versitygw. It is an S3 server with a bucket for this test, as MinIO is.
type VersityGWServer = MinIOServer

// VersityGW returns a running versitygw with a new bucket: the server that the tests of this process share, or a
// dedicated one. It keeps its data on disk, in a file system with extended attributes. It must be called from the
// test's goroutine.
func VersityGW(t testing.TB, given ...Option) *VersityGWServer {
	t.Helper()
	o := newOptions(given)
	return withBucket(t, obtain(t, o, sharedVersityGW, startVersityGW), o)
}

// sharedVersityGW returns the shared server. The first call starts it.
var sharedVersityGW = sync.OnceValues(func() (*minioServer, error) {
	return startVersityGW(context.Background(), options{})
})

func startVersityGW(ctx context.Context, o options) (*minioServer, error) {
	s, err := newServer(ctx, binary.VersityGW, o)
	if err != nil {
		return nil, err
	}
	m := &minioServer{server: s, accessKey: randomName(8), secretKey: randomName(16)}
	m.configuration = versitygw{m}
	if err := os.Mkdir(filepath.Join(m.dir, "data"), 0o700); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	if err := m.start(ctx, m.configuration); err != nil {
		return nil, errors.Join(err, m.remove())
	}
	return m, nil
}

// versitygw is the configuration of a versitygw.
type versitygw struct{ *minioServer }

func (v versitygw) command() (arguments, environment []string, err error) {
	arguments = []string{"--port", v.address, "--region", region, "--quiet"}
	if v.tls != nil {
		arguments = append(arguments, "--cert", v.tls.cert, "--key", v.tls.key)
	}
	environment = []string{"ROOT_ACCESS_KEY_ID=" + v.accessKey, "ROOT_SECRET_ACCESS_KEY=" + v.secretKey}
	return append(arguments, "posix", filepath.Join(v.dir, "data")), environment, nil
}

// ready requests the buckets: only this server accepts the credentials.
func (v versitygw) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	transport, err := v.transport()
	if err != nil {
		return err
	}
	transport.DisableKeepAlives = true
	client, err := v.client(transport, 1)
	if err != nil {
		return err
	}
	_, err = client.ListBuckets(ctx)
	return err
}
