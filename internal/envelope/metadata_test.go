package envelope

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/segment"
)

const header64 = `KCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKA==`

// required are the fields that no metadata is without.
const required = `"created_at":"2026-03-04T06:00:00Z","media_size":56,"media_header":"` + header64 + `","revision":0`

func sparse() Metadata {
	return Metadata{
		CreatedAt: time.Date(2026, 3, 4, 6, 0, 0, 0, time.UTC), MediaSize: 56,
		MediaHeader: segment.Header(bytes.Repeat([]byte{40}, segment.HeaderSize)),
	}
}

func TestMetadataIsReadInAnySpacingAndOrder(t *testing.T) {
	for name, text := range map[string]string{
		"no spaces":       `{` + required + `}`,
		"spaces":          " {\r\n\t" + strings.ReplaceAll(strings.ReplaceAll(required, ",", " , "), `":`, `" : `) + " }\n ",
		"another order":   `{"revision":0,"media_header":"` + header64 + `","media_size":56,"created_at":"2026-03-04T06:00:00Z"}`,
		"escaped names":   strings.Replace(`{`+required+`}`, "revision", `\u0072evision`, 1),
		"zero fractions":  strings.Replace(`{`+required+`}`, "06:00:00Z", "06:00:00.000000000Z", 1),
		"unknown fields":  `{"x":{"y":[1,"z",true,{}]},` + required + `}`,
		"unknown by case": `{"Title":5,` + required + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			m, err := decodeMetadata([]byte(text))
			require.NoError(t, err)
			assert.Equal(t, sparse(), m.WithoutUnknown())
		})
	}
}

// hostileMetadata are texts that are nearly metadata.
func hostileMetadata() map[string]string {
	with := func(field string) string { return `{` + field + `,` + required + `}` }
	instead := func(old, new string) string { return `{` + strings.Replace(required, old, new, 1) + `}` }
	nested := func(depth int) string {
		return with(`"x":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1))
	}
	return map[string]string{
		"empty":          "",
		"spaces":         "   ",
		"null":           "null",
		"array":          "[" + with(`"x":1`) + "]",
		"text":           `"x"`,
		"cut":            `{` + required,
		"two objects":    `{` + required + `}{}`,
		"trailing text":  `{` + required + `} x`,
		"trailing comma": `{` + required + `,}`,
		"leading comma":  `{,` + required + `}`,
		"no colon":       with(`"x" 1`),
		"no comma":       `{"x":1` + required + `}`,
		"a comment":      `{/* x */` + required + `}`,
		"a byte order":   "\ufeff{" + required + `}`,
		"single quotes":  with(`'x':1`),
		"no created_at":  `{"media_size":56,"media_header":"` + header64 + `","revision":0}`,
		"no media_size":  `{"created_at":"2026-03-04T06:00:00Z","media_header":"` + header64 + `","revision":0}`,
		"no header":      `{"created_at":"2026-03-04T06:00:00Z","media_size":56,"revision":0}`,
		"no revision":    `{"created_at":"2026-03-04T06:00:00Z","media_size":56,"media_header":"` + header64 + `"}`,
		"another case":   instead(`"revision"`, `"Revision"`),

		"repeated":                  with(`"title":"a","title":"a"`),
		"repeated by an escape":     with(`"title":"a","\u0074itle":"b"`),
		"repeated, unknown":         with(`"x":1,"x":1`),
		"repeated inside unknown":   with(`"x":{"a":1,"\u0061":2}`),
		"repeated attribute":        with(`"attributes":{"a":"1","a":"2"}`),
		"null title":                with(`"title":null`),
		"null attributes":           with(`"attributes":null`),
		"null attribute":            with(`"attributes":{"a":null}`),
		"null inside unknown":       with(`"x":[null]`),
		"title a number":            with(`"title":1`),
		"title an array":            with(`"title":["a"]`),
		"attributes an array":       with(`"attributes":[]`),
		"attribute a number":        with(`"attributes":{"a":1}`),
		"truncated a text":          with(`"truncated":"true"`),
		"truncated a number":        with(`"truncated":1`),
		"a literal":                 with(`"x":undefined`),
		"a literal in capitals":     with(`"x":True`),
		"a content type of UTF-8":   with(`"content_type":"vidéo/webm"`),
		"a content type of a break": with(`"content_type":"video/webm\n"`),

		"lone high surrogate":      with(`"title":"\ud800"`),
		"lone low surrogate":       with(`"title":"\udc00"`),
		"high surrogate twice":     with(`"title":"\ud800\ud800"`),
		"high surrogate and text":  with(`"title":"\ud800x"`),
		"surrogate in a name":      with(`"\ud800":1`),
		"surrogate inside unknown": with(`"x":[{"y":"\udfff"}]`),
		"invalid UTF-8":            with("\"title\":\"\xff\""),
		"overlong UTF-8":           with("\"title\":\"\xc0\x80\""),
		"a surrogate in UTF-8":     with("\"title\":\"\xed\xa0\x80\""),
		"a control character":      with("\"title\":\"\x01\""),
		"a line break in a text":   with("\"title\":\"a\nb\""),
		"an unknown escape":        with(`"title":"\x41"`),
		"a short escape":           with(`"title":"\u41"`),
		"an escape of a sign":      with(`"title":"\u+041"`),
		"a text without an end":    `{"title":"a`,
		"an escape without an end": `{"title":"a\`,

		"a negative number":       instead(`"revision":0`, `"revision":-1`),
		"minus zero":              instead(`"revision":0`, `"revision":-0`),
		"a plus":                  instead(`"revision":0`, `"revision":+1`),
		"a fraction":              instead(`"media_size":56`, `"media_size":56.5`),
		"a fraction of zero":      instead(`"media_size":56`, `"media_size":56.0`),
		"an exponent":             instead(`"media_size":56`, `"media_size":56e0`),
		"an exponent in capitals": instead(`"media_size":56`, `"media_size":1E2`),
		"a leading zero":          instead(`"media_size":56`, `"media_size":056`),
		"hexadecimal":             instead(`"media_size":56`, `"media_size":0x38`),
		"2^53":                    instead(`"media_size":56`, `"media_size":9007199254740992`),
		"more than 64 bits":       instead(`"media_size":56`, `"media_size":99999999999999999999`),
		"a number as a text":      instead(`"media_size":56`, `"media_size":"56"`),
		"a fraction, unknown":     with(`"x":1.5`),
		"a sign inside unknown":   with(`"x":{"y":[-1]}`),
		"2^53 inside unknown":     with(`"x":9007199254740992`),
		"a long duration":         with(`"duration_ms":9007199254740991`),

		"a comma in a time":      instead("06:00:00Z", "06:00:00,5Z"),
		"ten digits":             instead("06:00:00Z", "06:00:00.0000000001Z"),
		"a point without digits": instead("06:00:00Z", "06:00:00.Z"),
		"an offset":              instead("06:00:00Z", "06:00:00+01:00"),
		"an offset of zero":      instead("06:00:00Z", "06:00:00+00:00"),
		"no zone":                instead("06:00:00Z", "06:00:00"),
		"a small z":              instead("06:00:00Z", "06:00:00z"),
		"a small t":              instead("T06", "t06"),
		"a space for T":          instead("T06", " 06"),
		"one digit of an hour":   instead("T06", "T6"),
		"hour 24":                instead("T06", "T24"),
		"second 60":              instead("06:00:00Z", "06:00:60Z"),
		"day 30 of February":     instead("03-04", "02-30"),
		"year 0":                 instead("2026", "0000"),
		"a year of five digits":  instead("2026", "12026"),
		"a time as a number":     instead(`"2026-03-04T06:00:00Z"`, `1772604000`),

		"base64 with a break":         instead(header64, header64[:4]+`\n`+header64[4:]),
		"base64 with a return":        instead(header64, header64[:4]+`\r`+header64[4:]),
		"base64 without padding":      instead(header64, strings.TrimRight(header64, "=")),
		"base64 with stray bits":      instead(header64, strings.Replace(header64, "KA==", "KB==", 1)),
		"base64 of 39 bytes":          instead(header64, header64[:52]),
		"base64 of 41 bytes":          instead(header64, strings.Replace(header64, "KA==", "KCg=", 1)),
		"URL-safe base64":             instead(header64, "-_"+header64[2:]),
		"nested deeper than 16":       nested(17),
		"nested without end":          with(`"x":` + strings.Repeat("[", 1000)),
		"objects deeper than 16":      with(strings.Repeat(`"x":{`, 16) + `"y":1` + strings.Repeat("}", 16)),
		"attributes nested too deep":  with(`"attributes":` + strings.Repeat(`{"a":`, 16) + `1` + strings.Repeat("}", 16)),
		"longer than metadata may be": `{` + required + `}` + strings.Repeat(" ", MaxMetadata),
	}
}

func TestHostileMetadataIsRefused(t *testing.T) {
	for name, text := range hostileMetadata() {
		t.Run(name, func(t *testing.T) {
			_, err := decodeMetadata([]byte(text))
			require.ErrorIs(t, err, ErrMetadata)
		})
	}
	deepest := `{"x":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `,` + required + `}`
	_, err := decodeMetadata([]byte(deepest))
	require.NoError(t, err, "sixteen levels are allowed")
}

// later is metadata of a release that does not exist yet.
const later = `{"title":"Follow-up","transcript":{"by":"speech \ud83d\ude00","parts":[{"at_ms":9007199254740991},true,[]]},` +
	`"Title":"not the title","<&>\"":"\u2028","retention":7,` + required + `}`

func TestUnknownFieldsSurviveAChange(t *testing.T) {
	read, err := decodeMetadata([]byte(later))
	require.NoError(t, err)
	changed := sparse()
	changed.Title, changed.Revision = "Corrected", 1
	text, err := changed.WithUnknownOf(read).encode()
	require.NoError(t, err)

	var want, got map[string]any
	require.NoError(t, json.Unmarshal([]byte(later), &want))
	want["title"], want["revision"] = "Corrected", 1.0
	require.NoError(t, json.Unmarshal(text, &got))
	assert.Equal(t, want, got)

	again, err := decodeMetadata(text)
	require.NoError(t, err)
	assert.Equal(t, changed, again.WithoutUnknown())
	once, err := again.encode()
	require.NoError(t, err)
	assert.Equal(t, text, once, "what is carried along settles in one form")
}

func TestUnknownFieldsCountForTheSize(t *testing.T) {
	large, err := decodeMetadata([]byte(`{"x":"` + strings.Repeat("x", MaxMetadata-1024) + `",` + required + `}`))
	require.NoError(t, err)
	require.NoError(t, large.Fits())
	large.Title = strings.Repeat("x", 1024)
	require.ErrorIs(t, large.Fits(), ErrMetadataSize)
}

func TestTheGreatestRevisionHasNoSuccessor(t *testing.T) {
	m := sparse()
	m.Revision = maxInt
	require.NoError(t, m.Fits())
	m.Revision++
	require.ErrorIs(t, m.Fits(), ErrMetadataSize, "no reader would accept it")
}

func FuzzMetadata(f *testing.F) {
	for _, text := range hostileMetadata() {
		f.Add([]byte(text))
	}
	f.Add([]byte(later))
	f.Add([]byte(`{` + required + `}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decodeMetadata(text)
		if err != nil {
			return
		}
		require.True(t, json.Valid(text), "accepted what is not JSON")
		encoded, err := m.encode()
		if err != nil {
			require.ErrorIs(t, err, ErrMetadataSize)
			return
		}
		require.Zero(t, len(encoded)%padding)
		again, err := decodeMetadata(encoded)
		require.NoError(t, err)
		require.Equal(t, m.WithoutUnknown(), again.WithoutUnknown())
		once, err := again.encode()
		require.NoError(t, err)
		require.Equal(t, encoded, once)
	})
}
