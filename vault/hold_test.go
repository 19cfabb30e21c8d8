package vault_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// hold puts a patient on hold until the test calls what it returns.
func (b *backend) hold(t *testing.T, id keys.KeyID) (clearHold func()) {
	t.Helper()
	holds := erasure.NewHolds(b.store)
	_, err := holds.Set(t.Context(), id, "legal", "case 7")
	require.NoError(t, err)
	return func() {
		_, err := holds.Clear(t.Context(), id, "legal", "closed")
		require.NoError(t, err)
	}
}

func TestDeleteRefusesWhileAHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		alices, bobs := b.put(t, alice, []byte("Alice's")), b.put(t, bob, []byte("Bob's"))
		clearHold := b.hold(t, alices.KeyID())
		v := b.vaultOf(t, b.writer)
		require.ErrorIs(t, v.Delete(t.Context(), alice, alices), vault.ErrHeld)
		got, err := b.open(t, b.grant(t, alice), alices)
		require.NoError(t, err)
		assert.Equal(t, "Alice's", string(got))
		require.ErrorIs(t, v.Delete(t.Context(), bob, alices), vault.ErrNotFound, "another patient learns nothing of it")
		require.NoError(t, v.Delete(t.Context(), bob, bobs), "a hold is on one patient")

		clearHold()
		require.NoError(t, v.Delete(t.Context(), alice, alices))
		assert.Equal(t, []string{objects.HoldName(alices.KeyID())}, teststore.Names(t, b.store, ""), "the hold that was cleared")
	})
}

func TestAHoldIsNoRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's"))
		b.hold(t, id.KeyID())
		v := b.vaultOf(t, b.writer)
		var listed []vault.ID
		for entry, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			listed = append(listed, entry.ID)
		}
		assert.Equal(t, []vault.ID{id}, listed)
		b.put(t, alice, []byte("more may be recorded"))
	})
}
