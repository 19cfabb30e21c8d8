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
// authenticated. It is safe for concurrent use, though Read, Seek and WriteTo wait for each other.
//
// Read, Seek and WriteTo share a position. Their first error other than io.EOF ends them: every later
// call returns it. A failed authentication in any of them, or in a ReadAt, ends ReadAt as well. A connection that drops is none: the
// source is asked again, from the segment where it stopped, up to three times in a row.
//
// Reading on from the position takes one segment of memory where the source is what it waits for, and is done
// ahead, on up to four cores in up to 1 MiB, where decrypting is. Random reads fetch what they need with
// one request and keep up to 512 KiB of it.
type Reader struct {
	ctx       context.Context
	cancel    context.CancelFunc
	decrypter *Decrypter
	source    Source
	buffers   sync.Pool // of *[Size]byte; of this Reader alone, so that recordings never share memory
	recent    recent
	damaged   atomic.Pointer[error] // the first failed authentication
	closed    atomic.Bool

	mu       sync.Mutex // guards what follows, which belongs to Read, Seek and WriteTo
	position int64
	limit    int64  // where reading is expected to stop
	err      error  // the first one, for good
	ahead    *ahead // or nil
	plain    []byte // of the segment that was last used
	start    int64  // where plain starts
}

// Span returns the range of a ciphertext that holds the plaintext byte at offset: one segment, with the
// header if it is the first. It reaches past the end if the segment is the last, and lies there if
// there is no such byte.
func Span(offset int64) (start, length int64) {
	return indexAt(offset) * Size, Size
}

// NewReader reads the plaintext that decrypter opens, from source. Of the ciphertext it takes over the
// part, as long as there is any, that lies in a [Span] that starts at start, which most callers have
// fetched to learn the ciphertext's size, and authenticates it at once, in place. The context governs
// every later read.
//
// Errors: [ErrDamaged].
func NewReader(ctx context.Context, decrypter *Decrypter, source Source, start int64, ciphertext []byte) (*Reader, error) {
	r := &Reader{decrypter: decrypter, source: source, limit: decrypter.size}
	r.buffers.New = func() any { return new([Size]byte) }
	r.ctx, r.cancel = context.WithCancel(ctx)
	want := max(0, min(start+Size, CiphertextSize(decrypter.size))-start)
	if int64(len(ciphertext)) != want {
		r.cancel()
		return nil, fmt.Errorf("%w: a segment has %d bytes, not %d", ErrDamaged, len(ciphertext), want)
	}
	if want == 0 {
		return r, nil
	}
	i := start / Size
	plain, err := decrypter.open(ciphertext[ciphertextStart(i)-start:], i)
	if err != nil {
		r.cancel()
		return nil, err
	}
	r.plain, r.start = plain, plaintextStart(i)
	buffer := new([Size]byte)
	r.recent.add(i, buffer[:copy(buffer[:], plain)], buffer)
	return r, nil
}

// Size returns the size of the plaintext in bytes.
func (r *Reader) Size() int64 { return r.decrypter.size }

// Read implements io.Reader. It returns at most what is left of one segment.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.release()
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
	r.mu.Lock()
	defer r.release()
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
			return written, &WriterError{err}
		}
	}
}

// WriterError is the error of the writer that WriteTo was given.
type WriterError struct{ Err error }

func (e *WriterError) Error() string { return e.Err.Error() }

// Unwrap returns the writer's own error.
func (e *WriterError) Unwrap() error { return e.Err }

// Seek implements io.Seeker. It costs nothing until the next Read. Seeking past the end is allowed,
// and reading there gives io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.release()
	if r.err != nil {
		return 0, r.err
	}
	if r.closed.Load() {
		return 0, ErrClosed
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

// Expect tells that reading on from the position will stop at offset end, so that nothing beyond
// is fetched. It is a hint: reading may go on.
func (r *Reader) Expect(end int64) {
	r.mu.Lock()
	defer r.release()
	r.limit = min(max(end, 0), r.decrypter.size)
}

// rest returns the plaintext from the current position to the end of its segment, fetching the
// segment if need be.
func (r *Reader) rest() ([]byte, error) {
	if r.err == nil {
		r.err = r.state()
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.position >= r.decrypter.size {
		r.stop()
		return nil, io.EOF
	}
	if r.position < r.start || r.position >= r.start+int64(len(r.plain)) {
		if r.err = r.advance(indexAt(r.position)); r.err != nil {
			r.plain = nil
			if r.closed.Load() {
				r.err = ErrClosed // and not that its context has ended
			}
			return nil, r.err
		}
	}
	return r.plain[r.position-r.start:], nil
}

// advance makes segment i the current one. What has been fetched ahead is used if it is not far off.
func (r *Reader) advance(i int64) error {
	if a := r.ahead; a != nil && (i < a.next || i >= a.next+window) {
		r.stop()
	}
	for {
		if r.ahead == nil {
			end := r.decrypter.count
			if r.limit > plaintextStart(i) {
				end = indexAt(r.limit-1) + 1
			}
			r.ahead = r.startAhead(i, end)
		}
		at := r.ahead.next
		plain, err := r.ahead.take()
		switch {
		case err != nil:
			r.stop()
			return err
		case plain == nil:
			r.stop()
			if err := r.state(); err != nil {
				return err
			}
			// Reading goes on beyond where it was expected to stop.
		case at == i:
			r.plain, r.start = plain, plaintextStart(i)
			return nil
		}
	}
}

func (r *Reader) stop() {
	if r.ahead != nil {
		r.ahead.stop()
		r.ahead = nil
	}
}

// noteDamage has a failed authentication end ReadAt.
func (r *Reader) noteDamage(err error) {
	if errors.Is(err, ErrDamaged) {
		r.damaged.CompareAndSwap(nil, &err)
	}
}

// ReadAt implements io.ReaderAt. It fetches the segments that it needs, less those at either end that it
// has kept, with one request.
func (r *Reader) ReadAt(p []byte, offset int64) (n int, err error) {
	if err := r.damaged.Load(); err != nil {
		return 0, *err
	}
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
	// What is kept need not be fetched at either end.
	for ; first <= last; first++ {
		m, kept := r.recent.copy(p[n:], first, max(0, offset-plaintextStart(first)))
		if !kept {
			break
		}
		n += m
	}
	for ; last > first; last-- {
		if _, kept := r.recent.copy(p[plaintextStart(last)-offset:], last, 0); !kept {
			break
		}
	}
	s := &stream{reader: r, ctx: r.ctx, end: last + 1}
	defer s.close()
	for i := first; i <= last; i++ {
		m, err := r.readOne(s, p[n:], i, max(0, offset-plaintextStart(i)))
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(p), end
}

// readOne reads and opens segment i, keeps it, and copies from it what lies at offset from its start.
func (r *Reader) readOne(s *stream, p []byte, i, offset int64) (int, error) {
	buffer := r.buffers.Get().(*[Size]byte)
	segment := buffer[:r.decrypter.ciphertextLen(i)]
	err := s.read(segment, i)
	var plain []byte
	if err == nil {
		plain, err = r.decrypter.open(segment, i)
	}
	if err != nil {
		r.noteDamage(err)
		r.buffers.Put(buffer)
		return 0, err
	}
	n := copy(p, plain[offset:])
	if unused := r.recent.add(i, plain, buffer); unused != nil {
		r.buffers.Put(unused)
	}
	return n, nil
}

// state returns why nothing more may be read: Close, or the context.
func (r *Reader) state() error {
	if r.closed.Load() {
		return ErrClosed
	}
	return r.ctx.Err()
}

// ErrClosed: the Reader was closed.
var ErrClosed = errors.New("reader is closed")

// Close ends reading and its network traffic, at once: what is in progress elsewhere returns
// [ErrClosed] or the context's error. Closing twice is not an error.
func (r *Reader) Close() error {
	r.closed.Store(true)
	r.cancel()
	r.tearDown()
	return nil
}

// release unlocks, and tears down after a Close that came meanwhile.
func (r *Reader) release() {
	r.mu.Unlock()
	if r.closed.Load() {
		r.tearDown()
	}
}

// tearDown frees what reading holds, unless somebody is reading, who will do it when done: a Close must
// not wait for a writer that is slow.
func (r *Reader) tearDown() {
	if r.mu.TryLock() {
		r.stop()
		r.plain = nil
		r.mu.Unlock()
	}
}
