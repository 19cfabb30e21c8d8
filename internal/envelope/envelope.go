// Package envelope reads and writes envelopes. An envelope is the small object that makes a recording: it
// holds the wrapped key, the commitment to that key, and the metadata sealed under it. Package vault
// seals and opens envelopes with [Keys]; packages without a recording key only use [Parse] and
// [Envelope.Encode].
//
// An envelope is JSON, at most 64 KiB, in one canonical form: exactly the fields below, in this order,
// without white space. Every implementation parses a text to the same envelope and encodes that to the same
// text, so nothing can hide in it.
//
//	{"version":1,"id":"<KeyID>.<rec>","wrapped_key":"vault:v3:...","commitment":"<base64>","metadata":"<base64>"}
//
// Three subkeys are derived from the recording key RK, each with its own label and the recording's binding:
//
//	subkey     = HKDF-SHA-256(RK, no salt, info = label | 0x00 | binding), 32 bytes (RFC 5869)
//	labels     = "recvault/v1/media", "recvault/v1/metadata", "recvault/v1/commitment"
//	commitment = the third subkey itself
//	metadata   = AES-256-GCM(second subkey, random 12-byte nonce, AD = binding) as nonce | ciphertext | tag,
//	             Tink's AES-GCM without a prefix
//
// The commitment is checked before anything is decrypted. AES-GCM does not commit to its key: without the
// check, somebody could make an envelope that opens to two different recordings.
package envelope

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	aead "github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/recvault/recvault/keys"
)

const (
	// Version is the version of the format that this package reads and writes.
	Version = 1
	// MaxSize is the largest size of an encoded envelope in bytes.
	MaxSize = 64 << 10
	// CommitmentSize is the length of the commitment in bytes.
	CommitmentSize = 32

	subkeySize = 32
)

var (
	// ErrMalformed: the bytes are not an envelope in canonical form.
	ErrMalformed = errors.New("envelope is malformed")
	// ErrVersion: the envelope has a version that this package does not support.
	ErrVersion = errors.New("envelope version is not supported")
	// ErrCommitment: the recording key is not the one that the envelope commits to.
	ErrCommitment = errors.New("envelope does not commit to this key")
	// ErrMetadata: the sealed metadata does not authenticate, or is not metadata.
	ErrMetadata = errors.New("sealed metadata is damaged")
	// ErrMetadataSize: the metadata is too large to be sealed in an envelope.
	ErrMetadataSize = errors.New("metadata is too large")
)

// Envelope holds what a reader with a grant needs to open one recording. None of it is secret.
type Envelope struct {
	ID         keys.RecordingID
	Wrapped    keys.WrappedKey
	Commitment [CommitmentSize]byte
	Sealed     []byte // the metadata, encrypted
}

// fields are the JSON form of an envelope, in canonical order.
type fields struct {
	Version    int    `json:"version"`
	ID         string `json:"id"`
	Wrapped    string `json:"wrapped_key"`
	Commitment string `json:"commitment"`
	Sealed     string `json:"metadata"`
}

// Encode returns the canonical text of the envelope.
func (e Envelope) Encode() []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields{
		Version:    Version,
		ID:         e.ID.String(),
		Wrapped:    string(e.Wrapped),
		Commitment: base64.StdEncoding.EncodeToString(e.Commitment[:]),
		Sealed:     base64.StdEncoding.EncodeToString(e.Sealed),
	}); err != nil {
		panic("envelope: internal error: " + err.Error())
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

// Equal reports whether both envelopes encode to the same text.
func (e Envelope) Equal(other Envelope) bool {
	return e.ID == other.ID && e.Wrapped == other.Wrapped && e.Commitment == other.Commitment && bytes.Equal(e.Sealed, other.Sealed)
}

// Parse reads an envelope. It returns [ErrMalformed] for anything that [Envelope.Encode] would not
// have written, and [ErrVersion] for JSON that announces another version.
func Parse(text []byte) (Envelope, error) {
	if len(text) > MaxSize {
		return Envelope{}, fmt.Errorf("%w: it has %d bytes, more than %d", ErrMalformed, len(text), MaxSize)
	}
	var version struct {
		Version *int `json:"version"`
	}
	if err := json.Unmarshal(text, &version); err != nil || version.Version == nil {
		return Envelope{}, fmt.Errorf("%w: it is not JSON, or has no version", ErrMalformed)
	}
	if *version.Version != Version {
		return Envelope{}, fmt.Errorf("%w: %d, want %d", ErrVersion, *version.Version, Version)
	}
	var f fields
	if err := json.Unmarshal(text, &f); err != nil {
		return Envelope{}, fmt.Errorf("%w: a field has the wrong type", ErrMalformed)
	}
	id, err := keys.ParseRecordingID(f.ID)
	if err != nil {
		return Envelope{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	e := Envelope{ID: id, Wrapped: keys.WrappedKey(f.Wrapped)}
	if _, err := e.Wrapped.Version(); err != nil {
		return Envelope{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	commitment, err := base64.StdEncoding.DecodeString(f.Commitment)
	if err != nil || len(commitment) != CommitmentSize {
		return Envelope{}, fmt.Errorf("%w: the commitment is not %d bytes in base64", ErrMalformed, CommitmentSize)
	}
	e.Commitment = [CommitmentSize]byte(commitment)
	if e.Sealed, err = base64.StdEncoding.DecodeString(f.Sealed); err != nil {
		return Envelope{}, fmt.Errorf("%w: the metadata is not base64", ErrMalformed)
	}
	// This one comparison refuses unknown, repeated, misspelt and missing fields, white space, trailing data,
	// and base64 with stray bits.
	if !bytes.Equal(e.Encode(), text) {
		return Envelope{}, fmt.Errorf("%w: it is not in canonical form", ErrMalformed)
	}
	return e, nil
}

// Keys holds the subkeys of one recording. It seals and opens the recording's envelope.
type Keys struct {
	// Media is the main key of the media's streaming encryption.
	Media [subkeySize]byte

	metadata   [subkeySize]byte
	commitment [CommitmentSize]byte
	binding    keys.Binding
}

// DeriveKeys derives the subkeys of the recording that binding names.
func DeriveKeys(key *keys.RecordingKey, binding keys.Binding) *Keys {
	derive := func(label string) [subkeySize]byte {
		subkey, err := hkdf.Key(sha256.New, key.Bytes(), nil, "recvault/v1/"+label+"\x00"+binding.String(), subkeySize)
		if err != nil {
			panic("envelope: internal error: " + err.Error())
		}
		defer clear(subkey)
		return [subkeySize]byte(subkey)
	}
	return &Keys{
		Media:      derive("media"),
		metadata:   derive("metadata"),
		commitment: derive("commitment"),
		binding:    binding,
	}
}

// Wipe overwrites the subkeys with zeroes.
func (k *Keys) Wipe() {
	clear(k.Media[:])
	clear(k.metadata[:])
}

// Seal encrypts metadata and returns the envelope of the recording. It returns [ErrMetadataSize] if the
// metadata has more than [MaxMetadata] bytes as JSON.
func (k *Keys) Seal(wrapped keys.WrappedKey, metadata Metadata) (Envelope, error) {
	plain, err := metadata.encode()
	if err != nil {
		return Envelope{}, err
	}
	cipher, err := aead.NewAESGCM(k.metadata[:])
	if err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	sealed, err := cipher.Encrypt(plain, k.binding.Bytes())
	if err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	return Envelope{ID: k.binding.RecordingID(), Wrapped: wrapped, Commitment: k.commitment, Sealed: sealed}, nil
}

// Open checks that the envelope commits to these keys, and then decrypts its metadata.
//
// Errors: [ErrCommitment], [ErrMetadata].
func (k *Keys) Open(e Envelope) (Metadata, error) {
	if subtle.ConstantTimeCompare(k.commitment[:], e.Commitment[:]) != 1 {
		return Metadata{}, ErrCommitment
	}
	cipher, err := aead.NewAESGCM(k.metadata[:])
	if err != nil {
		return Metadata{}, fmt.Errorf("envelope: %w", err)
	}
	plain, err := cipher.Decrypt(e.Sealed, k.binding.Bytes())
	if err != nil {
		return Metadata{}, fmt.Errorf("%w: it does not authenticate", ErrMetadata)
	}
	return decodeMetadata(plain)
}
