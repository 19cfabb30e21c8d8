// Package segment encrypts and decrypts a recording's media in Tink's AES-GCM-HKDF streaming format. Package
// vault puts a recording with an [Encrypter], which is tink-go's encryption as an io.Reader, and opens it
// with a [Reader], which reads at any offset; tink-go itself reads only from the start.
//
// docs/format.md, section 8, specifies the format and how offsets follow from the plaintext's size. The header and the first
// segment together have 65,536 bytes, and so has every other segment but the last.
//
// Random access is safe because the size was authenticated elsewhere: recvault seals it in the envelope's
// metadata. It gives the number of the last segment, and so the final flag that each segment must
// authenticate with.
package segment

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

const (
	// Size is the length of a full ciphertext segment in bytes; the first one includes the header.
	Size = 64 << 10
	// HeaderSize is the length of the header in bytes.
	HeaderSize = 1 + saltSize + noncePrefixSize
	// KeySize is the length of the main key, and of the key derived from it, in bytes.
	KeySize = 32
	// MaxPlaintext is the largest size of a plaintext in bytes, just under 256 TiB: the number of a
	// segment has 32 bits.
	MaxPlaintext = firstPlaintext + math.MaxUint32*fullPlaintext

	saltSize        = KeySize
	noncePrefixSize = 7
	nonceSize       = 12
	tagSize         = 16
	fullPlaintext   = Size - tagSize             // plaintext bytes of a full segment
	firstPlaintext  = fullPlaintext - HeaderSize // plaintext bytes of a full first segment
	minCiphertext   = HeaderSize + tagSize       // the ciphertext of an empty plaintext
)

var (
	// ErrDamaged: the ciphertext does not authenticate, or has a size or header that no ciphertext has.
	ErrDamaged = errors.New("ciphertext is damaged")
	// ErrTooLarge: the plaintext is larger than [MaxPlaintext].
	ErrTooLarge = errors.New("plaintext is too large")
	// ErrClosed: the Reader was closed.
	ErrClosed = errors.New("reader is closed")
)

// Header is the start of a ciphertext: the header's own length, the salt and the nonce prefix. It is not
// secret.
type Header [HeaderSize]byte

// CiphertextSize returns the size of the ciphertext for a plaintext of size bytes, from 0 to
// [MaxPlaintext].
func CiphertextSize(size int64) int64 {
	return HeaderSize + size + tagSize*Count(size)
}

// PlaintextSize returns the size of the plaintext for a ciphertext of size bytes. It returns
// [ErrDamaged] if no ciphertext has that size.
func PlaintextSize(size int64) (int64, error) {
	segments := (size + Size - 1) / Size
	plaintext := size - HeaderSize - tagSize*segments
	if size < minCiphertext || plaintext < 0 || plaintext > MaxPlaintext || CiphertextSize(plaintext) != size {
		return 0, fmt.Errorf("%w: %d bytes is not the size of any ciphertext", ErrDamaged, size)
	}
	return plaintext, nil
}

// Count returns the number of segments of a plaintext of size bytes, from 0 to [MaxPlaintext].
func Count(size int64) int64 {
	if size <= firstPlaintext {
		return 1
	}
	return 1 + (size-firstPlaintext+fullPlaintext-1)/fullPlaintext
}

// indexAt returns the number of the segment that holds the plaintext byte at offset.
func indexAt(offset int64) int64 {
	return (offset + HeaderSize) / fullPlaintext
}

// plaintextStart returns the offset in the plaintext at which segment i starts.
func plaintextStart(i int64) int64 {
	return max(0, i*fullPlaintext-HeaderSize)
}

// ciphertextStart returns the offset in the ciphertext at which segment i starts. The first one starts
// after the header.
func ciphertextStart(i int64) int64 {
	return max(HeaderSize, i*Size)
}

// Decrypter decrypts the segments of one ciphertext, in any order. It is safe for concurrent use.
type Decrypter struct {
	aead   cipher.AEAD
	header Header
	prefix [noncePrefixSize]byte
	size   int64 // of the plaintext
	count  int64 // of segments
}

// NewDecrypter returns a Decrypter for the ciphertext that starts with header and holds size bytes of
// plaintext. key is the main key, of [KeySize] bytes; the caller may wipe it afterwards. NewDecrypter
// returns [ErrDamaged] for a header or size that no ciphertext has.
func NewDecrypter(key, associatedData []byte, header Header, size int64) (*Decrypter, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("segment: internal error: the key has %d bytes", len(key))
	}
	if header[0] != HeaderSize {
		return nil, fmt.Errorf("%w: its header gives a header length of %d bytes, not %d", ErrDamaged, header[0], HeaderSize)
	}
	if size < 0 || size > MaxPlaintext {
		return nil, fmt.Errorf("%w: %d bytes is not the size of any plaintext", ErrDamaged, size)
	}
	derived, err := hkdf.Key(sha256.New, key, header[1:1+saltSize], string(associatedData), KeySize)
	if err != nil {
		return nil, fmt.Errorf("segment: deriving the key: %w", err)
	}
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("segment: %w", err)
	}
	return &Decrypter{aead, header, [noncePrefixSize]byte(header[1+saltSize:]), size, Count(size)}, nil
}

// ciphertextEnd returns the offset in the ciphertext at which segment i ends.
func (d *Decrypter) ciphertextEnd(i int64) int64 {
	if i == d.count-1 {
		return CiphertextSize(d.size)
	}
	return i*Size + Size
}

// ciphertextLen returns the length of segment i, without the header.
func (d *Decrypter) ciphertextLen(i int64) int {
	return int(d.ciphertextEnd(i) - ciphertextStart(i))
}

// open authenticates segment i, decrypts it in place and returns its plaintext. If the bytes are not exactly
// those that were encrypted as segment i, it clears them and returns [ErrDamaged].
func (d *Decrypter) open(segment []byte, i int64) ([]byte, error) {
	var nonce [nonceSize]byte
	copy(nonce[:], d.prefix[:])
	binary.BigEndian.PutUint32(nonce[noncePrefixSize:], uint32(i))
	if i == d.count-1 {
		nonce[nonceSize-1] = 1
	}
	plaintext, err := d.aead.Open(segment[:0], nonce[:], segment, nil)
	if err != nil {
		clear(segment)
		return nil, fmt.Errorf("%w: segment %d of %d does not authenticate", ErrDamaged, i, d.count)
	}
	return plaintext, nil
}
