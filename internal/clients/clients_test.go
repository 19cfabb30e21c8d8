// Package clients tests vault.ServeRecording with widely used clients: curl, wget and FFmpeg, as packaged by
// Debian.
//
// If a client is missing, its tests are skipped with a message that explains how to install it. If the
// environment has RECVAULT_SERVERS=require, as make sets it, they fail instead.
package clients

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
)

// site is a server with recordings of one patient, Alice, in local keys and a local directory. The users "alice"
// and "bob" each have a grant of their own.
type site struct {
	keyring *local.Keyring
	store   *dir.Store
	vault   *vault.Vault
	grants  map[string]keys.Grant

	mu     sync.Mutex
	cuts   []int64  // sizes in bytes at which the next answers break off
	ranges []string // Range headers of the received requests
}

func newSite(t *testing.T) *site {
	t.Helper()
	root := t.TempDir()
	keyring, err := local.Open(filepath.Join(root, "keys"), local.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, keyring.Close()) })
	store, err := dir.Open(filepath.Join(root, "objects"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, store.Close()) })
	v, err := vault.New(keyring, store)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, v.Close()) })
	s := &site{keyring: keyring, store: store, vault: v, grants: map[string]keys.Grant{}}
	for _, patient := range []keys.Patient{"alice", "bob"} {
		_, err := keyring.Enrol(t.Context(), patient)
		require.NoError(t, err)
		s.grants[string(patient)], err = keyring.Issue(t.Context(), patient, keys.GrantOptions{
			TTL: 10 * time.Minute, Subject: string(patient) + "-account", Purpose: keys.PatientRequest,
		})
		require.NoError(t, err)
	}
	return s
}

// put stores a recording of Alice. It returns the ID, and a file with the same bytes.
func (s *site) put(t *testing.T, data []byte, contentType string) (id vault.ID, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "original")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	id, err := s.vault.Put(t.Context(), "alice", bytes.NewReader(data), vault.Metadata{ContentType: contentType})
	require.NoError(t, err)
	return id, file
}

// ServeHTTP serves /<user>/<recording>.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, text, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	id, err := vault.ParseID(text)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	if r.Method == http.MethodGet && len(s.cuts) > 0 {
		w = &cutWriter{w, s.cuts[0]}
		s.cuts = s.cuts[1:]
	}
	s.mu.Unlock()
	s.vault.ServeRecording(w, r, s.grants[user], id)
}

// cutWriter breaks the connection after a number of bytes.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(w.left, int64(len(p)))])
	w.left -= int64(n)
	if err == nil && w.left == 0 {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// breakOff makes the next answers break off, each after a number of bytes.
func (s *site) breakOff(after ...int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = after
}

// takeRanges returns the Range headers that were received since its last call.
func (s *site) takeRanges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.ranges = nil }()
	return s.ranges
}

// listen serves the site over unencrypted HTTP/1.1.
func (s *site) listen(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server
}

// listenHTTP2 serves the site over HTTP/2 and TLS. It returns the path of the server's certificate.
func (s *site) listenHTTP2(t *testing.T) (server *httptest.Server, certificate string) {
	t.Helper()
	server = httptest.NewUnstartedServer(s)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	certificate = filepath.Join(t.TempDir(), "certificate.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificate, text, 0o600))
	return server, certificate
}

func page(server *httptest.Server, id vault.ID) string { return server.URL + "/alice/" + id.String() }

// need skips or fails the test if a command is missing.
func need(t *testing.T, command, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		end := t.Skipf
		if os.Getenv("RECVAULT_SERVERS") == "require" {
			end = t.Fatalf
		}
		end("%s is missing: install it, for example with apt-get install %s", command, debianPackage)
	}
}

// run runs a command without the user's settings, and returns its output and exit status.
func run(t *testing.T, command string, arguments ...string) (output []byte, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), command, arguments...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	if stderr.Len() > 0 {
		t.Logf("%s: %s", command, bytes.TrimSpace(stderr.Bytes()))
	}
	return output, cmd.ProcessState.ExitCode()
}

// succeed runs a command, requires success, and returns its output.
func succeed(t *testing.T, command string, arguments ...string) []byte {
	t.Helper()
	output, status := run(t, command, arguments...)
	require.Zero(t, status, "%s %v", command, arguments)
	return output
}

// curl runs curl without a progress bar and requires success.
func curl(t *testing.T, arguments ...string) []byte {
	t.Helper()
	return succeed(t, "curl", append([]string{"--silent", "--show-error"}, arguments...)...)
}

func assertSameFile(t *testing.T, want, got string) {
	t.Helper()
	a, err := os.ReadFile(want)
	require.NoError(t, err)
	b, err := os.ReadFile(got)
	require.NoError(t, err)
	assert.Equal(t, sha256.Sum256(a), sha256.Sum256(b), "got %d bytes, want %d; the contents differ", len(b), len(a))
}

// Exit statuses of curl (https://curl.se/docs/manpage.html, "exit codes").
const (
	curlPartialFile = 18
	curlHTTPError   = 22
	curlHTTP2Stream = 92
)

func TestCurlResumesDownload(t *testing.T) {
	need(t, "curl", "curl")
	s := newSite(t)
	id, file := s.put(t, sample.Video, sample.ContentType)
	plain := s.listen(t)
	secure, certificate := s.listenHTTP2(t)
	for name, c := range map[string]struct {
		arguments []string
		status    int // of curl if the answer breaks off
	}{
		"HTTP 1.1": {[]string{page(plain, id)}, curlPartialFile},
		"HTTP 2":   {[]string{"--http2", "--cacert", certificate, page(secure, id)}, curlHTTP2Stream},
	} {
		t.Run(name, func(t *testing.T) {
			saved := filepath.Join(t.TempDir(), "saved")
			arguments := append([]string{"--silent", "--show-error", "--continue-at", "-", "--output", saved}, c.arguments...)
			// The answers break off in the first segment, at the end of a segment, and in a later segment.
			for i, cut := range []int64{100, 65_396, 200_001} {
				before := fileSize(t, saved)
				s.breakOff(cut)
				s.takeRanges()
				_, status := run(t, "curl", arguments...)
				require.Equal(t, c.status, status)
				assert.Equal(t, before+cut, fileSize(t, saved))
				want := ""
				if i > 0 {
					want = fmt.Sprintf("bytes=%d-", before)
				}
				assert.Equal(t, []string{want}, s.takeRanges())
			}
			succeed(t, "curl", arguments...)
			assert.Equal(t, []string{"bytes=265497-"}, s.takeRanges())
			assertSameFile(t, file, saved)
		})
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return 0
	}
	require.NoError(t, err)
	return info.Size()
}

func TestCurlGetsRanges(t *testing.T) {
	need(t, "curl", "curl")
	s := newSite(t)
	data := sample.Video
	id, _ := s.put(t, data, sample.ContentType)
	url := page(s.listen(t), id)
	size := len(data)
	for text, want := range map[string][]byte{
		"0-0":                           data[:1],
		"0-99":                          data[:100],
		"65479-65480":                   data[65479:65481], // across the boundary of two segments
		"1000-":                         data[1000:],
		"-500":                          data[size-500:],
		fmt.Sprintf("%d-", size-1):      data[size-1:],
		fmt.Sprintf("100-%d", size+100): data[100:],
	} {
		t.Run(text, func(t *testing.T) {
			header := filepath.Join(t.TempDir(), "header")
			got := curl(t, "--fail", "--range", text, "--dump-header", header, url)
			assert.True(t, bytes.Equal(want, got))
			fields, err := os.ReadFile(header)
			require.NoError(t, err)
			assert.Contains(t, string(fields), "HTTP/1.1 206 ")
			assert.Contains(t, string(fields), fmt.Sprintf("/%d\r\n", size), "Content-Range contains the whole size")
		})
	}
	t.Run("two ranges", func(t *testing.T) {
		several := string(curl(t, "--fail", "--range", "0-9,70000-70009", url))
		for _, part := range []string{
			fmt.Sprintf("Content-Range: bytes 0-9/%d\r\n", size), fmt.Sprintf("Content-Range: bytes 70000-70009/%d\r\n", size),
			"\r\n\r\n" + string(data[:10]) + "\r\n--", "\r\n\r\n" + string(data[70000:70010]) + "\r\n--",
		} {
			assert.Contains(t, several, part)
		}
	})
	t.Run("past the end", func(t *testing.T) {
		_, status := run(t, "curl", "--silent", "--fail", "--range", fmt.Sprintf("%d-", size), url)
		assert.Equal(t, curlHTTPError, status)
	})
}

func TestCurlReceivesDescribingHeaders(t *testing.T) {
	need(t, "curl", "curl")
	s := newSite(t)
	id, file := s.put(t, sample.Video, sample.ContentType)
	url := page(s.listen(t), id)
	head := string(curl(t, "--fail", "--head", url))
	for _, field := range []string{
		"HTTP/1.1 200 OK", "Content-Type: " + sample.ContentType, fmt.Sprintf("Content-Length: %d", len(sample.Video)), "Accept-Ranges: bytes",
		"Cache-Control: private, no-store", "X-Content-Type-Options: nosniff",
	} {
		assert.Contains(t, head, field+"\r\n")
	}
	// curl makes conditional requests, by ETag and by time. The server does not send the recording again.
	folder := t.TempDir()
	saved, etag := filepath.Join(folder, "saved"), filepath.Join(folder, "etag")
	curl(t, "--fail", "--remote-time", "--output", saved, "--etag-save", etag, url)
	assertSameFile(t, file, saved)
	for _, condition := range [][]string{{"--etag-compare", etag}, {"--time-cond", saved}} {
		out := curl(t, append(condition, "--write-out", "%{http_code} %{size_download}", url)...)
		assert.Equal(t, "304 0", string(out), condition[0])
	}
}

func TestCurlFailsWithAnotherPatientsGrant(t *testing.T) {
	need(t, "curl", "curl")
	s := newSite(t)
	id, _ := s.put(t, sample.Video, sample.ContentType)
	url := s.listen(t).URL + "/bob/" + id.String()
	for name, arguments := range map[string][]string{
		"GET":    nil,
		"range":  {"--range", "0-9"},
		"resume": {"--continue-at", "100"},
	} {
		t.Run(name, func(t *testing.T) {
			saved := filepath.Join(t.TempDir(), "saved")
			_, status := run(t, "curl", append([]string{"--silent", "--fail", "--output", saved, url}, arguments...)...)
			assert.Equal(t, curlHTTPError, status)
			assert.Zero(t, fileSize(t, saved))
		})
	}
	t.Run("HEAD", func(t *testing.T) {
		_, status := run(t, "curl", "--silent", "--fail", "--head", url)
		assert.Equal(t, curlHTTPError, status)
	})
	assert.Equal(t, "403", string(curl(t, "--output", os.DevNull, "--write-out", "%{http_code}", url)))
}

// With damage in the middle, curl receives the beginning and recognises that the rest is missing.
func TestCurlFailsAtDamage(t *testing.T) {
	need(t, "curl", "curl")
	s := newSite(t)
	id, _ := s.put(t, sample.Video, sample.ContentType)
	server := s.listen(t)
	secure, certificate := s.listenHTTP2(t)
	name := "recordings/" + strings.Replace(id.String(), ".", "/", 1) + "/media"
	object, err := s.store.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	var media bytes.Buffer
	_, err = media.ReadFrom(object)
	require.NoError(t, err)
	media.Bytes()[5*65536+100] ^= 1
	_, err = s.store.Put(t.Context(), name, &media, int64(media.Len()), storage.Condition{})
	require.NoError(t, err)
	const authentic = 5*65520 - 40 // bytes of plaintext before the damaged segment
	for name, c := range map[string]struct {
		arguments []string
		status    int
	}{
		"HTTP 1.1": {[]string{page(server, id)}, curlPartialFile},
		"HTTP 2":   {[]string{"--http2", "--cacert", certificate, page(secure, id)}, curlHTTP2Stream},
	} {
		t.Run(name, func(t *testing.T) {
			saved := filepath.Join(t.TempDir(), "saved")
			_, status := run(t, "curl", append([]string{"--silent", "--fail", "--output", saved}, c.arguments...)...)
			assert.Equal(t, c.status, status)
			got, err := os.ReadFile(saved)
			require.NoError(t, err)
			assert.LessOrEqual(t, len(got), authentic)
			assert.True(t, bytes.HasPrefix(sample.Video, got))
		})
	}
}

func TestWgetResumesDownload(t *testing.T) {
	need(t, "wget", "wget")
	s := newSite(t)
	id, file := s.put(t, sample.Video, sample.ContentType)
	url := page(s.listen(t), id)
	saved := filepath.Join(t.TempDir(), "saved")
	s.breakOff(100, 65_396)
	succeed(t, "wget", "--quiet", "--tries", "5", "--waitretry", "0", "--output-document", saved, url) // wget resumes without a new call
	assert.Equal(t, []string{"", "bytes=100-", "bytes=65496-"}, s.takeRanges())
	assertSameFile(t, file, saved)

	require.NoError(t, os.Truncate(saved, 300_000))
	succeed(t, "wget", "--quiet", "--continue", "--output-document", saved, url)
	assert.Equal(t, []string{"bytes=300000-"}, s.takeRanges())
	assertSameFile(t, file, saved)
}

// recordings returns the sample by content type: as it is, and in an MP4 container with its index at the
// end, so that a player must seek before it can show anything.
func recordings(t *testing.T) map[string][]byte {
	t.Helper()
	folder := t.TempDir()
	webm, mp4 := filepath.Join(folder, "consultation.webm"), filepath.Join(folder, "consultation.mp4")
	require.NoError(t, os.WriteFile(webm, sample.Video, 0o600))
	succeed(t, "ffmpeg", "-v", "error", "-i", webm, "-c", "copy", "-strict", "experimental", mp4)
	data, err := os.ReadFile(mp4)
	require.NoError(t, err)
	require.Greater(t, bytes.LastIndex(data, []byte("moov")), len(data)/2, "the index must be at the end")
	return map[string][]byte{sample.ContentType: sample.Video, "video/mp4": data}
}

func TestFFprobeDescribesRecordingLikeFile(t *testing.T) {
	need(t, "ffprobe", "ffmpeg")
	s := newSite(t)
	server := s.listen(t)
	for contentType, data := range recordings(t) {
		t.Run(contentType, func(t *testing.T) {
			id, file := s.put(t, data, contentType)
			describe := func(input string) map[string]any {
				var description struct {
					Format  map[string]any
					Streams []map[string]any
					Packets []map[string]any
				}
				// Every packet: its time, its offset in the file and a checksum.
				text := succeed(t, "ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_packets", "-show_data_hash", "sha256", input)
				require.NoError(t, json.Unmarshal(text, &description))
				delete(description.Format, "filename")
				require.Len(t, description.Streams, 2)
				duration, err := strconv.ParseFloat(fmt.Sprint(description.Format["duration"]), 64)
				require.NoError(t, err)
				assert.InDelta(t, sample.Duration.Seconds(), duration, 1)
				assert.Greater(t, len(description.Packets), 1000)
				return map[string]any{"format": description.Format, "streams": description.Streams, "packets": description.Packets}
			}
			assert.Equal(t, describe(file), describe(page(server, id)))
		})
	}
}

func TestFFmpegDecodesSameFramesAfterSeek(t *testing.T) {
	need(t, "ffmpeg", "ffmpeg")
	s := newSite(t)
	server := s.listen(t)
	for contentType, data := range recordings(t) {
		id, file := s.put(t, data, contentType)
		for _, seconds := range []string{"0", "0.5", "20", "31.3", "39.5"} {
			t.Run(contentType+" from "+seconds, func(t *testing.T) {
				decode := func(input string) string {
					return string(succeed(t, "ffmpeg", "-v", "error", "-xerror", "-ss", seconds, "-i", input, "-map", "0", "-f", "framemd5", "-"))
				}
				want := decode(file)
				require.Greater(t, strings.Count(want, "\n"), 10)
				s.takeRanges()
				assert.Equal(t, want, decode(page(server, id)))
				if seconds == "20" || seconds == "31.3" {
					assert.Greater(t, furthest(t, s.takeRanges()), int64(len(data)/4), "FFmpeg did not seek")
				}
			})
		}
		t.Run(contentType+" one picture", func(t *testing.T) {
			picture := func(input string) []byte {
				return succeed(t, "ffmpeg", "-v", "error", "-ss", "25", "-i", input, "-frames:v", "1", "-f", "image2pipe", "-c:v", "png", "-")
			}
			assert.Equal(t, sha256.Sum256(picture(file)), sha256.Sum256(picture(page(server, id))))
		})
	}
}

// furthest returns the largest first offset of the Range headers.
func furthest(t *testing.T, ranges []string) int64 {
	t.Helper()
	var largest int64
	for _, text := range ranges {
		from, _, found := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
		if !found {
			continue
		}
		offset, err := strconv.ParseInt(from, 10, 64)
		require.NoError(t, err, text)
		largest = max(largest, offset)
	}
	return largest
}
