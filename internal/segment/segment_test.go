package segment_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/segment"
)

const (
	tagSize = 16
	full    = segment.Size - tagSize
	first   = full - segment.HeaderSize
)

var binding = []byte("recvault/v1/patient/recording")

// boundarySizes are all sizes within 20 bytes of a segment boundary, up to the fourth, and of 0.
func boundarySizes() []int {
	var sizes []int
	for _, boundary := range []int{0, first, first + full, first + 2*full, first + 3*full} {
		for size := max(0, boundary-20); size <= boundary+20; size++ {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

func random(t testing.TB, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	_, err := rand.Read(data)
	require.NoError(t, err)
	return data
}

func tink(t testing.TB, key []byte) *subtle.AESGCMHKDF {
	t.Helper()
	primitive, err := subtle.NewAESGCMHKDF(key, "SHA256", segment.KeySize, segment.Size, 0)
	require.NoError(t, err)
	return primitive
}

func tinkEncrypt(t testing.TB, key, plaintext []byte) []byte {
	t.Helper()
	var ciphertext bytes.Buffer
	w, err := tink(t, key).NewEncryptingWriter(&ciphertext, binding)
	require.NoError(t, err)
	_, err = w.Write(plaintext)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return ciphertext.Bytes()
}

// memory is a ciphertext in memory. It counts the requests for it and the streams that are open.
type memory struct {
	ciphertext []byte
	requests   atomic.Int64
	open       atomic.Int64
}

func (m *memory) source(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	m.requests.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.open.Add(1)
	end := min(int64(len(m.ciphertext)), offset+length)
	return &stream{Reader: bytes.NewReader(m.ciphertext[min(offset, end):end]), memory: m}, nil
}

type stream struct {
	io.Reader
	memory *memory
	once   sync.Once
}

func (s *stream) Close() error {
	s.once.Do(func() { s.memory.open.Add(-1) })
	return nil
}

func newReader(ctx context.Context, key []byte, m *memory, size int64) (*segment.Reader, error) {
	if len(m.ciphertext) < segment.HeaderSize {
		return nil, segment.ErrDamaged
	}
	decrypter, err := segment.NewDecrypter(key, binding, segment.Header(m.ciphertext), size)
	if err != nil {
		return nil, err
	}
	return segment.NewReader(ctx, decrypter, m.source, 0, bytes.Clone(m.ciphertext[:min(len(m.ciphertext), segment.Size)]))
}

func mustReader(t testing.TB, key []byte, m *memory, size int) *segment.Reader {
	t.Helper()
	r, err := newReader(t.Context(), key, m, int64(size))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()) })
	return r
}

func TestReadsTinkCiphertextAroundBoundaries(t *testing.T) {
	key := random(t, segment.KeySize)
	data := random(t, first+3*full+20)
	for _, size := range boundarySizes() {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			m := &memory{ciphertext: tinkEncrypt(t, key, data[:size])}
			require.EqualValues(t, len(m.ciphertext), segment.CiphertextSize(int64(size)))
			plaintextSize, err := segment.PlaintextSize(int64(len(m.ciphertext)))
			require.NoError(t, err)
			require.EqualValues(t, size, plaintextSize)

			r := mustReader(t, key, m, size)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data[:size], got))

			_, err = r.Seek(0, io.SeekStart)
			require.NoError(t, err)
			var written bytes.Buffer
			n, err := r.WriteTo(&written)
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.True(t, bytes.Equal(data[:size], written.Bytes()))
			require.Zero(t, m.open.Load(), "a stream was left open at the end")
		})
	}
}

func TestTinkReadsOurCiphertextAroundBoundaries(t *testing.T) {
	key := random(t, segment.KeySize)
	data := random(t, first+3*full+20)
	for _, size := range boundarySizes() {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			e, err := segment.NewEncrypter(key, binding, bytes.NewReader(data[:size]))
			require.NoError(t, err)
			ciphertext, err := io.ReadAll(e)
			require.NoError(t, err)
			require.EqualValues(t, size, e.Size())
			require.EqualValues(t, segment.CiphertextSize(int64(size)), len(ciphertext))
			header := e.Header()
			require.Equal(t, header[:], ciphertext[:segment.HeaderSize])

			r, err := tink(t, key).NewDecryptingReader(bytes.NewReader(ciphertext), binding)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data[:size], got))
		})
	}
}

func TestEncryptsPlaintextThatArrivesInAnyPieces(t *testing.T) {
	key := random(t, segment.KeySize)
	data := random(t, first+full+7)
	for name, reader := range map[string]io.Reader{
		"one byte at a time": iotest.OneByteReader(bytes.NewReader(data)),
		"halves":             iotest.HalfReader(bytes.NewReader(data)),
		"data with EOF":      iotest.DataErrReader(bytes.NewReader(data)),
	} {
		t.Run(name, func(t *testing.T) {
			e, err := segment.NewEncrypter(key, binding, reader)
			require.NoError(t, err)
			ciphertext, err := io.ReadAll(iotest.HalfReader(e))
			require.NoError(t, err)
			r := mustReader(t, key, &memory{ciphertext: ciphertext}, len(data))
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data, got))
		})
	}
}

func TestEncrypterLatchesThePlaintextError(t *testing.T) {
	broken := errors.New("camera unplugged")
	e, err := segment.NewEncrypter(random(t, segment.KeySize), binding,
		io.MultiReader(bytes.NewReader(make([]byte, 3*segment.Size)), iotest.ErrReader(broken)))
	require.NoError(t, err)
	_, err = io.ReadAll(e)
	require.ErrorIs(t, err, broken)
	_, err = e.Read(make([]byte, 1))
	require.ErrorIs(t, err, broken)
}

func TestEncrypterGivesUpOnAnIdlePlaintext(t *testing.T) {
	e, err := segment.NewEncrypter(random(t, segment.KeySize), binding, idle{})
	require.NoError(t, err)
	_, err = io.ReadAll(e)
	require.ErrorIs(t, err, io.ErrNoProgress)
}

// idle yields neither a byte nor an error.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestReadAtReturnsTheBytesAtItsOffset(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 3*full + 1234
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	r := mustReader(t, key, m, size)
	require.NoError(t, iotest.TestReader(r, data))

	for _, offset := range []int{0, 1, first - 1, first, first + 1, first + full - 1, first + full, size - 1, size, size + 1} {
		for _, length := range []int{0, 1, 2, full - 1, full, full + 1, 2 * full, 3*full + 5, size, size + 10} {
			t.Run(fmt.Sprintf("%d bytes at %d", length, offset), func(t *testing.T) {
				before := m.requests.Load()
				p := make([]byte, length)
				n, err := r.ReadAt(p, int64(offset))
				want := data[min(offset, size):min(size, offset+length)]
				require.True(t, bytes.Equal(want, p[:n]))
				if offset+length > size || offset >= size {
					require.Equal(t, io.EOF, err)
				} else {
					require.NoError(t, err)
				}
				require.LessOrEqual(t, m.requests.Load()-before, int64(1))
			})
		}
	}
}

func TestInvalidOffsetsAndWhencesAreRefused(t *testing.T) {
	key := random(t, segment.KeySize)
	r := mustReader(t, key, &memory{ciphertext: tinkEncrypt(t, key, make([]byte, 10))}, 10)
	_, err := r.ReadAt(make([]byte, 1), -1)
	require.Error(t, err)
	_, err = r.Seek(-1, io.SeekStart)
	require.Error(t, err)
	_, err = r.Seek(0, 7)
	require.Error(t, err)
}

func TestReadAtIsSafeBesideReadAndReadAt(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 5*full + 99
	data := random(t, size)
	r := mustReader(t, key, &memory{ciphertext: tinkEncrypt(t, key, data)}, size)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 50 {
				offset := (worker*7919*(i+1) + i*104729) % size
				p := make([]byte, min(size-offset, 100_000))
				_, err := r.ReadAt(p, int64(offset))
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(data[offset:offset+len(p)], p))
			}
		})
	}
	got, err := io.ReadAll(r)
	assert.NoError(t, err)
	assert.True(t, bytes.Equal(data, got))
	wg.Wait()
}

func TestSequentialReadAndFarSeekMakeOneRequestEach(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 60*full
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	r := mustReader(t, key, m, size)
	_, err := io.CopyN(io.Discard, r, int64(first+3*full))
	require.NoError(t, err)
	assert.EqualValues(t, 1, m.requests.Load())
	// A seek a short way forward continues the same request.
	_, err = r.Seek(int64(first+7*full+11), io.SeekStart)
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, r, full)
	require.NoError(t, err)
	assert.EqualValues(t, 1, m.requests.Load())
	// Far forward, and back.
	for i, at := range []int{first + 50*full + 11, 5} {
		_, err = r.Seek(int64(at), io.SeekStart)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[at:], got))
		assert.EqualValues(t, 2+i, m.requests.Load())
		assert.Zero(t, m.open.Load(), "the old stream was left open")
	}
}

func TestNothingBeyondTheExpectedEndIsFetched(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 60*full
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	var requested []int64 // offset and length of each request
	decrypter, err := segment.NewDecrypter(key, binding, segment.Header(m.ciphertext), int64(size))
	require.NoError(t, err)
	// The Reader starts in the middle, as for a player that seeks before it plays.
	start, length := segment.Span(first + 20*full + 5)
	r, err := segment.NewReader(t.Context(), decrypter, func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		requested = append(requested, offset, length)
		return m.source(ctx, offset, length)
	}, start, bytes.Clone(m.ciphertext[start:start+length]))
	require.NoError(t, err)
	defer r.Close()
	r.ExpectEnd(first + 23*full)
	_, err = r.Seek(first+20*full+5, io.SeekStart)
	require.NoError(t, err)
	p := make([]byte, 3*full-5)
	_, err = io.ReadFull(r, p)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data[first+20*full+5:first+23*full], p))
	assert.Equal(t, []int64{22 * segment.Size, 2 * segment.Size}, requested, "the segment that NewReader was given was fetched again")
	// The expectation proves wrong.
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data[first+23*full:], rest))
	assert.Len(t, requested, 4)
}

func TestRandomReadsMakeOneRequestAndKeepSegments(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 60*full
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	r := mustReader(t, key, m, size)
	read := func(offset, length int, requests int64) {
		t.Helper()
		before := m.requests.Load()
		p := make([]byte, length)
		_, err := r.ReadAt(p, int64(offset))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data[offset:offset+length], p))
		assert.Equal(t, requests, m.requests.Load()-before)
	}
	read(10, 100, 0) // the segment that NewReader was given
	read(first+10*full-5, full, 1)
	read(first+10*full-500, full, 0)
	read(first+11*full-5, 3*full, 1) // of which the first segment is kept
	read(first+9*full, 5*full, 0)
	for i := range 20 {
		read(first+(20+i)*full, 10, 1)
	}
	read(first+10*full, 10, 1) // no longer kept
}

// dropping is a source that drops its first connections.
type dropping struct {
	*memory
	after int // how many bytes a dropped connection yields
	left  int // how many connections are still to be dropped
}

func (d *dropping) source(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	body, err := d.memory.source(ctx, offset, length)
	if err != nil || d.left == 0 {
		return body, err
	}
	d.left--
	return &stream{Reader: io.MultiReader(io.LimitReader(body, int64(d.after)), iotest.ErrReader(io.ErrUnexpectedEOF)), memory: d.memory}, nil
}

func TestDroppedConnectionResumesWhereItStopped(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 60*full
	data := random(t, size)
	ciphertext := tinkEncrypt(t, key, data)
	decrypter, err := segment.NewDecrypter(key, binding, segment.Header(ciphertext), int64(size))
	require.NoError(t, err)
	open := func(d *dropping) *segment.Reader {
		d.memory = &memory{ciphertext: ciphertext}
		r, err := segment.NewReader(t.Context(), decrypter, d.source, 0, bytes.Clone(ciphertext[:segment.Size]))
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, r.Close()) })
		return r
	}
	t.Run("again and again, with progress", func(t *testing.T) {
		got, err := io.ReadAll(open(&dropping{after: 2*segment.Size + 77, left: 8}))
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
	})
	t.Run("in a random read", func(t *testing.T) {
		p := make([]byte, 5*full)
		_, err := open(&dropping{after: segment.Size + 1, left: 2}).ReadAt(p, first+10)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[first+10:][:len(p)], p))
	})
	t.Run("without progress", func(t *testing.T) {
		d := &dropping{after: 10, left: 100}
		_, err := io.ReadAll(open(d))
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Equal(t, 100-4, d.left)
	})
}

func TestNoGoroutineOutlivesItsReader(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 60*full
	m := &memory{ciphertext: tinkEncrypt(t, key, random(t, size))}
	for _, length := range []int64{0, 1, first + 1, first + 10*full, int64(size)} {
		t.Run(strconv.FormatInt(length, 10), func(t *testing.T) {
			defer goleak.VerifyNone(t)
			r, err := newReader(context.Background(), key, m, int64(size))
			require.NoError(t, err)
			_, err = io.CopyN(io.Discard, r, length)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			assert.Zero(t, m.open.Load())
		})
	}
}

// stalled is a source whose streams yield nothing until the context ends.
type stalled struct {
	*memory
	waiting chan struct{} // receives a value when a read starts to wait
}

func (s *stalled) source(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	if _, err := s.memory.source(ctx, offset, length); err != nil {
		return nil, err
	}
	return &stream{Reader: readerFunc(func([]byte) (int, error) {
		s.waiting <- struct{}{}
		<-ctx.Done()
		return 0, ctx.Err()
	}), memory: s.memory}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCloseEndsACallThatWaitsForTheSource(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 3*full
	for name, call := range map[string]func(*segment.Reader) error{
		"Read": func(r *segment.Reader) error {
			_, err := io.CopyN(io.Discard, struct{ io.Reader }{r}, first+1)
			return err
		},
		"WriteTo": func(r *segment.Reader) error { _, err := r.WriteTo(io.Discard); return err },
		"ReadAt":  func(r *segment.Reader) error { _, err := r.ReadAt(make([]byte, 1), first); return err },
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			s := &stalled{&memory{ciphertext: tinkEncrypt(t, key, random(t, size))}, make(chan struct{})}
			decrypter, err := segment.NewDecrypter(key, binding, segment.Header(s.ciphertext), int64(size))
			require.NoError(t, err)
			r, err := segment.NewReader(t.Context(), decrypter, s.source, 0, bytes.Clone(s.ciphertext[:segment.Size]))
			require.NoError(t, err)
			ended := make(chan error)
			go func() { ended <- call(r) }()
			<-s.waiting
			require.NoError(t, r.Close())
			require.ErrorIs(t, <-ended, segment.ErrClosed)
			assert.Zero(t, s.open.Load(), "a stream was left open")
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCloseWipesThePlaintext(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + full + 100 // the last segment is short, and leaves most of the one before in its buffer
	m := &memory{ciphertext: tinkEncrypt(t, key, bytes.Repeat([]byte("x"), size))}
	r := mustReader(t, key, m, size)
	var used [][]byte
	n, err := r.WriteTo(writerFunc(func(p []byte) (int, error) {
		used = append(used, p[:cap(p)])
		return len(p), nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.NoError(t, r.Close())
	require.Len(t, used, 3)
	for i, buffer := range used {
		assert.False(t, bytes.Contains(buffer, []byte("xxxxxxxx")), "segment %d", i)
	}
}

func TestCloseDoesNotWaitForASlowWriter(t *testing.T) {
	defer goleak.VerifyNone(t)
	key := random(t, segment.KeySize)
	size := first + 3*full
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	r := mustReader(t, key, m, size)
	writing, proceed, ended := make(chan []byte), make(chan struct{}), make(chan error)
	go func() {
		_, err := r.WriteTo(writerFunc(func(p []byte) (int, error) {
			writing <- p
			<-proceed
			return len(p), nil
		}))
		ended <- err
	}()
	<-writing
	proceed <- struct{}{}
	p := <-writing // the second segment, the first one of the source
	require.NoError(t, r.Close())
	assert.True(t, bytes.Equal(data[first:first+full], p), "Close changed what the writer was given")
	proceed <- struct{}{}
	require.ErrorIs(t, <-ended, segment.ErrClosed)
	assert.Zero(t, m.open.Load(), "a stream was left open")
}

// hostile returns damaged forms of a ciphertext of three segments and a part. The Reader must detect each
// before it returns a byte of the segment that is damaged.
func hostile(ciphertext []byte, other []byte) map[string][]byte {
	flip := func(at int) []byte {
		c := bytes.Clone(ciphertext)
		c[at] ^= 1
		return c
	}
	swapped := bytes.Clone(ciphertext)
	copy(swapped[1*segment.Size:], ciphertext[2*segment.Size:3*segment.Size])
	copy(swapped[2*segment.Size:], ciphertext[1*segment.Size:2*segment.Size])
	repeated := bytes.Clone(ciphertext)
	copy(repeated[2*segment.Size:], ciphertext[1*segment.Size:2*segment.Size])
	spliced := bytes.Clone(ciphertext)
	copy(spliced[2*segment.Size:], other[2*segment.Size:3*segment.Size])
	return map[string][]byte{
		"header length flipped":   flip(0),
		"salt flipped":            flip(1),
		"nonce prefix flipped":    flip(35),
		"first segment flipped":   flip(segment.HeaderSize),
		"first tag flipped":       flip(segment.Size - 1),
		"middle segment flipped":  flip(segment.Size + 100),
		"last segment flipped":    flip(3*segment.Size + 1),
		"last tag flipped":        flip(len(ciphertext) - 1),
		"segments swapped":        swapped,
		"segment repeated":        repeated,
		"segment of another file": spliced,
		"cut by one byte":         ciphertext[:len(ciphertext)-1],
		"cut at a segment":        ciphertext[:2*segment.Size],
		"cut at a segment plus 1": ciphertext[:2*segment.Size+1],
		"cut to the header":       ciphertext[:segment.HeaderSize],
		"empty":                   nil,
	}
}

func TestDamageIsNeverReturnedAndEndsTheReader(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 2*full + 1000
	data := random(t, size)
	ciphertext := tinkEncrypt(t, key, data)
	for name, damaged := range hostile(ciphertext, tinkEncrypt(t, key, random(t, size))) {
		t.Run(name, func(t *testing.T) {
			r, err := newReader(t.Context(), key, &memory{ciphertext: damaged}, int64(size))
			if err != nil {
				require.ErrorIs(t, err, segment.ErrDamaged)
				return
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			require.Error(t, err)
			assert.NotErrorIs(t, err, io.EOF)
			assert.True(t, bytes.HasPrefix(data, got), "bytes that were not authenticated were returned")
			// tink-go returns io.EOF here.
			for range 3 {
				n, again := r.Read(make([]byte, 10))
				assert.Zero(t, n)
				assert.Equal(t, err, again)
			}
			_, again := r.Seek(0, io.SeekStart)
			assert.Equal(t, err, again)
			_, again = r.WriteTo(io.Discard)
			assert.Equal(t, err, again)

			r, err = newReader(t.Context(), key, &memory{ciphertext: damaged}, int64(size))
			require.NoError(t, err)
			defer r.Close()
			p := make([]byte, size)
			n, err := r.ReadAt(p, 0)
			require.Error(t, err)
			assert.True(t, bytes.Equal(data[:n], p[:n]))
			assert.True(t, bytes.Equal(make([]byte, size-n), p[n:]), "the rest of the caller's buffer was touched")
			if errors.Is(err, segment.ErrDamaged) {
				_, again := r.ReadAt(p[:1], 0)
				assert.Equal(t, err, again)
			}
		})
	}
}

func TestWrongKeyBindingOrSizeIsRefused(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + full
	ciphertext := tinkEncrypt(t, key, random(t, size))
	header := segment.Header(ciphertext)
	for name, open := range map[string]func() (*segment.Decrypter, error){
		"another key": func() (*segment.Decrypter, error) {
			return segment.NewDecrypter(random(t, 32), binding, header, int64(size))
		},
		"another binding": func() (*segment.Decrypter, error) { return segment.NewDecrypter(key, []byte("x"), header, int64(size)) },
		"size of one segment": func() (*segment.Decrypter, error) {
			return segment.NewDecrypter(key, binding, header, first)
		},
		"negative size": func() (*segment.Decrypter, error) { return segment.NewDecrypter(key, binding, header, -1) },
		"size too large": func() (*segment.Decrypter, error) {
			return segment.NewDecrypter(key, binding, header, segment.MaxPlaintext+1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			decrypter, err := open()
			if err == nil {
				_, err = segment.NewReader(t.Context(), decrypter, (&memory{ciphertext: ciphertext}).source, 0, bytes.Clone(ciphertext[:segment.Size]))
			}
			assert.ErrorIs(t, err, segment.ErrDamaged)
		})
	}
}

func TestInvalidCiphertextSizesAreRefused(t *testing.T) {
	for _, size := range []int64{
		-1, 0, 1, segment.HeaderSize, segment.HeaderSize + tagSize - 1,
		segment.Size + 1, segment.Size + tagSize, 3*segment.Size + tagSize, 1 << 62, 1<<63 - 1,
	} {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			_, err := segment.PlaintextSize(size)
			assert.ErrorIs(t, err, segment.ErrDamaged)
		})
	}
}

func TestPlaintextSizeInvertsCiphertextSize(t *testing.T) {
	for _, size := range []int64{0, first, first + 1, segment.MaxPlaintext} {
		t.Run(strconv.FormatInt(size, 10), func(t *testing.T) {
			got, err := segment.PlaintextSize(segment.CiphertextSize(size))
			require.NoError(t, err)
			assert.Equal(t, size, got)
		})
	}
}

func TestFailuresOfSourceContextCloseAndWriter(t *testing.T) {
	key := random(t, segment.KeySize)
	size := first + 3*full
	data := random(t, size)
	m := &memory{ciphertext: tinkEncrypt(t, key, data)}
	decrypter, err := segment.NewDecrypter(key, binding, segment.Header(m.ciphertext), int64(size))
	require.NoError(t, err)

	t.Run("a failing request", func(t *testing.T) {
		broken := errors.New("no route to host")
		r, err := segment.NewReader(t.Context(), decrypter, func(context.Context, int64, int64) (io.ReadCloser, error) {
			return nil, broken
		}, 0, bytes.Clone(m.ciphertext[:segment.Size]))
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.ErrorIs(t, err, broken)
		assert.True(t, bytes.Equal(data[:first], got))
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, broken)
	})
	t.Run("a stream that ends early", func(t *testing.T) {
		r, err := segment.NewReader(t.Context(), decrypter, func(_ context.Context, offset, _ int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(m.ciphertext[offset : segment.Size+500])), nil
		}, 0, bytes.Clone(m.ciphertext[:segment.Size]))
		require.NoError(t, err)
		_, err = io.ReadAll(r)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		_, err = r.ReadAt(make([]byte, 1), first)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	})
	t.Run("a cancelled context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, err := newReader(ctx, key, m, int64(size))
		require.NoError(t, err)
		defer r.Close()
		_, err = io.CopyN(io.Discard, r, first+1)
		require.NoError(t, err)
		cancel()
		_, err = io.ReadAll(r)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("closed", func(t *testing.T) {
		r := mustReader(t, key, m, size)
		_, err := io.CopyN(io.Discard, r, first+1)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, r.Close())
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, segment.ErrClosed)
		_, err = r.ReadAt(make([]byte, 1), 0)
		require.ErrorIs(t, err, segment.ErrClosed)
		assert.Zero(t, m.open.Load(), "a stream was left open")
	})
	t.Run("a writer that fails", func(t *testing.T) {
		r := mustReader(t, key, m, size)
		n, err := r.WriteTo(shortWriter{})
		require.ErrorIs(t, err, io.ErrShortWrite)
		assert.EqualValues(t, 1, n)
	})
}

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 1, nil }

func FuzzDamagedCiphertext(f *testing.F) {
	key := make([]byte, segment.KeySize)
	size := first + full + 3
	data := bytes.Repeat([]byte{0xa5}, size)
	ciphertext := tinkEncrypt(f, key, data)
	f.Add(0, byte(1), len(ciphertext), int64(size))
	f.Add(segment.Size, byte(0), len(ciphertext), int64(size))
	f.Add(5, byte(0), segment.Size+1, int64(first+1))
	f.Fuzz(func(t *testing.T, at int, mask byte, length int, claimed int64) {
		damaged := bytes.Clone(ciphertext)
		damaged[uint(at)%uint(len(damaged))] ^= mask
		damaged = damaged[:uint(length)%uint(len(damaged)+1)]
		r, err := newReader(t.Context(), key, &memory{ciphertext: damaged}, claimed)
		if err != nil {
			require.ErrorIs(t, err, segment.ErrDamaged)
			return
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		require.True(t, bytes.HasPrefix(data, got), "bytes that were never written were returned")
		if err == nil {
			require.True(t, bytes.Equal(data, got))
			require.True(t, bytes.Equal(ciphertext, damaged))
		}
	})
}

func FuzzEncryptAndReadAt(f *testing.F) {
	f.Add([]byte("hello"), 2, uint16(3), uint8(0))
	f.Add(make([]byte, 100), 65500, uint16(1000), uint8(2))
	f.Fuzz(func(t *testing.T, seed []byte, offset int, length uint16, repeat uint8) {
		data := bytes.Repeat(append(seed, 1), 1+int(repeat)*400)
		key := make([]byte, segment.KeySize)
		e, err := segment.NewEncrypter(key, binding, bytes.NewReader(data))
		require.NoError(t, err)
		ciphertext, err := io.ReadAll(e)
		require.NoError(t, err)
		r, err := newReader(t.Context(), key, &memory{ciphertext: ciphertext}, int64(len(data)))
		require.NoError(t, err)
		defer r.Close()
		at := int(uint(offset) % uint(len(data)+1))
		p := make([]byte, length)
		n, err := r.ReadAt(p, int64(at))
		require.True(t, bytes.Equal(data[at:min(len(data), at+len(p))], p[:n]))
		if err != nil {
			require.Equal(t, io.EOF, err)
		}
	})
}

func BenchmarkReadAll(b *testing.B) {
	key := random(b, segment.KeySize)
	size := 64 << 20
	m := &memory{ciphertext: tinkEncrypt(b, key, random(b, size))}
	b.SetBytes(int64(size))
	for b.Loop() {
		r, err := newReader(b.Context(), key, m, int64(size))
		require.NoError(b, err)
		n, err := r.WriteTo(io.Discard)
		require.NoError(b, err)
		require.EqualValues(b, size, n)
	}
}
