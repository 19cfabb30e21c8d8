package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

func TestCopyInParts(t *testing.T) {
	for _, variant := range variants {
		for _, size := range []int{1, partSize, partSize + 1, 5*partSize - 1} {
			t.Run(fmt.Sprintf("%s, %d", variant.name, size), func(t *testing.T) {
				p := startProxy(t, variant.secure, variant.options...)
				p.store.SetCopyPartSize(partSize)
				content := noise(size)
				_, err := p.store.Put(t.Context(), "from", bytes.NewReader(content), -1, storage.Condition{})
				require.NoError(t, err)
				info, err := p.store.Copy(t.Context(), "from", "to")
				require.NoError(t, err)
				assert.Equal(t, int64(size), info.Size)
				assert.True(t, bytes.Equal(content, read(t, p.store, "to")))
				assert.Empty(t, p.store.Leftovers(t))
			})
		}
	}
}

// S3 allows 10,000 parts. So the parts of a copy grow with a large object, as they do beyond 625 GiB.
func TestCopyOfLargeObjectHasLargerParts(t *testing.T) {
	server := testserver.MinIO(t)
	plain := open(t, server, server.Bucket())
	content := noise(5*partSize + 1)
	_, err := plain.Put(t.Context(), "from", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)
	var parts atomic.Int64
	store := openThrough(t, server, server.Bucket(), scripted{server.Transport(), func(r *http.Request) *http.Response {
		if isCopy(r) {
			parts.Add(1)
		}
		return nil
	}})
	store.SetCopyPartSize(partSize)
	store.SetMaxParts(2)
	_, err = store.Copy(t.Context(), "from", "to")
	require.NoError(t, err)
	assert.EqualValues(t, 2, parts.Load())
	assert.True(t, bytes.Equal(content, read(t, plain, "to")))
}

func TestCopyOfObjectWithoutChecksum(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	content := noise(3 * partSize)
	putUnchecked(t, store, "from", content)
	_, err := store.Copy(t.Context(), "from", "to")
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, read(t, store, "to")))
}

func isCopy(r *http.Request) bool { return r.Header.Get("X-Amz-Copy-Source") != "" }

func TestCopyWithLostReply(t *testing.T) {
	for name, lose := range map[string]func(*http.Request) bool{
		"first reply to a part":  once(isCopy),
		"first reply to joining": once(isCommit),
		"every reply to joining": func(r *http.Request) bool { return isCommit(r) && !isCopy(r) },
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, false)
			content := noise(2*partSize + 1)
			_, err := p.store.Put(t.Context(), "from", bytes.NewReader(content), -1, storage.Condition{})
			require.NoError(t, err)
			p.lose = lose
			info, err := p.store.Copy(t.Context(), "from", "to")
			require.NoError(t, err)
			assert.Positive(t, p.interfered.Load())
			stat, err := p.store.Stat(t.Context(), "to")
			require.NoError(t, err)
			assert.Equal(t, stat.ETag, info.ETag)
			assert.True(t, bytes.Equal(content, read(t, p.store, "to")))
			assert.Empty(t, p.store.Leftovers(t))
		})
	}
}

func TestFailedCopyLeavesNoPart(t *testing.T) {
	p := startProxy(t, false)
	p.store.SetCopyPartSize(partSize)
	_, err := p.store.Put(t.Context(), "from", bytes.NewReader(noise(5*partSize)), -1, storage.Condition{})
	require.NoError(t, err)
	p.lose = func(r *http.Request) bool { return isCopy(r) && r.URL.Query().Get("partNumber") == "3" }
	_, err = p.store.Copy(t.Context(), "from", "to")
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.Positive(t, p.interfered.Load())
	_, err = p.store.Stat(t.Context(), "to")
	assert.ErrorIs(t, err, storage.ErrNotFound)
	assert.Empty(t, p.store.Leftovers(t))
}

// scripted is a transport that answers some requests itself.
type scripted struct {
	http.RoundTripper
	answer func(*http.Request) *http.Response // or nil
}

func (s scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	if response := s.answer(r); response != nil {
		return response, nil
	}
	return s.RoundTripper.RoundTrip(r)
}

func TestFailingCopyOfPart(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"source has been deleted":    {404, "<Error><Code>NoSuchKey</Code></Error>", storage.ErrNotFound},
		"source has been replaced":   {412, "<Error><Code>PreconditionFailed</Code></Error>", storage.ErrChanged},
		"error in a success":         {200, "<Error><Code>InternalError</Code></Error>", storage.ErrUnavailable},
		"source must not be read":    {403, "<Error><Code>AccessDenied</Code></Error>", storage.ErrDenied},
		"server without part copies": {501, "<Error><Code>NotImplemented</Code></Error>", storage.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := testserver.MinIO(t)
			plain := open(t, server, server.Bucket())
			_, err := plain.Put(t.Context(), "from", strings.NewReader("content"), -1, storage.Condition{})
			require.NoError(t, err)
			store := openThrough(t, server, server.Bucket(), scripted{server.Transport(), func(r *http.Request) *http.Response {
				if !isCopy(r) {
					return nil
				}
				return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body)), Request: r}
			}})
			_, err = store.Copy(t.Context(), "from", "to")
			assert.ErrorIs(t, err, c.want)
			assert.NotErrorIs(t, err, storage.ErrExists)
			_, err = plain.Stat(t.Context(), "to")
			assert.ErrorIs(t, err, storage.ErrNotFound)
			assert.Empty(t, plain.Leftovers(t))
		})
	}
}

// The look at the target is only a short cut: the server refuses to replace an object that appears later.
func TestCopyRefusesTargetThatAppearsLate(t *testing.T) {
	server := testserver.MinIO(t)
	plain := open(t, server, server.Bucket())
	content := noise(2 * partSize)
	_, err := plain.Put(t.Context(), "from", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)
	store := openThrough(t, server, server.Bucket(), scripted{server.Transport(), func(r *http.Request) *http.Response {
		if isCopy(r) {
			_, err := plain.Put(t.Context(), "to", strings.NewReader("other"), -1, storage.Condition{})
			assert.NoError(t, err)
		}
		return nil
	}})
	_, err = store.Copy(t.Context(), "from", "to")
	assert.ErrorIs(t, err, storage.ErrExists)
	assert.Equal(t, "other", string(read(t, plain, "to")))
	assert.Empty(t, plain.Leftovers(t))
}

func TestCopyOfSourceReplacedBetweenParts(t *testing.T) {
	server := testserver.MinIO(t)
	plain := open(t, server, server.Bucket())
	_, err := plain.Put(t.Context(), "from", bytes.NewReader(noise(3*partSize)), -1, storage.Condition{})
	require.NoError(t, err)
	replace := once(func(r *http.Request) bool { return r.URL.Query().Get("partNumber") == "2" })
	store := openThrough(t, server, server.Bucket(), scripted{server.Transport(), func(r *http.Request) *http.Response {
		if replace(r) {
			_, err := plain.Put(t.Context(), "from", bytes.NewReader(make([]byte, 3*partSize)), -1, storage.Condition{})
			assert.NoError(t, err)
		}
		return nil
	}})
	store.SetCopyPartSize(partSize)
	_, err = store.Copy(t.Context(), "from", "to")
	assert.ErrorIs(t, err, storage.ErrChanged)
	_, err = plain.Stat(t.Context(), "to")
	assert.ErrorIs(t, err, storage.ErrNotFound)
	assert.Empty(t, plain.Leftovers(t))
}

func TestSilentServerDuringCopy(t *testing.T) {
	server := testserver.MinIO(t)
	plain := open(t, server, server.Bucket())
	_, err := plain.Put(t.Context(), "from", strings.NewReader("content"), -1, storage.Condition{})
	require.NoError(t, err)
	store := openThrough(t, server, server.Bucket(), scripted{server.Transport(), func(r *http.Request) *http.Response {
		if isCopy(r) {
			<-r.Context().Done()
		}
		return nil
	}}, s3.RequestTimeout(time.Second))
	begun := time.Now()
	_, err = store.Copy(t.Context(), "from", "to")
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.Less(t, time.Since(begun), quickEnd)
	assert.Empty(t, plain.Leftovers(t))
}

// TestMinIOCopyObjectIgnoresCondition checks what the comment on Copy states about MinIO. If it fails, Copy could
// use CopyObject.
func TestMinIOCopyObjectIgnoresCondition(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	for _, name := range []string{"from", "to"} {
		_, err := store.Put(t.Context(), name, strings.NewReader(name), -1, storage.Condition{})
		require.NoError(t, err)
	}
	core := minio.Core{Client: store.client}
	copyObject := func(header, value string) error {
		_, err := core.CopyObject(t.Context(), store.bucket, "from", store.bucket, "to",
			map[string]string{header: value}, minio.CopySrcOptions{}, minio.PutObjectOptions{})
		return err
	}
	assert.Error(t, copyObject("X-Amz-Copy-Source-If-Match", "another"), "conditions on the source are honoured")
	assert.Equal(t, "to", string(read(t, store, "to")))
	assert.NoError(t, copyObject("If-None-Match", "*"), "conditions on the target are not")
	assert.Equal(t, "from", string(read(t, store, "to")))
}
