package s3_test

import (
	"bytes"
	"encoding/xml"
	"io"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// pager is a transport that divides MinIO's listing of uploads into pages, as Amazon S3 does. MinIO sends
// all uploads at once.
type pager struct {
	http.RoundTripper
	size  int // uploads in a page
	pages int // number of pages sent
}

type listing struct {
	XMLName            xml.Name `xml:"ListMultipartUploadsResult"`
	NextKeyMarker      string
	NextUploadIDMarker string `xml:"NextUploadIdMarker"`
	IsTruncated        bool
	Upload             []upload
}

type upload struct {
	Key       string
	UploadID  string `xml:"UploadId"`
	Initiated string
}

func (p *pager) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(request)
	query := request.URL.Query()
	if err != nil || request.Method != http.MethodGet || !query.Has("uploads") {
		return response, err
	}
	var all listing
	err = xml.NewDecoder(response.Body).Decode(&all)
	if err := response.Body.Close(); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	p.pages++
	if marker := query.Get("upload-id-marker"); marker != "" {
		last := slices.IndexFunc(all.Upload, func(u upload) bool {
			return u.UploadID == marker && u.Key == query.Get("key-marker")
		})
		all.Upload = all.Upload[last+1:]
	}
	if all.IsTruncated = len(all.Upload) > p.size; all.IsTruncated {
		all.Upload = all.Upload[:p.size]
		last := all.Upload[p.size-1]
		all.NextKeyMarker, all.NextUploadIDMarker = last.Key, last.UploadID
	}
	page, err := xml.Marshal(all)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(page))
	response.ContentLength = int64(len(page))
	response.Header.Set("Content-Length", strconv.Itoa(len(page)))
	return response, nil
}

func TestUploadsListsAllPages(t *testing.T) {
	server := testserver.MinIO(t)
	paged := &pager{RoundTripper: server.Transport(), size: 3}
	client, err := s3.NewClient(s3.Config{
		Endpoint: "http://" + server.Endpoint(), Region: server.Region(), Transport: paged,
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket())
	require.NoError(t, err)
	var want []string
	for i := range 11 {
		name := "a/" + strconv.Itoa(i/2) // two uploads to most names
		inspected{store, client, server.Bucket(), nil}.Abandon(t, name)
		want = append(want, name)
	}
	var got []string
	for upload, err := range store.Uploads(t.Context(), "a/") {
		require.NoError(t, err)
		got = append(got, upload.Name)
	}
	assert.ElementsMatch(t, want, got)
	assert.Equal(t, 4, paged.pages)
	for upload, err := range store.Uploads(t.Context(), "a/1") {
		require.NoError(t, err)
		assert.Equal(t, "a/1", upload.Name)
		break
	}
	assert.Equal(t, 5, paged.pages, "one page suffices for one upload")
}

// TestMinIOListsUploadsFromMemory checks what the comments on Uploads and package upkeep state about MinIO.
func TestMinIOListsUploadsFromMemory(t *testing.T) {
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	core := minio.Core{Client: store.client}
	request := func(prefix string) (names []string) {
		page, err := core.ListMultipartUploads(t.Context(), store.bucket, prefix, "", "", "", 1000)
		require.NoError(t, err)
		for _, upload := range page.Uploads {
			names = append(names, upload.Key)
		}
		return names
	}
	store.Abandon(t, "a/b")
	assert.Empty(t, request("a/"), "MinIO lists no uploads by prefix")
	assert.Equal(t, []string{"a/b"}, request("a/b"), "MinIO lists the uploads of one object")
	assert.Equal(t, []string{"a/b"}, request(""), "MinIO lists the uploads of a bucket")

	server.Restart(t)
	assert.Empty(t, request(""), "after a restart, MinIO forgets the list of a bucket")
	assert.Equal(t, []string{"a/b"}, request("a/b"), "the upload of one object is read from the disk")
}

func TestMinIODatesMultipartObjectAtCompletion(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	var begun, resumed time.Time
	reader := io.MultiReader(bytes.NewReader(noise(partSize+1)), readerFunc(func([]byte) (int, error) {
		for upload, err := range store.Uploads(t.Context(), "object") {
			require.NoError(t, err)
			begun = upload.Started
		}
		resumed = time.Now()
		return 0, io.EOF
	}))
	_, err := store.Put(t.Context(), "object", reader, -1, storage.Condition{})
	require.NoError(t, err)
	assert.WithinRange(t, begun, resumed.Add(-time.Minute), resumed)
	for info, err := range store.List(t.Context(), "object") {
		require.NoError(t, err)
		assert.False(t, info.Modified.Before(resumed.Truncate(time.Millisecond)), "resumed %v, modified %v", resumed, info.Modified)
	}
}
