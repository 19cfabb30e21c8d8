package keys

import (
	"encoding/base32"
	"fmt"
	"log/slog"
	"unicode/utf8"
)

// Patient is the application's own identifier of a patient. It is opaque to recvault: a keyed hash
// turns it into a [KeyID], comparison is byte for byte (no trimming, no case folding), and it is
// stored nowhere.
//
// It prints as "REDACTED" through fmt, slog and encoding/json. Convert it with string() to see it.
// It is a string, so it prints in clear where Go calls no method of a value: in an unexported field
// of a struct that fmt prints, under fmt's verbs %p and %w, and as the key of a map that
// encoding/json writes. Keep it out of these places.
type Patient string

// MaxPatientLen is the maximum length of a patient identifier, in bytes.
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
// first 20 bytes of an HMAC of the patient's identifier. It names the patient's envelope key and
// appears in object names and logs. Only with the HMAC's key can it be linked to the patient.
//
// The zero KeyID is not valid. KeyIDs are comparable.
type KeyID struct{ text string }

// KeyIDBytes is the number of bytes that a KeyID encodes.
const KeyIDBytes = 20

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKeyID returns the KeyID of the first [KeyIDBytes] bytes of an HMAC. It panics if there are
// fewer. Keyrings call it.
func NewKeyID(mac []byte) KeyID {
	first := [KeyIDBytes]byte(mac) // unlike mac[:KeyIDBytes], reads nothing beyond the length
	return KeyID{lowerBase32.EncodeToString(first[:])}
}

// ParseKeyID reads the text that [KeyID.String] wrote, and returns [ErrInvalidKeyID] for any other.
func ParseKeyID(text string) (KeyID, error) {
	if !canonical(text, KeyIDBytes) {
		return KeyID{}, fmt.Errorf("%w: want %d characters of lower-case base32",
			ErrInvalidKeyID, lowerBase32.EncodedLen(KeyIDBytes))
	}
	return KeyID{text}, nil
}

// canonical reports whether text is the canonical encoding of n bytes.
func canonical(text string, n int) bool {
	if len(text) != lowerBase32.EncodedLen(n) {
		return false
	}
	// DecodeString skips line breaks and ignores the unused low bits of the last character. Encoding
	// again detects both.
	raw, err := lowerBase32.DecodeString(text)
	return err == nil && lowerBase32.EncodeToString(raw) == text
}

// String returns the text of the KeyID.
func (id KeyID) String() string { return id.text }

// IsZero reports whether the KeyID is the zero value, which names no key.
func (id KeyID) IsZero() bool { return id.text == "" }

// MarshalText implements encoding.TextMarshaler.
func (id KeyID) MarshalText() ([]byte, error) { return []byte(id.text), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the rules of [ParseKeyID].
func (id *KeyID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseKeyID(string(text))
	return err
}
