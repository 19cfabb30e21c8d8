package transit_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
)

func TestTheEnrollerCannotFakeAnErasure(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient := newPatient()
	id, err := k.Wrapper.KeyID(t.Context(), patient)
	require.NoError(t, err)
	fake := func(client *api.Client) error {
		_, err := client.Logical().WriteWithContext(t.Context(), f.options.Mount+"/keys/erased-"+id.String()+"-kek",
			data{"type": "aes256-gcm96", "derived": true})
		return err
	}
	var refused *api.ResponseError
	require.ErrorAs(t, fake(f.server.Client(f.token("enroller"))), &refused)
	require.Equal(t, http.StatusForbidden, refused.StatusCode)
	require.NoError(t, fake(f.admin)) // somebody with more rights
	_, err = k.Versions(t.Context(), id)
	require.ErrorIs(t, err, keys.ErrNotEnrolled)
	require.NotErrorIs(t, err, keys.ErrErased)
}

func TestSetupRefusesSecretsInTheAuditLog(t *testing.T) {
	for name, tuning := range map[string]data{
		"keys in requests":     {"audit_non_hmac_request_keys": []string{"context", "plaintext"}},
		"patients in requests": {"audit_non_hmac_request_keys": []string{"context", "input"}},
		"batches in requests":  {"audit_non_hmac_request_keys": []string{"batch_input"}},
		"keys in answers":      {"audit_non_hmac_response_keys": []string{"plaintext"}},
		"anything in answers":  {"audit_non_hmac_response_keys": []string{"ciphertext"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.admin.Logical().WriteWithContext(t.Context(), "sys/mounts/"+f.options.Mount+"/tune", tuning)
			require.NoError(t, err)
			for _, dry := range []bool{true, false} {
				options := f.setup
				options.DryRun = dry
				_, err = transit.Setup(t.Context(), f.admin, options)
				require.ErrorIs(t, err, transit.ErrNotSetUp)
			}
		})
	}
}

// hostile returns a keyring on a server that answers as it likes.
func hostile(t *testing.T, answer http.HandlerFunc) *transit.Keyring {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	config := api.DefaultConfig()
	config.Address = server.URL
	client, err := api.NewClient(config)
	require.NoError(t, err)
	t.Cleanup(client.CloneConfig().HttpClient.CloseIdleConnections)
	client.SetToken("hvs.a-secret-token")
	k, err := transit.New(client, transit.Options{MaxRetries: -1})
	require.NoError(t, err)
	return k
}

func TestARedirectSendsTheTokenNowhereElse(t *testing.T) {
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			reached := false
			elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
			defer elsewhere.Close()
			k := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, status)
			})
			_, err := k.KeyID(t.Context(), newPatient())
			require.ErrorIs(t, err, keys.ErrUnavailable)
			_, err = k.Versions(t.Context(), keys.NewKeyID(make([]byte, keys.KeyIDBytes)))
			require.ErrorIs(t, err, keys.ErrUnavailable)
			assert.False(t, reached, "the token went to another host")
		})
	}
}

func TestAnEndlessAnswerIsBounded(t *testing.T) {
	for name, status := range map[string]int{"an answer": http.StatusOK, "an error": http.StatusBadRequest} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			k := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(`{"errors":["`))
				chunk := []byte(strings.Repeat("x", 1<<20))
				for range 256 {
					n, err := w.Write(chunk)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			_, err := k.KeyID(t.Context(), newPatient())
			require.ErrorIs(t, err, keys.ErrUnavailable)
			assert.Less(t, sent.Load(), int64(64<<20))
			assert.Less(t, len(err.Error()), 1000)
		})
	}
}

func TestServersWordsAreShownAsPlainText(t *testing.T) {
	words := `a\u001b[31mred\u202ereversed\u0007hvs.a-secret-token ` + strings.Repeat("long ", 200)
	var text string // the same, not as JSON
	require.NoError(t, json.Unmarshal([]byte(`"`+words+`"`), &text))
	id := keys.NewKeyID(make([]byte, keys.KeyIDBytes))
	for name, answer := range map[string]http.HandlerFunc{
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"errors":["` + words + `"]}`))
		},
		"an error in a batch": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"data":{"batch_results":[{"error":"` + words + `"}]}}`))
		},
		"a malformed header": func(w http.ResponseWriter, _ *http.Request) {
			connection, _, err := w.(http.Hijacker).Hijack()
			assert.NoError(t, err)
			defer connection.Close()
			_, _ = io.WriteString(connection, "HTTP/1.1 200 OK\r\n"+text+"\r\n\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := hostile(t, answer)
			wrapped := keys.NewWrappedKey("vault", 1, []byte("ciphertext"))
			results, err := k.Rewrap(t.Context(), id, []keys.RewrapItem{{Binding: keystest.NewRecordingID(id).Binding(), Wrapped: wrapped}})
			if err == nil {
				require.Len(t, results, 1)
				err = results[0].Err
			}
			require.Error(t, err)
			assert.Regexp(t, `a(\?|\\x1b)\[31mred(\?|\\u202e)reversed(\?|\\a)REDACTED`, err.Error())
			assert.False(t, strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }), "%q", err)
			assert.Less(t, len(err.Error()), 500)
		})
	}
}

func TestRewrapNeedsAnAnswerForEachItem(t *testing.T) {
	id := keys.NewKeyID(make([]byte, keys.KeyIDBytes))
	item := keys.RewrapItem{Binding: keystest.NewRecordingID(id).Binding(), Wrapped: keys.NewWrappedKey("vault", 1, []byte("ciphertext"))}
	one := `{"ciphertext":"vault:v2:Y2lwaGVydGV4dA=="}`
	for name, answers := range map[string]string{
		"none": "", "too few": one, "too many": one + "," + one + "," + one, "empty ones": "{},{}", "not wrapped keys": `{"ciphertext":"x"},` + one,
	} {
		t.Run(name, func(t *testing.T) {
			k := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(`{"data":{"batch_results":[` + answers + `]}}`))
			})
			results, err := k.Rewrap(t.Context(), id, []keys.RewrapItem{item, item})
			require.ErrorIs(t, err, keys.ErrUnavailable)
			assert.Empty(t, results)
		})
	}
}
