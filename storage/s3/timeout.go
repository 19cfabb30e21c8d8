package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"time"

	"github.com/recvault/recvault/storage"
)

const (
	// The default of RequestTimeout.
	requestTimeout = time.Minute
	// The default of IdleTimeout.
	idleTimeout = 30 * time.Second
	// The bytes that a server must send within IdleTimeout.
	minProgress = 64 << 10
	// How many times longer a request may take if the server has begun its answer and is still joining or
	// copying parts. Amazon S3 can need minutes, and sends spaces at intervals in that time.
	slowFactor = 10
)

var (
	errNoAnswer = fmt.Errorf("%w: the server did not answer in time", storage.ErrUnavailable)
	errIdle     = fmt.Errorf("%w: the server sent too little data in time", storage.ErrUnavailable)
)

// RequestTimeout limits how long a store waits for one request, with all attempts to send it, even if the
// context has no deadline. The default is one minute. Time in which the server accepts the request's data
// does not count: the timeout begins again with each 32 KiB. Once a server has begun its answer, joining and
// copying parts may take ten times as long. After the timeout, the error is [storage.ErrUnavailable]. New
// refuses a timeout that is not positive.
func RequestTimeout(timeout time.Duration) Option {
	return func(s *Store) { s.requestTimeout = timeout }
}

// IdleTimeout limits how long a Read of an object's body waits for a server that has become silent or slow,
// even if the context has no deadline. The default is 30 seconds. If fewer than 64 KiB arrive in that time, and
// the body has not ended, Read returns [storage.ErrUnavailable]; with the default, a server must send about
// 2 KiB a second. Only time inside Read counts: a caller may pause between two reads for as long as the
// server permits. New refuses a timeout that is not positive.
func IdleTimeout(timeout time.Duration) Option {
	return func(s *Store) { s.idleTimeout = timeout }
}

// watch ends a context when its time is over. Unlike a context's own deadline, that time can be extended.
type watch struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

// watch returns a context that ends with errNoAnswer after the request timeout. The caller must stop the watch.
func (s *Store) watch(ctx context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{cancel: cancel, limit: s.requestTimeout}
	w.timer = time.AfterFunc(w.limit, func() { cancel(errNoAnswer) })
	return ctx, w
}

// watchSlow is like watch, but allows slowFactor times as long once the server has begun its answer.
func (s *Store) watchSlow(ctx context.Context) (context.Context, *watch) {
	ctx, w := s.watch(ctx)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotFirstResponseByte: func() { w.timer.Reset(slowFactor * w.limit) },
	})
	return ctx, w
}

// restart begins the request timeout again.
func (w *watch) restart() { w.timer.Reset(w.limit) }

// pause stops the clock until restart.
func (w *watch) pause() { w.timer.Stop() }

// stop ends the watch and its context.
func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// timeoutOr returns the watch's error if a watch has ended the context, otherwise err.
func timeoutOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errNoAnswer) || errors.Is(cause, errIdle)) {
		return cause
	}
	return err
}

// sentData is the data of a request. Each Read shows that the server accepts data, and restarts the watch. It
// has no WriteTo, which would send all data at once.
type sentData struct {
	data  *bytes.Reader
	watch *watch
}

// body returns the request body that sends the data under the watch.
func (w *watch) body(data []byte) *sentData {
	return &sentData{data: bytes.NewReader(data), watch: w}
}

func (d *sentData) Read(p []byte) (int, error) {
	d.watch.restart()
	return d.data.Read(p[:min(len(p), 32<<10)])
}

func (d *sentData) Seek(offset int64, whence int) (int64, error) {
	return d.data.Seek(offset, whence)
}
