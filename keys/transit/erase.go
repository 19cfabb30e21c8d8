package transit

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/keys"
)

// Erase implements [keys.Eraser], for the eraser's role. Vault's own snapshots and the backups of its
// storage keep the key until they expire.
func (k *Keyring) Erase(ctx context.Context, id keys.KeyID) error {
	if id.IsZero() {
		return fmt.Errorf("transit: erase: %w", keys.ErrInvalidKeyID)
	}
	if err := k.erase(ctx, id); err != nil {
		return fmt.Errorf("transit: erase: %w", err)
	}
	return nil
}

// erase leaves the mark before it deletes the key. Interrupted at any point, it can be run again: as
// long as the key is there the mark means nothing, and once the key is gone the mark is there to
// tell. The other way round, an interruption in between would leave an erased patient that looks as
// if never enrolled, for good.
func (k *Keyring) erase(ctx context.Context, id keys.KeyID) error {
	token := k.client.Token()
	_, err := k.vault.write(ctx, token, k.envelopeKeyPath(id)+"/config", map[string]any{"deletion_allowed": true})
	if missing(err) {
		if err := k.noEnvelopeKey(ctx, token, id); !errors.Is(err, keys.ErrErased) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := k.vault.write(ctx, token, k.erasedMarkPath(id), map[string]any{"type": markType, "key_size": hmacKeySize}); err != nil {
		return err
	}
	err = k.vault.delete(ctx, token, k.envelopeKeyPath(id))
	if missing(err) {
		return nil // another eraser was faster, or Vault's first answer was lost
	}
	return err
}

// hmacKeySize is the size in bytes of the keys of type "hmac", for which Vault has no default: that
// of HMAC-SHA-256's output (RFC 2104, section 3).
const hmacKeySize = 32
