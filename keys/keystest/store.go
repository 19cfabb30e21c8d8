package keystest

import (
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
)

func oneStore(f *fixture) {
	require.NoError(f, f.ClaimStore(f.Context(), Store))
	require.NoError(f, f.ClaimStore(f.Context(), Store), "a second time")
	require.NoError(f, f.CheckStore(f.Context(), Store))

	other := keys.NewStoreID()
	for range 2 {
		assert.ErrorIs(f, f.ClaimStore(f.Context(), other), keys.ErrForeignStore)
		assert.ErrorIs(f, f.CheckStore(f.Context(), other), keys.ErrForeignStore)
	}
	assert.NoError(f, f.CheckStore(f.Context(), Store), "a refused claim changes nothing")

	for _, invalid := range []keys.StoreID{"", Store + "A", Store[1:], keys.StoreID(strings.ToLower(string(Store)))} {
		assert.ErrorIs(f, f.ClaimStore(f.Context(), invalid), keys.ErrInvalidStoreID)
		assert.ErrorIs(f, f.CheckStore(f.Context(), invalid), keys.ErrInvalidStoreID)
	}
}
