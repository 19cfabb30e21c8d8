package storecheck_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/storage/storecheck"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a store in the server's bucket, through an endpoint.
func open(t *testing.T, server *testserver.MinIOServer, endpoint string, options ...s3.Option) *s3.Store {
	t.Helper()
	client, err := s3.NewClient(s3.Config{
		Endpoint: endpoint, Region: server.Region(), Transport: server.Transport(), MaxRetries: -1,
		Credentials: credentials.NewStaticV4(server.AccessKey(), server.SecretKey(), ""),
	})
	require.NoError(t, err)
	store, err := s3.New(client, server.Bucket(), options...)
	require.NoError(t, err)
	return store
}

func openMinIO(t *testing.T) *s3.Store {
	server := testserver.MinIO(t)
	return open(t, server, "http://"+server.Endpoint())
}

// failures returns the checks that failed.
func failures(t *testing.T, store storage.Store, options storecheck.Options) []string {
	t.Helper()
	results, err := storecheck.Run(t.Context(), store, options)
	require.NoError(t, err)
	failed := []string{}
	for _, result := range results {
		t.Logf("%-24s %-8s %s", result.Name, result.Status, result.Detail)
		if result.Status == storecheck.Failed {
			failed = append(failed, result.Name)
		}
	}
	return failed
}

func TestHealthyStoresPass(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) storage.Store{
		"MinIO": func(t *testing.T) storage.Store { return openMinIO(t) },
		"MinIO with SHA-256": func(t *testing.T) storage.Store {
			server := testserver.MinIO(t)
			return open(t, server, "http://"+server.Endpoint(), s3.SignedPayload())
		},
		"versitygw": func(t *testing.T) storage.Store {
			server := testserver.VersityGW(t)
			return open(t, server, "http://"+server.Endpoint())
		},
		"directory": func(t *testing.T) storage.Store {
			store, err := dir.Open(t.TempDir())
			require.NoError(t, err)
			t.Cleanup(func() { store.Close() })
			return store
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			assert.Empty(t, failures(t, store, storecheck.Options{Prefix: "clinic/"}))
			for info, err := range store.List(t.Context(), "") {
				require.NoError(t, err)
				assert.Fail(t, "left behind", info.Name)
			}
		})
	}
}

func TestWritersUseAllEndpoints(t *testing.T) {
	server := testserver.MinIO(t)
	var requests sync.Map
	counted := func() *s3.Store {
		return open(t, server, proxy(t, server, func(r *http.Request) *http.Response {
			requests.Store(r.Host, true)
			return nil
		}))
	}
	assert.Empty(t, failures(t, counted(), storecheck.Options{Quick: true, Others: []storage.Store{counted(), counted()}}))
	hosts := 0
	requests.Range(func(any, any) bool { hosts++; return true })
	assert.Equal(t, 3, hosts)
}

func TestUnreachableStoreSkipsTheRest(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	store := open(t, testserver.MinIO(t), "http://"+listener.Addr().String())
	results, err := storecheck.Run(t.Context(), store, storecheck.Options{})
	require.NoError(t, err)
	assert.Equal(t, storecheck.Failed, results[0].Status)
	for _, result := range results[1:] {
		assert.Equal(t, storecheck.Skipped, result.Status, result.Name)
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for name, options := range map[string]storecheck.Options{
		"prefix": {Prefix: "clinic"}, "name": {Prefix: "a b/"}, "writers": {Writers: 1}, "part size": {PartSize: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := storecheck.Run(t.Context(), openMinIO(t), options)
			assert.Error(t, err)
		})
	}
}

func TestEndedContextIsReturned(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := storecheck.Run(ctx, openMinIO(t), storecheck.Options{})
	assert.ErrorIs(t, err, context.Canceled)
}

// proxy returns the URL of a proxy to the server. alter may change a request, which is signed again, or answer it.
func proxy(t *testing.T, server *testserver.MinIOServer, alter func(*http.Request) *http.Response) string {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: server.Endpoint()}
	transport := server.Transport()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if answer := alter(r); answer != nil {
				if r.Body != nil {
					io.Copy(io.Discard, r.Body)
				}
				return answer, nil
			}
			r.URL.Host, r.Host = target.Host, target.Host
			r.Header.Del("Authorization")
			return transport.RoundTrip(signer.SignV4(*r, server.AccessKey(), server.SecretKey(), "", server.Region()))
		}),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = target.Scheme
			r.Out.URL.Host = r.In.Host
		},
	})
	t.Cleanup(front.Close)
	return front.URL
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// faultyProxies are proxies in front of MinIO, each with the check that must fail.
var faultyProxies = []struct {
	name, found string
	alter       func(*http.Request) *http.Response
}{
	{"drops If-None-Match", "if-none-match", func(r *http.Request) *http.Response {
		r.Header.Del("If-None-Match")
		return nil
	}},
	{"drops If-Match", "if-match", func(r *http.Request) *http.Response {
		r.Header.Del("If-Match")
		return nil
	}},
	{"drops If-None-Match of uploads in parts", "if-none-match, in parts", func(r *http.Request) *http.Response {
		if r.Method == http.MethodPost {
			r.Header.Del("If-None-Match")
		}
		return nil
	}},
	{"drops If-Match of uploads in parts", "if-match, in parts", func(r *http.Request) *http.Response {
		if r.Method == http.MethodPost {
			r.Header.Del("If-Match")
		}
		return nil
	}},
	{"confuses the conditions", "if-match", func(r *http.Request) *http.Response {
		if r.Header.Get("If-Match") != "" {
			r.Header.Del("If-Match")
			r.Header.Set("If-None-Match", "*")
		}
		return nil
	}},
	{"drops Range", "byte ranges", func(r *http.Request) *http.Response {
		r.Header.Del("Range")
		return nil
	}},
	{"drops checksums", "access", func(r *http.Request) *http.Response {
		r.Header.Del("X-Amz-Checksum-Crc64nvme")
		return nil
	}},
	{"computes checksums itself", "checksums", func(r *http.Request) *http.Response {
		if r.Header.Get("X-Amz-Checksum-Crc64nvme") != "" && r.Method == http.MethodPut {
			content, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(content))
			r.Header.Set("X-Amz-Checksum-Crc64nvme", minio.ChecksumCRC64NVME.EncodeToString(content))
		}
		return nil
	}},
	{"swallows aborts", "failed writes, in parts", func(r *http.Request) *http.Response {
		if r.Method == http.MethodDelete && r.URL.Query().Has("uploadId") {
			return answer(http.StatusNoContent)
		}
		return nil
	}},
	{"swallows deletions", "read after write", func(r *http.Request) *http.Response {
		if r.Method == http.MethodDelete {
			return answer(http.StatusNoContent)
		}
		return nil
	}},
	{"denies writes", "access", func(r *http.Request) *http.Response {
		if r.Method == http.MethodPut {
			return answer(http.StatusForbidden)
		}
		return nil
	}},
}

// isQuick reports whether the quick checks include a check.
func isQuick(check string) bool {
	return check != "long listing" && !strings.HasSuffix(check, ", in parts")
}

func answer(status int) *http.Response {
	return &http.Response{StatusCode: status, Body: http.NoBody, Header: http.Header{}, ProtoMajor: 1, ProtoMinor: 1}
}

func TestFaultyProxiesAreFound(t *testing.T) {
	for _, fault := range faultyProxies {
		t.Run(fault.name, func(t *testing.T) {
			server := testserver.MinIO(t)
			store := open(t, server, proxy(t, server, fault.alter))
			assert.Contains(t, failures(t, store, storecheck.Options{Writers: 3, Quick: isQuick(fault.found)}), fault.found)
		})
	}
}

// faultyStores are stores that break a promise, each with the check that must fail.
var faultyStores = []struct {
	name, found string
	wrap        func(storage.Store) storage.Store
}{
	{"checks a condition before it writes", "if-none-match", func(s storage.Store) storage.Store { return &checksFirst{Store: s} }},
	{"reads an older version", "read after write", func(s storage.Store) storage.Store { return &stale{Store: s, seen: map[string][]byte{}} }},
	{"lists late", "list after write", func(s storage.Store) storage.Store { return &listsLate{Store: s} }},
	{"lists in another order", "listing order", func(s storage.Store) storage.Store { return disordered{s} }},
	{"lists one page", "long listing", func(s storage.Store) storage.Store { return onePage{s} }},
	{"has a wrong clock", "clock", func(s storage.Store) storage.Store { return late{s} }},
	{"shifts ranges", "byte ranges", func(s storage.Store) storage.Store { return shifted{s} }},
	{"keeps the data of a failed write", "failed writes", func(s storage.Store) storage.Store { return keepsPartial{s} }},
	{"flips a bit", "access", func(s storage.Store) storage.Store { return flips{s} }},
}

func TestFaultyStoresAreFound(t *testing.T) {
	for _, fault := range faultyStores {
		t.Run(fault.name, func(t *testing.T) {
			store, err := dir.Open(t.TempDir())
			require.NoError(t, err)
			t.Cleanup(func() { store.Close() })
			assert.Contains(t, failures(t, fault.wrap(store), storecheck.Options{Writers: 3, Quick: isQuick(fault.found)}), fault.found)
		})
	}
}

// checksFirst looks whether the object exists, and then writes without a condition. The writers wait for one another
// between the two, once.
type checksFirst struct {
	storage.Store
	mutex   sync.Mutex
	waiting int
	all     chan struct{}
}

func (s *checksFirst) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if !condition.IsIfAbsent() {
		return s.Store.Put(ctx, name, r, size, condition)
	}
	if _, err := s.Stat(ctx, name); err == nil {
		return storage.Info{}, storage.ErrExists
	}
	s.mutex.Lock()
	if s.all == nil {
		s.all = make(chan struct{})
	}
	if s.waiting++; s.waiting == 2 {
		close(s.all)
	}
	s.mutex.Unlock()
	<-s.all
	return s.Store.Put(ctx, name, r, size, storage.Condition{})
}

// stale returns the first version of an object that was read.
type stale struct {
	storage.Store
	mutex sync.Mutex
	seen  map[string][]byte
}

func (s *stale) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	if err != nil || offset > 0 || length >= 0 {
		return object, err
	}
	defer object.Close()
	content, err := io.ReadAll(object)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.seen[name] == nil {
		s.seen[name] = content
	}
	return &storage.Object{ReadCloser: io.NopCloser(bytes.NewReader(s.seen[name])), Info: object.Info}, err
}

// listsLate lists a prefix as it was the time before.
type listsLate struct {
	storage.Store
	mutex sync.Mutex
	last  map[string][]storage.Info
}

func (s *listsLate) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	if !strings.HasSuffix(prefix, "listed/") {
		return s.Store.List(ctx, prefix)
	}
	return func(yield func(storage.Info, error) bool) {
		s.mutex.Lock()
		before := s.last[prefix]
		s.last = map[string][]storage.Info{prefix: all(s.Store.List(ctx, prefix))}
		s.mutex.Unlock()
		for _, info := range before {
			if !yield(info, nil) {
				return
			}
		}
	}
}

func all(list iter.Seq2[storage.Info, error]) []storage.Info {
	var infos []storage.Info
	for info, err := range list {
		if err == nil {
			infos = append(infos, info)
		}
	}
	return infos
}

// disordered lists the last name first.
type disordered struct{ storage.Store }

func (s disordered) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		for _, info := range slices.Backward(all(s.Store.List(ctx, prefix))) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// onePage lists 1,000 objects at most.
type onePage struct{ storage.Store }

func (s onePage) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		infos := all(s.Store.List(ctx, prefix))
		for _, info := range infos[:min(len(infos), 1000)] {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// late has a clock that is five minutes ahead.
type late struct{ storage.Store }

func (s late) Stat(ctx context.Context, name string) (storage.Info, error) {
	info, err := s.Store.Stat(ctx, name)
	info.Modified = info.Modified.Add(5 * time.Minute)
	return info, err
}

// shifted returns ranges that start one byte early.
type shifted struct{ storage.Store }

func (s shifted) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	return s.Store.Get(ctx, name, max(0, offset-1), length)
}

// keepsPartial stores what it has read when the source fails.
type keepsPartial struct{ storage.Store }

func (s keepsPartial) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	content, failure := io.ReadAll(r)
	info, err := s.Store.Put(ctx, name, bytes.NewReader(content), -1, condition)
	return info, errors.Join(failure, err)
}

// flips damages every object.
type flips struct{ storage.Store }

func (s flips) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	content, err := io.ReadAll(r)
	if err != nil {
		return storage.Info{}, err
	}
	if len(content) > 0 {
		content[0] ^= 1
	}
	return s.Store.Put(ctx, name, bytes.NewReader(content), size, condition)
}
