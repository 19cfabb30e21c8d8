package segment

import (
	"bytes"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// Encrypter encrypts what it reads: an io.Reader of ciphertext over an io.Reader of plaintext. The
// encryption is tink-go's own. It holds two segments of memory, starts no goroutine, and is not safe
// for concurrent use.
type Encrypter struct {
	plaintext  io.Reader
	writer     io.WriteCloser // Tink's: encrypts into ciphertext
	ciphertext bytes.Buffer   // encrypted and not yet read
	chunk      []byte
	header     Header
	size       int64
	err        error // the first one, for good
}

// NewEncrypter prepares to encrypt plaintext under a main key of [KeySize] bytes. The caller may wipe
// key when the last byte was read.
func NewEncrypter(key, associatedData []byte, plaintext io.Reader) (*Encrypter, error) {
	primitive, err := subtle.NewAESGCMHKDF(key, "SHA256", KeySize, Size, 0)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	e := &Encrypter{plaintext: plaintext, chunk: make([]byte, Size)}
	// Tink writes whole segments. The buffer must hold what one chunk can complete: the one that was
	// pending and, at the end, the last one.
	e.ciphertext.Grow(2 * Size)
	if e.writer, err = primitive.NewEncryptingWriter(&e.ciphertext, associatedData); err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	copy(e.header[:], e.ciphertext.Bytes()) // Tink writes the header at once
	return e, nil
}

// Header returns the header of the ciphertext.
func (e *Encrypter) Header() Header { return e.header }

// Size returns how many bytes of plaintext were encrypted so far.
func (e *Encrypter) Size() int64 { return e.size }

// maxEmptyReads is how often the plaintext may be read without completing a segment. A reader that
// yields one byte at a time needs [Size] of them.
const maxEmptyReads = Size + 100

// Read yields ciphertext. It returns the plaintext reader's own error, unwrapped, [ErrTooLarge], and
// io.ErrNoProgress for a reader that yields nothing and no error again and again; after any of
// them, and after io.EOF, it returns the same again.
func (e *Encrypter) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for range maxEmptyReads {
		if e.ciphertext.Len() > 0 {
			return e.ciphertext.Read(p)
		}
		if e.err != nil {
			return 0, e.err
		}
		e.err = e.fill()
	}
	e.err = io.ErrNoProgress
	return 0, e.err
}

// fill encrypts one more chunk of plaintext.
func (e *Encrypter) fill() error {
	n, err := e.plaintext.Read(e.chunk)
	e.size += int64(n)
	if e.size > MaxPlaintext {
		return ErrTooLarge
	}
	if _, writeErr := e.writer.Write(e.chunk[:n]); writeErr != nil {
		return fmt.Errorf("segment: %w", writeErr)
	}
	if err == io.EOF {
		if closeErr := e.writer.Close(); closeErr != nil {
			return fmt.Errorf("segment: %w", closeErr)
		}
		return io.EOF
	}
	return err
}
