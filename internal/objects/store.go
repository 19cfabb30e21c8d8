package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// storeIDName returns the name of the object that identifies the store and prefix. It is made by the first that asks
// for it and never changed.
func (o *Objects) storeIDName() string { return o.prefix + "store-id" }

// StoreID reads the ID of the store and prefix. Errors: [storage.ErrNotFound] if they have none yet;
// [keys.ErrInvalidStoreID] if the object has other content; those of [Read].
func (o *Objects) StoreID(ctx context.Context) (keys.StoreID, error) {
	const tooMuch = 64
	text, _, err := Read(ctx, o.store, o.storeIDName(), 0, tooMuch)
	if err != nil {
		return "", fmt.Errorf("object %s: %w", o.storeIDName(), err)
	}
	id, err := keys.ParseStoreID(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("object %s: %w", o.storeIDName(), err)
	}
	return id, nil
}

// MakeStoreID is StoreID, and gives the store and prefix an ID if they have none yet. Errors: those of StoreID, and of
// [storage.Store] for Put.
func (o *Objects) MakeStoreID(ctx context.Context) (keys.StoreID, error) {
	id, err := o.StoreID(ctx)
	if !errors.Is(err, storage.ErrNotFound) {
		return id, err
	}
	id = keys.NewStoreID()
	_, err = o.store.Put(ctx, o.storeIDName(), strings.NewReader(string(id)), int64(len(id)), storage.IfAbsent())
	if errors.Is(err, storage.ErrExists) { // somebody else was faster
		return o.StoreID(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("object %s: %w", o.storeIDName(), err)
	}
	return id, nil
}
