package transit

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/keys"
)

// Erase implements [keys.Eraser], for the eraser's role. Snapshots of Vault and backups of its storage
// keep the key until they expire.
func (k *Keyring) Erase(ctx context.Context, id keys.KeyID) error {
	if id.IsZero() {
		return fmt.Errorf("transit: erase: %w", keys.ErrInvalidKeyID)
	}
	if err := k.erase(ctx, id); err != nil {
		return fmt.Errorf("transit: erase: %w", err)
	}
	return nil
}

// erase makes the mark, deletes the key, and then removes the answers that Vault still wraps. It can be run
// again after an interruption at any point: the mark has no effect while the key exists, and exists once the
// key is gone. In the other order, an interruption in between would leave an erased patient who looks as if
// never enrolled, for good.
func (k *Keyring) erase(ctx context.Context, id keys.KeyID) error {
	_, err := k.vault.write(ctx, k.own, k.envelopeKeyPath(id)+"/config", map[string]any{"deletion_allowed": true})
	if missing(err) {
		if err := k.noEnvelopeKey(ctx, k.own, id); !errors.Is(err, keys.ErrErased) {
			return err
		}
		return k.revokeWrapped(ctx, id)
	}
	if err != nil {
		return err
	}
	if _, err := k.vault.write(ctx, k.own, k.erasedMarkPath(id), map[string]any{"type": markType, "key_size": hmacKeySize}); err != nil {
		return err
	}
	err = k.vault.delete(ctx, k.own, k.envelopeKeyPath(id))
	if err != nil && !missing(err) { // missing: another call deleted the key, or the answer to a first attempt was lost
		return err
	}
	return k.revokeWrapped(ctx, id)
}

// revokeWrapped removes the answers with a patient's recording keys in them that Vault keeps because a grant asked
// for a wrapped answer (X-Vault-Wrap-TTL). They would outlive the envelope key and the grant.
func (k *Keyring) revokeWrapped(ctx context.Context, id keys.KeyID) error {
	_, err := k.vault.write(ctx, k.own, "sys/leases/revoke-prefix/"+k.mount+"/decrypt/"+envelopeKey(id), map[string]any{"sync": true})
	return err
}

// hmacKeySize is the size in bytes of keys of type "hmac", for which Vault has no default. It is the
// output size of HMAC-SHA-256 (RFC 2104, section 3).
const hmacKeySize = 32
