// Package envelope encodes and decodes a recording's envelope: the small object with its two wrapped keys, the
// commitment to them, and the sealed metadata. It also derives the keys of a recording. Package vault seals and opens
// envelopes; internal/objects reads and writes them.
//
// docs/format.md, sections 3 to 5 and 7, specifies every byte. An envelope has one canonical form, so nothing can hide in it.
// An ID names one key: the ID and the commitment are compared, in constant time, before anything is decrypted.
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
	"strconv"
	"strings"

	aead "github.com/tink-crypto/tink-go/v2/aead/subtle"

	"github.com/recvault/recvault/keys"
)

const (
	// Version is the version of the format that this package reads and writes.
	Version = 1
	// MaxSize is the greatest size of an encoded envelope in bytes, in every version.
	MaxSize = 64 << 10
	// CommitmentSize is the length of the commitment in bytes.
	CommitmentSize = 32
)

var (
	// ErrMalformed: the bytes are not an envelope in canonical form.
	ErrMalformed = errors.New("envelope is malformed")
	// ErrUnsupported: the envelope is of a version that this package does not know. It is not damaged.
	ErrUnsupported = errors.New("envelope is of an unsupported version")
	// ErrWrongKey: the envelope's ID or commitment is that of another key.
	ErrWrongKey = errors.New("envelope belongs to another key")
	// ErrMetadata: the sealed metadata does not authenticate, or breaks a rule of the format.
	ErrMetadata = errors.New("sealed metadata is damaged")
	// ErrUnauthentic: the sealed metadata does not authenticate. It is [ErrMetadata] as well.
	ErrUnauthentic = fmt.Errorf("%w: it does not authenticate", ErrMetadata)
	// ErrMetadataSize: the metadata is too large to be sealed in an envelope.
	ErrMetadataSize = errors.New("metadata is too large")
)

// Envelope is what is needed, beside a grant, to open one recording. All of it may be public.
type Envelope struct {
	ID                 keys.RecordingID
	WrappedKey         keys.WrappedKey // the recording key, wrapped for the binding
	WrappedMetadataKey keys.WrappedKey // the metadata key, wrapped for the metadata binding
	Commitment         [CommitmentSize]byte
	Sealed             []byte // the metadata, encrypted
}

// fields are the JSON form of an envelope, in canonical order.
type fields struct {
	Version            int    `json:"version"`
	ID                 string `json:"id"`
	WrappedKey         string `json:"wrapped_key"`
	WrappedMetadataKey string `json:"wrapped_metadata_key"`
	Commitment         string `json:"commitment"`
	Sealed             string `json:"metadata"`
}

// Encode returns the canonical text of the envelope.
func (e Envelope) Encode() []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields{
		Version:            Version,
		ID:                 e.ID.String(),
		WrappedKey:         string(e.WrappedKey),
		WrappedMetadataKey: string(e.WrappedMetadataKey),
		Commitment:         base64.StdEncoding.EncodeToString(e.Commitment[:]),
		Sealed:             base64.StdEncoding.EncodeToString(e.Sealed),
	}); err != nil {
		panic("envelope: internal error: " + err.Error())
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

// Equal reports whether both envelopes encode to the same text.
func (e Envelope) Equal(other Envelope) bool {
	return e.ID == other.ID && e.WrappedKey == other.WrappedKey && e.WrappedMetadataKey == other.WrappedMetadataKey &&
		e.Commitment == other.Commitment && bytes.Equal(e.Sealed, other.Sealed)
}

// Wraps returns both wrapped keys with their bindings: first the recording key's, then the metadata key's.
func (e Envelope) Wraps() []keys.RewrapItem {
	return []keys.RewrapItem{
		{Binding: e.ID.Binding(), Wrapped: e.WrappedKey},
		{Binding: e.ID.MetadataBinding(), Wrapped: e.WrappedMetadataKey},
	}
}

// SameMetadata reports whether another envelope of the recording has the same sealed metadata. Its wrapped keys may be others.
func (e Envelope) SameMetadata(other Envelope) bool {
	return e.ID == other.ID && bytes.Equal(e.Sealed, other.Sealed)
}

// WithWraps returns the envelope with other wrapped keys, in the order of [Envelope.Wraps].
func (e Envelope) WithWraps(key, metadataKey keys.WrappedKey) Envelope {
	e.WrappedKey, e.WrappedMetadataKey = key, metadataKey
	return e
}

// Version returns the older of the versions that the labels of the wrapped keys name: an envelope is at a version when
// both are. It is -1 for a wrapped key that cannot be parsed. The labels are not authenticated.
func (e Envelope) Version() int {
	lowest := keys.MaxKeyVersion
	for _, item := range e.Wraps() {
		version, err := item.Wrapped.Version()
		if err != nil {
			return -1
		}
		lowest = min(lowest, version)
	}
	return lowest
}

// Parse reads an envelope.
//
// Errors: [ErrUnsupported] for one of another version; [ErrMalformed] for anything else that [Envelope.Encode] would
// not have written.
func Parse(text []byte) (Envelope, error) {
	if len(text) > MaxSize {
		return Envelope{}, fmt.Errorf("%w: it has more than %d bytes", ErrMalformed, MaxSize)
	}
	version, err := VersionOf(text)
	if err != nil {
		return Envelope{}, err
	}
	if version != strconv.Itoa(Version) {
		return Envelope{}, fmt.Errorf("%w: version %s, want %d", ErrUnsupported, version, Version)
	}
	var f fields
	if err := json.Unmarshal(text, &f); err != nil {
		return Envelope{}, fmt.Errorf("%w: it is not JSON, or a field is not of its type", ErrMalformed)
	}
	id, err := keys.ParseRecordingID(f.ID)
	if err != nil {
		return Envelope{}, fmt.Errorf("%w: %v", ErrMalformed, err) // an invalid ID would be the caller's mistake
	}
	e := Envelope{ID: id, WrappedKey: keys.WrappedKey(f.WrappedKey), WrappedMetadataKey: keys.WrappedKey(f.WrappedMetadataKey)}
	for _, wrapped := range []keys.WrappedKey{e.WrappedKey, e.WrappedMetadataKey} {
		if _, err := wrapped.Version(); err != nil {
			return Envelope{}, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
	}
	commitment, err := base64.StdEncoding.DecodeString(f.Commitment)
	if err != nil || len(commitment) != CommitmentSize {
		return Envelope{}, fmt.Errorf("%w: the commitment is not %d bytes in base64", ErrMalformed, CommitmentSize)
	}
	e.Commitment = [CommitmentSize]byte(commitment)
	if e.Sealed, err = base64.StdEncoding.DecodeString(f.Sealed); err != nil {
		return Envelope{}, fmt.Errorf("%w: the metadata is not base64", ErrMalformed)
	}
	// One comparison finds unknown, repeated, misspelt and missing fields, white space, trailing data and
	// base64 with stray bits.
	if !bytes.Equal(e.Encode(), text) {
		return Envelope{}, fmt.Errorf("%w: it is not in canonical form", ErrMalformed)
	}
	return e, nil
}

// maxVersionDigits bounds the version numbers of envelopes.
const maxVersionDigits = 9

// VersionOf returns the version with which an envelope of any version starts: a positive number without leading zeros. It
// returns [ErrMalformed] for text that does not start so.
func VersionOf(text []byte) (string, error) {
	rest, ok := strings.CutPrefix(string(text[:min(len(text), 64)]), `{"version":`)
	version, _, comma := strings.Cut(rest, ",")
	if !ok || !comma || version == "" || len(version) > maxVersionDigits || version[0] == '0' ||
		strings.ContainsFunc(version, func(r rune) bool { return r < '0' || r > '9' }) {
		return "", fmt.Errorf("%w: it does not start with a version", ErrMalformed)
	}
	return version, nil
}

// MediaKey derives the main key of the media's streaming encryption. The caller wipes it.
func MediaKey(recordingKey *keys.Key) []byte { return derive(recordingKey, "recvault/v1/media") }

// MediaAssociatedData returns what is authenticated with the media: "recvault/v1/" and the recording's part of the ID. It
// does not name the patient, so that a recording can be given to another without encrypting it again.
func MediaAssociatedData(id keys.RecordingID) []byte { return []byte("recvault/v1/" + id.Rec()) }

// MetadataKey derives the metadata key. The caller wipes it.
func MetadataKey(recordingKey *keys.Key) *keys.Key {
	secret := derive(recordingKey, "recvault/v1/metadata")
	defer clear(secret)
	key, err := keys.KeyFromBytes(secret)
	if err != nil {
		panic("envelope: internal error: " + err.Error())
	}
	return key
}

func derive(key *keys.Key, info string) []byte {
	derived, err := hkdf.Key(sha256.New, key.Bytes(), nil, info, keys.KeySize)
	if err != nil {
		panic("envelope: internal error: " + err.Error())
	}
	return derived
}

// Sealer seals and opens the metadata of one recording. It holds what the metadata key yields for one patient.
type Sealer struct {
	id         keys.RecordingID
	commitment []byte
	key        []byte
}

// NewSealer derives what a metadata key yields for a patient. The caller wipes the Sealer.
func NewSealer(keyID keys.KeyID, metadataKey *keys.Key) *Sealer {
	id := keys.RecordingIDOf(keyID, [keys.RecBytes]byte(derive(metadataKey, "recvault/v1/id")))
	return &Sealer{
		id:         id,
		commitment: derive(metadataKey, "recvault/v1/commitment\x00"+id.Binding().String()),
		key:        derive(metadataKey, "recvault/v1/seal"),
	}
}

// ID returns the ID that the metadata key has for the patient.
func (s *Sealer) ID() keys.RecordingID { return s.id }

// Wipe overwrites the keys with zeroes.
func (s *Sealer) Wipe() { clear(s.key) }

// Seal makes the envelope of the recording. It returns [ErrMetadataSize] if the metadata has more
// than [MaxMetadata] bytes as padded JSON.
func (s *Sealer) Seal(wrappedKey, wrappedMetadataKey keys.WrappedKey, metadata Metadata) (Envelope, error) {
	plain, err := metadata.encode()
	if err != nil {
		return Envelope{}, err
	}
	cipher, err := aead.NewAESGCM(s.key)
	if err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	sealed, err := cipher.Encrypt(plain, s.id.Binding().Bytes())
	if err != nil {
		return Envelope{}, fmt.Errorf("envelope: %w", err)
	}
	return Envelope{s.id, wrappedKey, wrappedMetadataKey, [CommitmentSize]byte(s.commitment), sealed}, nil
}

// Open checks that the envelope's ID and commitment are those of the metadata key, and then opens the metadata.
//
// Errors: [ErrWrongKey], [ErrMetadata].
func (s *Sealer) Open(e Envelope) (Metadata, error) {
	sameID := subtle.ConstantTimeCompare([]byte(e.ID.String()), []byte(s.id.String()))
	if sameID&subtle.ConstantTimeCompare(e.Commitment[:], s.commitment) != 1 {
		return Metadata{}, ErrWrongKey
	}
	cipher, err := aead.NewAESGCM(s.key)
	if err != nil {
		return Metadata{}, fmt.Errorf("envelope: %w", err)
	}
	plain, err := cipher.Decrypt(e.Sealed, s.id.Binding().Bytes())
	if err != nil {
		return Metadata{}, ErrUnauthentic
	}
	return decodeMetadata(plain)
}
