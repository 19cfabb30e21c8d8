package vault_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// TestAGrantThatEndedOpensNothingAtOnce: the key cache would play on.
func TestAGrantThatEndedOpensNothingAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		v := b.vaultOf(t, b.server, vault.WithKeyCache(time.Hour, 10))
		defer v.Close()
		grant, other := b.Grant(t, alice), b.Grant(t, alice)
		opens := func(grant keys.Grant) error {
			recording, err := v.Open(t.Context(), grant, id)
			if err != nil {
				return err
			}
			_, err = v.Stat(t.Context(), grant, id)
			require.NoError(t, err)
			return recording.Close()
		}
		require.NoError(t, opens(grant))
		require.NoError(t, opens(other))
		require.NoError(t, v.EndGrant(t.Context(), grant))
		require.ErrorIs(t, opens(grant), keys.ErrInvalidGrant)
		_, err := v.Stat(t.Context(), grant, id)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		require.NoError(t, opens(other), "another grant for the same patient goes on")
		require.ErrorIs(t, v.EndGrant(t.Context(), grant), keys.ErrInvalidGrant)
	})
}

// unreachable is a keyring that answers no revocation.
type unreachable struct{ vault.Keyring }

func (unreachable) RevokeSelf(context.Context, keys.Grant) error { return keys.ErrUnavailable }

func (unreachable) Unwrap(context.Context, keys.Grant, keys.Binding, keys.WrappedKey) (*keys.Key, error) {
	return nil, keys.ErrUnavailable
}

func TestEndGrantDropsTheKeysEvenIfTheKeyringIsAway(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	keyring := &switched{Keyring: b.server}
	v := b.vaultOf(t, keyring, vault.WithKeyCache(time.Hour, 10))
	defer v.Close()
	grant := b.Grant(t, alice)
	recording, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	keyring.Keyring = unreachable{b.server}
	require.ErrorIs(t, v.EndGrant(t.Context(), grant), keys.ErrUnavailable)
	_, err = v.Open(t.Context(), grant, id)
	assert.ErrorIs(t, err, keys.ErrUnavailable, "nothing is cached")
}

// switched is a keyring that a test exchanges.
type switched struct{ vault.Keyring }
