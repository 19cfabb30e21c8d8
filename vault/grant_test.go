package vault_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func TestAGrantForBobDoesNotOpenAlicesRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		own := b.put(t, bob, []byte("Bob's consultation"))
		grant := b.Grant(t, bob)
		for range 2 {
			_, err := b.open(t, grant, id)
			require.ErrorIs(t, err, keys.ErrDenied)
			require.NotErrorIs(t, err, keys.ErrInvalidGrant)
		}
		_, err := b.vaultOf(t, b.server).Stat(t.Context(), grant, id)
		require.ErrorIs(t, err, keys.ErrDenied)
		got, err := b.open(t, grant, own)
		require.NoError(t, err)
		assert.Equal(t, "Bob's consultation", string(got))
	})
}

func TestARefusedAttemptIsInVaultsAuditLog(t *testing.T) {
	b := servers(t)
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	_, err := b.open(t, b.Grant(t, bob), id)
	require.ErrorIs(t, err, keys.ErrDenied)
	_, err = b.open(t, b.Grant(t, alice), id)
	require.NoError(t, err)

	var refused, allowed int
	for _, entry := range b.Vault.Audit(t) {
		if entry.Request.Path != b.Vault.Mount()+"/decrypt/"+id.KeyID().String()+"-kek" {
			continue
		}
		assert.Equal(t, "dr-lee", entry.Auth.Metadata["subject"])
		assert.Equal(t, "TREAT", entry.Auth.Metadata["purpose"])
		assert.Equal(t, "request-1", entry.Auth.Metadata["request_id"])
		binding, err := base64.StdEncoding.DecodeString(fmt.Sprint(entry.Request.Data["context"]))
		require.NoError(t, err)
		assert.Equal(t, id.Binding().String(), string(binding))
		if entry.Error == "" {
			allowed++
		} else {
			assert.Contains(t, entry.Error, "permission denied")
			refused++
		}
	}
	assert.Positive(t, refused)
	assert.Positive(t, allowed)
}

// Only a grant opens a recording. The test uses each role's own token as if it were a grant.
func TestNoProcessCanDecryptWithItsOwnRights(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	for _, role := range []string{"enroller", "writer", "granter", "revoker", "rotator", "retirer", "trimmer", "eraser", "auditor"} {
		t.Run(role, func(t *testing.T) {
			own := keys.NewGrant(keys.GrantDetails{KeyID: id.KeyID()}, b.Vault.RoleToken(role))
			_, err := b.open(t, own, id)
			assert.ErrorIs(t, err, keys.ErrDenied)
		})
	}
	// The keyring never uses its own token to open a recording, not even the admin's.
	_, err := b.vaultOf(t, b.admin).Open(t.Context(), keys.NewGrant(keys.GrantDetails{}, "hvs.nonsense"), id)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.ErrorIs(t, err, keys.ErrInvalidGrant)
	_, err = b.vaultOf(t, b.admin).Open(t.Context(), keys.Grant{}, id)
	require.ErrorIs(t, err, keys.ErrInvalidGrant)
}
