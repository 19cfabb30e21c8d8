package objects

import (
	"context"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// HoldName returns the name of the object that is a hold on a patient's recordings, under every prefix. An empty
// object is a hold that was cleared. Package vault/erasure sets and clears holds.
func HoldName(id keys.KeyID) string { return "holds/" + id.String() }

// Held describes the hold that stands on a patient's recordings, or returns nil if none does. All code that removes
// a recording calls it first. Errors: those of [storage.Store] for Stat.
func Held(ctx context.Context, store storage.Store, id keys.KeyID) (*storage.Info, error) {
	hold, err := find(ctx, store, HoldName(id))
	if err != nil || hold == nil || hold.Size == 0 {
		return nil, err
	}
	return hold, nil
}

// Held is the function [Held] for the store of these objects.
func (o *Objects) Held(ctx context.Context, id keys.KeyID) (*storage.Info, error) {
	return Held(ctx, o.store, id)
}
