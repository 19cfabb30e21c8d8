package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// Writer stores a recording while it is captured. It implements io.WriteCloser. It is not safe for concurrent
// use, except for Abort.
type Writer struct {
	upload *upload
	pipe   *io.PipeWriter
	ctx    context.Context // of the upload
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the upload has ended
	err    error         // of the upload; set before done is closed

	mu       sync.Mutex
	finished bool // Close or Abort was called
}

// Create is [Vault.Put] for a live capture: it returns a Writer that encrypts and sends what is written to it.
// [Writer.Close] commits the recording and [Writer.Abort] discards it; the caller must call one of them.
// Cancelling the context discards it too.
//
// Errors: those of [Vault.Put] that come before a byte is sent. Write and Close return the others.
func (v *Vault) Create(ctx context.Context, patient keys.Patient, metadata Metadata) (*Writer, error) {
	u, err := v.begin(ctx, patient, metadata)
	if err != nil {
		return nil, fmt.Errorf("create recording: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	reader, pipe := io.Pipe()
	w := &Writer{upload: u, pipe: pipe, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	// The end of the context also ends a Read of the pipe, in which the store may be waiting for data.
	stop := context.AfterFunc(ctx, func() { _ = pipe.CloseWithError(ctx.Err()) })
	go func() {
		defer close(w.done)
		defer cancel(nil)
		defer stop()
		w.err = v.access(keys.Grant{}, u.id).changed(events.Stored, ID{}, u.run(ctx, reader, -1))
		if w.err != nil && errors.Is(context.Cause(ctx), ErrAborted) {
			w.err = ErrAborted
		}
		_ = reader.CloseWithError(w.err)
	}()
	return w, nil
}

// ID returns the recording's ID. The recording does not exist before Close has returned nil.
func (w *Writer) ID() ID { return w.upload.id }

// Write implements io.Writer. It blocks while the store is slower than the capture.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.pipe.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = w.closeReason()
	}
	if err != nil {
		return n, fmt.Errorf("write recording: %w", err)
	}
	return n, nil
}

// closeReason returns ErrAborted after Abort, ErrClosed after Close, and otherwise the context's error.
func (w *Writer) closeReason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	cause := context.Cause(w.ctx)
	if w.finished && !errors.Is(cause, ErrAborted) {
		return ErrClosed
	}
	return cause
}

// SetMetadata replaces the metadata. It is for what is known only at the end, such as the duration. If it
// returns [ErrInvalidMetadata], the metadata is unchanged. During and after Close, and after Abort, it returns
// [ErrClosed].
func (w *Writer) SetMetadata(metadata Metadata) error {
	sealable, err := metadata.sealable()
	if err != nil {
		return fmt.Errorf("describe recording: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished {
		return fmt.Errorf("describe recording: %w", ErrClosed)
	}
	w.upload.metadata = sealable
	return nil
}

// Close commits the recording. The recording exists if Close returns nil. On any error nothing was stored,
// except that after an [UncertainError] the recording may exist. After Abort it returns [ErrAborted]. A second
// Close returns the same as the first.
func (w *Writer) Close() error {
	w.finish(func() { _ = w.pipe.Close() })
	<-w.done
	if w.err != nil {
		return fmt.Errorf("close recording: %w", w.err)
	}
	return nil
}

// Abort discards the recording and waits for the upload to end. After Close it discards nothing. It may be
// called while another goroutine is in Write or Close. The first call of Close or Abort decides.
func (w *Writer) Abort() {
	w.finish(func() { w.cancel(ErrAborted) })
	<-w.done
}

// finish calls end, unless Close or Abort has called finish before.
func (w *Writer) finish(end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.finished {
		w.finished = true
		end()
	}
}
