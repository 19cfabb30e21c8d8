// Package segment reads Tink's AES-GCM-HKDF streaming ciphertext at any offset, which tink-go
// itself cannot, and adapts tink-go's own encryption of that format to an io.Reader.
//
// The format (https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming), with the
// parameters that recvault fixes: SHA-256, 32-byte keys and segments of 64 KiB.
//
//	ciphertext = header | segment 0 | segment 1 | ... | segment n-1
//	header     = 40 | salt (32 bytes) | nonce prefix (7 bytes)
//	key        = HKDF-SHA-256(main key, salt, info = associated data), 32 bytes
//	segment i  = AES-256-GCM(key, nonce = nonce prefix | i (4 bytes, big endian) | final (1 byte), no AD)
//
// Header and first segment together, and every other segment but the last, have 65,536 bytes, of which
// 16 are the tag. The last segment, and no other, has final = 1. It is never empty, unless it is the
// only one, so the plaintext's size determines every offset.
//
// A size that was authenticated elsewhere is what makes random access safe: the last segment's
// number follows from it, and so the final flag that each segment must authenticate with. recvault
// seals it in the envelope's metadata.
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
	// MaxPlaintext is the largest size of a plaintext in bytes, just under 256 TiB: segments are
	// numbered with 32 bits.
	MaxPlaintext = firstPlaintext + math.MaxUint32*fullPlaintext

	saltSize        = KeySize
	noncePrefixSize = 7
	nonceSize       = 12
	tagSize         = 16
	fullPlaintext   = Size - tagSize             // plaintext bytes of a full segment
	firstPlaintext  = fullPlaintext - HeaderSize // plaintext bytes of a full first segment
	minCiphertext   = HeaderSize + tagSize       // the ciphertext of nothing
)

var (
	// ErrDamaged: the ciphertext does not authenticate, or cannot be ciphertext at all.
	ErrDamaged = errors.New("ciphertext is damaged")
	// ErrTooLarge: the plaintext is larger than [MaxPlaintext].
	ErrTooLarge = errors.New("plaintext is too large")
	// ErrClosed: the Reader was closed.
	ErrClosed = errors.New("reader is closed")
)

// Header is what a ciphertext starts with: its salt and nonce prefix. It is not secret.
type Header [HeaderSize]byte

// CiphertextSize returns the size of the ciphertext of size bytes of plaintext, which must be between 0
// and [MaxPlaintext].
func CiphertextSize(size int64) int64 {
	return HeaderSize + size + tagSize*count(size)
}

// PlaintextSize returns the size of the plaintext whose ciphertext has size bytes. It returns
// [ErrDamaged] if no ciphertext has that size.
func PlaintextSize(size int64) (int64, error) {
	segments := (size + Size - 1) / Size
	plaintext := size - HeaderSize - tagSize*segments
	if size < minCiphertext || plaintext < 0 || plaintext > MaxPlaintext || CiphertextSize(plaintext) != size {
		return 0, fmt.Errorf("%w: no ciphertext has %d bytes", ErrDamaged, size)
	}
	return plaintext, nil
}

// count returns the number of segments of a plaintext of size bytes.
func count(size int64) int64 {
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

// ciphertextStart returns the offset in the ciphertext at which segment i starts, after the header.
func ciphertextStart(i int64) int64 {
	return max(HeaderSize, i*Size)
}

// Decrypter opens the segments of one ciphertext, in any order. It is safe for concurrent use.
type Decrypter struct {
	aead   cipher.AEAD
	prefix [noncePrefixSize]byte
	size   int64 // of the plaintext
	count  int64 // of segments
}

// NewDecrypter prepares to open the ciphertext that starts with header and holds size bytes of
// plaintext. key is the main key, of [KeySize] bytes. It returns [ErrDamaged] for a header or size
// that no ciphertext can have. The caller may wipe key afterwards.
func NewDecrypter(key, associatedData []byte, header Header, size int64) (*Decrypter, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("segment: internal error: a key of %d bytes", len(key))
	}
	if header[0] != HeaderSize {
		return nil, fmt.Errorf("%w: its header announces %d bytes, not %d", ErrDamaged, header[0], HeaderSize)
	}
	if size < 0 || size > MaxPlaintext {
		return nil, fmt.Errorf("%w: no plaintext has %d bytes", ErrDamaged, size)
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
	return &Decrypter{aead, [noncePrefixSize]byte(header[1+saltSize:]), size, count(size)}, nil
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

// open authenticates and decrypts segment i in place and returns its plaintext. It returns
// [ErrDamaged], and leaves nothing of the plaintext behind, if the segment is not exactly the one
// that was sealed at this place.
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
