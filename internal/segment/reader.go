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
// many bytes. The Reader checks that they are the right ones.
type Source func(ctx context.Context, offset, length int64) (io.ReadCloser, error)

// Reader reads the plaintext of a ciphertext, in sequence or at any offset. It returns only bytes that
// were authenticated. It is safe for concurrent use, though Read, Seek and WriteTo wait for each other.
//
// Read, Seek and WriteTo share a position. Their first error in reading, other than io.EOF, is final:
// every later call returns it. A failed authentication, in any of them or in a ReadAt, also ends ReadAt.
// A dropped connection is not an error: the source is asked again, from the segment where it stopped,
// up to three times in a row.
//
// A sequential read uses 64 KiB and makes one request. A random read makes one request for what it
// needs; the Reader keeps up to 512 KiB of what random reads have used. No method starts a goroutine.
type Reader struct {
	ctx       context.Context
	cancel    context.CancelFunc
	decrypter *Decrypter
	source    Source
	buffers   sync.Pool // of *[Size]byte, for ReadAt; of this Reader alone, so that recordings never share memory
	recent    recent
	damaged   atomic.Pointer[error] // the first failed authentication
	closed    atomic.Bool
	delivered func(start, n int64) // see Watch

	mu          sync.Mutex // guards the fields below, which Read, Seek and WriteTo share
	position    int64
	expectedEnd int64 // where sequential reading is expected to stop
	err         error // the first one, which is final
	stream      stream
	buffer      *[Size]byte // for stream; nil until it is needed
	plain       []byte      // the plaintext of the current segment
	plainStart  int64       // its offset in the plaintext
}

// Span returns the range of a ciphertext that holds the plaintext byte at offset: one full segment, with
// the header if it is the first. The range reaches past the ciphertext's end if the segment is the last
// one, and can lie past it if there is no such byte.
func Span(offset int64) (start, length int64) {
	return indexAt(offset) * Size, Size
}

// NewReader returns a Reader of the plaintext that decrypter decrypts. The ciphertext comes from source,
// save for one segment that most callers have already fetched, to learn the ciphertext's size: ciphertext
// is the part that lies in the [Span] that starts at start, and is empty if that is past the end.
// NewReader authenticates and decrypts it at once, in place, and keeps it. The context governs every
// later read.
//
// Errors: [ErrDamaged].
func NewReader(ctx context.Context, decrypter *Decrypter, source Source, start int64, ciphertext []byte) (*Reader, error) {
	want := max(0, min(start+Size, CiphertextSize(decrypter.size))-start)
	if int64(len(ciphertext)) != want {
		return nil, fmt.Errorf("%w: the segment has %d bytes, not %d", ErrDamaged, len(ciphertext), want)
	}
	r := &Reader{decrypter: decrypter, source: source, expectedEnd: decrypter.size, delivered: func(int64, int64) {}}
	r.stream.reader = r
	r.buffers.New = func() any { return new([Size]byte) }
	if want > 0 {
		i := start / Size
		plain, err := decrypter.open(ciphertext[ciphertextStart(i)-start:], i)
		if err != nil {
			return nil, err
		}
		r.plain, r.plainStart = plain, plaintextStart(i)
		buffer := new([Size]byte)
		r.recent.add(i, buffer[:copy(buffer[:], plain)], buffer)
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r, nil
}

// Watch sets a function that gets each range of plaintext that Read and ReadAt have returned and that WriteTo has written:
// n bytes from start on. It is called before the first read, if at all.
func (r *Reader) Watch(delivered func(start, n int64)) { r.delivered = delivered }

// Size returns the size of the plaintext in bytes.
func (r *Reader) Size() int64 { return r.decrypter.size }

// Read implements io.Reader. It returns at most the rest of one segment.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.unlock()
	rest, err := r.rest()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	r.delivered(r.position, int64(n))
	r.position += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo. It writes the plaintext from the current position to the end, one
// segment at a time, without copying it. w must not keep the slices that it is given. An error of w is
// returned as a [WriterError].
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	r.mu.Lock()
	defer r.unlock()
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
		r.delivered(r.position, int64(n))
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

// WriterError is an error of the writer that WriteTo was given.
type WriterError struct{ Err error }

func (e *WriterError) Error() string { return e.Err.Error() }

// Unwrap returns the writer's own error.
func (e *WriterError) Unwrap() error { return e.Err }

// Seek implements io.Seeker. It makes no request. Seeking past the end is allowed; a Read there returns
// io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.unlock()
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

// ExpectEnd announces that sequential reading will stop at offset end, so that nothing beyond the
// segment of its last byte is fetched. It is a hint: reading may continue past it, with another request.
func (r *Reader) ExpectEnd(end int64) {
	r.mu.Lock()
	defer r.unlock()
	r.expectedEnd = min(max(end, 0), r.decrypter.size)
}

// ReadAt implements io.ReaderAt. It fetches the segments that it needs with one request, less those at
// either end that were kept.
func (r *Reader) ReadAt(p []byte, offset int64) (n int, err error) {
	defer func() { r.delivered(offset, int64(n)) }()
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
	s := &stream{reader: r, next: first, end: last + 1}
	defer s.close()
	for s.next < s.end {
		m, err := r.readOne(s, p[n:], max(0, offset-plaintextStart(s.next)))
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(p), end
}

// readOne reads the next segment of s, keeps its plaintext, and copies the part from offset on to p.
func (r *Reader) readOne(s *stream, p []byte, offset int64) (int, error) {
	i, buffer := s.next, r.buffers.Get().(*[Size]byte)
	plain, err := s.read(buffer)
	if err != nil {
		clear(buffer[:])
		r.buffers.Put(buffer)
		return 0, err
	}
	n := copy(p, plain[offset:])
	if unused := r.recent.add(i, plain, buffer); unused != nil {
		clear(unused[:])
		r.buffers.Put(unused)
	}
	return n, nil
}

// Close ends reading and its network traffic at once, and does not wait for calls in progress: they return
// [ErrClosed] when they next need a segment. Closing twice is not an error.
func (r *Reader) Close() error {
	r.closed.Store(true)
	r.cancel()
	r.recent.wipe()
	r.free()
	return nil
}

// rest returns the plaintext from the current position to the end of its segment, and fetches the segment
// if it is not the current one.
func (r *Reader) rest() ([]byte, error) {
	if r.err == nil {
		r.err = r.state()
	}
	if r.err != nil {
		return nil, r.err
	}
	if r.position >= r.decrypter.size {
		r.stream.close()
		return nil, io.EOF
	}
	if r.position < r.plainStart || r.position >= r.plainStart+int64(len(r.plain)) {
		if r.err = r.advance(indexAt(r.position)); r.err != nil {
			r.plain = nil
			return nil, r.err
		}
	}
	return r.plain[r.position-r.plainStart:], nil
}

// maxSkip is how many segments a seek forward reads and drops, at most, to save a request: 1 MiB.
const maxSkip = 16

// advance makes segment i the current one.
func (r *Reader) advance(i int64) error {
	s := &r.stream
	if s.body == nil || i < s.next || i >= min(s.next+maxSkip, s.end) {
		s.close()
		s.next, s.end = i, r.decrypter.count
		if r.expectedEnd > plaintextStart(i) {
			s.end = indexAt(r.expectedEnd-1) + 1
		}
	}
	if r.buffer == nil {
		clear(r.plain) // lies in the caller's segment
		r.buffer = new([Size]byte)
	}
	for s.next <= i {
		plain, err := s.read(r.buffer)
		if err != nil {
			return err
		}
		r.plain, r.plainStart = plain, plaintextStart(s.next-1)
	}
	return nil
}

// state returns an error if nothing more may be read: [ErrClosed], or the context's own.
func (r *Reader) state() error {
	if r.closed.Load() {
		return ErrClosed
	}
	return r.ctx.Err()
}

// unlock unlocks mu. If Close found it locked, unlock frees in its place.
func (r *Reader) unlock() {
	r.mu.Unlock()
	if r.closed.Load() {
		r.free()
	}
}

// free releases the request and wipes the plaintext of sequential reading. If mu is locked it leaves that to
// unlock, so that Close does not wait for a slow writer.
func (r *Reader) free() {
	if r.mu.TryLock() {
		r.stream.close()
		clear(r.plain)
		if r.buffer != nil {
			clear(r.buffer[:]) // a short last segment leaves a part of the one before
		}
		r.plain, r.buffer = nil, nil
		r.mu.Unlock()
	}
}
