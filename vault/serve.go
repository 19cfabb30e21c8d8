package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
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
// content runs as a page of the application. A request for more than 64 ranges gets the whole recording.
//
// The request's context governs it. How long ServeRecording waits for a store or a Vault that has fallen silent is in the
// package comment, under Time. Set a deadline only if no client takes longer to read a whole recording.
//
// An error response is one line of plain text without secrets, with the status of [HTTPStatus], and 405 for another
// method. A response with 503 has Retry-After. A player that gets 401 can ask its user to sign in again.
//
// If the recording turns out to be damaged, or reading fails, after the first bytes were sent, ServeRecording panics
// with [http.ErrAbortHandler]. The server then breaks the connection, and no client takes the response for complete.
// Middleware must let that panic pass: one that recovers it must panic again with the same value.
//
// Each answer leaves an event (see [WithEvents]), when it ends: events.Opened with what was written to w, and for an error
// what went wrong, with its status and cause. A failure after the first bytes leaves both.
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
	a, body := v.access(grant, id), &bodyWriter{ResponseWriter: w, delivered: events.Event{Began: v.now()}}
	recording, err := v.open(r.Context(), a, openOptions{max(start, 0)})
	if err != nil {
		a.answer(w, r, fmt.Errorf("open recording %s: %w", id, err))
		return
	}
	defer recording.Close()
	defer func() { a.opened(body.delivered) }()
	contentType, disposition := presentation(recording.info.ContentType)
	header.Set("Content-Type", contentType)
	header.Set("Content-Disposition", disposition)
	header.Set("ETag", `"`+id.Rec()+`"`) // the content of an ID never changes
	content := &contentReader{recording: recording, ranges: ranges}
	http.ServeContent(body, r, "", recording.info.CreatedAt, content)
	if err := content.failed.Load(); err != nil {
		// Damage has left its event. A client that leaves is no failure.
		if !errors.Is(*err, ErrDamaged) && !errors.Is(r.Context().Err(), context.Canceled) {
			a.broke(*err, 0)
		}
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

// bodyWriter sets Cache-Control on every response, because http.ServeContent deletes it from error responses. It counts
// which bytes of the recording were written: those of the parts, of which the headers say where they lie.
type bodyWriter struct {
	http.ResponseWriter
	delivered events.Event // Began, Bytes and Ranges

	parts  bool   // the body has several parts, each with a header
	header []byte // of the part, as far as it was written
	next   int64  // where the next byte of the body lies in the recording
	left   int64  // how many bytes of the recording follow
}

func (w *bodyWriter) WriteHeader(status int) {
	header := w.Header()
	header.Set("Cache-Control", noStore)
	switch {
	case status == http.StatusOK:
		w.left = math.MaxInt64
	case status == http.StatusPartialContent:
		// A recording's own type can be multipart/byteranges too.
		if where := header.Get("Content-Range"); where != "" {
			w.enter(where)
		} else {
			w.parts = true
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// enter begins a part of the recording, with a header such as "bytes 0-99/1000".
func (w *bodyWriter) enter(contentRange string) {
	text, _, _ := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	if r := parseRanges("bytes=" + text); len(r) == 1 && r[0].start >= 0 {
		w.next, w.left = r[0].start, r[0].end+1-r[0].start
	}
}

func (w *bodyWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.count(p[:max(0, min(n, len(p)))])
	return n, err
}

// count counts what was written.
func (w *bodyWriter) count(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(int64(len(p)), w.left)
			w.delivered.Deliver(w.next, n)
			w.next, w.left, p = w.next+n, w.left-n, p[n:]
			continue
		}
		if !w.parts { // the text of an error
			return
		}
		w.header, p = append(w.header, p[0]), p[1:]
		if !bytes.HasSuffix(w.header, []byte("\r\n\r\n")) {
			continue
		}
		_, value, _ := strings.Cut(string(w.header), "\r\nContent-Range: ")
		value, _, _ = strings.Cut(value, "\r\n")
		w.enter(value)
		w.header = w.header[:0]
	}
}

// Unwrap is for [http.ResponseController].
func (w *bodyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// contentReader is a recording for http.ServeContent, which does not return read errors. It records whether there
// was one. For several ranges http.ServeContent reads on another goroutine, which can still run when it returns.
type contentReader struct {
	recording *Recording
	ranges    []byteRange
	failed    atomic.Pointer[error] // the first
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.recording.Read(p)
	if err != nil && err != io.EOF {
		c.failed.CompareAndSwap(nil, &err)
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

// HTTPStatus returns the status and the line of text with which [Vault.ServeRecording] answers an error of [Vault.Open]. Handlers
// that call other methods of a Vault can use it too. The text has no details and no secrets.
//
//	401  the grant has ended or is malformed ([keys.ErrInvalidGrant])
//	403  the grant does not open this recording, or is for another patient and there is none ([keys.ErrDenied])
//	404  [ErrNotFound], [keys.ErrNotEnrolled], [keys.ErrInvalidRecordingID]
//	410  [keys.ErrErased]
//	501  [ErrUnsupported]
//	502  [ErrDamaged]
//	503  [keys.ErrUnavailable], [storage.ErrUnavailable], [keys.ErrUnauthenticated], context.DeadlineExceeded
//	500  any other error
func HTTPStatus(err error) (status int, text string) {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
	}
	switch {
	case is(ErrDamaged):
		return http.StatusBadGateway, "The recording is damaged."
	case is(ErrUnsupported):
		return http.StatusNotImplemented, "The recording needs a newer release of this service."
	case is(keys.ErrErased):
		return http.StatusGone, "The recording was erased."
	case is(ErrNotFound, keys.ErrNotEnrolled, keys.ErrInvalidRecordingID):
		return http.StatusNotFound, "There is no such recording."
	case is(keys.ErrUnavailable, keys.ErrUnauthenticated, storage.ErrUnavailable, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "Recordings cannot be opened at the moment."
	case is(keys.ErrInvalidGrant):
		return http.StatusUnauthorized, "The grant has ended. Sign in again."
	case is(keys.ErrDenied):
		return http.StatusForbidden, "The grant does not open this recording."
	}
	return http.StatusInternalServerError, "The recording cannot be opened."
}

// answer writes the error response for an error of [Vault.Open].
func (a *access) answer(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(r.Context().Err(), context.Canceled) {
		_ = a.failed(err)
		panic(http.ErrAbortHandler) // the client is gone
	}
	status, text := HTTPStatus(err)
	switch status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Grant") // RFC 9110, section 15.5.2, requires a challenge
	}
	a.broke(err, status)
	http.Error(w, text, status)
}

// broke emits what went wrong in an answer. A status of 0 means that the answer has begun.
func (a *access) broke(err error, status int) {
	if a.answered(err, status) {
		return
	}
	event := a.event(events.Failed)
	event.Status, event.Error = status, err.Error()
	a.vault.emit(event)
}
