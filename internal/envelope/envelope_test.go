package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
)

func newID() keys.RecordingID {
	return keys.NewRecordingID(keys.NewKeyID(bytes.Repeat([]byte{7}, keys.KeyIDBytes)))
}

var wrapped = keys.NewWrappedKey("vault", 3, []byte("ciphertext"))

func metadata() envelope.Metadata {
	return envelope.Metadata{
		ContentType: "video/webm",
		Title:       "Follow-up <after> surgery",
		RecordedAt:  time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
		Duration:    12*time.Minute + 3,
		Attributes:  map[string]string{"ward": "7b", "ünïcode": "✓"},
		CreatedAt:   time.Date(2026, 3, 4, 6, 0, 0, 0, time.UTC),
		MediaSize:   segment.CiphertextSize(1000),
		MediaHeader: bytes.Repeat([]byte{40}, segment.HeaderSize),
	}
}

func TestSealedEnvelopeOpensAfterEncodeAndParse(t *testing.T) {
	id, key := newID(), keys.NewRecordingKey()
	subkeys := envelope.DeriveKeys(key, id.Binding())
	sealed, err := subkeys.Seal(wrapped, metadata())
	require.NoError(t, err)
	parsed, err := envelope.Parse(sealed.Encode())
	require.NoError(t, err)
	assert.Equal(t, sealed, parsed)
	assert.Equal(t, id, parsed.ID)
	opened, err := envelope.DeriveKeys(key, id.Binding()).Open(parsed)
	require.NoError(t, err)
	assert.Equal(t, metadata(), opened)
}

// TestSubkeysAreHKDFOfKeyLabelAndBinding holds the subkeys to the format. It derives them by RFC 5869 from HMAC
// alone.
func TestSubkeysAreHKDFOfKeyLabelAndBinding(t *testing.T) {
	id, key := newID(), keys.NewRecordingKey()
	derive := func(label string) []byte {
		extract := hmac.New(sha256.New, make([]byte, sha256.Size))
		extract.Write(key.Bytes())
		expand := hmac.New(sha256.New, extract.Sum(nil))
		expand.Write([]byte("recvault/v1/" + label + "\x00" + "recvault/v1/" + id.KeyID().String() + "/" + id.Rec() + "\x01"))
		return expand.Sum(nil)
	}
	subkeys := envelope.DeriveKeys(key, id.Binding())
	assert.Equal(t, derive("media"), subkeys.Media[:])
	sealed, err := subkeys.Seal(wrapped, metadata())
	require.NoError(t, err)
	assert.Equal(t, derive("commitment"), sealed.Commitment[:])
}

func TestEnvelopeOpensOnlyWithItsKeyAndBinding(t *testing.T) {
	id, key := newID(), keys.NewRecordingKey()
	sealed, err := envelope.DeriveKeys(key, id.Binding()).Seal(wrapped, metadata())
	require.NoError(t, err)
	t.Run("another key", func(t *testing.T) {
		_, err := envelope.DeriveKeys(keys.NewRecordingKey(), id.Binding()).Open(sealed)
		require.ErrorIs(t, err, envelope.ErrCommitment)
	})
	t.Run("another binding", func(t *testing.T) {
		_, err := envelope.DeriveKeys(key, newID().Binding()).Open(sealed)
		require.ErrorIs(t, err, envelope.ErrCommitment)
	})
}

func TestAlteredEnvelopesAreRefused(t *testing.T) {
	id, key := newID(), keys.NewRecordingKey()
	subkeys := envelope.DeriveKeys(key, id.Binding())
	sealed, err := subkeys.Seal(wrapped, metadata())
	require.NoError(t, err)
	other, err := envelope.DeriveKeys(key, newID().Binding()).Seal(wrapped, metadata())
	require.NoError(t, err)

	t.Run("commitment of another recording", func(t *testing.T) {
		forged := sealed
		forged.Commitment = other.Commitment
		_, err := subkeys.Open(forged)
		require.ErrorIs(t, err, envelope.ErrCommitment)
	})
	refused := func(name string, metadata []byte) {
		t.Run(name, func(t *testing.T) {
			forged := sealed
			forged.Sealed = metadata
			_, err := subkeys.Open(forged)
			require.ErrorIs(t, err, envelope.ErrMetadata)
		})
	}
	refused("metadata of another recording", other.Sealed)
	for i := range sealed.Sealed {
		flipped := bytes.Clone(sealed.Sealed)
		flipped[i] ^= 0x80
		refused(fmt.Sprintf("metadata with byte %d flipped", i), flipped)
	}
	for _, length := range []int{0, 1, 12, 27, 28, len(sealed.Sealed) - 1} {
		refused(fmt.Sprintf("metadata cut to %d bytes", length), sealed.Sealed[:length])
	}
}

// hostile returns texts that are not envelopes. Most of them nearly are.
func hostile(t testing.TB) map[string]string {
	sealed, err := envelope.DeriveKeys(keys.NewRecordingKey(), newID().Binding()).Seal(wrapped, metadata())
	require.NoError(t, err)
	text := string(sealed.Encode())
	replace := func(old, with string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, with, 1)
	}
	id := sealed.ID.String()
	return map[string]string{
		"empty":                       "",
		"not JSON":                    "recvault",
		"null":                        "null",
		"empty object":                "{}",
		"array":                       "[" + text + "]",
		"cut":                         text[:len(text)-1],
		"trailing newline":            text + "\n",
		"trailing envelope":           text + text,
		"leading space":               " " + text,
		"space inside":                replace(`,"id"`, `, "id"`),
		"unknown field":               replace(`{`, `{"extra":1,`),
		"unknown field at the end":    text[:len(text)-1] + `,"x":{}}`,
		"repeated field":              replace(`,"id"`, `,"id":"`+id+`","id"`),
		"repeated version":            replace(`{"version":1`, `{"version":1,"version":1`),
		"other case":                  replace(`"wrapped_key"`, `"Wrapped_Key"`),
		"escaped character":           replace(`"id"`, `"\u0069d"`),
		"fields in another order":     replace(`"version":1,"id":"`+id+`"`, `"id":"`+id+`","version":1`),
		"no wrapped key":              replace(`"wrapped_key":"`+string(wrapped)+`",`, ``),
		"empty wrapped key":           replace(string(wrapped), ``),
		"wrapped key without version": replace("vault:v3:", "vault:"),
		"wrapped key of version 0":    replace("vault:v3:", "vault:v0:"),
		"wrapped key of version 03":   replace("vault:v3:", "vault:v03:"),
		"wrapped key too long":        replace("vault:v3:", "vault:v3:"+strings.Repeat("AAAA", 300)),
		"ID of upper case":            replace(id, strings.ToUpper(id)),
		"ID without a dot":            replace(".", ""),
		"ID with a wildcard":          replace(id, "*."+sealed.ID.Rec()),
		"ID with a path":              replace(id, "../"+id),
		"commitment too short":        replace(`"commitment":"`, `"commitment":"AAAA","x":"`),
		"commitment not base64":       replace(`"commitment":"`, `"commitment":"!`),
		"metadata not base64":         replace(`"metadata":"`, `"metadata":"!`),
		"metadata with a line break":  replace(`"metadata":"`, `"metadata":"\n`),
		"metadata a number":           strings.SplitAfter(text, `"metadata":`)[0] + `1}`,
		"version a string":            replace(`"version":1`, `"version":"1"`),
		"version a fraction":          replace(`"version":1`, `"version":1.0`),
		"larger than an envelope":     text + strings.Repeat(" ", envelope.MaxSize),
		"deeply nested":               strings.Repeat("[", 60_000),
	}
}

func TestOnlyTheCanonicalFormIsAccepted(t *testing.T) {
	for name, text := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.Parse([]byte(text))
			require.ErrorIs(t, err, envelope.ErrMalformed)
		})
	}
}

func TestOtherVersionsReturnErrVersion(t *testing.T) {
	for name, text := range map[string]string{
		"2":  `{"version":2,"id":"x","something":"new"}`,
		"-1": `{"version":-1}`,
		"0":  `{"version":0}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.Parse([]byte(text))
			assert.ErrorIs(t, err, envelope.ErrVersion)
		})
	}
}

func TestLargestMetadataFitsTheLargestEnvelope(t *testing.T) {
	subkeys := envelope.DeriveKeys(keys.NewRecordingKey(), newID().Binding())
	m := metadata()
	encoded, err := json.Marshal(m)
	require.NoError(t, err)
	m.Title += strings.Repeat("x", envelope.MaxMetadata-len(encoded))
	longest := keys.NewWrappedKey("vault", 1<<31-1, make([]byte, 748))
	require.LessOrEqual(t, len(longest), keys.MaxWrappedKeyLen)
	require.Greater(t, len(longest), keys.MaxWrappedKeyLen-8)
	sealed, err := subkeys.Seal(longest, m)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(sealed.Encode()), envelope.MaxSize)
	_, err = envelope.Parse(sealed.Encode())
	require.NoError(t, err)

	m.Title += "x"
	_, err = subkeys.Seal(longest, m)
	require.ErrorIs(t, err, envelope.ErrMetadataSize)
	require.ErrorIs(t, m.Fits(), envelope.ErrMetadataSize)
	require.NoError(t, metadata().Fits())
}

func TestEnvelopeSizeHidesTheLengthOfATitle(t *testing.T) {
	subkeys := envelope.DeriveKeys(keys.NewRecordingKey(), newID().Binding())
	sizes := map[int]bool{}
	for length := range 256 {
		m := metadata()
		m.Title = strings.Repeat("x", length)
		sealed, err := subkeys.Seal(wrapped, m)
		require.NoError(t, err)
		sizes[len(sealed.Encode())] = true
	}
	assert.LessOrEqual(t, len(sizes), 2)
}

func TestMetadataIsNotReadableInTheEnvelope(t *testing.T) {
	sealed, err := envelope.DeriveKeys(keys.NewRecordingKey(), newID().Binding()).Seal(wrapped, metadata())
	require.NoError(t, err)
	for _, word := range []string{"video", "Follow", "2026", "ward", "7b"} {
		t.Run(word, func(t *testing.T) {
			assert.NotContains(t, string(sealed.Sealed), word)
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range hostile(f) {
		f.Add([]byte(text))
	}
	sealed, err := envelope.DeriveKeys(keys.NewRecordingKey(), newID().Binding()).Seal(wrapped, metadata())
	require.NoError(f, err)
	f.Add(sealed.Encode())
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := envelope.Parse(text)
		if err != nil {
			return
		}
		// Parse accepts only what Encode writes.
		require.Equal(t, text, parsed.Encode())
	})
}
