package testserver

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMinIOKeepsObjectsOverRestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*MinIOServer, testing.TB){
		"stopped": (*MinIOServer).Stop,
		"killed":  (*MinIOServer).Kill,
		"running": func(*MinIOServer, testing.TB) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := MinIO(t, Dedicated())
			client := m.Client()
			put(t, client, m.Bucket(), "object", "content")
			endpoint, process := m.Endpoint(), m.minio.process

			end(m, t)
			m.Restart(t)

			assert.NotSame(t, process, m.minio.process, "Restart starts a new process")
			assert.Equal(t, endpoint, m.Endpoint())
			assert.Equal(t, "content", get(t, client, m.Bucket(), "object"))
		})
	}
}

func TestMinIOServesTLS(t *testing.T) {
	t.Parallel()
	m := MinIO(t, TLS())
	assert.True(t, m.Secure())
	client := m.Client()
	assert.Equal(t, "https", client.EndpointURL().Scheme)
	put(t, client, m.Bucket(), "object", "content")
	m.Restart(t)
	assert.Equal(t, "content", get(t, client, m.Bucket(), "object"), "TLS works after a restart too")

	assertTrust(t, "https://"+m.Endpoint()+"/minio/health/live", m.CAFile())
}

func TestSharedMinIOKeepsTestsApart(t *testing.T) {
	t.Parallel()
	first, second := MinIO(t), MinIO(t)
	assert.Equal(t, first.Endpoint(), second.Endpoint(), "both tests share one server")
	assert.False(t, first.Secure())
	assert.Empty(t, first.CAFile())
	assert.NotEqual(t, first.Bucket(), second.Bucket())

	put(t, first.Client(), first.Bucket(), "object", "content")
	_, err := second.Client().StatObject(t.Context(), second.Bucket(), "object", minio.StatObjectOptions{})
	assert.Equal(t, minio.NoSuchKey, minio.ToErrorResponse(err).Code)
}

func TestBucketIsRemovedWithItsContents(t *testing.T) {
	t.Parallel()
	outer := MinIO(t)
	client := outer.Client()
	for name, fill := range map[string]func(t *testing.T, bucket string){
		"empty": func(*testing.T, string) {},
		"objects": func(t *testing.T, bucket string) {
			put(t, client, bucket, "object", "content")
			put(t, client, bucket, "a/b/c", "content")
		},
		"incomplete upload": func(t *testing.T, bucket string) {
			core := minio.Core{Client: client}
			upload, err := core.NewMultipartUpload(t.Context(), bucket, "object", minio.PutObjectOptions{})
			require.NoError(t, err)
			_, err = core.PutObjectPart(t.Context(), bucket, "object", upload, 1, strings.NewReader("part"), 4, minio.PutObjectPartOptions{})
			require.NoError(t, err)
		},
		"versions": func(t *testing.T, bucket string) {
			require.NoError(t, client.EnableVersioning(t.Context(), bucket))
			put(t, client, bucket, "object", "first")
			put(t, client, bucket, "object", "second")
			require.NoError(t, client.RemoveObject(t.Context(), bucket, "object", minio.RemoveObjectOptions{}))
		},
		"removed by the test": func(t *testing.T, bucket string) {
			require.NoError(t, client.RemoveBucket(t.Context(), bucket))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var bucket string
			t.Run("test", func(t *testing.T) {
				bucket = MinIO(t).Bucket()
				fill(t, bucket)
			})
			there, err := client.BucketExists(t.Context(), bucket)
			require.NoError(t, err)
			assert.False(t, there)
		})
	}
}

func TestMinIOClientSendsTrailingChecksums(t *testing.T) {
	t.Parallel()
	m := MinIO(t)
	client := m.Client()
	// An upload of unknown size, in parts, is what needs trailing headers.
	_, err := client.PutObject(t.Context(), m.Bucket(), "object", bytes.NewReader(make([]byte, 6<<20)), -1,
		minio.PutObjectOptions{PartSize: 5 << 20, Checksum: minio.ChecksumCRC64NVME})
	require.NoError(t, err)
	info, err := client.StatObject(t.Context(), m.Bucket(), "object", minio.StatObjectOptions{Checksum: true})
	require.NoError(t, err)
	assert.Equal(t, int64(6<<20), info.Size)
	assert.NotEmpty(t, info.ChecksumCRC64NVME)
}

func TestMinIOLogsNoSecret(t *testing.T) {
	t.Parallel()
	m := MinIO(t, Dedicated())
	m.Stop(t)
	content, err := os.ReadFile(m.minio.logFile())
	require.NoError(t, err)
	require.NotEmpty(t, content)
	assert.NotContains(t, string(content), m.SecretKey())
}

func TestMinIORegionIsTheServers(t *testing.T) {
	t.Parallel()
	m := MinIO(t)
	region, err := m.Client().GetBucketLocation(t.Context(), m.Bucket())
	require.NoError(t, err)
	assert.Equal(t, m.Region(), region)
}

func put(t *testing.T, client *minio.Client, bucket, name, content string) {
	t.Helper()
	_, err := client.PutObject(t.Context(), bucket, name, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	require.NoError(t, err)
}

func get(t *testing.T, client *minio.Client, bucket, name string) string {
	t.Helper()
	object, err := client.GetObject(t.Context(), bucket, name, minio.GetObjectOptions{})
	require.NoError(t, err)
	defer object.Close()
	content, err := io.ReadAll(object)
	require.NoError(t, err)
	return string(content)
}
