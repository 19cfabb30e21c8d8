package transit_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

// unwrapByHTTP is docs/format.md, section 6, and nothing else: the class of Vault's answer, and the key.
func (f *fixture) unwrapByHTTP(
	token, mount string, binding keys.Binding, wrapped keys.WrappedKey, grantFor keys.KeyID,
) (class string, key []byte) {
	f.t.Helper()
	id := binding.KeyID().String()
	send := func(method, path string, body any) (status int, answer struct {
		Data   struct{ Plaintext, Type string }
		Errors []string
	}, vaults bool,
	) {
		encoded, err := json.Marshal(body)
		require.NoError(f.t, err)
		request, err := http.NewRequestWithContext(f.t.Context(), method, f.admin.Address()+"/v1/"+mount+path, bytes.NewReader(encoded))
		require.NoError(f.t, err)
		request.Header.Set("X-Vault-Token", token)
		request.Header.Set("X-Vault-Request", "true")
		response, err := http.DefaultClient.Do(request)
		require.NoError(f.t, err)
		defer response.Body.Close()
		text, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
		require.NoError(f.t, err)
		err = json.Unmarshal(text, &answer)
		return response.StatusCode, answer, err == nil
	}
	defer http.DefaultClient.CloseIdleConnections()
	status, answer, vaults := send("POST", "/decrypt/"+id+"-kek", map[string]string{
		"ciphertext": string(wrapped), "context": base64.StdEncoding.EncodeToString(binding.Bytes()),
	})
	errors := strings.Join(answer.Errors, "\n")
	switch {
	case status == 200:
		key, err := base64.StdEncoding.DecodeString(answer.Data.Plaintext)
		require.NoError(f.t, err)
		return "ok", key
	case status == 403 && strings.Contains(errors, "invalid token"):
		return "invalid-grant", nil
	case status == 403 && grantFor != binding.KeyID():
		return "wrong-patient", nil
	case status == 403:
		return "denied", nil
	case status == 400 && vaults && strings.Contains(errors, "key not found"):
		switch status, mark, _ := send("GET", "/keys/erased-"+id+"-kek?type=hmac", nil); {
		case status == 200 && mark.Data.Type == "hmac":
			return "erased", nil
		case status == 200, status == 403, status == 404 && len(mark.Errors) == 0:
			return "not-enrolled", nil
		}
	case status == 400 && vaults && strings.Contains(errors, "disallowed by policy (too old)"):
		return "retired", nil
	case status == 400 && vaults:
		return "damaged", nil
	}
	return "unavailable", nil
}

func TestVaultAnswersAsTheSpecificationSays(t *testing.T) {
	f := newFixture(t)
	r := f.roles()
	alice, aliceID := f.enrol(r)
	bob, bobID := f.enrol(r)
	grant := f.grant(r, alice)
	rec := f.record(r, aliceID)
	metadataKey := recording{binding: rec.binding.RecordingID().MetadataBinding(), key: keys.NewKey()}
	var err error
	metadataKey.wrapped, err = r.Wrap(t.Context(), metadataKey.binding, metadataKey.key)
	require.NoError(t, err)
	options := grantOptions()
	options.DescribeOnly = true
	describe, err := r.Issue(t.Context(), alice, options)
	require.NoError(t, err)
	options = grantOptions()
	options.MaxUses = 1
	once, err := r.Issue(t.Context(), alice, options)
	require.NoError(t, err)

	expect := func(want string, grant keys.Grant, rec recording) {
		t.Helper()
		class, key := f.unwrapByHTTP(grant.Token(), f.options.Mount, rec.binding, rec.wrapped, grant.KeyID())
		assert.Equal(t, want, class)
		if want == "ok" {
			assert.Equal(t, rec.key.Bytes(), key)
		}
	}
	expect("ok", grant, rec)
	expect("ok", grant, metadataKey)
	expect("ok", describe, metadataKey)
	expect("denied", describe, rec)
	expect("ok", once, rec)
	expect("invalid-grant", once, rec)
	expect("damaged", grant, recording{binding: rec.binding, wrapped: metadataKey.wrapped})
	expect("damaged", grant, recording{binding: f.record(r, aliceID).binding, wrapped: rec.wrapped})
	later := keys.WrappedKey(strings.Replace(string(rec.wrapped), ":v1:", ":v9:", 1))
	expect("damaged", grant, recording{binding: rec.binding, wrapped: later})
	expect("wrong-patient", f.grant(r, bob), rec)
	expect("wrong-patient", grant, f.record(r, bobID))
	class, _ := f.unwrapByHTTP(grant.Token(), "elsewhere", rec.binding, rec.wrapped, aliceID)
	assert.Equal(t, "denied", class, "the policy does not allow to look for mounts")
	class, _ = f.unwrapByHTTP(f.server.RootToken(), "elsewhere", rec.binding, rec.wrapped, aliceID)
	assert.Equal(t, "unavailable", class)

	require.NoError(t, r.Rotate(t.Context(), aliceID))
	expect("ok", grant, rec)
	require.NoError(t, r.Retire(t.Context(), aliceID, 2))
	expect("retired", grant, rec)
	require.NoError(t, r.Erase(t.Context(), aliceID))
	expect("erased", grant, rec)
	require.NoError(t, r.RevokeSelf(t.Context(), grant))
	expect("invalid-grant", grant, rec)

	stranger := newPatient()
	strangerID, err := r.KeyID(t.Context(), stranger)
	require.NoError(t, err)
	other := f.record(r, bobID)
	id, err := keys.ParseRecordingID(strangerID.String() + "." + other.binding.RecordingID().Rec())
	require.NoError(t, err)
	expect("not-enrolled", f.grant(r, stranger), recording{binding: id.Binding(), wrapped: other.wrapped})
}
