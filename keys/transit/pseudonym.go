package transit

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/recvault/recvault/keys"
)

// pseudonymKey is the name of the HMAC key that makes pseudonyms. No patient's envelope key has this
// name, because theirs end in "-kek".
const pseudonymKey = "pseudonym"

// KeyID implements [keys.Wrapper], for the enroller's, writer's, granter's and eraser's roles. In
// addition to that interface's errors it returns [ErrNotSetUp].
func (k *Keyring) KeyID(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	id, err := k.keyID(ctx, patient)
	if err != nil {
		return keys.KeyID{}, fmt.Errorf("transit: pseudonym: %w", err)
	}
	return id, nil
}

func (k *Keyring) keyID(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	if err := patient.Validate(); err != nil {
		return keys.KeyID{}, err
	}
	if err := ctx.Err(); err != nil {
		return keys.KeyID{}, err
	}
	if id, ok := k.pseudonyms.Get(patient); ok {
		return id, nil
	}
	// The key version is fixed, so that a rotation of the key does not give patients new pseudonyms.
	secret, err := k.vault.write(ctx, k.own, k.mount+"/hmac/"+pseudonymKey+"/sha2-256", map[string]any{
		"input":       base64.StdEncoding.EncodeToString([]byte(patient)),
		"key_version": 1,
	})
	if missing(err) {
		return keys.KeyID{}, fmt.Errorf("%w: the key %q is missing", ErrNotSetUp, pseudonymKey)
	}
	var answer struct {
		HMAC string `json:"hmac"`
	}
	if err == nil {
		err = decode(secret, &answer)
	}
	if err != nil {
		return keys.KeyID{}, err
	}
	encoded, versioned := strings.CutPrefix(answer.HMAC, "vault:v1:")
	mac, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !versioned || len(mac) < keys.KeyIDBytes {
		return keys.KeyID{}, fmt.Errorf("%w: Vault answered with no HMAC of version 1", keys.ErrUnavailable)
	}
	id := keys.NewKeyID(mac)
	k.pseudonyms.Add(patient, id)
	return id, nil
}
