// Package local is a keyring in a directory, made of Tink keysets. It is for development, for tests
// and for a single host without HashiCorp Vault. It has every role of package keys and passes the
// same conformance suite as [github.com/recvault/recvault/keys/transit], but it protects less.
//
// # What it does not protect
//
//   - Roles are not separate. Any process that can open the directory can enrol, issue grants,
//     unwrap and erase, and so the process that serves recordings can decrypt them by itself. Grants
//     guard against an application's mistakes, such as a listing that returns another patient's
//     recordings. They do not guard against code that runs in the application.
//   - Read access to the directory, or to a backup of it, opens every recording, unless
//     [Options.Root] is a key that is kept elsewhere, such as in a key management service.
//   - Write access to the directory can undo revocations, use counts and erasures by restoring old
//     files, and can destroy keys. The Root does not prevent that.
//   - There is no audit log. Nothing records who used a grant, or tried to.
//   - Keys are in this process's memory while they are used, and may reach swap or a core dump.
//   - The file of an erased, rotated or trimmed key is replaced. The file system, the disk and
//     backups may keep the old one; this package cannot remove it there.
//   - Grants end by the host's clock. Setting it back makes them last longer.
//
// # The directory
//
//	root.json               the root key, in clear; absent if Options.Root is given
//	pseudonym.json          the key that turns patients into KeyIDs
//	grants.json             the key that signs grants
//	patients/<KeyID>.json   a patient's envelope key, or the mark that it was erased
//	grants/<accessor>.json  a grant that can still be used, and how often it was used
//	store                   the ID of the store that the keyring serves, once one has claimed it
//	tmp/, lock              files while they are written, and the writers' lock
//
// Every key is in a Tink keyset, encrypted under the root key with its place in the directory as
// associated data, so that no keyset can take the place of another. Beside a patient's keyset are the
// number of its first version and the time of its last one, in clear and as associated data too.
//
// Files are replaced whole, and are durable before a call returns. Several processes may use the
// directory at the same time; each sees the others' changes at once. The directory must be on a file
// system with flock(2).
package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tink-crypto/tink-go/v2/jwt"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/recvault/recvault/keys"
)

// ErrInsecure means that the directory belongs to another user, or that users other than its owner
// can access it.
var ErrInsecure = errors.New("directory is not private")

// ErrDamaged means that a file of the keyring is missing, does not belong in its place, or does not
// decrypt under the root key. A Root that cannot be reached gives this error too. An error that is
// ErrDamaged is [keys.ErrUnavailable] as well.
var ErrDamaged = errors.New("keyring file is damaged or has another root key")

// Options are what most callers can leave at zero.
type Options struct {
	// Root encrypts every key in the directory. It is called for each use of an envelope key. With a
	// Root from a key management service, the directory alone opens nothing. It cannot be changed
	// later. If it is nil, Open makes a root key and keeps it in the directory in clear.
	Root tink.AEAD
}

// Keyring has all roles of package keys, in a directory. It is safe for concurrent use.
//
// If it fails to read or write the directory, it returns [keys.ErrUnavailable] with the cause.
type Keyring struct {
	dir        *directory
	root       tink.AEAD
	pseudonyms *prf.Set
	signer     jwt.MAC

	swept time.Time // when sweep last removed expired grants; guarded by exclusively
}

var (
	_ keys.Enroller  = (*Keyring)(nil)
	_ keys.Wrapper   = (*Keyring)(nil)
	_ keys.Unwrapper = (*Keyring)(nil)
	_ keys.Granter   = (*Keyring)(nil)
	_ keys.Revoker   = (*Keyring)(nil)
	_ keys.Rotator   = (*Keyring)(nil)
	_ keys.Retirer   = (*Keyring)(nil)
	_ keys.Trimmer   = (*Keyring)(nil)
	_ keys.Eraser    = (*Keyring)(nil)
)

// Open opens the keyring in a directory. It makes the directory and the keyring if they do not exist;
// the parent directory must exist. An existing directory must belong to the user and be closed to
// group and others (mode 0700); only on Unix does Open check this. Close the keyring when it is no
// longer needed.
//
// Errors: [ErrInsecure], [ErrDamaged], [keys.ErrUnavailable].
func Open(dir string, options Options) (*Keyring, error) {
	d, err := openDirectory(dir)
	if err != nil {
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	k := &Keyring{dir: d, root: options.Root}
	if err := k.load(); err != nil {
		_ = d.close()
		return nil, fmt.Errorf("open keyring: %w", err)
	}
	return k, nil
}

// Close releases the directory. Every later call fails.
func (k *Keyring) Close() error {
	return k.dir.close()
}

// KeyID implements [keys.Wrapper].
func (k *Keyring) KeyID(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	if err := ctx.Err(); err != nil {
		return keys.KeyID{}, fmt.Errorf("key ID: %w", err)
	}
	if err := patient.Validate(); err != nil {
		return keys.KeyID{}, fmt.Errorf("key ID: %w", err)
	}
	mac, err := k.pseudonyms.ComputePrimaryPRF([]byte(patient), keys.KeyIDBytes)
	if err != nil {
		return keys.KeyID{}, fmt.Errorf("key ID: %w: %w", keys.ErrUnavailable, err)
	}
	return keys.NewKeyID(mac), nil
}

// Enrol implements [keys.Enroller].
func (k *Keyring) Enrol(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.KeyID(ctx, patient)
	if err != nil {
		return keys.KeyID{}, fmt.Errorf("enrol: %w", err)
	}
	err = k.dir.exclusively(ctx, func() error {
		_, err := k.readEnvelopeKey(id)
		switch {
		case err == nil:
			return k.dir.sync(patientsDir) // the process that made the key may have been killed before its sync
		case errors.Is(err, keys.ErrNotEnrolled), errors.Is(err, keys.ErrErased):
			return k.makeEnvelopeKey(id)
		default:
			return err
		}
	})
	if err != nil {
		return keys.KeyID{}, fmt.Errorf("enrol: %w", err)
	}
	return id, nil
}

// Wrap implements [keys.Wrapper].
func (k *Keyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	envelopeKey, err := k.envelopeKey(ctx, binding.KeyID())
	if err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	wrapped, err := envelopeKey.wrap(binding, key)
	if err != nil {
		return "", fmt.Errorf("wrap: %w", err)
	}
	return wrapped, nil
}

// Unwrap implements [keys.Unwrapper]. The grant opens the patient that its signed token names.
func (k *Keyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	if binding.KeyID().IsZero() {
		return nil, fmt.Errorf("unwrap: %w", keys.ErrInvalidKeyID)
	}
	claims, err := k.use(ctx, grant)
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	if claims.keyID != binding.KeyID() {
		return nil, fmt.Errorf("unwrap: %w: the grant is for another patient", keys.ErrDenied)
	}
	if claims.describeOnly && !binding.IsMetadata() {
		return nil, fmt.Errorf("unwrap: %w: the grant can only describe", keys.ErrDenied)
	}
	envelopeKey, err := k.envelopeKey(ctx, binding.KeyID())
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	key, err := envelopeKey.unwrap(binding, wrapped)
	if err != nil {
		return nil, fmt.Errorf("unwrap: %w", err)
	}
	return key, nil
}

// Rotate implements [keys.Rotator].
func (k *Keyring) Rotate(ctx context.Context, id keys.KeyID) error {
	err := k.dir.exclusively(ctx, func() error {
		current, err := k.readEnvelopeKey(id)
		if err != nil {
			return err
		}
		return k.addVersion(id, current)
	})
	if err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	return nil
}

// Versions implements [keys.Rotator], [keys.Retirer] and [keys.Trimmer].
func (k *Keyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	envelopeKey, err := k.envelopeKey(ctx, id)
	if err != nil {
		return keys.Versions{}, fmt.Errorf("versions: %w", err)
	}
	return keys.Versions{
		Latest:        envelopeKey.latest(),
		MinDecryption: envelopeKey.oldest(),
		MinAvailable:  envelopeKey.first,
		Rotated:       envelopeKey.rotated,
		Label:         keyringName,
		Now:           time.Now().UTC(),
	}, nil
}

// Rewrap implements [keys.Rotator].
func (k *Keyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	envelopeKey, err := k.envelopeKey(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("rewrap: %w", err)
	}
	results := make([]keys.RewrapResult, len(items))
	for i, item := range items {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("rewrap: %w", err)
		}
		wrapped, err := envelopeKey.rewrap(item)
		if err != nil {
			err = fmt.Errorf("rewrap: %w", err)
		}
		results[i] = keys.RewrapResult{Wrapped: wrapped, Err: err}
	}
	return results, nil
}

// Retire implements [keys.Retirer].
func (k *Keyring) Retire(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.dir.exclusively(ctx, func() error {
		current, err := k.readEnvelopeKey(id)
		switch {
		case err != nil:
			return err
		case oldest < 1 || oldest > current.latest():
			return keys.ErrInvalidVersion
		case oldest <= current.oldest():
			return k.dir.sync(patientsDir) // the process that retired it may have been killed before its sync
		}
		return k.change(id, current, current.oldest(), oldest, (*keyset.Manager).Disable)
	})
	if err != nil {
		return fmt.Errorf("retire: %w", err)
	}
	return nil
}

// Reinstate implements [keys.Retirer].
func (k *Keyring) Reinstate(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.dir.exclusively(ctx, func() error {
		current, err := k.readEnvelopeKey(id)
		switch {
		case err != nil:
			return err
		case oldest < current.first || oldest > current.latest():
			return keys.ErrInvalidVersion
		case oldest >= current.oldest():
			return k.dir.sync(patientsDir)
		}
		return k.change(id, current, oldest, current.oldest(), (*keyset.Manager).Enable)
	})
	if err != nil {
		return fmt.Errorf("reinstate: %w", err)
	}
	return nil
}

// Trim implements [keys.Trimmer].
func (k *Keyring) Trim(ctx context.Context, id keys.KeyID, oldest int) error {
	err := k.dir.exclusively(ctx, func() error {
		current, err := k.readEnvelopeKey(id)
		switch {
		case err != nil:
			return err
		case oldest < 1 || oldest > current.oldest():
			return keys.ErrInvalidVersion
		case oldest <= current.first:
			return k.dir.sync(patientsDir)
		}
		return k.change(id, current, current.first, oldest, (*keyset.Manager).Delete)
	})
	if err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	return nil
}

// Erase implements [keys.Eraser].
func (k *Keyring) Erase(ctx context.Context, id keys.KeyID) error {
	err := k.dir.exclusively(ctx, func() error {
		_, err := k.readEnvelopeKey(id)
		switch {
		case errors.Is(err, keys.ErrErased):
			return k.dir.sync(patientsDir) // the process that erased it may have been killed before its sync
		case err == nil, errors.Is(err, ErrDamaged): // a damaged key can be erased too
			return k.eraseEnvelopeKey(id)
		default:
			return err
		}
	})
	if err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	return nil
}

// load reads the keyring's own keys. In a new directory it makes them.
func (k *Keyring) load() error {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	err := k.dir.exclusively(ctx, func() error {
		if err := k.dir.prepare(); err != nil {
			return err
		}
		// The folder of patients is made last. Until it exists, no key has been used, and load can make
		// the keys that are missing after a crash.
		made, err := k.dir.exists(patientsDir)
		if err != nil {
			return err
		}
		if err := k.loadKeysets(!made); err != nil || made {
			return err
		}
		return k.dir.mkdir(patientsDir)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: another process holds its lock", keys.ErrUnavailable)
	}
	return err
}

func (k *Keyring) loadKeysets(mayMake bool) error {
	if k.root == nil {
		root, err := k.loadRoot(mayMake)
		if err != nil {
			return err
		}
		k.root = root
	}
	handle, err := k.loadKeyset(pseudonymFile, prf.HMACSHA256PRFKeyTemplate(), mayMake)
	if err != nil {
		return err
	}
	if k.pseudonyms, err = prf.NewPRFSet(handle); err != nil {
		return damaged(pseudonymFile)
	}
	handle, err = k.loadKeyset(signerFile, jwt.HS256Template(), mayMake)
	if err != nil {
		return err
	}
	if k.signer, err = jwt.NewMAC(handle); err != nil {
		return damaged(signerFile)
	}
	return nil
}

// unavailable returns the error of a directory that failed.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", keys.ErrUnavailable, err)
}

// damaged returns the error of a file with the wrong content. It has no cause, because Tink's error
// is the same for an altered file and for another root key.
func damaged(name string) error {
	return fmt.Errorf("%w: %w: %s", keys.ErrUnavailable, ErrDamaged, name)
}
