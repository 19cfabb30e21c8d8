package transit_test

import (
	"encoding/base64"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// TestEraseFinishesAnInterruptedErasure stops an erasure after each of its requests.
func TestEraseFinishesAnInterruptedErasure(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	for done, name := range []string{"nothing done", "deletion allowed", "mark made", "key deleted"} {
		t.Run(name, func(t *testing.T) {
			f := f.with(t)
			patient, id := f.enrol(k)
			rec := f.record(k, id)
			grant := f.grant(k, patient)
			path := f.options.Mount + "/keys/"
			eraser := f.server.Client(f.token("eraser"))
			for _, request := range []func() error{
				func() error {
					_, err := eraser.Logical().WriteWithContext(t.Context(), path+id.String()+"-kek/config", data{"deletion_allowed": true})
					return err
				},
				func() error {
					_, err := eraser.Logical().WriteWithContext(t.Context(), path+"erased-"+id.String()+"-kek", data{"type": "hmac", "key_size": 32})
					return err
				},
				func() error {
					_, err := eraser.Logical().DeleteWithContext(t.Context(), path+id.String()+"-kek")
					return err
				},
			}[:done] {
				require.NoError(t, request())
			}
			if done < 3 { // until the key is deleted, it works
				f.opens(k, grant, rec)
				f.record(k, id)
			}
			require.NoError(t, k.Erase(t.Context(), id))
			_, err := k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
			assert.ErrorIs(t, err, keys.ErrErased)
			require.NoError(t, k.Erase(t.Context(), id))
		})
	}
}

// With its last use a grant finds that the key is missing. It has no use left to find out why.
func TestLastUseGivesNotEnrolledAfterErasure(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	require.NoError(t, k.Erase(t.Context(), id))
	for uses, want := range map[int]error{1: keys.ErrNotEnrolled, 2: keys.ErrErased} {
		t.Run(strconv.Itoa(uses), func(t *testing.T) {
			options := grantOptions()
			options.MaxUses = uses
			grant, err := k.Issue(t.Context(), patient, options)
			require.NoError(t, err)
			_, err = k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
			assert.ErrorIs(t, err, want)
		})
	}
}

// A key that was not made by Enrol could ignore bindings, or be exported from Vault.
func TestEnrolRefusesAnUnsafeKey(t *testing.T) {
	f := newFixture(t)
	enroller := f.keyring("enroller")
	for name, d := range map[string]data{
		"not derived":      {"type": "aes256-gcm96"},
		"another type":     {"type": "chacha20-poly1305", "derived": true},
		"weaker":           {"type": "aes128-gcm96", "derived": true},
		"HMAC":             {"type": "hmac", "key_size": 32},
		"exportable":       {"type": "aes256-gcm96", "derived": true, "exportable": true},
		"plaintext backup": {"type": "aes256-gcm96", "derived": true, "allow_plaintext_backup": true},
		"convergent":       {"type": "aes256-gcm96", "derived": true, "convergent_encryption": true},
	} {
		t.Run(name, func(t *testing.T) {
			patient := newPatient()
			id, err := enroller.KeyID(t.Context(), patient)
			require.NoError(t, err)
			_, err = f.admin.Logical().WriteWithContext(t.Context(), f.options.Mount+"/keys/"+id.String()+"-kek", d)
			require.NoError(t, err)
			_, err = enroller.Enrol(t.Context(), patient)
			assert.ErrorIs(t, err, transit.ErrUnsafeKey)
		})
	}
}

// A grant can have Vault keep an answer with a recording key in it, under a token of its own.
func TestErasureRemovesWrappedAnswers(t *testing.T) {
	f := newFixture(t)
	k := f.roles()
	var held [2]string // tokens of wrapped answers, of the patient who is erased and of another
	var ids [2]keys.KeyID
	for i := range held {
		var patient keys.Patient
		patient, ids[i] = f.enrol(k)
		rec := f.record(k, ids[i])
		thief := f.server.Client(f.grant(k, patient).Token())
		thief.SetWrappingLookupFunc(func(string, string) string { return "87600h" })
		answer, err := thief.Logical().WriteWithContext(t.Context(), f.options.Mount+"/decrypt/"+ids[i].String()+"-kek", data{
			"ciphertext": string(rec.wrapped), "context": base64.StdEncoding.EncodeToString(rec.binding.Bytes()),
		})
		require.NoError(t, err)
		require.NotNil(t, answer.WrapInfo, "Vault did not wrap the answer")
		held[i] = answer.WrapInfo.Token
	}
	require.NoError(t, k.Erase(t.Context(), ids[0]))
	_, err := f.admin.Logical().UnwrapWithContext(t.Context(), held[0])
	require.Error(t, err, "a recording key outlived the erasure")
	answer, err := f.admin.Logical().UnwrapWithContext(t.Context(), held[1])
	require.NoError(t, err)
	require.NotEmpty(t, answer.Data["plaintext"])
}
