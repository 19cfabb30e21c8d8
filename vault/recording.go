package vault

import (
	"errors"
	"fmt"
	"io"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
)

// Recording is an open recording. It implements io.ReadSeekCloser, io.ReaderAt and io.WriterTo, so
// http.ServeContent can serve it. It is safe for concurrent use: calls of ReadAt run in parallel; Read, Seek
// and WriteTo share a position and run one at a time; Close may be called at any time.
//
// Every byte is authenticated before it is returned. After their first error, other than io.EOF, Read, Seek and
// WriteTo return it again. After a failed authentication in any method, ReadAt fails too. The context of Open
// governs all methods.
//
// Errors of its methods: [ErrDamaged]; [ErrNotFound] if the recording was deleted after Open; those of
// [storage.Store] for Get; the context's; [ErrClosed]; from WriteTo the writer's own.
type Recording struct {
	reader       *segment.Reader
	info         Info
	stored       objects.Stored    // as it was opened
	sealed       envelope.Metadata // what info was made of
	reportDamage func()            // emits the event, once
	delivery     *delivery         // nil if what is read is not delivered to a caller
}

// Info describes the recording.
func (r *Recording) Info() Info { return r.info }

// Size returns the size of the plaintext in bytes.
func (r *Recording) Size() int64 { return r.info.Size }

// Read implements io.Reader. Sequential reads share one request and use 64 KiB.
func (r *Recording) Read(p []byte) (int, error) {
	r.delivery.begin()
	defer r.delivery.end()
	n, err := r.reader.Read(p)
	return n, r.checked(err)
}

// ReadAt implements io.ReaderAt. It fetches the segments of 64 KiB that it needs with one request, and keeps the
// last ones that it read, up to 512 KiB.
func (r *Recording) ReadAt(p []byte, offset int64) (int, error) {
	r.delivery.begin()
	defer r.delivery.end()
	n, err := r.reader.ReadAt(p, offset)
	return n, r.checked(err)
}

// Seek implements io.Seeker. It sends no request.
func (r *Recording) Seek(offset int64, whence int) (int64, error) {
	position, err := r.reader.Seek(offset, whence)
	return position, r.checked(err)
}

// WriteTo implements io.WriterTo. It writes from the current position to the end, in pieces of up to 64 KiB.
func (r *Recording) WriteTo(w io.Writer) (int64, error) {
	r.delivery.begin()
	defer r.delivery.end()
	n, err := r.reader.WriteTo(w)
	return n, r.checked(err)
}

// Close ends the recording and stops its network traffic, and emits the event that says what was delivered. If another
// method is still running, the event follows when that ends. Closing twice is not an error.
func (r *Recording) Close() error {
	err := r.reader.Close()
	r.delivery.close()
	return err
}

// checked is readError, and emits an event if the error is damage.
func (r *Recording) checked(err error) error {
	err = readError(err)
	if errors.Is(err, ErrDamaged) {
		r.reportDamage()
	}
	return err
}

// readError turns an error of package segment into one of this package.
func readError(err error) error {
	var writer *segment.WriterError
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.As(err, &writer):
		return writer.Err
	case errors.Is(err, segment.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, segment.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("read recording: %w", err)
}
