package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/recvault/recvault/keys"
)

const patientsDir = "patients"

func patientFile(id keys.KeyID) string { return patientsDir + "/" + id.String() + ".json" }

// erasedMark is the content of an erased patient's file, in place of the keyset. Replacing one file
// is a single step, so a crash leaves either the key or the mark.
const erasedMark = `{"erased":true}`

// envelopeKey is a patient's key: a Tink keyset with one AES-256-GCM key for each version, in order.
// The newest is the primary. Retired versions are disabled; trimmed ones are deleted.
type envelopeKey struct {
	first   int       // the version of the keyset's first key
	rotated time.Time // when the keyset's last key was made
	handle  *keyset.Handle
	aead    tink.AEAD
}

// envelopeKeyFile is the file of an envelope key.
type envelopeKeyFile struct {
	First   int             `json:"first"`
	Rotated time.Time       `json:"rotated"`
	Keyset  json.RawMessage `json:"keyset"`
}

// envelopeKey reads a patient's key. Every use reads it again, because another process may have
// changed it.
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
	case errors.Is(err, fs.ErrNotExist):
		return nil, keys.ErrNotEnrolled
	case err != nil:
		return nil, err
	case string(data) == erasedMark:
		return nil, keys.ErrErased
	}
	var file envelopeKeyFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, damaged(name)
	}
	handle, err := k.openKeyset(name, file.Keyset, versionsPlace(name, file.First, file.Rotated))
	if err != nil {
		return nil, err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, damaged(name)
	}
	return &envelopeKey{file.First, file.Rotated, handle, primitive}, nil
}

func (k *Keyring) writeEnvelopeKey(id keys.KeyID, first int, rotated time.Time, handle *keyset.Handle) error {
	name := patientFile(id)
	sealed, err := k.sealKeyset(handle, versionsPlace(name, first, rotated))
	if err != nil {
		return err
	}
	data, err := json.Marshal(envelopeKeyFile{first, rotated, sealed})
	if err != nil {
		return unavailable(err)
	}
	return k.dir.write(name, data)
}

// versionsPlace returns the associated data that ties an envelope key's keyset to its file and to the
// other fields of the file.
func versionsPlace(name string, first int, rotated time.Time) []byte {
	return fmt.Appendf(place(name), "/v%d/%s", first, rotated.Format(time.RFC3339Nano))
}

func (k *Keyring) makeEnvelopeKey(id keys.KeyID) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return unavailable(err)
	}
	return k.writeEnvelopeKey(id, 1, time.Now().UTC(), handle)
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
	return k.writeEnvelopeKey(id, current.first, time.Now().UTC(), handle)
}

// change applies a change to the key of each version in [from, to), and writes the keyset.
func (k *Keyring) change(id keys.KeyID, current *envelopeKey, from, to int, change func(*keyset.Manager, uint32) error) error {
	manager := keyset.NewManagerFromHandle(current.handle)
	for version := from; version < to; version++ {
		entry, err := current.handle.Entry(version - current.first)
		if err != nil {
			return unavailable(err)
		}
		if err := change(manager, entry.KeyID()); err != nil {
			return unavailable(err)
		}
	}
	handle, err := manager.Handle()
	if err != nil {
		return unavailable(err)
	}
	// If keys were deleted, they were the first ones, and the keyset now starts with a later version.
	first := current.first + current.handle.Len() - handle.Len()
	return k.writeEnvelopeKey(id, first, current.rotated, handle)
}

func (k *Keyring) eraseEnvelopeKey(id keys.KeyID) error {
	return k.dir.write(patientFile(id), []byte(erasedMark))
}

// latest returns the version that wraps.
func (e *envelopeKey) latest() int { return e.first + e.handle.Len() - 1 }

// oldest returns the oldest version that is not retired.
func (e *envelopeKey) oldest() int {
	version := e.first
	for _, key := range e.handle.KeysetInfo().GetKeyInfo() {
		if key.GetStatus() == tinkpb.KeyStatusType_ENABLED {
			break // at the primary at the latest, which is always enabled
		}
		version++
	}
	return version
}

// keyringName is the first part of this package's wrapped keys.
const keyringName = "local"

func (e *envelopeKey) wrap(binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	version := e.latest()
	ciphertext, err := e.aead.Encrypt(key.Bytes(), associatedData(version, binding))
	if err != nil {
		return "", unavailable(err)
	}
	return keys.NewWrappedKey(keyringName, version, ciphertext), nil
}

func (e *envelopeKey) unwrap(binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	keyring, version, ciphertext, err := wrapped.Parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keys.ErrIntegrity, err)
	}
	if keyring != keyringName {
		return nil, keys.ErrUnsupported
	}
	if version < e.oldest() {
		return nil, keys.ErrRetired
	}
	secret, err := e.aead.Decrypt(ciphertext, associatedData(version, binding))
	if err != nil {
		return nil, keys.ErrIntegrity // Tink's error has no further details
	}
	defer clear(secret)
	return keys.KeyFromBytes(secret)
}

func (e *envelopeKey) rewrap(item keys.RewrapItem) (keys.WrappedKey, error) {
	key, err := e.unwrap(item.Binding, item.Wrapped)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	return e.wrap(item.Binding, key)
}

// associatedData returns the bytes that tie a wrapped key to its recording and to the version in its text.
func associatedData(version int, binding keys.Binding) []byte {
	return []byte("v" + strconv.Itoa(version) + "/" + binding.String())
}
