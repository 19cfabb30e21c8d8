package vault

import (
	"context"
	"fmt"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// StoreID returns the ID of a store and prefix, for keys/transit.SetupOptions: a keyring serves one store and prefix, and
// writers, retirers and trimmers refuse any other. prefix is the vault's, or "" if it has none: see [WithPrefix]. StoreID
// makes the ID if there is none yet, and keeps it in the object "<prefix>store-id".
//
// Errors: [keys.ErrInvalidStoreID] if that object has other content; those of [storage.Store] for Get and Put.
func StoreID(ctx context.Context, store storage.Store, prefix string) (keys.StoreID, error) {
	o, err := objects.New(store, prefix)
	if err != nil {
		return "", fmt.Errorf("store ID: %w", err)
	}
	id, err := o.MakeStoreID(ctx)
	if err != nil {
		return "", fmt.Errorf("store ID: %w", err)
	}
	return id, nil
}

// claimStore returns nil if the keyring serves the store. It asks until the answer is yes.
func (v *Vault) claimStore(ctx context.Context) error {
	if v.claimed.Load() {
		return nil
	}
	id, err := v.objects.MakeStoreID(ctx)
	if err != nil {
		return err
	}
	if err := v.keyring.ClaimStore(ctx, id); err != nil {
		return err
	}
	v.claimed.Store(true)
	return nil
}
