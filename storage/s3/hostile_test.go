package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

// hostile starts a server with this handler and returns a store that uses it.
func hostile(t *testing.T, handler http.HandlerFunc, options ...s3.Option) *s3.Store {
	t.Helper()
	ended, end := context.WithCancel(context.Background())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ended, cancel)() // a server does not notice that a client is gone before it has read the request's body
		handler(w, r.WithContext(ctx))
	}))
	// With small buffers, each side soon notices what the other does.
	server.Config.ConnState = func(connection net.Conn, state http.ConnState) {
		if state == http.StateNew {
			assert.NoError(t, connection.(*net.TCPConn).SetReadBuffer(64<<10))
		}
	}
	server.Start()
	transport := server.Client().Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			assert.NoError(t, connection.(*net.TCPConn).SetWriteBuffer(64<<10))
		}
		return connection, err
	}
	t.Cleanup(func() {
		end()
		server.CloseClientConnections()
		server.Close()
	})
	client, err := s3.NewClient(s3.Config{
		Endpoint:    server.URL,
		Region:      "us-east-1",
		Transport:   transport,
		Credentials: credentials.NewStaticV4("access", "canary-secret", "canary-token"),
	})
	require.NoError(t, err)
	store, err := s3.New(client, "bucket", options...)
	require.NoError(t, err)
	return store
}

// drip sends single bytes until the client gives up.
func drip(w http.ResponseWriter, r *http.Request, data string) {
	for r.Context().Err() == nil {
		io.WriteString(w, data)
		http.NewResponseController(w).Flush()
		time.Sleep(10 * time.Millisecond)
	}
}

// silent sends what it has and then nothing until the client gives up.
func silent(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// quick are options under which a store gives up after a quarter of a second.
var quick = []s3.Option{s3.RequestTimeout(250 * time.Millisecond), s3.IdleTimeout(250 * time.Millisecond)}

// An operation has one timeout for all its attempts. A Put needs more time to find out what has become of it.
const quickEnd = 6 * time.Second

func TestSilentServerIsErrUnavailable(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"before the answer":      func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		"in an error's body":     func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503); silent(w, r) },
		"dripping an error":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403); drip(w, r, " ") },
		"without reading a body": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead { // has no body
					<-r.Context().Done()
				}
				answer(w, r)
			}, quick...)
			assertAllFail(t, store, storage.ErrUnavailable, quickEnd)
		})
	}
}

func TestSilentListIsErrUnavailable(t *testing.T) {
	for name, rest := range map[string]http.HandlerFunc{
		"silent":   silent,
		"dripping": func(w http.ResponseWriter, r *http.Request) { drip(w, r, " ") },
	} {
		t.Run(name, func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><Name>bucket</Name>`)
				rest(w, r)
			}, quick...)
			begun := time.Now()
			for _, err := range store.List(t.Context(), "") {
				assert.ErrorIs(t, err, storage.ErrUnavailable)
			}
			for _, err := range store.Uploads(t.Context(), "") {
				assert.ErrorIs(t, err, storage.ErrUnavailable)
			}
			assert.Less(t, time.Since(begun), quickEnd)
		})
	}
}

// sendObject begins the answer to a Get of an object with 1 MiB.
func sendObject(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", fmt.Sprint(1<<20))
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Set("ETag", `"etag"`)
	w.Write(make([]byte, 1000))
}

func TestIdleBodyIsErrUnavailable(t *testing.T) {
	for name, rest := range map[string]http.HandlerFunc{
		"silent":   silent,
		"dripping": func(w http.ResponseWriter, r *http.Request) { drip(w, r, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, r *http.Request) { sendObject(w, r); rest(w, r) }, quick...)
			begun := time.Now()
			object, err := store.Get(t.Context(), "object", 0, -1)
			require.NoError(t, err)
			defer object.Close()
			n, err := io.Copy(io.Discard, object)
			assert.ErrorIs(t, err, storage.ErrUnavailable)
			assert.NotErrorIs(t, err, context.Canceled, "the caller has not cancelled")
			assert.GreaterOrEqual(t, n, int64(1000))
			assert.GreaterOrEqual(t, time.Since(begun), 250*time.Millisecond)
			assert.Less(t, time.Since(begun), quickEnd)
		})
	}
}

func TestSlowBodyIsRead(t *testing.T) {
	store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		sendObject(w, r)
		for sent := 1000; sent < 1<<20; {
			n, _ := w.Write(make([]byte, min(80<<10, 1<<20-sent)))
			http.NewResponseController(w).Flush()
			sent += n
			time.Sleep(60 * time.Millisecond) // 13 times, which is more than the timeout
		}
	}, quick...)
	object, err := store.Get(t.Context(), "object", 0, -1)
	require.NoError(t, err)
	defer object.Close()
	n, err := io.Copy(io.Discard, object)
	assert.NoError(t, err)
	assert.Equal(t, int64(1<<20), n)
}

func TestSlowReaderIsNotIdle(t *testing.T) {
	store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		sendObject(w, r)
		w.Write(make([]byte, 1<<20-1000))
	}, quick...)
	object, err := store.Get(t.Context(), "object", 0, -1)
	require.NoError(t, err)
	defer object.Close()
	time.Sleep(400 * time.Millisecond) // longer than both timeouts
	_, err = io.ReadFull(object, make([]byte, 100))
	require.NoError(t, err)
	time.Sleep(400 * time.Millisecond)
	n, err := io.Copy(io.Discard, object)
	assert.NoError(t, err)
	assert.Equal(t, int64(1<<20-100), n)
}

func TestSlowUploadIsNotEnded(t *testing.T) {
	store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
		for buffer := make([]byte, 1<<20); ; {
			if _, err := io.ReadFull(r.Body, buffer); err != nil {
				break
			}
			time.Sleep(100 * time.Millisecond) // 16 times, which is more than the timeout
		}
		w.Header().Set("X-Amz-Checksum-Crc64nvme", r.Header.Get("X-Amz-Checksum-Crc64nvme"))
		w.Header().Set("ETag", `"etag"`)
	}, s3.RequestTimeout(time.Second))
	begun := time.Now()
	_, err := store.Put(t.Context(), "object", bytes.NewReader(noise(partSize)), partSize, storage.Condition{})
	assert.NoError(t, err)
	assert.Greater(t, time.Since(begun), 1500*time.Millisecond, "the upload was not slow")
}

func TestContextEndsBeforeTimeouts(t *testing.T) {
	store := hostile(t, func(w http.ResponseWriter, r *http.Request) { sendObject(w, r); silent(w, r) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	object, err := store.Get(ctx, "object", 0, -1)
	require.NoError(t, err)
	defer object.Close()
	_, err = io.Copy(io.Discard, object)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestNewRefusesTimeoutsThatAreNotPositive(t *testing.T) {
	client, err := s3.NewClient(s3.Config{})
	require.NoError(t, err)
	for name, option := range map[string]s3.Option{"request": s3.RequestTimeout(0), "idle": s3.IdleTimeout(-1)} {
		t.Run(name, func(t *testing.T) {
			_, err := s3.New(client, "bucket", option)
			assert.Error(t, err)
		})
	}
}

func TestEndlessAnswersAreBounded(t *testing.T) {
	const page = `<?xml version="1.0"?><ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>`
	for name, c := range map[string]struct {
		status      int
		start, more string
		want        error
	}{
		"one name":         {200, page + "<Contents><Key>", "a", storage.ErrUnavailable},
		"objects":          {200, page, "<Contents><Key>a</Key></Contents>", storage.ErrUnavailable},
		"empty objects":    {200, page, "<Contents/>", storage.ErrUnavailable},
		"uploads":          {200, "<ListMultipartUploadsResult>", "<Upload/>", storage.ErrUnavailable},
		"spaces":           {200, "", " ", storage.ErrUnavailable},
		"an error":         {400, "<Error><Message>", "a", storage.ErrUnavailable},
		"a denial":         {403, "<Error><Code>AccessDenied</Code><Message>", "a", storage.ErrDenied},
		"a missing bucket": {404, "", "a", storage.ErrNoBucket},
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				n, err := io.WriteString(w, c.start)
				for more := []byte(strings.Repeat(c.more, 64<<10/len(c.more))); err == nil; n, err = w.Write(more) {
					if sent.Add(int64(n)) > 1<<30 {
						return
					}
				}
			})
			peak := peakHeap(t, func() {
				for _, err := range store.List(t.Context(), "") {
					assert.ErrorIs(t, err, c.want)
				}
				for _, err := range store.Uploads(t.Context(), "") {
					assert.ErrorIs(t, err, c.want)
				}
			})
			assert.Less(t, sent.Load(), int64(64<<20), "the client read too much")
			assert.Less(t, peak, uint64(512<<20))
			t.Logf("the server sent %d KiB, the heap grew by %d KiB", sent.Load()>>10, peak>>10)
		})
	}
}

// peakHeap returns by how many bytes the heap grew while fn ran.
func peakHeap(t *testing.T, fn func()) uint64 {
	t.Helper()
	runtime.GC()
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapSys - stats.HeapReleased
	}
	before, peak := heap(), uint64(0)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
				if now := heap(); now > before {
					peak = max(peak, now-before)
				}
			}
		}
	}()
	fn()
	close(done)
	<-ended
	return peak
}

func TestLargeObjectIsNotLimited(t *testing.T) {
	store := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(32<<20))
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Write(bytes.Repeat([]byte("<"), 32<<20))
	})
	assert.Len(t, read(t, store, "object"), 32<<20)
}

func TestRepeatedListingEnds(t *testing.T) {
	for name, page := range map[string]string{
		"one page again and again": `<Contents><Key>a</Key></Contents><Contents><Key>b</Key></Contents>`,
		"names in no order":        `<Contents><Key>b</Key></Contents><Contents><Key>a</Key></Contents>`,
	} {
		t.Run(name, func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `<ListBucketResult>%s<IsTruncated>true</IsTruncated>`+
					`<NextContinuationToken>again</NextContinuationToken></ListBucketResult>`, page)
			})
			count := 0
			var last error
			for _, err := range store.List(t.Context(), "") {
				count, last = count+1, err
				if count > 10 {
					break
				}
			}
			assert.LessOrEqual(t, count, 3)
			assert.ErrorIs(t, last, storage.ErrUnavailable)
		})
	}
	t.Run("empty pages", func(t *testing.T) {
		store := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken></ListBucketResult>`)
		}, quick...)
		for _, err := range store.List(t.Context(), "") {
			assert.ErrorIs(t, err, storage.ErrUnavailable)
		}
	})
	t.Run("uploads", func(t *testing.T) {
		store := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `<ListMultipartUploadsResult><Upload><Key>a</Key><UploadId>1</UploadId></Upload><IsTruncated>true</IsTruncated>`+
				`<NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker></ListMultipartUploadsResult>`)
		})
		count := 0
		var last error
		for _, err := range store.Uploads(t.Context(), "") {
			count, last = count+1, err
			if count > 10 {
				break
			}
		}
		assert.LessOrEqual(t, count, 3)
		assert.ErrorIs(t, last, storage.ErrUnavailable)
	})
}

func TestRedirectIsNotFollowed(t *testing.T) {
	var visits atomic.Int32 // this passes without the limiter as well: minio-go follows no redirect
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", other.URL+r.URL.Path)
				w.Header().Set("X-Amz-Bucket-Region", "canary-region")
				w.WriteHeader(status)
			})
			texts := assertAllFail(t, store, storage.ErrUnavailable, quickEnd)
			assert.NotContains(t, texts, "canary")
		})
	}
	assert.Zero(t, visits.Load())
}

// hostileText has an echoed token, control characters, a bidirectional mark and great length.
var hostileText = "canary-token \x1b[2J\x07\x00 \u202e\u2066 \u009b" + strings.Repeat("long ", 1000)

func TestErrorsQuoteServerText(t *testing.T) {
	xml := strings.NewReplacer("\x1b", "&#x9;", "\x07", "", "\x00", "", "\u009b", "").Replace(hostileText)
	for name, answer := range map[string]string{
		"status":          "HTTP/1.1 400 " + hostileText + "\r\nContent-Length: 0\r\n\r\n",
		"malformed":       hostileText + "\r\n\r\n",
		"header line":     "HTTP/1.1 200 OK\r\n" + hostileText + "\r\n\r\n",
		"header":          "HTTP/1.1 200 OK\r\nContent-Length: " + hostileText + "\r\n\r\n",
		"encoding":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + hostileText + "\r\n\r\n",
		"code":            "HTTP/1.1 400 Bad\r\nX-Minio-Error-Code: \u202e" + xml + "\r\nContent-Length: 0\r\n\r\n",
		"description":     "HTTP/1.1 400 Bad\r\nX-Minio-Error-Desc: \u202e" + xml + "\r\nContent-Length: 0\r\n\r\n",
		"error message":   "HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n<Error><Code>a\u202e</Code><Message>" + xml + "</Message></Error>",
		"error body":      "HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n" + hostileText,
		"element":         "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<a\u202e\u0300" + strings.Repeat("x", 2000) + "/>",
		"element of list": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<ListBucketResult><a\u0300" + strings.Repeat("x", 2000) + "></b\u0300>",
		"location":        "HTTP/1.1 301 Moved\r\nLocation: ://\u202e" + xml + "\r\nContent-Length: 0\r\n\r\n",
		"last modified":   "HTTP/1.1 200 OK\r\nLast-Modified: \u202e" + xml + "\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for its retries
			store := openEndpoint(t, "http://"+rawServer(t, answer))
			var running sync.WaitGroup
			for operation, run := range operations {
				running.Go(func() {
					err := run(t.Context(), store)
					if err == nil {
						return
					}
					text := err.Error()
					assert.NotContains(t, text, "canary", operation)
					assert.False(t, strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }), "%s: %q", operation, text)
					assert.Less(t, len(text), 500, operation)
				})
			}
			running.Wait()
		})
	}
}

// rawServer answers every request with these bytes, and returns its address.
func rawServer(t *testing.T, answer string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer connection.Close()
				connection.SetDeadline(time.Now().Add(5 * time.Second))
				buffer := make([]byte, 64<<10)
				_, err := connection.Read(buffer) // at least a part of the request
				io.WriteString(connection, answer)
				connection.(*net.TCPConn).CloseWrite()
				for err == nil {
					_, err = connection.Read(buffer)
				}
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		connections.Wait()
	})
	return listener.Addr().String()
}

func TestPutOn404IsDocumentedError(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"no body":      {"", storage.ErrUnavailable},
		"a page":       {"<html><h1>not found</h1></html>", storage.ErrUnavailable},
		"NoSuchKey":    {"<Error><Code>NoSuchKey</Code></Error>", storage.ErrUnavailable},
		"NoSuchUpload": {"<Error><Code>NoSuchUpload</Code></Error>", storage.ErrUnavailable},
		"NoSuchBucket": {"<Error><Code>NoSuchBucket</Code></Error>", storage.ErrNoBucket},
	} {
		t.Run(name, func(t *testing.T) {
			store := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusNotFound)
				io.WriteString(w, c.body)
			})
			for _, operation := range []string{"Put", "Put if absent", "large Put"} {
				err := operations[operation](t.Context(), store)
				assert.ErrorIs(t, err, c.want, operation)
				assert.NotErrorIs(t, err, storage.ErrNotFound, operation)
			}
			assert.ErrorIs(t, operations["Put if it matches"](t.Context(), store), map[bool]error{
				true: storage.ErrChanged, false: c.want,
			}[name == "no body" || name == "a page" || name == "NoSuchKey"])
		})
	}
}
