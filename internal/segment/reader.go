package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Source opens the bytes [offset, offset+length) of a ciphertext. The stream must yield exactly that
// many; whether they are the right ones is checked by their reader.
type Source func(ctx context.Context, offset, length int64) (io.ReadCloser, error)

// Reader reads the plaintext of a ciphertext, at any offset, and never hands out a byte that was not
// authenticated. ReadAt is safe for concurrent use, beside one user of Read, Seek and WriteTo.
//
// Read, Seek and WriteTo share a position. Their first error other than io.EOF ends them: every later
// call returns it. A failed authentication ends ReadAt as well.
type Reader struct {
	ctx       context.Context
	decrypter *Decrypter
	source    Source
	buffers   sync.Pool             // of *[Size]byte; of this Reader alone, so that recordings never share memory
	damaged   atomic.Pointer[error] // the first failed authentication
	closed    atomic.Bool

	// What follows belongs to Read, Seek and WriteTo.
	position int64
	err      error         // the first one, for good
	stream   io.ReadCloser // ciphertext from segment next on, or nil
	next     int64
	current  int64  // the segment that plain is of, or -1
	plain    []byte // in the array of buffer
	buffer   *[Size]byte
}

// NewReader reads the plaintext that decrypter opens, from source. first is the ciphertext's first
// segment with the header, which most callers have fetched with the header already; it is
// authenticated at once. The context governs every later read.
//
// Errors: [ErrDamaged].
func NewReader(ctx context.Context, decrypter *Decrypter, source Source, first []byte) (*Reader, error) {
	if want := HeaderSize + decrypter.ciphertextLen(0); len(first) != want {
		return nil, fmt.Errorf("%w: its first segment has %d bytes, not %d", ErrDamaged, len(first), want)
	}
	r := &Reader{ctx: ctx, decrypter: decrypter, source: source, buffer: new([Size]byte)}
	r.buffers.New = func() any { return new([Size]byte) }
	n := copy(r.buffer[:], first[HeaderSize:])
	plain, err := decrypter.open(r.buffer[:n], 0)
	if err != nil {
		return nil, err
	}
	r.plain = plain
	r.next = 1
	return r, nil
}

// Size returns the size of the plaintext in bytes.
func (r *Reader) Size() int64 { return r.decrypter.size }

// Read implements io.Reader. It returns at most what is left of one segment.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	rest, err := r.rest()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	r.position += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it writes the plaintext from the current position to the end, a
// segment at a time, without copying it. w must not keep what it is given.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		rest, err := r.rest()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(rest)
		if n < 0 || n > len(rest) {
			return written, errors.New("segment: the writer returned an invalid count")
		}
		r.position += int64(n)
		written += int64(n)
		if err == nil && n < len(rest) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// Seek implements io.Seeker. It costs nothing until the next Read. Seeking past the end is allowed,
// and reading there gives io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.position
	case io.SeekEnd:
		offset += r.decrypter.size
	default:
		return 0, fmt.Errorf("segment: invalid whence %d", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("segment: seek to a negative position %d", offset)
	}
	r.position = offset
	return offset, nil
}

// rest returns the plaintext from the current position to the end of its segment, fetching the
// segment if need be.
func (r *Reader) rest() ([]byte, error) {
	if err := r.state(); err != nil {
		r.err = err
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.position >= r.decrypter.size {
		return nil, io.EOF
	}
	i := indexAt(r.position)
	if i != r.current {
		if err := r.load(i); err != nil {
			r.current, r.plain = -1, nil
			r.err = err
			return nil, err
		}
	}
	return r.plain[r.position-plaintextStart(i):], nil
}

// load fetches and opens segment i, from the stream that is open if it has come to it, and
// otherwise from a new one to the end.
func (r *Reader) load(i int64) error {
	if r.stream == nil || r.next != i {
		r.closeStream()
		start := ciphertextStart(i)
		stream, err := r.source(r.ctx, start, CiphertextSize(r.decrypter.size)-start)
		if err != nil {
			return err
		}
		r.stream, r.next = stream, i
	}
	r.current = -1
	plain, err := r.readSegment(r.stream, r.buffer, i)
	if err != nil {
		r.closeStream()
		return err
	}
	r.current, r.plain = i, plain
	r.next = i + 1
	if r.next == r.decrypter.count {
		r.closeStream()
	}
	return nil
}

// readSegment reads segment i from a stream that has come to it, and opens it in buffer.
func (r *Reader) readSegment(stream io.Reader, buffer *[Size]byte, i int64) ([]byte, error) {
	segment := buffer[:r.decrypter.ciphertextLen(i)]
	if n, err := io.ReadFull(stream, segment); err != nil {
		clear(segment[:n])
		if ctxErr := r.ctx.Err(); ctxErr != nil {
			return nil, ctxErr
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading segment %d: %w", i, err)
	}
	plain, err := r.decrypter.open(segment, i)
	if err != nil {
		r.damaged.CompareAndSwap(nil, &err)
		return nil, err
	}
	return plain, nil
}

// ReadAt implements io.ReaderAt. It fetches the segments that it needs, no more, with one request.
func (r *Reader) ReadAt(p []byte, offset int64) (n int, err error) {
	if err := r.state(); err != nil {
		return 0, err
	}
	if offset < 0 {
		return 0, fmt.Errorf("segment: read at a negative offset %d", offset)
	}
	if offset >= r.decrypter.size {
		return 0, io.EOF
	}
	var end error
	if left := r.decrypter.size - offset; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	first, last := indexAt(offset), indexAt(offset+int64(len(p))-1)
	start := ciphertextStart(first)
	stream, err := r.source(r.ctx, start, ciphertextStart(last)+int64(r.decrypter.ciphertextLen(last))-start)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	buffer := r.buffers.Get().(*[Size]byte)
	defer r.buffers.Put(buffer)
	for i := first; i <= last; i++ {
		plain, err := r.readSegment(stream, buffer, i)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], plain[max(0, offset-plaintextStart(i)):])
	}
	return n, end
}

// state returns why nothing more may be read: a failed authentication, Close, or the context.
func (r *Reader) state() error {
	if err := r.damaged.Load(); err != nil {
		return *err
	}
	if r.closed.Load() {
		return ErrClosed
	}
	return r.ctx.Err()
}

// ErrClosed: the Reader was closed.
var ErrClosed = errors.New("reader is closed")

// Close ends reading and its network traffic. It must not be called during Read, Seek or WriteTo; a
// ReadAt in progress ends by itself. Closing twice is not an error.
func (r *Reader) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	r.closeStream()
	clear(r.buffer[:])
	return nil
}

func (r *Reader) closeStream() {
	if r.stream != nil {
		_ = r.stream.Close() // nothing that was read depends on it
		r.stream = nil
	}
}
