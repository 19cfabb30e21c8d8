package transit

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// versions are those of an envelope key as Vault has them.
type versions struct {
	Latest        int              `json:"latest_version"`
	MinDecryption int              `json:"min_decryption_version"`
	MinEncryption int              `json:"min_encryption_version"` // 0: not set
	MinAvailable  int              `json:"min_available_version"`  // 0: never trimmed
	Made          map[string]int64 `json:"keys"`                   // version -> seconds since 1970, of those not retired
}

// Versions implements [keys.Rotator], [keys.Retirer] and [keys.Trimmer], for every role that may read
// keys: the rotator's, retirer's, trimmer's, eraser's, writer's and auditor's.
func (k *Keyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	v, err := k.versions(ctx, id)
	if err != nil {
		return keys.Versions{}, fmt.Errorf("transit: key versions: %w", err)
	}
	return keys.Versions{
		Latest:        v.Latest,
		MinDecryption: v.MinDecryption,
		MinAvailable:  max(v.MinAvailable, 1),
		Rotated:       time.Unix(v.Made[strconv.Itoa(v.Latest)], 0).UTC(),
	}, nil
}

func (k *Keyring) versions(ctx context.Context, id keys.KeyID) (versions, error) {
	if id.IsZero() {
		return versions{}, keys.ErrInvalidKeyID
	}
	secret, err := k.readKey(ctx, k.client.Token(), k.envelopeKeyPath(id))
	if missing(err) {
		err = k.noEnvelopeKey(ctx, k.client.Token(), id)
	}
	var v versions
	if err == nil {
		err = decode(secret, &v)
	}
	if err == nil && v.Made[strconv.Itoa(v.Latest)] == 0 {
		err = fmt.Errorf("%w: Vault does not say when the newest version was made", keys.ErrUnavailable)
	}
	return v, err
}

// Retire implements [keys.Retirer], for the retirer's role.
//
// Vault has no way to change a setting only if it is still what was read. Of two calls at the same
// time for one patient, the one with the lower version may come last and have the other's undone:
// nothing is lost by that, and retiring again mends it.
func (k *Keyring) Retire(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.changeVersions(ctx, id, "/config", func(v versions) (map[string]any, error) {
		if oldest < 1 || oldest > v.Latest {
			return nil, keys.ErrInvalidVersion
		}
		if v.MinDecryption >= oldest && v.MinEncryption >= oldest {
			return nil, nil
		}
		// Vault wants the minimum for encryption not to be below that for decryption, once it is set,
		// and it must be for a trim. Wraps are made with the newest version in any case.
		minimum := max(oldest, v.MinDecryption)
		return map[string]any{
			"min_decryption_version": minimum,
			"min_encryption_version": max(minimum, v.MinEncryption),
		}, nil
	})
	if err != nil {
		return fmt.Errorf("transit: retire: %w", err)
	}
	return nil
}

// Reinstate implements [keys.Retirer], for the retirer's role.
func (k *Keyring) Reinstate(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.changeVersions(ctx, id, "/config", func(v versions) (map[string]any, error) {
		if oldest < max(v.MinAvailable, 1) || oldest > v.Latest {
			return nil, keys.ErrInvalidVersion
		}
		if oldest >= v.MinDecryption {
			return nil, nil
		}
		return map[string]any{"min_decryption_version": oldest}, nil
	})
	if err != nil {
		return fmt.Errorf("transit: reinstate: %w", err)
	}
	return nil
}

// Trim implements [keys.Trimmer], for the trimmer's role. Versions that were retired by other means
// than [Keyring.Retire] must be retired by it before: until then they give [keys.ErrInvalidVersion].
//
// Vault checks by itself, in the same step, that no version is destroyed that still unwraps. Its own
// snapshots and the backups of its storage keep the versions until they expire.
//
// Vault stores a trim in two steps: first the archive, then the key's settings. If it dies between
// them, what unwraps goes on doing so, and rotating, rewrapping and retiring are safe; but the archive
// has moved against its numbering, and [Keyring.Reinstate] could put wrong keys in the place of good
// ones, for good. After a Trim that failed with [keys.ErrUnavailable] while Vault went down, do not
// reinstate versions of that patient.
func (k *Keyring) Trim(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.changeVersions(ctx, id, "/trim", func(v versions) (map[string]any, error) {
		if oldest < 1 || oldest > v.MinDecryption {
			return nil, keys.ErrInvalidVersion
		}
		if oldest <= max(v.MinAvailable, 1) {
			return nil, nil
		}
		if oldest > v.MinEncryption {
			return nil, keys.ErrInvalidVersion
		}
		return map[string]any{"min_available_version": oldest}, nil
	})
	if err != nil {
		return fmt.Errorf("transit: trim: %w", err)
	}
	return nil
}

// changeVersions reads an envelope key's versions and writes what decide makes of them, if anything,
// to the path below the key's. Vault refuses what does not fit the versions as they are by then; in
// that case they have changed in between, and it is decided anew.
func (k *Keyring) changeVersions(ctx context.Context, id keys.KeyID, below string, decide func(versions) (map[string]any, error)) error {
	const attempts = 10 // a 400 is taken for a race that was lost
	for attempt := 1; ; attempt++ {
		v, err := k.versions(ctx, id)
		if err != nil {
			return err
		}
		data, err := decide(v)
		if err != nil || data == nil {
			return err
		}
		_, err = k.vault.write(ctx, k.client.Token(), k.envelopeKeyPath(id)+below, data)
		if badRequest(err) && attempt < attempts {
			continue
		}
		return err
	}
}

// markType is the type of the key that marks an erasure: one that cannot encrypt.
const markType = "hmac"

// readKey reads an envelope key's settings, or the mark of an erasure. Vault asks a role for the
// parameters that its policy requires in reading as in writing, and the eraser's requires this one.
// To the others, and to the answer, it makes no difference.
func (k *Keyring) readKey(ctx context.Context, token, path string) (*api.Secret, error) {
	return k.vault.readWith(ctx, token, path, url.Values{"type": {markType}})
}
