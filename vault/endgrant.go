package vault

import (
	"context"
	"fmt"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// EndGrant ends a grant and every copy of it, such as at a logout. The keyring revokes it, and this vault drops the keys
// that it has cached for it. So no later Open, Stat or ServeRecording of this vault succeeds with the grant. A Recording
// that is open stays open. The vaults of other processes play on from their caches for up to the TTL of theirs: see
// [WithKeyCache].
//
// If the keyring does not answer, the cached keys are dropped all the same, and the grant lasts until its TTL or until
// EndGrant is called again.
//
// Errors: [keys.ErrInvalidGrant] if the grant had already ended, [keys.ErrUnavailable].
func (v *Vault) EndGrant(ctx context.Context, grant keys.Grant) error {
	err := v.keyring.RevokeSelf(ctx, grant)
	v.keyCache.forget(grant)
	if err != nil {
		return fmt.Errorf("end grant: %w", err)
	}
	v.emit(events.Event{Kind: events.GrantRevoked, KeyID: grant.KeyID(), Grant: grant.Details()})
	return nil
}
