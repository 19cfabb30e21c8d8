package segment

import (
	"bytes"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// Encrypter is an io.Reader that yields the ciphertext of another io.Reader. The encryption is tink-go's
// own. An Encrypter uses five segments of memory (320 KiB), two of them in tink-go. It starts no goroutine,
// and is not safe for concurrent use.
type Encrypter struct {
	plaintext  io.Reader
	writer     io.WriteCloser // tink-go's, which encrypts into ciphertext
	ciphertext bytes.Buffer   // encrypted and not yet read
	chunk      []byte
	header     Header
	size       int64 // of the plaintext so far
	err        error // the first one, which is final
}

// NewEncrypter returns an Encrypter of plaintext under a main key of [KeySize] bytes. The caller may wipe
// key once the last byte of ciphertext was read.
func NewEncrypter(key, associatedData []byte, plaintext io.Reader) (*Encrypter, error) {
	primitive, err := subtle.NewAESGCMHKDF(key, "SHA256", KeySize, Size, 0)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	e := &Encrypter{plaintext: plaintext, chunk: make([]byte, Size)}
	// tink-go writes whole segments. One chunk completes at most two of them: the one that was pending and,
	// at the end, the last one.
	e.ciphertext.Grow(2 * Size)
	if e.writer, err = primitive.NewEncryptingWriter(&e.ciphertext, associatedData); err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	copy(e.header[:], e.ciphertext.Bytes()) // tink-go has written the header already
	return e, nil
}

// Header returns the header of the ciphertext.
func (e *Encrypter) Header() Header { return e.header }

// Size returns the number of bytes of plaintext that were encrypted so far.
func (e *Encrypter) Size() int64 { return e.size }

// maxFills is how many reads of the plaintext in a row may complete no segment. A plaintext that yields
// one byte at a time needs [Size] of them.
const maxFills = Size + 100

// Read reads ciphertext. Every error, io.EOF included, is final: later calls return it again.
//
// Errors: the plaintext reader's own, as it is; [ErrTooLarge]; io.ErrNoProgress if the plaintext reader keeps
// yielding neither a byte nor an error.
func (e *Encrypter) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for range maxFills {
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
