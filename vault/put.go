package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// cleanupTimeout bounds the removal of media that no envelope will ever name.
const cleanupTimeout = 5 * time.Second

// UncertainError tells that the store did not answer when a recording was committed, so that it may
// exist or not. If it exists it is whole. Open or Stat tells later; Delete removes it, unless the store carries
// out the commit later still. Its media, if it does not exist, is removed by a sweep.
type UncertainError struct {
	ID  ID
	Err error
}

func (e *UncertainError) Error() string {
	return fmt.Sprintf("recording %s may or may not have been committed: %v", e.ID, e.Err)
}

func (e *UncertainError) Unwrap() error { return e.Err }

// PutOption changes how one recording is put.
type PutOption func(*putOptions)

type putOptions struct{ size int64 }

// WithSize announces how many bytes the reader will yield, for readers that do not tell themselves, such as
// the body of an HTTP request. If it yields another number, Put fails with [storage.ErrSize]. Stores
// need to know it for objects of more than about 150 GiB. A negative size is none.
func WithSize(size int64) PutOption {
	return func(o *putOptions) { o.size = max(size, -1) }
}

// Put encrypts all that r yields, under a fresh key that only a grant for this patient unwraps, and
// stores it. The size need not be known; readers with a Len method and regular files tell theirs.
// Memory is bounded whatever the size.
//
// The key is wrapped first, so a patient who is not enrolled or a missing right fails before a byte
// is sent. On any error nothing was stored, save for [UncertainError]. Cancelling the context stops the
// upload as soon as a pending Read of r returns.
//
// Errors: [ErrInvalidMetadata], r's own, [UncertainError]; [keys.ErrInvalidPatient],
// [keys.ErrNotEnrolled], [keys.ErrErased], [keys.ErrDenied], [keys.ErrUnavailable]; those of
// [storage.Store] for Put.
func (v *Vault) Put(ctx context.Context, patient keys.Patient, r io.Reader, metadata Metadata, options ...PutOption) (ID, error) {
	o := putOptions{size: sizeOf(r)}
	for _, option := range options {
		option(&o)
	}
	u, err := v.begin(ctx, patient, metadata)
	if err != nil {
		return ID{}, fmt.Errorf("put recording: %w", err)
	}
	if err := u.run(ctx, r, o.size); err != nil {
		return ID{}, fmt.Errorf("put recording: %w", err)
	}
	return u.id, nil
}

// sizeOf returns how many bytes r will yield, or -1 if it does not tell.
func sizeOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }:
		return int64(r.Len())
	case *os.File:
		info, err := r.Stat()
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 { // files in /proc claim to be empty
			return -1
		}
		position, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		return max(0, info.Size()-position)
	}
	return -1
}

// upload is one recording on its way into the store.
type upload struct {
	vault     *Vault
	id        ID
	metadata  envelope.Metadata // of the media, as yet, only what the caller said; CreatedAt may be taken over
	key       *keys.RecordingKey
	subkeys   *envelope.Keys
	wrapped   keys.WrappedKey
	wrappedAt time.Time
}

// begin validates and wraps: all that can fail before a byte is sent.
func (v *Vault) begin(ctx context.Context, patient keys.Patient, metadata Metadata) (*upload, error) {
	sealable, err := metadata.sealable()
	if err != nil {
		return nil, err
	}
	keyID, err := v.keyring.KeyID(ctx, patient)
	if err != nil {
		return nil, err
	}
	return v.beginFor(ctx, keyID, sealable)
}

// beginFor draws an ID and a key, and wraps.
func (v *Vault) beginFor(ctx context.Context, keyID keys.KeyID, metadata envelope.Metadata) (*upload, error) {
	u := &upload{vault: v, id: keys.NewRecordingID(keyID), metadata: metadata, key: keys.NewRecordingKey()}
	u.subkeys = envelope.DeriveKeys(u.key, u.id.Binding())
	if err := u.wrap(ctx); err != nil {
		u.wipe()
		return nil, err
	}
	return u, nil
}

func (u *upload) wrap(ctx context.Context) (err error) {
	u.wrappedAt = u.vault.now() // before the call, because the wrap may be older than its answer
	u.wrapped, err = u.vault.keyring.Wrap(ctx, u.id.Binding(), u.key)
	return err
}

// run sends the media and commits the recording.
func (u *upload) run(ctx context.Context, r io.Reader, size int64) error {
	defer u.wipe()
	encrypter, err := segment.NewEncrypter(u.subkeys.Media[:], u.id.Binding().Bytes(), r)
	if err != nil {
		return err
	}
	if size > segment.MaxPlaintext {
		return fmt.Errorf("%w: the format holds %d bytes", storage.ErrTooLarge, int64(segment.MaxPlaintext))
	}
	if size >= 0 {
		size = segment.CiphertextSize(size)
	}
	if err = u.vault.objects.PutMedia(ctx, u.id, encrypter, size); err == nil {
		err = u.commit(ctx, encrypter)
	}
	var uncertain *UncertainError
	if err != nil && !errors.As(err, &uncertain) {
		// The store leaves nothing behind by itself, unless an answer was lost on the way.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		_ = u.vault.objects.DeleteMedia(cleanup, u.id) // what remains is garbage for the sweep
	}
	return err
}

// commit writes the envelope: from then on the recording exists.
//
// What a retirement relies on is that no envelope appears later than the freshness window and the commit
// timeout together allow. A machine that was suspended in the middle breaks that, and no timer tells, so
// such an envelope is at once replaced by one that is fresh.
func (u *upload) commit(ctx context.Context, encrypter *segment.Encrypter) error {
	// The time runs from before the wrap's age is looked at, so that nothing in between adds to it.
	deadline := time.Now().Add(u.vault.commitTimeout)
	if u.age() > u.vault.freshness {
		wrapCtx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		err := u.wrap(wrapCtx)
		if err != nil && wrapCtx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: it took longer than the commit timeout: %w", keys.ErrUnavailable, err)
		}
		if err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on a cancellation does not interrupt: the outcome must be known.
	ctx = context.WithoutCancel(ctx)
	writeCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := u.write(writeCtx, encrypter, u.vault.objects.Create); err != nil {
		return err
	}
	for u.age() > u.vault.freshness+u.vault.commitTimeout {
		if err := u.renew(ctx, encrypter); err != nil {
			return &UncertainError{u.id, err}
		}
	}
	return nil
}

// age is how old the wrapped key is, by the clock that says more: the monotonic one stands still while a machine
// is suspended, and the wall clock can be set back.
func (u *upload) age() time.Duration {
	now := u.vault.now()
	return max(now.Sub(u.wrappedAt), now.Round(0).Sub(u.wrappedAt.Round(0)))
}

// renew replaces the envelope by one whose wrap is fresh, unless a rotator has done so.
func (u *upload) renew(ctx context.Context, encrypter *segment.Encrypter) error {
	ctx, cancel := context.WithTimeout(ctx, u.vault.commitTimeout)
	defer cancel()
	stored, err := u.vault.objects.Envelope(ctx, u.id)
	if err != nil {
		return err
	}
	if err := u.wrap(ctx); err != nil {
		return err
	}
	err = u.write(ctx, encrypter, func(ctx context.Context, e envelope.Envelope) error {
		return u.vault.objects.Replace(ctx, stored, e)
	})
	if errors.Is(err, storage.ErrChanged) {
		return nil
	}
	return err
}

// write puts the envelope, and finds out what became of it if the answer is an error.
func (u *upload) write(ctx context.Context, encrypter *segment.Encrypter, put func(context.Context, envelope.Envelope) error) error {
	sealed, err := u.seal(encrypter.Header(), encrypter.Size())
	if err != nil {
		return err
	}
	if err := put(ctx, sealed); err != nil {
		return u.resolve(ctx, sealed, err)
	}
	return nil
}

// resolve finds out what became of a commit that was answered with an error. The answer may be that to a
// repetition of a request which was carried out and whose own answer got lost.
func (u *upload) resolve(ctx context.Context, written envelope.Envelope, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	stored, err := u.vault.objects.Envelope(ctx, u.id)
	unknown := errors.Is(cause, storage.ErrUnavailable) || errors.Is(cause, context.DeadlineExceeded)
	switch {
	case err == nil && stored.Equal(written):
		return nil
	case errors.Is(err, storage.ErrNotFound) && !unknown:
		return cause
	}
	return &UncertainError{u.id, cause}
}

func (u *upload) seal(header segment.Header, size int64) (envelope.Envelope, error) {
	metadata := u.metadata
	if metadata.CreatedAt.IsZero() {
		metadata.CreatedAt = u.vault.now().UTC()
	}
	metadata.MediaSize = segment.CiphertextSize(size)
	metadata.MediaHeader = header[:]
	return u.subkeys.Seal(u.wrapped, metadata)
}

func (u *upload) wipe() {
	u.key.Wipe()
	u.subkeys.Wipe()
}

// Writer takes a recording as it is made. It is not safe for concurrent use, save for Abort.
type Writer struct {
	upload *upload
	pipe   *io.PipeWriter
	ctx    context.Context // of the upload
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // of the upload, once done is closed

	mu       sync.Mutex
	finished bool // by Close or Abort, which comes first
}

// Create is Put for a live capture: what is written is encrypted and sent while it comes. Close commits
// the recording and Abort leaves nothing; one of them must be called. Cancelling the context does
// what Abort does.
//
// Errors: those of [Vault.Put] that come before a byte is sent. Those that come later are returned
// by Write and Close.
func (v *Vault) Create(ctx context.Context, patient keys.Patient, metadata Metadata) (*Writer, error) {
	u, err := v.begin(ctx, patient, metadata)
	if err != nil {
		return nil, fmt.Errorf("create recording: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	reader, pipe := io.Pipe()
	w := &Writer{upload: u, pipe: pipe, ctx: ctx, cancel: cancel, done: make(chan struct{})}
	// The store may be waiting for data when the context ends.
	stop := context.AfterFunc(ctx, func() { _ = pipe.CloseWithError(ctx.Err()) })
	go func() {
		defer close(w.done)
		defer cancel(nil)
		defer stop()
		w.err = u.run(ctx, reader, -1)
		if w.err != nil && errors.Is(context.Cause(ctx), ErrAborted) {
			w.err = ErrAborted
		}
		_ = reader.CloseWithError(w.err)
	}()
	return w, nil
}

// ID returns the recording's ID. It names nothing before Close has succeeded.
func (w *Writer) ID() ID { return w.upload.id }

// Write implements io.Writer. It blocks while the store is slower than the capture.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.pipe.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		err = w.whyClosed()
	}
	if err != nil {
		return n, fmt.Errorf("write recording: %w", err)
	}
	return n, nil
}

// whyClosed tells Abort, Close and the end of the context apart.
func (w *Writer) whyClosed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	cause := context.Cause(w.ctx)
	if w.finished && !errors.Is(cause, ErrAborted) {
		return ErrClosed
	}
	return cause
}

// SetMetadata replaces the metadata, for what is known only at the end, such as the duration. It
// must not be called during or after Close. It returns [ErrInvalidMetadata] and changes nothing if
// the metadata is out of bounds.
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

// Close commits the recording: when it returns nil, the recording exists. Otherwise nothing was
// stored, save for [UncertainError]. After Abort it returns [ErrAborted]; called again it returns the
// same.
func (w *Writer) Close() error {
	w.finish(func() { _ = w.pipe.Close() })
	<-w.done
	if w.err != nil {
		return fmt.Errorf("close recording: %w", w.err)
	}
	return nil
}

// Abort ends the recording and leaves nothing of it. After Close it does nothing. It may be called while
// Write or Close is in progress elsewhere; whichever of Close and Abort comes first decides.
func (w *Writer) Abort() {
	w.finish(func() { w.cancel(ErrAborted) })
	<-w.done
}

// finish does first what ends the recording, unless it has ended.
func (w *Writer) finish(end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.finished {
		w.finished = true
		end()
	}
}
