package vault_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// TestWritersRefuseAnotherPrefix: a retirement would not see what is written there.
func TestWritersRefuseAnotherPrefix(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id, grant := b.put(t, alice, []byte("before")), b.Grant(t, alice)
		keyring := struct {
			keys.Wrapper
			keys.Unwrapper
		}{b.writer, b.server}
		v := b.vaultOf(t, keyring, vault.WithPrefix("elsewhere/"))
		// The recording lies there too, as in a copy of the bucket without the object that identifies it.
		for _, part := range []string{"envelope", "media"} {
			teststore.Write(t, b.Store, "elsewhere/"+objectName(id, part), teststore.Read(t, b.Store, objectName(id, part)))
		}
		before := teststore.Names(t, b.Store, "")
		for name, write := range map[string]func(context.Context) error{
			"Put": func(ctx context.Context) error {
				_, err := v.Put(ctx, alice, strings.NewReader("lost"), vault.Metadata{})
				return err
			},
			"Create": func(ctx context.Context) error {
				_, err := v.Create(ctx, alice, vault.Metadata{})
				return err
			},
			"Copy": func(ctx context.Context) error {
				_, err := v.Copy(ctx, grant, id, bob)
				return err
			},
			"Reassign": func(ctx context.Context) error {
				_, err := v.Reassign(ctx, grant, id, bob)
				return err
			},
			"Rekey": func(ctx context.Context) error {
				_, err := v.Rekey(ctx, grant, id)
				return err
			},
		} {
			t.Run(name, func(t *testing.T) {
				err := write(t.Context())
				require.ErrorIs(t, err, keys.ErrForeignStore)
				assert.ErrorContains(t, err, "the keyring serves store "+string(b.Place.StoreID))
			})
		}
		made, err := vault.StoreID(t.Context(), b.Store, "elsewhere/")
		require.NoError(t, err)
		assert.NotEqual(t, b.Place.StoreID, made)
		assert.ElementsMatch(t, append(before, "elsewhere/store-id"), teststore.Names(t, b.Store, ""), "nothing was written but the ID")
	})
}

func TestAWriterAsksAgainUntilTheStoreIsServed(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	v := b.vaultOf(t, b.writer, vault.WithPrefix("moved/"))
	_, err := v.Put(t.Context(), alice, strings.NewReader("too early"), vault.Metadata{})
	require.ErrorIs(t, err, keys.ErrForeignStore)
	require.NoError(t, b.Store.Delete(t.Context(), "moved/store-id"))
	b.Serve(t, "moved/")
	_, err = v.Put(t.Context(), alice, strings.NewReader("served"), vault.Metadata{})
	require.NoError(t, err)
}

func TestStoreIDIsMadeOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		ids := make(chan keys.StoreID, 8)
		for range cap(ids) {
			go func() {
				id, err := vault.StoreID(t.Context(), b.Store, "new/")
				assert.NoError(t, err)
				ids <- id
			}()
		}
		first := <-ids
		for range cap(ids) - 1 {
			assert.Equal(t, first, <-ids)
		}
		teststore.Write(t, b.Store, "damaged/store-id", []byte("\x1b[2J"))
		_, err := vault.StoreID(t.Context(), b.Store, "damaged/")
		require.ErrorIs(t, err, keys.ErrInvalidStoreID)
		assert.NotContains(t, err.Error(), "\x1b")
		_, err = vault.StoreID(t.Context(), b.Store, "no slash")
		require.ErrorIs(t, err, storage.ErrInvalidName)
	})
}
