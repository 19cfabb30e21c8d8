package vault_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

func TestDeleteRemovesAPatientsOwnRecordingOnly(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id, other := b.put(t, alice, []byte("one")), b.put(t, alice, []byte("two"))
		v := b.vaultOf(t, b.writer)
		require.ErrorIs(t, v.Delete(t.Context(), bob, id), vault.ErrNotFound)
		require.ErrorIs(t, v.Delete(t.Context(), bob, vault.ID{}), vault.ErrNotFound)
		require.ErrorIs(t, v.Delete(t.Context(), "", id), keys.ErrInvalidPatient)
		_, err := b.open(t, b.Grant(t, alice), id)
		require.NoError(t, err)
		require.NoError(t, v.Delete(t.Context(), alice, id))
		require.NoError(t, v.Delete(t.Context(), alice, id), "again")
		_, err = b.open(t, b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrNotFound)
		got, err := b.open(t, b.Grant(t, alice), other)
		require.NoError(t, err)
		assert.Equal(t, "two", string(got))
		assert.Len(t, b.Names(t), 2)
	})
}

func TestDeleteRefusesWhileAHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		alices, bobs := b.put(t, alice, []byte("Alice's")), b.put(t, bob, []byte("Bob's"))
		clearHold := b.hold(t, alices.KeyID())
		v := b.vaultOf(t, b.writer)
		require.ErrorIs(t, v.Delete(t.Context(), alice, alices), vault.ErrHeld)
		got, err := b.open(t, b.Grant(t, alice), alices)
		require.NoError(t, err)
		assert.Equal(t, "Alice's", string(got))
		require.ErrorIs(t, v.Delete(t.Context(), bob, alices), vault.ErrNotFound, "another patient does not learn of the hold")
		require.NoError(t, v.Delete(t.Context(), bob, bobs), "a hold is for one patient")

		clearHold()
		require.NoError(t, v.Delete(t.Context(), alice, alices))
		assert.Equal(t, []string{objects.HoldName(alices.KeyID())}, b.Names(t), "only the cleared hold is left")
	})
}

// While a recording is deleted, a reader gets all of it or ErrNotFound, and never ErrDamaged.
func TestOpenDuringDeleteNeverReportsDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		for range 10 {
			id := b.put(t, alice, make([]byte, 100_000))
			var deleted atomic.Bool
			done := make(chan error)
			go func() {
				err := b.vaultOf(t, b.writer).Delete(context.Background(), alice, id)
				deleted.Store(true)
				done <- err
			}()
			for !deleted.Load() {
				if _, err := b.open(t, grant, id); err != nil {
					assert.ErrorIs(t, err, vault.ErrNotFound)
				}
			}
			require.NoError(t, <-done)
		}
	})
}

// docs/operations.md: Delete asks Vault for the patient's pseudonym, and for nothing else.
func TestDeleteNeedsVaultForThePseudonymAlone(t *testing.T) {
	d := testdeployment.Servers(t, testserver.Dedicated())
	known, _ := d.Enrol(t)
	unknown, _ := d.Enrol(t)
	v, err := vault.New(d.Keyring(testdeployment.Writer), d.Store)
	require.NoError(t, err)
	id, err := v.Put(t.Context(), known, strings.NewReader("one"), vault.Metadata{})
	require.NoError(t, err)
	admin, err := vault.New(d.Keyring(testdeployment.Admin), d.Store)
	require.NoError(t, err)
	other, err := admin.Put(t.Context(), unknown, strings.NewReader("two"), vault.Metadata{})
	require.NoError(t, err)

	d.Vault.Seal(t)
	require.ErrorIs(t, v.Delete(t.Context(), unknown, other), keys.ErrUnavailable)
	assert.Len(t, d.Names(t), 4, "nothing is removed")
	require.NoError(t, v.Delete(t.Context(), known, id))
	assert.Len(t, d.Names(t), 2)
}
