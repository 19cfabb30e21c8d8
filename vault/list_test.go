package vault_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault"
)

func TestListYieldsAPatientsOwnRecordings(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob, carol := b.enrol(t), b.enrol(t), b.enrol(t)
		want := map[vault.ID]int64{}
		for size := range 5 {
			want[b.put(t, alice, make([]byte, size*40_000))] = int64(size * 40_000)
			b.put(t, bob, []byte("x"))
		}
		some := keystest.NewRecordingID(b.Grant(t, alice).KeyID())
		// Media without an envelope, and objects with other names, are not recordings.
		teststore.Write(t, b.Store, objectName(some, "media"), []byte("orphan"))
		teststore.Write(t, b.Store, "recordings/"+some.KeyID().String()+"/notes.txt", []byte("x"))
		teststore.Write(t, b.Store, objectName(some, "thumbnail"), []byte("x"))
		v := b.vaultOf(t, b.writer)
		got := map[vault.ID]int64{}
		var order []string
		for entry, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			got[entry.ID] = entry.Size
			order = append(order, entry.ID.String())
			assert.WithinDuration(t, time.Now(), entry.Written, time.Minute)
		}
		assert.Equal(t, want, got)
		assert.True(t, slices.IsSorted(order))

		order = nil
		for entry, err := range b.vaultOf(t, b.server).ListByKeyID(t.Context(), b.Grant(t, alice).KeyID()) {
			require.NoError(t, err)
			order = append(order, entry.ID.String())
			if len(order) == 3 {
				break
			}
		}
		assert.Len(t, order, 3)
		for range v.List(t.Context(), carol) {
			assert.Fail(t, "Carol has no recordings")
		}
		for _, err := range v.List(t.Context(), "") {
			require.ErrorIs(t, err, keys.ErrInvalidPatient)
		}
		for _, err := range v.ListByKeyID(t.Context(), keys.KeyID{}) {
			require.ErrorIs(t, err, keys.ErrInvalidKeyID)
		}
		teststore.Write(t, b.Store, objectName(some, "envelope"), []byte("x"))
		require.NoError(t, b.Store.Delete(t.Context(), objectName(some, "media")))
		var damaged int
		for entry, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			if entry.Size == -1 {
				damaged++
			}
		}
		assert.Equal(t, 1, damaged)
	})
}

func TestAHoldIsNotARecording(t *testing.T) {
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
		b.put(t, alice, []byte("a hold does not stop new recordings"))
	})
}
