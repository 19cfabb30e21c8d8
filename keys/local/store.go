package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/recvault/recvault/keys"
)

// storeFile has the ID of the store that the keyring serves.
const storeFile = "store"

// ClaimStore implements [keys.Wrapper]. The first store that claims the keyring is the one that it serves from then on.
func (k *Keyring) ClaimStore(ctx context.Context, store keys.StoreID) error {
	err := k.dir.exclusively(ctx, func() error {
		served, err := k.servedStore()
		switch {
		case err != nil:
			return err
		case served != "":
			return store.Served(served)
		}
		if err := store.Served(store); err != nil { // not an ID
			return err
		}
		return k.dir.write(storeFile, []byte(store))
	})
	if err != nil {
		return fmt.Errorf("claim store: %w", err)
	}
	return nil
}

// CheckStore implements [keys.Retirer] and [keys.Trimmer].
func (k *Keyring) CheckStore(ctx context.Context, store keys.StoreID) error {
	err := ctx.Err()
	var served keys.StoreID
	if err == nil {
		served, err = k.servedStore()
	}
	if err == nil {
		err = store.Served(served)
	}
	if err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	return nil
}

// servedStore returns the recorded store, or "" if none is recorded.
func (k *Keyring) servedStore() (keys.StoreID, error) {
	text, err := k.dir.read(storeFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	served, err := keys.ParseStoreID(string(text))
	if err != nil {
		return "", damaged(storeFile)
	}
	return served, nil
}
