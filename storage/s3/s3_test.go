package s3_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/storage/storagetest"
)

// partSize is the largest size of an object that is sent in one request.
const partSize = 16 << 20

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inspected is a store that shows its incomplete uploads to the conformance suite.
type inspected struct {
	*s3.Store
	client *minio.Client
	bucket string
	idle   func()
}

// Leftovers also works after the test has ended.
func (s inspected) Leftovers(t *testing.T) []string {
	var uploads []string
	for upload := range s.client.ListIncompleteUploads(context.WithoutCancel(t.Context()), s.bucket, "", true) {
		require.NoError(t, upload.Err)
		uploads = append(uploads, upload.Key)
	}
	return uploads
}

func (s inspected) CloseIdleConnections() { s.idle() }

// Abandon leaves an incomplete upload with one part.
func (s inspected) Abandon(t *testing.T, name string) {
	core := minio.Core{Client: s.client}
	id, err := core.NewMultipartUpload(t.Context(), s.bucket, name, minio.PutObjectOptions{})
	require.NoError(t, err)
	_, err = core.PutObjectPart(t.Context(), s.bucket, name, id, 1, strings.NewReader("part"), 4, minio.PutObjectPartOptions{})
	require.NoError(t, err)
}

// open returns a store in a bucket of the server.
func open(t *testing.T, server *testserver.MinIOServer, bucket string, options ...s3.Option) inspected {
	t.Helper()
	return openThrough(t, server, bucket, server.Transport(), options...)
}

// openThrough returns a store in a bucket of the server that sends its requests through the transport.
func openThrough(t *testing.T, server *testserver.MinIOServer, bucket string, transport http.RoundTripper, options ...s3.Option) inspected {
	t.Helper()
	endpoint := "http://" + server.Endpoint()
	if server.Secure() {
		endpoint = "https://" + server.Endpoint()
	}
	client, err := s3.NewClient(s3.Config{
		Endpoint:    endpoint,
		Region:      server.Region(),
		Transport:   transport,
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, bucket, options...)
	require.NoError(t, err)
	return inspected{store, client, bucket, (&http.Client{Transport: transport}).CloseIdleConnections}
}

func noise(size int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(content)
	return content
}

func read(t *testing.T, store storage.Store, name string) []byte {
	t.Helper()
	object, err := store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	return content
}

// putUnchecked puts an object without a checksum or a signature of its contents.
func putUnchecked(t *testing.T, store inspected, name string, content []byte) {
	t.Helper()
	core := minio.Core{Client: store.client}
	// A checksum of an unknown kind in the metadata keeps minio-go from adding its own.
	options := minio.PutObjectOptions{DisableContentSha256: true, UserMetadata: map[string]string{"X-Amz-Checksum-None": ""}}
	_, err := core.PutObject(t.Context(), store.bucket, name, bytes.NewReader(content), int64(len(content)), "", "", options)
	require.NoError(t, err)
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		server := testserver.MinIO(t)
		return open(t, server, server.Bucket())
	})
}

func TestConformanceOverTLS(t *testing.T) {
	server := testserver.MinIO(t, testserver.TLS())
	storagetest.Run(t, func(t *testing.T) storage.Store {
		bucket := "t" + strings.ToLower(cryptorand.Text())
		store := open(t, server, bucket)
		require.NoError(t, store.client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}))
		return store
	})
}

func TestConformanceOnVersityGW(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		server := testserver.VersityGW(t)
		return open(t, server, server.Bucket())
	})
}

func TestPutOfUnknownSizeBoundsMemory(t *testing.T) {
	storagetest.RunMemory(t, func(t *testing.T) storage.Store {
		server := testserver.MinIO(t)
		return open(t, server, server.Bucket())
	})
}

// TestLeftoversFindsIncompleteUpload shows that the conformance suite would find one.
func TestLeftoversFindsIncompleteUpload(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	_, err := minio.Core{Client: store.client}.NewMultipartUpload(t.Context(), store.bucket, "a/object", minio.PutObjectOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{"a/object"}, store.Leftovers(t))
}

func TestSizeBeyondLimitIsErrTooLarge(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	_, err := store.Put(t.Context(), "object", bytes.NewReader(nil), 5<<40+1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrTooLarge)

	store.SetMaxParts(2)
	content := noise(3*partSize + 1)
	_, err = store.Put(t.Context(), "object", bytes.NewReader(content), -1, storage.Condition{})
	assert.ErrorIs(t, err, storage.ErrTooLarge)
	_, err = store.Stat(t.Context(), "object")
	assert.ErrorIs(t, err, storage.ErrNotFound)
	assert.Empty(t, store.Leftovers(t))

	_, err = store.Put(t.Context(), "object", bytes.NewReader(content[:2*partSize]), -1, storage.Condition{})
	require.NoError(t, err, "the largest unknown size")
	assert.True(t, bytes.Equal(content[:2*partSize], read(t, store, "object")))
	_, err = store.Put(t.Context(), "object", bytes.NewReader(content), int64(len(content)), storage.Condition{})
	require.NoError(t, err, "a known size makes the parts larger")
	assert.True(t, bytes.Equal(content, read(t, store, "object")))
}

func TestListSkipsInvalidNames(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	for _, name := range []string{"a/1", "a/not valid", "a/ä", "a/2", "folder/"} {
		_, err := store.client.PutObject(t.Context(), store.bucket, name, bytes.NewReader(nil), 0, minio.PutObjectOptions{})
		require.NoError(t, err)
	}
	var names []string
	for info, err := range store.List(t.Context(), "") {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	assert.Equal(t, []string{"a/1", "a/2"}, names)
}
