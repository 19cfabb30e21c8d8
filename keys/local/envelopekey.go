package local

import (
	"context"
	"fmt"
	"strconv"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/recvault/recvault/keys"
)

const patientsDir = "patients"

func patientFile(id keys.KeyID) string { return patientsDir + "/" + id.String() + ".json" }

// erasedMark takes the place of an erased patient's keyset. That one file is either the key or the
// mark makes an erasure a single step, which no crash can cut in two.
const erasedMark = `{"erased":true}`

// envelopeKey is a patient's key: a Tink keyset with one AES-256-GCM key for each version, in order,
// the newest of which is the primary.
type envelopeKey struct {
	handle *keyset.Handle
	aead   tink.AEAD
}

// envelopeKey reads a patient's key. It is read for each use, because another process may have
// rotated or erased it.
func (k *Keyring) envelopeKey(ctx context.Context, id keys.KeyID) (*envelopeKey, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.readEnvelopeKey(id)
}

func (k *Keyring) readEnvelopeKey(id keys.KeyID) (*envelopeKey, error) {
	if id.IsZero() {
		return nil, keys.ErrInvalidKeyID
	}
	name := patientFile(id)
	data, err := k.dir.read(name)
	switch {
	case isNotExist(err):
		return nil, keys.ErrNotEnrolled
	case err != nil:
		return nil, err
	case string(data) == erasedMark:
		return nil, keys.ErrErased
	}
	handle, err := k.openKeyset(name, data)
	if err != nil {
		return nil, err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, damaged(name)
	}
	return &envelopeKey{handle, primitive}, nil
}

func (k *Keyring) makeEnvelopeKey(id keys.KeyID) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return unavailable(err)
	}
	return k.writeKeyset(patientFile(id), handle)
}

func (k *Keyring) addVersion(id keys.KeyID, current *envelopeKey) error {
	manager := keyset.NewManagerFromHandle(current.handle)
	tinkID, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return unavailable(err)
	}
	if err := manager.SetPrimary(tinkID); err != nil {
		return unavailable(err)
	}
	handle, err := manager.Handle()
	if err != nil {
		return unavailable(err)
	}
	return k.writeKeyset(patientFile(id), handle)
}

func (k *Keyring) eraseEnvelopeKey(id keys.KeyID) error {
	return k.dir.write(patientFile(id), []byte(erasedMark))
}

// latest returns the version that wraps.
func (e *envelopeKey) latest() int { return e.handle.Len() }

// keyringName starts the wrapped keys of this package.
const keyringName = "local"

func (e *envelopeKey) wrap(binding keys.Binding, key *keys.RecordingKey) (keys.WrappedKey, error) {
	version := e.latest()
	ciphertext, err := e.aead.Encrypt(key.Bytes(), associatedData(version, binding))
	if err != nil {
		return "", unavailable(err)
	}
	return keys.NewWrappedKey(keyringName, version, ciphertext), nil
}

func (e *envelopeKey) unwrap(binding keys.Binding, wrapped keys.WrappedKey) (*keys.RecordingKey, error) {
	keyring, version, ciphertext, err := wrapped.Parse()
	if err != nil {
		return nil, err
	}
	if keyring != keyringName {
		return nil, fmt.Errorf("%w: another keyring wrapped it", keys.ErrIntegrity)
	}
	secret, err := e.aead.Decrypt(ciphertext, associatedData(version, binding))
	if err != nil {
		return nil, keys.ErrIntegrity // Tink's error says no more
	}
	defer clear(secret)
	return keys.RecordingKeyFromBytes(secret)
}

func (e *envelopeKey) rewrap(item keys.RewrapItem) (keys.WrappedKey, error) {
	key, err := e.unwrap(item.Binding, item.Wrapped)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	return e.wrap(item.Binding, key)
}

// associatedData ties a wrapped key to its recording, and to the version that its text names.
func associatedData(version int, binding keys.Binding) []byte {
	return []byte("v" + strconv.Itoa(version) + "/" + binding.String())
}
