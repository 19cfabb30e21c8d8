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

// retryAfter is how many seconds a client is told to wait while the keyring or the store is unavailable.
const retryAfter = "5"

const notToBeStored = "private, no-store"

// ServeRecording answers a GET or HEAD request with a recording: all of it, or the ranges that the
// request asks for (RFC 9110, section 14). It is a whole handler: what to serve to whom is in the grant
// and the ID.
//
// Responses have the recording's content type and a strong ETag, and are not to be stored (Cache-Control:
// private, no-store). What is neither video, audio nor a picture is offered for saving and not shown, so that
// nothing that was stored can run as a page of the application. A request for more than 64 ranges gets all
// of it. A recording that proves to be
// damaged after the first bytes have gone out aborts the connection, so that no client takes it for complete.
//
// Errors are told in one line of plain text that holds nothing secret: 403 for a grant that is refused, 404
// for what does not exist, 405 for another method, 410 for an erased patient, 502 for a damaged
// recording, 503 with Retry-After for a keyring or store that is unavailable, and else 500.
func (v *Vault) ServeRecording(w http.ResponseWriter, r *http.Request, grant keys.Grant, id ID) {
	header := w.Header()
	header.Set("Cache-Control", notToBeStored)
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "A recording can be read and nothing else.", http.StatusMethodNotAllowed)
		return
	}
	ranges := plainRanges(r.Header.Get("Range"))
	if len(ranges) > maxRanges {
		r = r.Clone(r.Context())
		r.Header.Del("Range") // which a server may ignore (RFC 9110, section 14.2)
		ranges = nil
	}
	var start int64
	if len(ranges) == 1 {
		start = ranges[0].start
	}
	recording, err := v.Open(r.Context(), grant, id, At(start))
	if err != nil {
		serveError(w, r, err)
		return
	}
	defer recording.Close()
	contentType, disposition := presentation(recording.info.ContentType)
	header.Set("Content-Type", contentType)
	header.Set("Content-Disposition", disposition)
	header.Set("ETag", `"`+id.Rec()+`"`) // what an ID names never changes
	content := &servedContent{recording: recording, ranges: ranges}
	http.ServeContent(&notStored{w}, r, "", recording.info.CreatedAt, content)
	if content.failed.Load() {
		// The status and some bytes are out, and only a broken connection tells the client now.
		panic(http.ErrAbortHandler)
	}
}

// maxRanges is how many ranges a request may ask for. Each costs the storage a request of its own, and
// players ask for one.
const maxRanges = 64

// plainRange is what a request asks for with "start-end", both counted, or with "start-". A start of -1 is
// none of these.
type plainRange struct{ start, end int64 }

// plainRanges returns the ranges of a request, so that the right part is fetched first and nothing beyond
// it. What the request means is decided by http.ServeContent.
func plainRanges(text string) []plainRange {
	text, ok := strings.CutPrefix(text, "bytes=")
	if !ok {
		return nil
	}
	var ranges []plainRange
	for spec := range strings.SplitSeq(text, ",") {
		from, to, _ := strings.Cut(strings.TrimSpace(spec), "-")
		start, startErr := strconv.ParseUint(from, 10, 62)
		end, endErr := strconv.ParseUint(to, 10, 62)
		asked := plainRange{int64(start), int64(end)}
		if startErr != nil {
			asked.start = -1 // the last so many bytes, or nonsense
		}
		if endErr != nil || end < start {
			asked.end = math.MaxInt64 - 1
		}
		ranges = append(ranges, asked)
	}
	return ranges
}

// presentation returns the content type to serve, and whether a browser should show it.
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

// notStored has every answer say that it must not be stored: http.ServeContent takes that away from
// its error answers.
type notStored struct{ http.ResponseWriter }

func (w *notStored) WriteHeader(status int) {
	w.Header().Set("Cache-Control", notToBeStored)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap serves [http.ResponseController].
func (w *notStored) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// servedContent notes an error that http.ServeContent does not return. Of several ranges it reads on a
// goroutine of its own, which may outlive it by a moment.
type servedContent struct {
	recording *Recording
	ranges    []plainRange
	failed    atomic.Bool
}

func (c *servedContent) Read(p []byte) (int, error) {
	n, err := c.recording.Read(p)
	if err != nil && err != io.EOF {
		c.failed.Store(true)
	}
	return n, err
}

// Seek is called before each range is read. Of ranges that start alike the longest counts.
func (c *servedContent) Seek(offset int64, whence int) (int64, error) {
	position, err := c.recording.Seek(offset, whence)
	end := int64(-1)
	for _, asked := range c.ranges {
		if asked.start == position {
			end = max(end, asked.end)
		}
	}
	if end < 0 {
		end = math.MaxInt64 - 1
	}
	c.recording.reader.ExpectEnd(end + 1)
	return position, err
}

func serveError(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "The recording cannot be opened."
	switch {
	case errors.Is(r.Context().Err(), context.Canceled):
		panic(http.ErrAbortHandler) // nobody is there to be told
	case errors.Is(err, ErrDamaged):
		status, text = http.StatusBadGateway, "The recording is damaged."
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
