package vault_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// site is an application's handler: the path names the recording, and the session has the grant.
func site(v *vault.Vault, grant keys.Grant) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := vault.ParseID(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		v.ServeRecording(w, r, grant, id)
	})
}

// page returns the URL of a recording on a site.
func page(server *httptest.Server, id vault.ID) string { return server.URL + "/" + id.String() }

// listen serves over HTTP/1.1, and fails the test if net/http logs an error.
func listen(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	watchLog(t, server)
	server.Start()
	return server
}

// watchLog fails the test if net/http has logged an error when the test ends.
func watchLog(t *testing.T, server *httptest.Server) {
	logged := &buffer{}
	server.Config.ErrorLog = log.New(logged, "", 0)
	t.Cleanup(func() {
		server.Close()
		assert.Empty(t, logged.String(), "net/http's log")
	})
}

// buffer is a bytes.Buffer that is safe for concurrent use.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// request is a request without its URL.
type request struct {
	method string
	header http.Header
}

func get(fields ...string) request { return request{http.MethodGet, headerOf(fields...)} }

// headerOf returns a header of alternating names and values.
func headerOf(fields ...string) http.Header {
	header := http.Header{}
	for i := 0; i < len(fields); i += 2 {
		header.Add(fields[i], fields[i+1])
	}
	return header
}

// answer is a response as the client sees it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask sends a request. It returns an error if the answer is incomplete.
func ask(t *testing.T, client *http.Client, url string, q request) (answer, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), q.method, url, nil)
	require.NoError(t, err)
	r.Header = q.header.Clone()
	r.Header.Set("Accept-Encoding", "identity")
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, body}, err
}

// fetch sends a GET request, and fails the test if the answer is incomplete.
func fetch(t *testing.T, url string, fields ...string) answer {
	t.Helper()
	a, err := ask(t, http.DefaultClient, url, get(fields...))
	require.NoError(t, err)
	return a
}

// comparable returns the answer without what differs between equal requests: the date, and the random boundary
// between the parts of several ranges.
func (a answer) comparable() answer {
	a.header = a.header.Clone()
	a.header.Del("Date")
	if kind, parameters, err := mime.ParseMediaType(a.header.Get("Content-Type")); err == nil && kind == "multipart/byteranges" {
		boundary := parameters["boundary"]
		a.header.Set("Content-Type", strings.Replace(a.header.Get("Content-Type"), boundary, "BOUNDARY", 1))
		a.body = bytes.ReplaceAll(a.body, []byte(boundary), []byte("BOUNDARY"))
	}
	return a
}

// assertServedLikeAFile compares a recording's answer with that of http.ServeFile, and checks the headers that only
// a recording's answer has.
func assertServedLikeAFile(t *testing.T, file, recording answer, what string) {
	t.Helper()
	file, recording = file.comparable(), recording.comparable()
	assert.Equal(t, []string{"private, no-store"}, recording.header.Values("Cache-Control"), what)
	assert.Equal(t, []string{"nosniff"}, recording.header.Values("X-Content-Type-Options"), what)
	for _, header := range []http.Header{file.header, recording.header} {
		header.Del("Cache-Control")
		header.Del("X-Content-Type-Options") // http.Error sets it too
		header.Del("Content-Disposition")
	}
	assert.Equal(t, file.status, recording.status, what)
	assert.Equal(t, file.header, recording.header, what)
	assert.True(t, bytes.Equal(file.body, recording.body), "%s: %d bytes instead of %d, or different bytes", what, len(recording.body), len(file.body))
}

// rangeHeaders returns valid and invalid values of the Range header for content of this size.
func rangeHeaders(size int64) []string {
	headers := []string{
		// One range.
		"bytes=0-0", "bytes=0-", "bytes=0-99", "bytes=1-1", "bytes=7-70000", "bytes=0-9223372036854775807",
		"bytes=9223372036854775807-", "bytes=4611686018427387903-", "bytes=4611686018427387903-4611686018427387904",
		"bytes=000-009",
		// A suffix.
		"bytes=-1", "bytes=-100", "bytes=-0", "bytes=-9223372036854775807",
		// Several.
		"bytes=0-0,-1", "bytes=0-9,20-29", "bytes=0-9,5-14", "bytes=3-3,3-3", "bytes=100-109,0-9", "bytes=0-9,10-19",
		"bytes=0-,0-", "bytes=0-0,9223372036854775807-", "bytes=9223372036854775806-,9223372036854775807-",
		"bytes=0-0,,1-1", "bytes= 0-9 , 20-29 ", "bytes=0-9,", "bytes=,0-9", "bytes=-1,-1,-1", "bytes=0-0,-0",
		"bytes=" + strings.Repeat("0-0,", 30) + "0-0",
		// Not a range.
		"bytes=5-2", "bytes=a-b", "bytes=0-b", "bytes=", "bytes", "bytes=-", "bytes=--1", "bytes=+1-2", "bytes=1-+2",
		"bytes=0x0-0x9", "bytes=1", "Bytes=0-9", "items=0-9", "bytes=0-9;", "bytes=,", "bytes=0-9,a", "bytes =0-9",
		" bytes=0-9", "bytes=1-2-3", "bytes=0-9223372036854775808", "bytes=-9223372036854775808", "bytes=1e3-", "bytes=٠-٩",
		"bytes=0 - 9", "bytes=0.5-9", "none",
	}
	for _, at := range []int64{size, firstSegment, firstSegment + fullSegment} {
		headers = append(
			headers,
			fmt.Sprintf("bytes=%d-", at-1), fmt.Sprintf("bytes=%d-", at), fmt.Sprintf("bytes=%d-", at+1),
			fmt.Sprintf("bytes=%d-%d", at-1, at-1), fmt.Sprintf("bytes=%d-%d", at-1, at), fmt.Sprintf("bytes=%d-%d", at, at),
			fmt.Sprintf("bytes=0-%d", at-1), fmt.Sprintf("bytes=0-%d", at), fmt.Sprintf("bytes=-%d", at), fmt.Sprintf("bytes=-%d", at+1),
			fmt.Sprintf("bytes=%d-%d,0-0", at-2, at+2), fmt.Sprintf("bytes=0-1,%d-,-1", at-5),
		)
	}
	return headers
}

// conditions returns conditional request headers (RFC 9110, section 13): matching, not matching and invalid.
func conditions(etag string, modified time.Time) []http.Header {
	equal, older, newer := modified.Format(http.TimeFormat), modified.Add(-time.Hour).Format(http.TimeFormat), modified.Add(time.Hour).Format(http.TimeFormat)
	const other, some = `"another"`, "bytes=1-5"
	var headers []http.Header
	for _, value := range []string{etag, other, "W/" + etag, equal, older, newer, "nonsense", "*", `"`, strings.Trim(etag, `"`)} {
		headers = append(headers, headerOf("If-Range", value, "Range", some), headerOf("If-Range", value, "Range", "bytes=0-0,-1"),
			headerOf("If-Range", value, "Range", "bytes=9999999999-"))
	}
	for _, name := range []string{"If-None-Match", "If-Match"} {
		for _, value := range []string{etag, other, "*", "W/" + etag, other + ", " + etag, other + `, W/"x"`, etag + ",", "nonsense", `"`} {
			headers = append(headers, headerOf(name, value), headerOf(name, value, "Range", some))
		}
	}
	for _, name := range []string{"If-Modified-Since", "If-Unmodified-Since"} {
		for _, value := range []string{equal, older, newer, "nonsense", "0"} {
			headers = append(headers, headerOf(name, value), headerOf(name, value, "Range", some))
		}
	}
	return append(headers,
		headerOf("If-Range", etag),
		headerOf("If-None-Match", other, "If-Modified-Since", newer),
		headerOf("If-None-Match", etag, "If-Modified-Since", older),
		headerOf("If-Match", etag, "If-Unmodified-Since", older),
		headerOf("If-Match", other, "If-Unmodified-Since", newer),
		headerOf("If-Match", etag, "If-None-Match", etag),
		headerOf("If-Match", etag, "If-Range", etag, "Range", some),
		headerOf("If-Unmodified-Since", newer, "If-Modified-Since", newer),
		headerOf("If-None-Match", other, "If-Match", etag, "Range", some),
	)
}

// plainFile serves data by http.ServeFile, from a file with the recording's modification time.
func plainFile(t testing.TB, data []byte, etag string, modified time.Time) http.Handler {
	t.Helper()
	path := filepath.Join(t.TempDir(), "consultation")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	require.NoError(t, os.Chtimes(path, modified, modified))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", metadata().ContentType)
		w.Header().Set("ETag", etag) // ServeFile sets none
		http.ServeFile(w, r, path)
	})
}

// validators returns the ETag and the Last-Modified of a response.
func validators(t testing.TB, header http.Header) (etag string, modified time.Time) {
	t.Helper()
	etag = header.Get("ETag")
	require.Regexp(t, `^"[!#-~]+"$`, etag, "a strong ETag (RFC 9110, 8.8.3)")
	modified, err := http.ParseTime(header.Get("Last-Modified"))
	require.NoError(t, err)
	return etag, modified
}

func TestARecordingIsServedLikeAPlainFile(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		v := b.vaultOf(t, b.server)
		t.Cleanup(func() { assert.NoError(t, v.Close()) })
		recordings := listen(t, site(v, b.Grant(t, alice)))
		data := random(t, firstSegment+fullSegment+500)
		for _, size := range []int{0, 1, 100, firstSegment - 1, firstSegment, firstSegment + 1, firstSegment + fullSegment, len(data)} {
			t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
				id := b.put(t, alice, data[:size])
				first := fetch(t, page(recordings, id))
				etag, modified := validators(t, first.header)
				files := listen(t, plainFile(t, data[:size], etag, modified))
				requests := []http.Header{{}, headerOf("Range", "bytes=0-9", "Range", "bytes=20-29")}
				for _, value := range rangeHeaders(int64(size)) {
					requests = append(requests, headerOf("Range", value))
				}
				requests = append(requests, conditions(etag, modified)...)
				require.Greater(t, len(requests), 60)
				for _, header := range requests {
					for _, method := range []string{http.MethodGet, http.MethodHead} {
						file, err := ask(t, http.DefaultClient, files.URL, request{method, header})
						require.NoError(t, err)
						recording, err := ask(t, http.DefaultClient, page(recordings, id), request{method, header})
						what := fmt.Sprintf("%s %v", method, header)
						if assert.NoError(t, err, what) {
							assertServedLikeAFile(t, file, recording, what)
						}
					}
				}
			})
			if t.Failed() {
				return // the other sizes would report the same
			}
		}
	})
}

func FuzzRangesAreServedLikeAPlainFile(f *testing.F) {
	e := newExample()
	f.Cleanup(e.remove)
	f.Cleanup(func() { _ = e.vault.Close() })
	grant := e.grant(alice)
	type served struct{ file, recording http.Handler }
	var all []served
	data := random(f, firstSegment+fullSegment+500)
	for _, size := range []int{0, 1, 100, firstSegment, firstSegment + 1, len(data)} {
		id, err := e.vault.Put(f.Context(), alice, bytes.NewReader(data[:size]), metadata())
		require.NoError(f, err)
		recording := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.vault.ServeRecording(w, r, grant, id) })
		first := httptest.NewRecorder()
		recording.ServeHTTP(first, httptest.NewRequest(http.MethodGet, "/", nil))
		etag, modified := validators(f, first.Header())
		all = append(all, served{plainFile(f, data[:size], etag, modified), recording})
		for _, value := range rangeHeaders(int64(size)) {
			f.Add(value, "", uint8(len(all)-1))
			f.Add(value, etag, uint8(len(all)-1))
		}
	}
	f.Fuzz(func(t *testing.T, value, ifRange string, which uint8) {
		s := all[int(which)%len(all)]
		answerOf := func(handler http.Handler) answer {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("Range", value)
			if ifRange != "" {
				r.Header.Set("If-Range", ifRange)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return answer{w.Code, w.Result().Header, w.Body.Bytes()}
		}
		assertServedLikeAFile(t, answerOf(s.file), answerOf(s.recording), "Range: "+value+", If-Range: "+ifRange)
	})
}

func TestAnETagIsUniqueAndStable(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := []byte("the same bytes twice")
		id, other := b.put(t, alice, data), b.put(t, alice, data)
		tagOf := func(id vault.ID, grant keys.Grant) string {
			v := b.vaultOf(t, b.server) // stands for another process
			defer v.Close()
			server := listen(t, site(v, grant))
			etag, _ := validators(t, fetch(t, page(server, id)).header)
			return etag
		}
		etag := tagOf(id, b.Grant(t, alice))
		assert.Equal(t, etag, tagOf(id, b.Grant(t, alice)), "a download can be resumed at another server")
		assert.NotEqual(t, etag, tagOf(other, b.Grant(t, alice)))
	})
}

func TestNoResponseMayBeStored(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.Grant(t, alice)))
	id := b.put(t, alice, []byte("a consultation"))
	for status, header := range map[int]http.Header{
		http.StatusOK:                           {},
		http.StatusPartialContent:               headerOf("Range", "bytes=0-1"),
		http.StatusNotModified:                  headerOf("If-None-Match", "*"),
		http.StatusPreconditionFailed:           headerOf("If-Match", `"another"`),
		http.StatusRequestedRangeNotSatisfiable: headerOf("Range", "bytes=99-"),
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			got, err := ask(t, server.Client(), page(server, id), request{http.MethodGet, header})
			require.NoError(t, err)
			assert.Equal(t, status, got.status)
			assert.Equal(t, "private, no-store", got.header.Get("Cache-Control"))
		})
	}
}

// Whoever can put a recording chooses its content type. A page of the application's own site must not come of it.
func TestOnlyMediaIsShownInABrowser(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.Grant(t, alice)))
	for contentType, disposition := range map[string]string{
		"video/webm": "inline", "audio/ogg": "inline", "image/png": "inline",
		"text/html": "attachment", "TEXT/HTML": "attachment", "text/html; charset=utf-8": "attachment", "application/xhtml+xml": "attachment",
		"image/svg+xml": "attachment", "IMAGE/SVG+XML": "attachment", "image/svg+xml; charset=utf-8": "attachment",
		"text/xml": "attachment", "application/pdf": "attachment", "text/javascript": "attachment", "application/octet-stream": "attachment",
	} {
		t.Run(contentType, func(t *testing.T) {
			id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, strings.NewReader("<script>alert(1)</script>"), vault.Metadata{ContentType: contentType})
			require.NoError(t, err)
			got := fetch(t, page(server, id))
			assert.Equal(t, http.StatusOK, got.status)
			assert.Equal(t, disposition, got.header.Get("Content-Disposition"))
			assert.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"))
		})
	}
}

func TestAMissingContentTypeIsNeverGuessed(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.Grant(t, alice)))
	id, err := v.Put(t.Context(), alice, strings.NewReader("<html><script>alert(1)</script></html>"), vault.Metadata{})
	require.NoError(t, err)
	got := fetch(t, page(server, id))
	assert.Equal(t, http.StatusOK, got.status)
	assert.Equal(t, "application/octet-stream", got.header.Get("Content-Type"), "a browser must not run it")
	assert.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"))
}
