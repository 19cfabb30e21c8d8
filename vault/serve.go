package vault

import (
	"context"
	"errors"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

const (
	// retryAfter is the Retry-After header, in seconds, while the keyring or the store is unavailable.
	retryAfter = "5"
	// noStore is the Cache-Control header of every response.
	noStore = "private, no-store"
	// maxRanges is how many ranges a request may ask for. Each costs the store a request, and players ask
	// for one.
	maxRanges = 64
)

// ServeRecording answers a GET or HEAD request with a recording: all of it, or the ranges that the request asks
// for (RFC 9110, section 14). It writes the whole response, also for errors. The grant and the ID decide what is
// served; the application decides which grant the request may use.
//
// Responses have the recording's content type and a strong ETag, and must not be stored (Cache-Control: private,
// no-store). Browsers show video, audio and pictures. They offer anything else for download, so that no stored
// content runs as a page of the application. A request for more than 64 ranges gets the whole recording. If the
// recording turns out to be damaged, or reading fails, after the first bytes were sent, ServeRecording panics
// with [http.ErrAbortHandler]. The server then breaks the connection, and no client takes the response for
// complete.
//
// The request's context governs it. How long ServeRecording waits for a store or a Vault that has fallen silent is in the
// package comment, under Time. Set a deadline only if no client takes longer to read a whole recording.
//
// An error response is one line of plain text without secrets. Its status is 403 for a refused grant, also where there
// is no such recording and the grant is for another patient; 404 for a recording that does not exist, 405 for another
// method, 410 for an erased patient, 501 for a recording that needs a newer release ([ErrUnsupported]), 502 for a damaged
// recording, 503 with Retry-After for an unavailable keyring or store, and 500 for any other error.
func (v *Vault) ServeRecording(w http.ResponseWriter, r *http.Request, grant keys.Grant, id ID) {
	header := w.Header()
	header.Set("Cache-Control", noStore)
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "Only GET and HEAD are supported.", http.StatusMethodNotAllowed)
		return
	}
	ranges := parseRanges(r.Header.Get("Range"))
	if len(ranges) > maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range") // a server may ignore it (RFC 9110, section 14.2)
		ranges = nil
	}
	var start int64
	if len(ranges) == 1 {
		start = ranges[0].start
	}
	recording, err := v.Open(r.Context(), grant, id, WithOffset(start))
	if err != nil {
		serveError(w, r, err)
		return
	}
	defer recording.Close()
	contentType, disposition := presentation(recording.info.ContentType)
	header.Set("Content-Type", contentType)
	header.Set("Content-Disposition", disposition)
	header.Set("ETag", `"`+id.Rec()+`"`) // the content of an ID never changes
	content := &contentReader{recording: recording, ranges: ranges}
	http.ServeContent(&noStoreWriter{w}, r, "", recording.info.CreatedAt, content)
	if content.failed.Load() {
		// The status has been sent, so only a broken connection can show the client that it failed.
		panic(http.ErrAbortHandler)
	}
}

// byteRange is a range of the form "start-end", with end included, or "start-". A start of -1 stands for any
// other text.
type byteRange struct{ start, end int64 }

// parseRanges returns the ranges of a Range header, as hints of what to fetch first and where to stop.
// http.ServeContent decides which bytes are served.
func parseRanges(text string) []byteRange {
	text, ok := strings.CutPrefix(text, "bytes=")
	if !ok {
		return nil
	}
	var ranges []byteRange
	for spec := range strings.SplitSeq(text, ",") {
		from, to, _ := strings.Cut(strings.TrimSpace(spec), "-")
		start, startErr := strconv.ParseUint(from, 10, 62)
		end, endErr := strconv.ParseUint(to, 10, 62)
		parsed := byteRange{int64(start), int64(end)}
		if startErr != nil {
			parsed.start = -1 // a suffix such as "-500", or invalid
		}
		if endErr != nil || end < start {
			parsed.end = math.MaxInt64 - 1
		}
		ranges = append(ranges, parsed)
	}
	return ranges
}

// presentation returns the content type to serve, and a Content-Disposition of "inline" if browsers should show
// it and "attachment" if they should offer it for download.
func presentation(contentType string) (served, disposition string) {
	mediaType, _, err := mime.ParseMediaType(contentType)
	kind, _, _ := strings.Cut(mediaType, "/")
	switch {
	case err != nil:
		return "application/octet-stream", "attachment"
	case kind == "video" || kind == "audio" || kind == "image" && mediaType != "image/svg+xml":
		return contentType, "inline"
	}
	return contentType, "attachment"
}

// noStoreWriter sets Cache-Control on every response, because http.ServeContent deletes it from error responses.
type noStoreWriter struct{ http.ResponseWriter }

func (w *noStoreWriter) WriteHeader(status int) {
	w.Header().Set("Cache-Control", noStore)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (w *noStoreWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// contentReader is a recording for http.ServeContent, which does not return read errors. It records whether there
// was one. For several ranges http.ServeContent reads on another goroutine, which can still run when it returns.
type contentReader struct {
	recording *Recording
	ranges    []byteRange
	failed    atomic.Bool
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.recording.Read(p)
	if err != nil && err != io.EOF {
		c.failed.Store(true)
	}
	return n, err
}

// Seek sets the position and the end of what is read ahead. http.ServeContent calls it before it reads each
// range. If several ranges start at the position, the longest one sets the end.
func (c *contentReader) Seek(offset int64, whence int) (int64, error) {
	position, err := c.recording.Seek(offset, whence)
	end := int64(-1)
	for _, r := range c.ranges {
		if r.start == position {
			end = max(end, r.end)
		}
	}
	if end < 0 {
		end = math.MaxInt64 - 1
	}
	c.recording.reader.ExpectEnd(end + 1)
	return position, err
}

// serveError writes the error response for an error of [Vault.Open].
func serveError(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "The recording cannot be opened."
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		panic(http.ErrAbortHandler) // the client is gone
	case errors.Is(err, ErrDamaged):
		status, text = http.StatusBadGateway, "The recording is damaged."
	case errors.Is(err, ErrUnsupported):
		status, text = http.StatusNotImplemented, "The recording needs a newer release of this service."
	case errors.Is(err, keys.ErrErased):
		status, text = http.StatusGone, "The recording was erased."
	case errors.Is(err, ErrNotFound), errors.Is(err, keys.ErrNotEnrolled), errors.Is(err, keys.ErrInvalidRecordingID):
		status, text = http.StatusNotFound, "There is no such recording."
	case errors.Is(err, keys.ErrUnavailable), errors.Is(err, storage.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		w.Header().Set("Retry-After", retryAfter)
		status, text = http.StatusServiceUnavailable, "Recordings cannot be opened at the moment."
	case errors.Is(err, keys.ErrDenied), errors.Is(err, keys.ErrInvalidGrant):
		status, text = http.StatusForbidden, "The grant does not open this recording."
	}
	http.Error(w, text, status)
}
