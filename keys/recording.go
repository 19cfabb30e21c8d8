package keys

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
)

// RecordingID names a recording: the patient's KeyID, a dot, and 26 characters of lower-case base32
// (RFC 4648, without padding) over 16 bytes that are derived from the recording's key. So an ID names one
// key. Applications store, log and list it. It is not a secret: without a grant it opens nothing.
//
// The zero RecordingID is not valid. RecordingIDs are comparable.
type RecordingID struct {
	keyID KeyID
	rec   string
}

// RecBytes is the number of bytes behind the part of an ID that follows the dot.
const RecBytes = 16

// RecordingIDOf returns the ID of the recording of one patient whose key has these bytes. Package vault
// derives them.
func RecordingIDOf(keyID KeyID, rec [RecBytes]byte) RecordingID {
	return RecordingID{keyID, lowerBase32.EncodeToString(rec[:])}
}

// ParseRecordingID reads the text that [RecordingID.String] wrote, and returns
// [ErrInvalidRecordingID] for any other.
func ParseRecordingID(text string) (RecordingID, error) {
	key, rec, _ := strings.Cut(text, ".")
	keyID, err := ParseKeyID(key)
	if err != nil || !canonical(rec, RecBytes) {
		return RecordingID{}, fmt.Errorf("%w: want a key ID, a dot and %d characters of lower-case base32",
			ErrInvalidRecordingID, lowerBase32.EncodedLen(RecBytes))
	}
	return RecordingID{keyID, rec}, nil
}

// KeyID returns the pseudonym of the recording's patient.
func (id RecordingID) KeyID() KeyID { return id.keyID }

// Rec returns the part of the ID after the dot. It identifies the recording among the patient's.
func (id RecordingID) Rec() string { return id.rec }

// Binding returns the bytes that tie the recording key to this patient and this recording.
func (id RecordingID) Binding() Binding { return Binding{id, bindingPrefix} }

// MetadataBinding returns the bytes that tie the metadata key to this patient and this recording.
func (id RecordingID) MetadataBinding() Binding { return Binding{id, metadataBindingPrefix} }

// IsZero reports whether the ID is the zero value, which names no recording.
func (id RecordingID) IsZero() bool { return id.rec == "" }

// String returns the text of the ID.
func (id RecordingID) String() string {
	if id.IsZero() {
		return ""
	}
	return id.keyID.text + "." + id.rec
}

// MarshalText implements encoding.TextMarshaler.
func (id RecordingID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the rules of [ParseRecordingID].
func (id *RecordingID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseRecordingID(string(text))
	return err
}

// Binding ties a key to one patient and one recording. Its text is "recvault/v1/<KeyID>/<rec>" for a
// recording key and "recvault/v1/metadata/<KeyID>/<rec>" for a metadata key. It is the context under which
// the key is wrapped, and appears in clear in Vault's audit log. No two keys share a binding.
// [RecordingID.Binding] and [RecordingID.MetadataBinding] return it.
type Binding struct {
	id     RecordingID
	prefix string
}

const (
	bindingPrefix = "recvault/v1/"
	// The contexts of metadata keys, and no others, start with these 21 bytes, which are 28 whole characters of
	// base64: a policy can match them. No KeyID is "metadata".
	metadataBindingPrefix = "recvault/v1/metadata/"
)

// KeyID returns the pseudonym of the patient, which names the envelope key.
func (b Binding) KeyID() KeyID { return b.id.keyID }

// RecordingID returns the recording that the binding is for.
func (b Binding) RecordingID() RecordingID { return b.id }

// IsMetadata reports whether the binding is that of a metadata key.
func (b Binding) IsMetadata() bool { return b.prefix == metadataBindingPrefix }

// String returns the text of the binding.
func (b Binding) String() string { return b.prefix + b.id.keyID.text + "/" + b.id.rec }

// Bytes returns the text of the binding as bytes.
func (b Binding) Bytes() []byte { return []byte(b.String()) }

// KeySize is the length of a recording key, and of a metadata key, in bytes.
const KeySize = 32

// Key is a secret that is stored wrapped: a recording key, from which all other keys of one recording are
// derived, or the metadata key that is derived from it. It prints as "REDACTED". Wipe it when it is no
// longer needed.
//
// The zero Key is not valid. Copies share one secret.
type Key struct {
	// The pointer is double, because fmt prints an unexported field without calling its methods, and
	// under some verbs follows one pointer, but never two.
	secret **[KeySize]byte
}

// NewKey returns a fresh random recording key.
func NewKey() *Key {
	secret := new([KeySize]byte)
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand crashes the program instead
	return &Key{&secret}
}

// KeyFromBytes returns a key with a copy of secret, which the caller may then
// wipe. It returns [ErrIntegrity] unless there are exactly [KeySize] bytes. Keyrings call it.
func KeyFromBytes(secret []byte) (*Key, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("%w: a key has %d bytes, not %d", ErrIntegrity, KeySize, len(secret))
	}
	copied := new([KeySize]byte)
	copy(copied[:], secret)
	return &Key{&copied}, nil
}

// Bytes returns the secret itself, not a copy. [Key.Wipe] overwrites it.
func (k *Key) Bytes() []byte { return (*k.secret)[:] }

// Wipe overwrites the secret with zeroes.
func (k *Key) Wipe() { clear(k.Bytes()) }

// Format implements fmt.Formatter. It prints no part of the key.
func (Key) Format(s fmt.State, _ rune) { writeRedacted(s) }

// MarshalText implements encoding.TextMarshaler. It reveals no part of the key.
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer. It reveals no part of the key.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// WrappedKey is a [Key] encrypted under an envelope key, as text:
// "<keyring>:v<version>:<standard base64>". It is not a secret.
type WrappedKey string

const (
	// MaxWrappedKeyLen is the maximum length of a wrapped key, in bytes. A ciphertext of ML-KEM-1024 fits.
	MaxWrappedKeyLen = 4096
	// MaxKeyVersion is the greatest version of an envelope key.
	MaxKeyVersion = 1<<31 - 1
)

// NewWrappedKey returns the wrapped key with these parts. Keyrings call it.
func NewWrappedKey(keyring string, version int, ciphertext []byte) WrappedKey {
	return WrappedKey(keyring + ":v" + strconv.Itoa(version) + ":" + base64.StdEncoding.EncodeToString(ciphertext))
}

// Parse returns the parts of a wrapped key. It returns [ErrInvalidWrappedKey] unless the text is in
// the form that [NewWrappedKey] writes, for a keyring of 1 to 16 of the characters a-z and 0-9 and a version
// from 1 to [MaxKeyVersion], and at most [MaxWrappedKeyLen] bytes long. Neither keyring nor version is
// authenticated.
func (w WrappedKey) Parse() (keyring string, version int, ciphertext []byte, err error) {
	if len(w) > MaxWrappedKeyLen {
		return "", 0, nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalidWrappedKey, len(w), MaxWrappedKeyLen)
	}
	keyring, rest, _ := strings.Cut(string(w), ":v")
	number, encoded, _ := strings.Cut(rest, ":")
	version, versionErr := strconv.Atoi(number)
	ciphertext, base64Err := base64.StdEncoding.DecodeString(encoded)
	if versionErr != nil || base64Err != nil || version < 1 || version > MaxKeyVersion || !validKeyring(keyring) ||
		len(ciphertext) == 0 || NewWrappedKey(keyring, version, ciphertext) != w {
		return "", 0, nil, fmt.Errorf("%w: want <keyring>:v<version>:<base64>", ErrInvalidWrappedKey)
	}
	return keyring, version, ciphertext, nil
}

// maxKeyringLen is the maximum length of a keyring's name, in bytes.
const maxKeyringLen = 16

func validKeyring(name string) bool {
	return name != "" && len(name) <= maxKeyringLen && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// Version returns the version of the envelope key that wrapped the recording key, counted from 1. It
// returns the errors of [WrappedKey.Parse].
func (w WrappedKey) Version() (int, error) {
	_, version, _, err := w.Parse()
	return version, err
}
