package keys_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func TestPatientIsUTF8OfBoundedLength(t *testing.T) {
	for name, patient := range map[string]keys.Patient{
		"one byte":    "1",
		"longest":     keys.Patient(strings.Repeat("x", keys.MaxPatientLen)),
		"line break":  "a\nb",
		"zero byte":   "\x00",
		"replacement": "\ufffd",
		"space":       " ",
	} {
		t.Run(name, func(t *testing.T) { assert.NoError(t, patient.Validate()) })
	}
	for name, patient := range map[string]keys.Patient{
		"empty":          "",
		"too long":       keys.Patient(strings.Repeat("x", keys.MaxPatientLen+1)),
		"too many bytes": keys.Patient(strings.Repeat("é", keys.MaxPatientLen/2) + "x"),
		"not UTF-8":      patientCanary + "\xff",
		"surrogate":      "\xed\xa0\x80",
	} {
		t.Run(name, func(t *testing.T) {
			err := patient.Validate()
			require.ErrorIs(t, err, keys.ErrInvalidPatient)
			assert.NotContains(t, err.Error(), patientCanary)
		})
	}
}

func TestKeyIDHasThirtyTwoCharacters(t *testing.T) {
	mac := make([]byte, 32)
	for i := range mac {
		mac[i] = byte(i)
	}
	id := keys.NewKeyID(mac)
	assert.Equal(t, "aaaqeayeaudaocajbifqydiob4ibceqt", id.String())
	assert.Equal(t, id, keys.NewKeyID(mac[:keys.KeyIDBytes]), "more than the first 20 bytes count")
	assert.Panics(t, func() { keys.NewKeyID(mac[:keys.KeyIDBytes-1]) })
	assert.False(t, id.IsZero())
	assert.True(t, keys.KeyID{}.IsZero())
}

const aliceText = "alicealicealicealicealicealice23"

var malformedKeyIDs = map[string]string{
	"empty":               "",
	"short":               aliceText[1:],
	"long":                aliceText + "a",
	"twice":               aliceText + aliceText,
	"upper case":          strings.ToUpper(aliceText),
	"one capital":         "A" + aliceText[1:],
	"digit 0":             "0" + aliceText[1:],
	"digit 1":             "1" + aliceText[1:],
	"digit 8":             "8" + aliceText[1:],
	"padding":             aliceText[:31] + "=",
	"padded":              aliceText + "======",
	"line break":          aliceText + "\n",
	"line break within":   aliceText[:16] + "\n" + aliceText[16:],
	"line break for one":  aliceText[:16] + "\n" + aliceText[17:],
	"carriage return":     aliceText[:31] + "\r",
	"space":               " " + aliceText[1:],
	"zero byte":           "\x00" + aliceText[1:],
	"wildcard *":          "*",
	"wildcard +":          "+",
	"wildcard ab*":        "ab*",
	"wildcard at the end": aliceText[:31] + "*",
	"wildcard plus":       aliceText[:31] + "+",
	"wildcards alone":     strings.Repeat("*", 32),
	"slash":               aliceText[:16] + "/" + aliceText[17:],
	"traversal":           "../" + aliceText[3:],
	"dot":                 aliceText[:31] + ".",
	"suffix":              aliceText + "-kek",
	"template":            "{{identity.entity.id}}aaaaaaaaaaaa",
	"beyond ASCII":        "é" + aliceText[2:],
	"full width":          "ａ" + aliceText[3:],
	"not UTF-8":           "\xff" + aliceText[1:],
	"oversized":           strings.Repeat("a", 1<<20),
}

func TestParseKeyIDRejectsMalformedText(t *testing.T) {
	for name, text := range malformedKeyIDs {
		t.Run(name, func(t *testing.T) {
			id, err := keys.ParseKeyID(text)
			assert.ErrorIs(t, err, keys.ErrInvalidKeyID)
			assert.True(t, id.IsZero())
			assert.ErrorIs(t, new(keys.KeyID).UnmarshalText([]byte(text)), keys.ErrInvalidKeyID)
		})
	}
	var decoded struct{ ID keys.KeyID }
	assert.ErrorIs(t, json.Unmarshal([]byte(`{"ID":"*"}`), &decoded), keys.ErrInvalidKeyID)
}

func TestKeyIDRoundTripsThroughJSON(t *testing.T) {
	id := aliceID(t)
	encoded, err := json.Marshal(map[keys.KeyID]keys.KeyID{id: id})
	require.NoError(t, err)
	assert.Equal(t, `{"`+aliceText+`":"`+aliceText+`"}`, string(encoded))
	var decoded map[keys.KeyID]keys.KeyID
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	assert.Equal(t, map[keys.KeyID]keys.KeyID{id: id}, decoded)
}

func FuzzParseKeyID(f *testing.F) {
	f.Add(aliceText)
	for _, text := range malformedKeyIDs {
		if len(text) < 100 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := keys.ParseKeyID(text)
		if err != nil {
			require.ErrorIs(t, err, keys.ErrInvalidKeyID)
			return
		}
		require.Equal(t, text, id.String())
		require.Len(t, text, 32)
		require.Empty(t, strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567"))
	})
}
