package local_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
)

func TestFirstStoreToClaimTheKeyringIsServed(t *testing.T) {
	dir := newDir(t)
	first, second := open(t, dir, local.Options{}), open(t, dir, local.Options{})
	stores := []keys.StoreID{keys.NewStoreID(), keys.NewStoreID(), keys.NewStoreID(), keys.NewStoreID()}
	require.ErrorIs(t, first.CheckStore(t.Context(), stores[0]), keys.ErrForeignStore, "a check claims nothing")

	var wg sync.WaitGroup
	errs := make([]error, len(stores))
	for i, store := range stores {
		wg.Go(func() {
			keyring := first
			if i%2 == 1 {
				keyring = second
			}
			errs[i] = keyring.ClaimStore(t.Context(), store)
		})
	}
	wg.Wait()
	served := 0
	reopened := open(t, dir, local.Options{})
	for i, err := range errs {
		assert.Equal(t, err == nil, reopened.CheckStore(t.Context(), stores[i]) == nil)
		if err == nil {
			served++
		} else {
			assert.ErrorIs(t, err, keys.ErrForeignStore)
		}
	}
	assert.Equal(t, 1, served)
}

func TestDamagedRecordOfTheStoreIsReported(t *testing.T) {
	dir := newDir(t)
	keyring := open(t, dir, local.Options{})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "store"), []byte("\x1b[2Jcut"), 0o600))
	for _, err := range []error{
		keyring.ClaimStore(t.Context(), keys.NewStoreID()),
		keyring.CheckStore(t.Context(), keys.NewStoreID()),
	} {
		assert.ErrorIs(t, err, local.ErrDamaged)
		assert.NotContains(t, err.Error(), "\x1b")
	}
}
