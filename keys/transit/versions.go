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

// versions are the versions of an envelope key as Vault reports them.
type versions struct {
	Latest        int              `json:"latest_version"`
	MinDecryption int              `json:"min_decryption_version"`
	MinEncryption int              `json:"min_encryption_version"` // 0: not set
	MinAvailable  int              `json:"min_available_version"`  // 0: never trimmed
	Now           time.Time        `json:"-"`                      // Vault's clock when it answered
	Made          map[string]int64 `json:"keys"`                   // version that is not retired -> seconds since 1970
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
		Label:         keyringName,
		Now:           v.Now,
	}, nil
}

func (k *Keyring) versions(ctx context.Context, id keys.KeyID) (versions, error) {
	if id.IsZero() {
		return versions{}, keys.ErrInvalidKeyID
	}
	secret, now, err := k.readKey(ctx, id)
	if missing(err) {
		err = k.noEnvelopeKey(ctx, k.own, id)
	}
	v := versions{Now: now}
	if err == nil {
		err = decode(secret, &v)
	}
	if err == nil && v.Made[strconv.Itoa(v.Latest)] == 0 {
		err = fmt.Errorf("%w: Vault does not report when the newest version was made", keys.ErrUnavailable)
	}
	return v, err
}

// Retire implements [keys.Retirer], for the retirer's role.
//
// Vault cannot change a setting on the condition that it is still what was read. If two calls run
// concurrently for one patient, the one with the lower version may come last and undo the other's
// retirement. No key is lost, and retiring again corrects it.
func (k *Keyring) Retire(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.changeVersions(ctx, id, "/config", func(v versions) (map[string]any, error) {
		if oldest < 1 || oldest > v.Latest {
			return nil, keys.ErrInvalidVersion
		}
		if v.MinDecryption >= oldest && v.MinEncryption >= v.Latest {
			return nil, nil
		}
		// Wraps always use the newest version. With that as the minimum for encryption, nobody who may re-wrap
		// can go back to an older one. A trim needs the minimum to be set too.
		return map[string]any{
			"min_decryption_version": max(oldest, v.MinDecryption),
			"min_encryption_version": v.Latest,
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

// Trim implements [keys.Trimmer], for the trimmer's role. It returns [keys.ErrInvalidVersion] for
// versions that were retired by other means than [Keyring.Retire], until Retire retires them too.
//
// Vault itself checks, in the same step, that a trim destroys no version that still unwraps. Snapshots
// of Vault and backups of its storage keep the versions until they expire.
//
// Vault stores a trim in two steps: first the archive of retired versions, then the key's settings. If
// Vault stops between the two, versions that unwrap still do, and rotating, rewrapping and retiring
// are safe. But the archive no longer matches its numbering, and [Keyring.Reinstate] could replace
// good versions by wrong ones, for good. If a Trim failed with [keys.ErrUnavailable] while Vault went
// down, do not reinstate versions of that patient.
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

// changeVersions reads an envelope key's versions, and writes the data that decide returns for them to
// the path below the key's. It writes nothing if decide returns nil. Vault refuses data that does not
// fit the versions at the time of the write; changeVersions then assumes that they changed in between,
// and starts again.
func (k *Keyring) changeVersions(ctx context.Context, id keys.KeyID, below string, decide func(versions) (map[string]any, error)) error {
	const attempts = 10
	for attempt := 1; ; attempt++ {
		v, err := k.versions(ctx, id)
		if err != nil {
			return err
		}
		data, err := decide(v)
		if err != nil || data == nil {
			return err
		}
		_, err = k.vault.write(ctx, k.own, k.envelopeKeyPath(id)+below, data)
		if badRequest(err) && attempt < attempts {
			continue
		}
		return err
	}
}

// markType is the type of the key that marks an erasure. Keys of this type cannot encrypt.
const markType = "hmac"

// readKey reads an envelope key's settings, with the client's token. It sends the parameters of Enrol. They have
// no effect on the answer, but the enroller's policy requires them, and for a token with several roles Vault
// demands what any of their policies requires for the path, for reads too.
func (k *Keyring) readKey(ctx context.Context, id keys.KeyID) (*api.Secret, time.Time, error) {
	return k.vault.readWith(ctx, k.own, k.envelopeKeyPath(id), url.Values{"type": {envelopeKeyType}, "derived": {"true"}})
}
