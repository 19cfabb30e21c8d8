package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
)

// A rec has 26 characters. The last one encodes 3 bits, and 2 bits that must be zero.
const (
	recText       = "recrecrecrecrecrecrecrecre"
	recordingText = aliceText + "." + recText
)

func TestRecordingIDNamesPatientAndRecording(t *testing.T) {
	id, err := keys.ParseRecordingID(recordingText)
	require.NoError(t, err)
	assert.Equal(t, recordingText, id.String())
	assert.Equal(t, aliceID(t), id.KeyID())
	assert.Equal(t, recText, id.Rec())
	assert.False(t, id.IsZero())

	assert.Equal(t, "recvault/v1/"+aliceText+"/"+recText, id.Binding().String())
	assert.Equal(t, []byte(id.Binding().String()), id.Binding().Bytes())
	assert.Equal(t, id.KeyID(), id.Binding().KeyID())
	assert.Equal(t, id, id.Binding().RecordingID())

	assert.True(t, keys.RecordingID{}.IsZero())
	assert.Empty(t, keys.RecordingID{}.String())
}

func TestNewRecordingIDsDiffer(t *testing.T) {
	seen := make(map[keys.RecordingID]bool)
	for range 1000 {
		id := keystest.NewRecordingID(aliceID(t))
		require.False(t, seen[id])
		seen[id] = true
		parsed, err := keys.ParseRecordingID(id.String())
		require.NoError(t, err)
		assert.Equal(t, id, parsed)
	}
}

func malformedRecordingIDs() map[string]string {
	bad := map[string]string{
		"empty":                     "",
		"a dot":                     ".",
		"no rec":                    aliceText + ".",
		"no dot":                    aliceText + recText,
		"no KeyID":                  "." + recText,
		"KeyID alone":               aliceText,
		"two dots":                  aliceText + ".." + recText,
		"a part more":               recordingText + ".x",
		"slash for the dot":         aliceText + "/" + recText,
		"short rec":                 recordingText[:len(recordingText)-1],
		"long rec":                  recordingText + "a",
		"upper case":                strings.ToUpper(recordingText),
		"padding":                   recordingText + "======",
		"line break":                recordingText + "\n",
		"line break within the rec": aliceText + "." + recText[:10] + "\n" + recText[11:],
		"wildcard":                  aliceText + ".*",
		"traversal":                 aliceText + "." + "../" + recText[3:],
		"space":                     " " + recordingText,
		"zero byte":                 recordingText + "\x00",
		"binding":                   "recvault/v1/" + aliceText + "/" + recText,
		"oversized":                 recordingText + strings.Repeat("a", 1<<20),
	}
	// The last character of a rec is one of eight. Any other has unused bits that are not zero.
	for _, last := range "abcdefghijklmnopqrstuvwxyz234567" {
		if !strings.ContainsRune("aeimquy4", last) {
			bad["unused bits: "+string(last)] = recordingText[:len(recordingText)-1] + string(last)
		}
	}
	for name, text := range malformedKeyIDs {
		bad["KeyID: "+name] = text + "." + recText
	}
	return bad
}

func TestParseRecordingIDRejectsMalformedText(t *testing.T) {
	for name, text := range malformedRecordingIDs() {
		t.Run(name, func(t *testing.T) {
			id, err := keys.ParseRecordingID(text)
			assert.ErrorIs(t, err, keys.ErrInvalidRecordingID)
			assert.True(t, id.IsZero())
			assert.ErrorIs(t, new(keys.RecordingID).UnmarshalText([]byte(text)), keys.ErrInvalidRecordingID)
		})
	}
}

func TestRecordingIDRoundTripsThroughJSON(t *testing.T) {
	id, err := keys.ParseRecordingID(recordingText)
	require.NoError(t, err)
	encoded, err := json.Marshal(id)
	require.NoError(t, err)
	assert.Equal(t, `"`+recordingText+`"`, string(encoded))
	var decoded keys.RecordingID
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	assert.Equal(t, id, decoded)
}

func FuzzParseRecordingID(f *testing.F) {
	f.Add(recordingText)
	for _, text := range malformedRecordingIDs() {
		if len(text) < 100 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := keys.ParseRecordingID(text)
		if err != nil {
			require.ErrorIs(t, err, keys.ErrInvalidRecordingID)
			return
		}
		require.Equal(t, text, id.String())
		require.Len(t, text, 32+1+26)
		require.Equal(t, "recvault/v1/"+strings.Replace(text, ".", "/", 1), id.Binding().String())
	})
}

func TestKeyFromBytesCopies(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, keys.KeySize)
	key, err := keys.KeyFromBytes(secret)
	require.NoError(t, err)
	assert.Equal(t, secret, key.Bytes())
	clear(secret)
	assert.Equal(t, bytes.Repeat([]byte{7}, keys.KeySize), key.Bytes(), "the key shares the caller's memory")
}

func TestRecordingKeyHas32Bytes(t *testing.T) {
	for _, n := range []int{0, 1, 16, 31, 33, 64} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			key, err := keys.KeyFromBytes(make([]byte, n))
			assert.ErrorIs(t, err, keys.ErrIntegrity)
			assert.Nil(t, key)
		})
	}
}

func TestNewRecordingKeysDiffer(t *testing.T) {
	assert.NotEqual(t, keys.NewKey().Bytes(), keys.NewKey().Bytes())
}

func TestWrappedKeyParseReturnsTheParts(t *testing.T) {
	ciphertext := []byte("\xfb\xff ciphertext")
	wrapped := keys.NewWrappedKey("vault", 12, ciphertext)
	assert.Equal(t, keys.WrappedKey("vault:v12:"+base64.StdEncoding.EncodeToString(ciphertext)), wrapped)
	keyring, version, parsed, err := wrapped.Parse()
	require.NoError(t, err)
	assert.Equal(t, "vault", keyring)
	assert.Equal(t, 12, version)
	assert.Equal(t, ciphertext, parsed)
	version, err = wrapped.Version()
	require.NoError(t, err)
	assert.Equal(t, 12, version)
}

var malformedWrappedKeys = map[string]string{
	"empty":               "",
	"colons":              "::",
	"no keyring":          ":v1:AAAA",
	"no version":          "vault::AAAA",
	"no v":                "vault:1:AAAA",
	"capital v":           "vault:V1:AAAA",
	"no number":           "vault:v:AAAA",
	"version 0":           "vault:v0:AAAA",
	"negative version":    "vault:v-1:AAAA",
	"plus sign":           "vault:v+1:AAAA",
	"leading zero":        "vault:v01:AAAA",
	"space in version":    "vault:v 1:AAAA",
	"underscore":          "vault:v1_0:AAAA",
	"hexadecimal":         "vault:v0x1:AAAA",
	"huge version":        "vault:v99999999999999999999:AAAA",
	"no ciphertext":       "vault:v1:",
	"no second colon":     "vault:v1",
	"a part more":         "vault:v1:AAAA:AAAA",
	"no padding":          "vault:v1:AA",
	"bits in the padding": "vault:v1:AB==",
	"padding too long":    "vault:v1:AA===",
	"padding within":      "vault:v1:AA==AAAA",
	"base64 for URLs":     "vault:v1:-_-_",
	"line break":          "vault:v1:AA\nAA",
	"line break after":    "vault:v1:AAAA\n",
	"carriage return":     "vault:v1:AAAA\r\n",
	"space before base64": "vault:v1: AAAA",
	"zero byte":           "vault:v1:AAAA\x00",
	"cut":                 "vault:v1:AAA",
	"oversized":           "vault:v1:" + strings.Repeat("AAAA", keys.MaxWrappedKeyLen/4),
	"huge":                "vault:v1:" + strings.Repeat("A", 1<<20),
}

func TestWrappedKeyParseRejectsMalformedText(t *testing.T) {
	for name, text := range malformedWrappedKeys {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := keys.WrappedKey(text).Parse()
			assert.ErrorIs(t, err, keys.ErrInvalidWrappedKey)
			_, err = keys.WrappedKey(text).Version()
			assert.ErrorIs(t, err, keys.ErrInvalidWrappedKey)
		})
	}
}

func TestWrappedKeyHasABoundedLength(t *testing.T) {
	// "k:v1:" and base64 of 3 bytes for each 4: 1021 of 1024 bytes, 1025 with three more.
	fits := keys.NewWrappedKey("k", 1, make([]byte, (keys.MaxWrappedKeyLen-5)/4*3))
	require.LessOrEqual(t, len(fits), keys.MaxWrappedKeyLen)
	_, _, _, err := fits.Parse()
	assert.NoError(t, err)

	tooLong := keys.NewWrappedKey("k", 1, make([]byte, (keys.MaxWrappedKeyLen-5)/4*3+3))
	require.Greater(t, len(tooLong), keys.MaxWrappedKeyLen)
	_, _, _, err = tooLong.Parse()
	assert.ErrorIs(t, err, keys.ErrInvalidWrappedKey)
}

func FuzzWrappedKeyParse(f *testing.F) {
	f.Add("vault:v1:AAAA")
	f.Add("a:b:v2:v3:AA==")
	for _, text := range malformedWrappedKeys {
		if len(text) < 100 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		keyring, version, ciphertext, err := keys.WrappedKey(text).Parse()
		if err != nil {
			require.ErrorIs(t, err, keys.ErrInvalidWrappedKey)
			return
		}
		require.Equal(t, text, string(keys.NewWrappedKey(keyring, version, ciphertext)))
		require.LessOrEqual(t, len(text), keys.MaxWrappedKeyLen)
		require.Positive(t, version)
		require.NotEmpty(t, keyring)
		require.NotEmpty(t, ciphertext)
	})
}
