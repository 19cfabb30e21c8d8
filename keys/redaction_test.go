package keys_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

const (
	patientCanary = "canary-943-476-5919"
	tokenCanary   = "canary-hvs.CAESIJ0"
)

// keyCanary is the secret of a recording key. assertSilent looks for its printed forms too.
var keyCanary = []byte("canary-recording-key-of-32-bytes")

func secrets(t *testing.T) (keys.Patient, keys.Grant, *keys.Key) {
	t.Helper()
	key, err := keys.KeyFromBytes(keyCanary)
	require.NoError(t, err)
	details := keys.GrantDetails{KeyID: aliceID(t), Accessor: "accessor-1", Expires: time.Now(), Subject: "dr-lee", Purpose: keys.Treatment}
	return patientCanary, keys.NewGrant(details, tokenCanary), key
}

func aliceID(t testing.TB) keys.KeyID {
	t.Helper()
	id, err := keys.ParseKeyID("alicealicealicealicealicealice23")
	require.NoError(t, err)
	return id
}

// assertSilent fails if the text contains a canary in any form that fmt or an encoder writes.
func assertSilent(t *testing.T, text, how string) {
	t.Helper()
	lower := strings.ToLower(text)
	for _, secret := range [][]byte{[]byte(patientCanary), []byte(tokenCanary), keyCanary} {
		digits := strings.Trim(fmt.Sprint(secret), "[]") // as fmt prints bytes
		for _, form := range []string{
			string(secret),
			hex.EncodeToString(secret),
			fmt.Sprintf("% x", secret),
			strings.Trim(fmt.Sprintf("%#v", secret)[len("[]byte"):], "{}"),
			digits,
			strings.ReplaceAll(digits, " ", ","),
			strings.Trim(fmt.Sprintf("%o", secret), "[]"),
			strings.Trim(fmt.Sprintf("%b", secret), "[]"),
			strings.Trim(fmt.Sprintf("%c", secret), "[]"),
			strings.Trim(fmt.Sprintf("%q", secret), `"`),
			base64.RawStdEncoding.EncodeToString(secret),
			base64.RawURLEncoding.EncodeToString(secret),
		} {
			assert.NotContains(t, lower, strings.ToLower(form), how)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	patient, grant, key := secrets(t)
	type exported struct {
		Patient keys.Patient
		Grant   keys.Grant
		Key     *keys.Key
		Value   keys.Key
		Any     any
		Pointer *keys.Grant
	}
	// fmt prints an unexported field without calling its methods. A Patient there prints in clear, as
	// its comment warns.
	type unexported struct {
		grant   keys.Grant
		key     *keys.Key
		value   keys.Key
		pointer *keys.Grant
		slice   []keys.Grant
		wrapped map[string]keys.Grant
	}
	hidden := unexported{grant, key, *key, &grant, []keys.Grant{grant}, map[string]keys.Grant{"g": grant}}

	for name, value := range map[string]any{
		"patient":            patient,
		"patient's address":  &patient,
		"grant":              grant,
		"grant's address":    &grant,
		"key":                key,
		"key's value":        *key,
		"key's address":      &key,
		"slice of patients":  []keys.Patient{patient},
		"array of patients":  [1]keys.Patient{patient},
		"slice of grants":    []keys.Grant{grant},
		"slice of keys":      []*keys.Key{key},
		"slice of values":    []keys.Key{*key},
		"slice of any":       []any{patient, grant, key, *key},
		"map of patients":    map[string]keys.Patient{"p": patient},
		"map of grants":      map[string]keys.Grant{"g": grant},
		"map of keys":        map[string]*keys.Key{"k": key},
		"struct":             exported{patient, grant, key, *key, patient, &grant},
		"struct's address":   &exported{patient, grant, key, *key, grant, &grant},
		"nested struct":      struct{ Inner []exported }{[]exported{{Patient: patient, Any: key}}},
		"unexported fields":  hidden,
		"address of hidden":  &hidden,
		"slice of hidden":    []unexported{hidden},
		"error's text":       fmt.Errorf("open for %v with %v: %w", patient, grant, keys.ErrDenied),
		"interface to value": fmt.Stringer(grant),
	} {
		t.Run(name, func(t *testing.T) {
			for _, verb := range "vTtbcdoOqxXUeEfFgGs!" {
				for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "40", ".3", "-40.99"} {
					format := "%" + flags + string(verb)
					assertSilent(t, fmt.Sprintf(format, value), format)
				}
			}
			assertSilent(t, fmt.Sprint(value), "Sprint")
			assertSilent(t, fmt.Sprintln("a", value, 1), "Sprintln")
			for _, mistake := range []string{"no verb", "%d %d", "%[1]s %*d", "%!", "%[2]v", "%[x]v"} {
				assertSilent(t, fmt.Sprintf(mistake, value), mistake)
			}

			for handler, text := range logged(value) {
				assertSilent(t, text, handler)
			}
			encoded, err := json.Marshal(value)
			require.NoError(t, err)
			assertSilent(t, string(encoded), "encoding/json")

			var rendered bytes.Buffer
			require.NoError(t, template.Must(template.New("").Parse("{{.}} {{printf \"%q\" .}}")).Execute(&rendered, value))
			assertSilent(t, rendered.String(), "text/template")
		})
	}
}

func TestPatientsDoNotPrintAsMapKeys(t *testing.T) {
	patient, grant, _ := secrets(t)
	byPatient := map[keys.Patient]keys.Grant{patient: grant}
	for _, verb := range "vsqxd" {
		assertSilent(t, fmt.Sprintf("%"+string(verb), byPatient), string(verb))
		assertSilent(t, fmt.Sprintf("%#"+string(verb), byPatient), "#"+string(verb))
	}
}

// fmt calls no methods for the verb %p, nor for a %w that has no error.
func TestSecretsDoNotPrintUnderPointerAndWrapVerbs(t *testing.T) {
	_, grant, key := secrets(t)
	for _, value := range []any{
		grant, &grant, key, *key,
		[]keys.Grant{grant},
		map[string]keys.Grant{"g": grant},
		[]*keys.Key{key},
		[]keys.Key{*key},
		struct{ Key keys.Key }{*key},
	} {
		t.Run(fmt.Sprintf("%T", value), func(t *testing.T) {
			for _, format := range []string{"%p", "%#p", "%+p", "%w", "%#w", "%+w"} {
				assertSilent(t, fmt.Sprintf(format, value), format)
				assertSilent(t, fmt.Errorf(format, value).Error(), format)
			}
		})
	}
}

func TestSecretsPrintAsRedacted(t *testing.T) {
	patient, grant, key := secrets(t)
	for _, value := range []any{patient, &patient, grant, &grant, key, *key} {
		t.Run(fmt.Sprintf("%T", value), func(t *testing.T) {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
				assert.Equal(t, "REDACTED", fmt.Sprintf(format, value), format)
			}
			encoded, err := json.Marshal(value)
			require.NoError(t, err)
			assert.Equal(t, `"REDACTED"`, string(encoded))
			text, err := xml.Marshal(value)
			require.NoError(t, err)
			assert.Contains(t, string(text), ">REDACTED<")
			for handler, line := range logged(value) {
				assert.Contains(t, line, "REDACTED", handler)
			}
		})
	}
	assert.Equal(t, "REDACTED", grant.String())
	assert.Equal(t, "REDACTED", grant.GoString())
}

// logged returns log lines by handler, with the value as an attribute, in a group, and bound to a logger.
func logged(value any) map[string]string {
	var text, encoded bytes.Buffer
	for _, handler := range []slog.Handler{
		slog.NewTextHandler(&text, nil), slog.NewJSONHandler(&encoded, nil),
	} {
		logger := slog.New(handler)
		logger.Info("m", "a", value, slog.Group("g", slog.Any("b", value)))
		logger.With("c", value).WithGroup("h").Info("m", "d", []any{value})
	}
	return map[string]string{"slog text": text.String(), "slog JSON": encoded.String()}
}

func TestWipeOverwritesTheKey(t *testing.T) {
	key := keys.NewKey()
	secret, copied := key.Bytes(), *key
	require.NotEqual(t, make([]byte, keys.KeySize), secret)
	key.Wipe()
	for _, view := range [][]byte{secret, key.Bytes(), copied.Bytes()} {
		assert.Equal(t, make([]byte, keys.KeySize), view)
	}
}
