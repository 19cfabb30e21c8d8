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
// over 16 random bytes. Applications store, log and list it. It is not a secret: without a grant it
// opens nothing.
//
// The zero RecordingID is not valid. RecordingIDs are comparable.
type RecordingID struct {
	keyID KeyID
	rec   string
}

const recordingBytes = 16

// NewRecordingID returns a random ID for a new recording of one patient.
func NewRecordingID(keyID KeyID) RecordingID {
	var random [recordingBytes]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand crashes the program instead
	return RecordingID{keyID, lowerBase32.EncodeToString(random[:])}
}

// ParseRecordingID reads the text that [RecordingID.String] wrote, and returns
// [ErrInvalidRecordingID] for any other.
func ParseRecordingID(text string) (RecordingID, error) {
	key, rec, _ := strings.Cut(text, ".")
	keyID, err := ParseKeyID(key)
	if err != nil || !canonical(rec, recordingBytes) {
		return RecordingID{}, fmt.Errorf("%w: want a key ID, a dot and %d characters of lower-case base32",
			ErrInvalidRecordingID, lowerBase32.EncodedLen(recordingBytes))
	}
	return RecordingID{keyID, rec}, nil
}

// KeyID returns the pseudonym of the recording's patient.
func (id RecordingID) KeyID() KeyID { return id.keyID }

// Rec returns the part of the ID after the dot. It identifies the recording among the patient's.
func (id RecordingID) Rec() string { return id.rec }

// Binding returns the bytes that tie the recording's key to this patient and this recording.
func (id RecordingID) Binding() Binding { return Binding{id} }

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

// Binding ties a recording key to one patient and one recording. Its text,
// "recvault/v1/<KeyID>/<rec>", is the context under which the key is wrapped, appears in clear in
// Vault's audit log, and starts all associated data of the recording. No two recordings share a
// binding. [RecordingID.Binding] returns it.
type Binding struct{ id RecordingID }

// KeyID returns the pseudonym of the patient, which names the envelope key.
func (b Binding) KeyID() KeyID { return b.id.keyID }

// RecordingID returns the recording that the binding is for.
func (b Binding) RecordingID() RecordingID { return b.id }

// String returns the text of the binding.
func (b Binding) String() string {
	return "recvault/v1/" + b.id.keyID.text + "/" + b.id.rec
}

// Bytes returns the text of the binding as bytes.
func (b Binding) Bytes() []byte { return []byte(b.String()) }

// RecordingKeySize is the length of a recording key in bytes.
const RecordingKeySize = 32

// RecordingKey is the secret from which one recording's subkeys are derived. It prints as
// "REDACTED". Wipe it when it is no longer needed.
//
// The zero RecordingKey is not valid. Copies share one secret.
type RecordingKey struct {
	// The pointer is double, because fmt prints an unexported field without calling its methods, and
	// under some verbs follows one pointer, but never two.
	secret **[RecordingKeySize]byte
}

// NewRecordingKey returns a fresh random recording key.
func NewRecordingKey() *RecordingKey {
	secret := new([RecordingKeySize]byte)
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand crashes the program instead
	return &RecordingKey{&secret}
}

// RecordingKeyFromBytes returns a recording key with a copy of secret, which the caller may then
// wipe. It returns [ErrIntegrity] unless there are exactly [RecordingKeySize] bytes. Keyrings call it.
func RecordingKeyFromBytes(secret []byte) (*RecordingKey, error) {
	if len(secret) != RecordingKeySize {
		return nil, fmt.Errorf("%w: a recording key has %d bytes, not %d", ErrIntegrity, RecordingKeySize, len(secret))
	}
	copied := new([RecordingKeySize]byte)
	copy(copied[:], secret)
	return &RecordingKey{&copied}, nil
}

// Bytes returns the secret itself, not a copy. [RecordingKey.Wipe] overwrites it.
func (k *RecordingKey) Bytes() []byte { return (*k.secret)[:] }

// Wipe overwrites the secret with zeroes.
func (k *RecordingKey) Wipe() { clear(k.Bytes()) }

// Format implements fmt.Formatter. It prints no part of the key.
func (RecordingKey) Format(s fmt.State, _ rune) { writeRedacted(s) }

// MarshalText implements encoding.TextMarshaler. It reveals no part of the key.
func (RecordingKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer. It reveals no part of the key.
func (RecordingKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// WrappedKey is a recording key encrypted under an envelope key, as text:
// "<keyring>:v<version>:<standard base64>". It is not a secret.
type WrappedKey string

// MaxWrappedKeyLen is the maximum length of a wrapped key, in bytes.
const MaxWrappedKeyLen = 1024

// NewWrappedKey returns the wrapped key with these parts. Keyrings call it.
func NewWrappedKey(keyring string, version int, ciphertext []byte) WrappedKey {
	return WrappedKey(keyring + ":v" + strconv.Itoa(version) + ":" + base64.StdEncoding.EncodeToString(ciphertext))
}

// Parse returns the parts of a wrapped key. It returns [ErrInvalidWrappedKey] unless the text is in
// the form that [NewWrappedKey] writes and at most [MaxWrappedKeyLen] bytes long.
func (w WrappedKey) Parse() (keyring string, version int, ciphertext []byte, err error) {
	if len(w) > MaxWrappedKeyLen {
		return "", 0, nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalidWrappedKey, len(w), MaxWrappedKeyLen)
	}
	keyring, rest, _ := strings.Cut(string(w), ":v")
	number, encoded, _ := strings.Cut(rest, ":")
	version, versionErr := strconv.Atoi(number)
	ciphertext, base64Err := base64.StdEncoding.DecodeString(encoded)
	if versionErr != nil || base64Err != nil || version < 1 || keyring == "" || len(ciphertext) == 0 ||
		NewWrappedKey(keyring, version, ciphertext) != w {
		return "", 0, nil, fmt.Errorf("%w: want <keyring>:v<version>:<base64>", ErrInvalidWrappedKey)
	}
	return keyring, version, ciphertext, nil
}

// Version returns the version of the envelope key that wrapped the recording key, counted from 1. It
// returns the errors of [WrappedKey.Parse].
func (w WrappedKey) Version() (int, error) {
	_, version, _, err := w.Parse()
	return version, err
}
