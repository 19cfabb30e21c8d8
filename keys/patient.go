package keys

import (
	"encoding/base32"
	"fmt"
	"log/slog"
	"unicode/utf8"
)

// Patient is the application's own identifier of a patient. It is opaque to recvault: it is turned
// into a [KeyID] by a keyed hash, is compared byte for byte (no trimming, no case folding) and is
// stored nowhere.
//
// It prints as "REDACTED" through fmt, slog and encoding/json. Convert it with string() to see it.
// Being a string, it does show where Go asks a value no method: in an unexported field of a struct
// that fmt prints, under fmt's verbs %p and %w, which are not meant for it, and as the key of a map
// that encoding/json writes. Do not let it get there.
type Patient string

// MaxPatientLen is the length, in bytes, that a patient identifier may have.
const MaxPatientLen = 256

// Validate returns [ErrInvalidPatient] for an identifier that is empty, longer than [MaxPatientLen]
// bytes, or not UTF-8.
func (p Patient) Validate() error {
	switch {
	case p == "":
		return fmt.Errorf("%w: it is empty", ErrInvalidPatient)
	case len(p) > MaxPatientLen:
		return fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalidPatient, len(p), MaxPatientLen)
	case !utf8.ValidString(string(p)):
		return fmt.Errorf("%w: it is not UTF-8", ErrInvalidPatient)
	}
	return nil
}

// Format implements fmt.Formatter. It prints no part of the identifier.
func (Patient) Format(s fmt.State, _ rune) { writeRedacted(s) }

// MarshalText implements encoding.TextMarshaler. It reveals no part of the identifier.
func (Patient) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer. It reveals no part of the identifier.
func (Patient) LogValue() slog.Value { return slog.StringValue(redacted) }

// KeyID is a patient's pseudonym: 32 characters of lower-case base32 (RFC 4648, no padding) over the
// first 20 bytes of an HMAC of the patient's identifier. It names the patient's envelope key, stands
// in object names and logs, and cannot be turned back without the HMAC's key.
//
// The zero KeyID is not valid. KeyIDs are comparable.
type KeyID struct{ text string }

// KeyIDBytes is the number of bytes that a KeyID encodes.
const KeyIDBytes = 20

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKeyID makes a KeyID of the first [KeyIDBytes] bytes of an HMAC. It panics if there are fewer.
func NewKeyID(mac []byte) KeyID {
	first := [KeyIDBytes]byte(mac) // unlike mac[:KeyIDBytes], reads nothing beyond the length
	return KeyID{lowerBase32.EncodeToString(first[:])}
}

// ParseKeyID reads the text of a KeyID. It returns [ErrInvalidKeyID] for anything that
// [KeyID.String] would not have written.
func ParseKeyID(text string) (KeyID, error) {
	if !canonical(text, KeyIDBytes) {
		return KeyID{}, fmt.Errorf("%w: want %d characters of lower-case base32",
			ErrInvalidKeyID, lowerBase32.EncodedLen(KeyIDBytes))
	}
	return KeyID{text}, nil
}

// canonical tells whether text is the one encoding of n bytes.
func canonical(text string, n int) bool {
	if len(text) != lowerBase32.EncodedLen(n) {
		return false
	}
	// DecodeString skips line breaks and ignores the unused low bits of the last character, so only
	// encoding again tells.
	raw, err := lowerBase32.DecodeString(text)
	return err == nil && lowerBase32.EncodeToString(raw) == text
}

// String returns the text of the KeyID.
func (id KeyID) String() string { return id.text }

// IsZero tells whether the KeyID is the zero value, which names nothing.
func (id KeyID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the rules of [ParseKeyID].
func (id *KeyID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseKeyID(string(text))
	return err
}
