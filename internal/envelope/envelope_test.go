package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
)

var (
	alice = keys.NewKeyID(bytes.Repeat([]byte{7}, keys.KeyIDBytes))
	bob   = keys.NewKeyID(bytes.Repeat([]byte{8}, keys.KeyIDBytes))

	wrapped         = keys.NewWrappedKey("vault", 3, []byte("ciphertext"))
	wrappedMetadata = keys.NewWrappedKey("vault", 4, []byte("another ciphertext"))
)

func newSealer() *envelope.Sealer {
	return envelope.NewSealer(alice, envelope.MetadataKey(keys.NewKey()))
}

func seal(t testing.TB, s *envelope.Sealer, m envelope.Metadata) envelope.Envelope {
	t.Helper()
	sealed, err := s.Seal(wrapped, wrappedMetadata, m)
	require.NoError(t, err)
	return sealed
}

func metadata() envelope.Metadata {
	return envelope.Metadata{
		ContentType: "video/webm",
		Title:       "Follow-up <after> surgery",
		RecordedAt:  time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC),
		Duration:    12*time.Minute + 3*time.Millisecond,
		Attributes:  map[string]string{"ward": "7b", "ünïcode": "✓"},
		Truncated:   true,
		CreatedAt:   time.Date(2026, 3, 4, 6, 0, 0, 0, time.UTC),
		MediaSize:   segment.CiphertextSize(1000),
		MediaHeader: segment.Header(bytes.Repeat([]byte{40}, segment.HeaderSize)),
		Revision:    5,
	}
}

func TestSealedMetadataOpensAfterParsing(t *testing.T) {
	s := newSealer()
	sealed := seal(t, s, metadata())
	parsed, err := envelope.Parse(sealed.Encode())
	require.NoError(t, err)
	assert.Equal(t, sealed, parsed)
	assert.True(t, parsed.Equal(sealed))
	assert.Equal(t, s.ID(), parsed.ID)
	opened, err := s.Open(parsed)
	require.NoError(t, err)
	assert.Equal(t, metadata(), opened)
}

func TestUnknownMetadataIsLeftOut(t *testing.T) {
	s := newSealer()
	sparse := envelope.Metadata{CreatedAt: metadata().CreatedAt, MediaSize: 56, MediaHeader: metadata().MediaHeader}
	opened, err := s.Open(seal(t, s, sparse))
	require.NoError(t, err)
	assert.Equal(t, sparse, opened)
}

// hkdf is RFC 5869 written out with nothing but HMAC, for 32 bytes without salt: the derivations are part of the format.
func hkdf(secret []byte, info string) []byte {
	extract := hmac.New(sha256.New, make([]byte, sha256.Size))
	extract.Write(secret)
	expand := hmac.New(sha256.New, extract.Sum(nil))
	expand.Write([]byte(info + "\x01"))
	return expand.Sum(nil)
}

func TestDerivationsAreThoseOfTheFormat(t *testing.T) {
	rk := keys.NewKey()
	mk := envelope.MetadataKey(rk)
	assert.Equal(t, hkdf(rk.Bytes(), "recvault/v1/media"), envelope.MediaKey(rk))
	assert.Equal(t, hkdf(rk.Bytes(), "recvault/v1/metadata"), mk.Bytes())
	s := envelope.NewSealer(alice, mk)
	rec := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hkdf(mk.Bytes(), "recvault/v1/id")[:16]))
	assert.Equal(t, alice.String()+"."+rec, s.ID().String())
	assert.Equal(t, "recvault/v1/"+rec, string(envelope.MediaAssociatedData(s.ID())))
	binding := "recvault/v1/" + alice.String() + "/" + rec
	assert.Equal(t, binding, s.ID().Binding().String())
	assert.Equal(t, "recvault/v1/metadata/"+alice.String()+"/"+rec, s.ID().MetadataBinding().String())
	sealed := seal(t, s, metadata())
	assert.Equal(t, hkdf(mk.Bytes(), "recvault/v1/commitment\x00"+binding), sealed.Commitment[:])
}

func TestAnEnvelopeOpensWithItsOwnKeyOnly(t *testing.T) {
	mk := envelope.MetadataKey(keys.NewKey())
	s := envelope.NewSealer(alice, mk)
	sealed := seal(t, s, metadata())
	other := seal(t, newSealer(), metadata())
	copied := seal(t, envelope.NewSealer(bob, mk), metadata()) // the same recording, of another patient
	require.Equal(t, sealed.ID.Rec(), copied.ID.Rec())

	for _, c := range []struct {
		name string
		open *envelope.Sealer
		e    func(e *envelope.Envelope)
		want error
	}{
		{"another key", newSealer(), func(*envelope.Envelope) {}, envelope.ErrWrongKey},
		{"another patient", envelope.NewSealer(bob, mk), func(*envelope.Envelope) {}, envelope.ErrWrongKey},
		{"another ID", s, func(e *envelope.Envelope) { e.ID = other.ID }, envelope.ErrWrongKey},
		{"another patient's ID", s, func(e *envelope.Envelope) { e.ID = copied.ID }, envelope.ErrWrongKey},
		{"another commitment", s, func(e *envelope.Envelope) { e.Commitment = other.Commitment }, envelope.ErrWrongKey},
		{"another patient's commitment", s, func(e *envelope.Envelope) { e.Commitment = copied.Commitment }, envelope.ErrWrongKey},
		{"another key's metadata", s, func(e *envelope.Envelope) { e.Sealed = other.Sealed }, envelope.ErrMetadata},
		{"another patient's metadata", s, func(e *envelope.Envelope) { e.Sealed = copied.Sealed }, envelope.ErrMetadata},
		{"a flipped bit", s, func(e *envelope.Envelope) { e.Sealed = bytes.Clone(e.Sealed); e.Sealed[20] ^= 1 }, envelope.ErrMetadata},
		{"no metadata", s, func(e *envelope.Envelope) { e.Sealed = nil }, envelope.ErrMetadata},
		{"metadata of a nonce and a tag", s, func(e *envelope.Envelope) { e.Sealed = e.Sealed[:28] }, envelope.ErrMetadata},
		{"metadata cut", s, func(e *envelope.Envelope) { e.Sealed = e.Sealed[:len(e.Sealed)-1] }, envelope.ErrMetadata},
	} {
		t.Run(c.name, func(t *testing.T) {
			forged := sealed
			c.e(&forged)
			_, err := c.open.Open(forged)
			require.ErrorIs(t, err, c.want)
		})
	}
	_, err := s.Open(sealed)
	require.NoError(t, err)
}

// hostile are texts that are nearly an envelope.
func hostile(t testing.TB) map[string]string {
	sealed := seal(t, newSealer(), metadata())
	text := string(sealed.Encode())
	replace := func(old, with string) string {
		require.Contains(t, text, old)
		return strings.Replace(text, old, with, 1)
	}
	id := sealed.ID.String()
	return map[string]string{
		"empty":                            "",
		"not JSON":                         "recvault",
		"null":                             "null",
		"empty object":                     "{}",
		"array":                            "[" + text + "]",
		"cut":                              text[:len(text)-1],
		"trailing newline":                 text + "\n",
		"trailing envelope":                text + text,
		"leading space":                    " " + text,
		"space inside":                     replace(`,"id"`, `, "id"`),
		"unknown field first":              replace(`{`, `{"extra":1,`),
		"unknown field":                    replace(`,"id"`, `,"extra":1,"id"`),
		"unknown field at the end":         text[:len(text)-1] + `,"x":{}}`,
		"repeated field":                   replace(`,"id"`, `,"id":"`+id+`","id"`),
		"repeated version":                 replace(`{"version":1`, `{"version":1,"version":1`),
		"two versions":                     replace(`{"version":1`, `{"version":1,"version":2`),
		"other case":                       replace(`"wrapped_key"`, `"Wrapped_Key"`),
		"escaped character":                replace(`"id"`, `"\u0069d"`),
		"fields in another order":          replace(`"version":1,"id":"`+id+`"`, `"id":"`+id+`","version":1`),
		"no wrapped key":                   replace(`"wrapped_key":"`+string(wrapped)+`",`, ``),
		"no wrapped metadata key":          replace(`"wrapped_metadata_key":"`+string(wrappedMetadata)+`",`, ``),
		"empty wrapped key":                replace(string(wrapped), ``),
		"empty wrapped metadata key":       replace(string(wrappedMetadata), ``),
		"wrapped key without version":      replace("vault:v3:", "vault:"),
		"wrapped key of version 0":         replace("vault:v3:", "vault:v0:"),
		"wrapped key of version 03":        replace("vault:v3:", "vault:v03:"),
		"wrapped key of version 2^31":      replace("vault:v3:", "vault:v2147483648:"),
		"wrapped metadata key, version -1": replace("vault:v4:", "vault:v-1:"),
		"keyring of 17 characters":         replace("vault:v3:", "vaultvaultvaultva:v3:"),
		"keyring of capitals":              replace("vault:v3:", "Vault:v3:"),
		"wrapped key too long":             replace("vault:v3:", "vault:v3:"+strings.Repeat("AAAA", 1100)),
		"ID of upper case":                 replace(id, strings.ToUpper(id)),
		"ID without a dot":                 replace(".", ""),
		"ID with a wildcard":               replace(id, "*."+sealed.ID.Rec()),
		"ID with a path":                   replace(id, "../"+id),
		"commitment too short":             replace(`"commitment":"`, `"commitment":"AAAA","x":"`),
		"commitment not base64":            replace(`"commitment":"`, `"commitment":"!`),
		"metadata not base64":              replace(`"metadata":"`, `"metadata":"!`),
		"metadata with a line break":       replace(`"metadata":"`, `"metadata":"\n`),
		"metadata a number":                strings.SplitAfter(text, `"metadata":`)[0] + `1}`,
		"version a string":                 replace(`"version":1`, `"version":"1"`),
		"version a fraction":               replace(`"version":1`, `"version":1.0`),
		"version 01":                       replace(`"version":1`, `"version":01`),
		"version 0":                        replace(`"version":1`, `"version":0`),
		"version -1":                       replace(`"version":1`, `"version":-1`),
		"version of ten digits":            replace(`"version":1`, `"version":1000000000`),
		"version alone":                    `{"version":2}`,
		"space before the version":         replace(`"version":1`, `"version": 2`),
		"larger than an envelope":          text + strings.Repeat(" ", envelope.MaxSize),
		"larger, of another version":       replace(`"version":1`, `"version":2`) + strings.Repeat(" ", envelope.MaxSize),
		"deeply nested":                    strings.Repeat("[", 60_000),
	}
}

func TestOnlyTheCanonicalFormIsAccepted(t *testing.T) {
	for name, text := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.Parse([]byte(text))
			require.ErrorIs(t, err, envelope.ErrMalformed)
			require.NotErrorIs(t, err, keys.ErrInvalidRecordingID, "that would be a mistake of the caller's")
			require.NotErrorIs(t, err, keys.ErrInvalidWrappedKey)
			require.NotErrorIs(t, err, envelope.ErrUnsupported)
		})
	}
}

func TestAnotherVersionIsUnsupported(t *testing.T) {
	text := string(seal(t, newSealer(), metadata()).Encode())
	for name, text := range map[string]string{
		"version 2":                   strings.Replace(text, `"version":1`, `"version":2`, 1),
		"something else entirely":     `{"version":999999999,"blob":[1,2,{"x":null}]}`,
		"no JSON after the version":   `{"version":2,` + "\xff\x00",
		"as large as an envelope is":  `{"version":2,"x":"` + strings.Repeat("x", envelope.MaxSize-20) + `"}`,
		"a prefix of another version": `{"version":12,`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := envelope.Parse([]byte(text))
			require.ErrorIs(t, err, envelope.ErrUnsupported)
			require.NotErrorIs(t, err, envelope.ErrMalformed)
		})
	}
}

func TestTheLargestMetadataFits(t *testing.T) {
	s := newSealer()
	m := envelope.Metadata{CreatedAt: metadata().CreatedAt, MediaSize: 56, MediaHeader: metadata().MediaHeader, Title: "x"}
	longest := keys.NewWrappedKey("vault", keys.MaxKeyVersion, make([]byte, (keys.MaxWrappedKeyLen-18)/4*3))
	require.LessOrEqual(t, len(longest), keys.MaxWrappedKeyLen)
	require.Greater(t, len(longest), keys.MaxWrappedKeyLen-8)
	fits := 0
	for step := envelope.MaxMetadata; step > 0; step /= 2 {
		m.Title = strings.Repeat("x", fits+step)
		if _, err := s.Seal(longest, longest, m); err == nil {
			fits += step
		}
	}
	m.Title = strings.Repeat("x", fits)
	sealed, err := s.Seal(longest, longest, m)
	require.NoError(t, err)
	assert.Len(t, sealed.Sealed, envelope.MaxMetadata+28)
	assert.LessOrEqual(t, len(sealed.Encode()), envelope.MaxSize)
	parsed, err := envelope.Parse(sealed.Encode())
	require.NoError(t, err)
	opened, err := s.Open(parsed)
	require.NoError(t, err)
	assert.Equal(t, m, opened)

	m.Title += "x"
	_, err = s.Seal(longest, longest, m)
	require.ErrorIs(t, err, envelope.ErrMetadataSize)
	require.ErrorIs(t, m.Fits(), envelope.ErrMetadataSize)
	require.NoError(t, metadata().Fits())
}

func TestTheSizeDoesNotShowATitlesLength(t *testing.T) {
	s := newSealer()
	sizes := map[int]bool{}
	for length := range 256 {
		m := metadata()
		m.Title = strings.Repeat("x", length)
		sizes[len(seal(t, s, m).Encode())] = true
	}
	assert.LessOrEqual(t, len(sizes), 2)
}

func TestNothingOfTheMetadataIsInClear(t *testing.T) {
	sealed := seal(t, newSealer(), metadata())
	for _, word := range []string{"video", "Follow", "2026", "ward", "7b"} {
		assert.NotContains(t, string(sealed.Sealed), word)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range hostile(f) {
		f.Add([]byte(text))
	}
	f.Add(seal(f, newSealer(), metadata()).Encode())
	f.Fuzz(func(t *testing.T, text []byte) {
		parsed, err := envelope.Parse(text)
		if err != nil {
			return
		}
		// What is accepted is what would be written.
		require.Equal(t, text, parsed.Encode())
	})
}
