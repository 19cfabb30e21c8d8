package transit_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
)

// TestEraseFinishesWhatWasInterrupted stops an erasure after each of its requests.
func TestEraseFinishesWhatWasInterrupted(t *testing.T) {
	f := newFixture(t)
	k := f.apart()
	for done, name := range []string{"nothing done", "deletion allowed", "mark left", "key deleted"} {
		patient, id := f.enrol(k)
		rec := f.record(k, id)
		grant := f.grant(k, patient)
		path := f.options.Mount + "/keys/" + id.String()
		eraser := f.server.Client(f.token("eraser"))
		for _, request := range []func() error{
			func() error {
				_, err := eraser.Logical().WriteWithContext(t.Context(), path+"-kek/config", data{"deletion_allowed": true})
				return err
			},
			func() error {
				_, err := eraser.Logical().WriteWithContext(t.Context(), path+"-erased", data{"type": "hmac", "key_size": 32})
				return err
			},
			func() error {
				_, err := eraser.Logical().DeleteWithContext(t.Context(), path+"-kek")
				return err
			},
		}[:done] {
			require.NoError(t, request(), name)
		}
		if done < 3 { // nothing is lost before the key is gone
			f.opens(k, grant, rec)
			f.record(k, id)
		}
		require.NoError(t, k.Erase(t.Context(), id), name)
		_, err := k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
		assert.ErrorIs(t, err, keys.ErrErased, name)
		require.NoError(t, k.Erase(t.Context(), id), name)
	}
}

// TestErasedPatientAndALimitedGrant: with its last use a grant learns that the key is missing, and
// cannot ask why.
func TestErasedPatientAndALimitedGrant(t *testing.T) {
	f := newFixture(t)
	k := f.apart()
	patient, id := f.enrol(k)
	rec := f.record(k, id)
	require.NoError(t, k.Erase(t.Context(), id))
	for uses, want := range map[int]error{1: keys.ErrNotEnrolled, 2: keys.ErrErased} {
		options := ordinary()
		options.MaxUses = uses
		grant, err := k.Issue(t.Context(), patient, options)
		require.NoError(t, err)
		_, err = k.Unwrap(t.Context(), grant, rec.binding, rec.wrapped)
		assert.ErrorIs(t, err, want, "%d uses", uses)
	}
}

// TestEnrolRefusesAnUnsafeKey: a key that somebody else put there could ignore bindings, or be taken
// out of Vault.
func TestEnrolRefusesAnUnsafeKey(t *testing.T) {
	f := newFixture(t)
	enroller := f.keyring("enroller")
	for name, d := range map[string]data{
		"not derived":                   {"type": "aes256-gcm96"},
		"another type":                  {"type": "chacha20-poly1305", "derived": true},
		"weaker":                        {"type": "aes128-gcm96", "derived": true},
		"an HMAC key":                   {"type": "hmac", "key_size": 32},
		"exportable":                    {"type": "aes256-gcm96", "derived": true, "exportable": true},
		"with a backup in clear":        {"type": "aes256-gcm96", "derived": true, "allow_plaintext_backup": true},
		"that encrypts always the same": {"type": "aes256-gcm96", "derived": true, "convergent_encryption": true},
	} {
		patient := newPatient()
		id, err := enroller.KeyID(t.Context(), patient)
		require.NoError(t, err)
		_, err = f.admin.Logical().WriteWithContext(t.Context(), f.options.Mount+"/keys/"+id.String()+"-kek", d)
		require.NoError(t, err, name)
		_, err = enroller.Enrol(t.Context(), patient)
		assert.ErrorIs(t, err, transit.ErrUnsafeKey, name)
	}
}
