package transit

import (
	"context"
	"fmt"
	"slices"

	"github.com/recvault/recvault/keys"
)

// Rotate implements [keys.Rotator], for the rotator's role.
func (k *Keyring) Rotate(ctx context.Context, id keys.KeyID) error {
	if id.IsZero() {
		return fmt.Errorf("transit: rotate: %w", keys.ErrInvalidKeyID)
	}
	_, err := k.vault.write(ctx, k.own, k.envelopeKeyPath(id)+"/rotate", nil)
	if missing(err) {
		err = k.noEnvelopeKey(ctx, k.own, id)
	}
	if err != nil {
		return fmt.Errorf("transit: rotate: %w", err)
	}
	return nil
}

// rewrapBatch is the number of items in one request: about 64 KiB, far below the 32 MiB that Vault
// accepts, and few enough not to delay other requests.
const rewrapBatch = 256

// Rewrap implements [keys.Rotator], for the rotator's role.
func (k *Keyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	if id.IsZero() {
		return nil, fmt.Errorf("transit: rewrap: %w", keys.ErrInvalidKeyID)
	}
	results := make([]keys.RewrapResult, 0, len(items))
	for batch := range slices.Chunk(items, rewrapBatch) {
		rewrapped, err := k.rewrap(ctx, id, batch)
		if err != nil {
			return nil, fmt.Errorf("transit: rewrap: %w", err)
		}
		results = append(results, rewrapped...)
	}
	return results, nil
}

func (k *Keyring) rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results := make([]keys.RewrapResult, len(items))
	var input []map[string]string
	var sent []int // for each element of input, its index in items
	for i, item := range items {
		if err := checkWrapped(item.Wrapped); err != nil {
			results[i].Err = fmt.Errorf("transit: rewrap: %w", err)
			continue
		}
		input = append(input, map[string]string{
			"ciphertext": string(item.Wrapped),
			"context":    vaultContext(item.Binding),
		})
		sent = append(sent, i)
	}
	if len(input) == 0 {
		return results, nil
	}
	secret, err := k.vault.write(ctx, k.own, k.mount+"/rewrap/"+envelopeKey(id), map[string]any{"batch_input": input})
	if missing(err) {
		return nil, k.noEnvelopeKey(ctx, k.own, id)
	}
	// Vault answers a rewrap with status 200 even if some or all items failed, unlike encrypt and decrypt.
	var answer struct {
		Results []struct {
			Ciphertext keys.WrappedKey `json:"ciphertext"`
			Error      string          `json:"error"`
		} `json:"batch_results"`
	}
	if err == nil {
		err = decode(secret, &answer)
	}
	if err != nil {
		return nil, err
	}
	if len(answer.Results) != len(sent) {
		return nil, fmt.Errorf("%w: Vault answered for %d items of %d", keys.ErrUnavailable, len(answer.Results), len(sent))
	}
	for n, result := range answer.Results {
		_, parseErr := result.Ciphertext.Version()
		switch i := sent[n]; {
		case result.Error != "":
			results[i].Err = fmt.Errorf("transit: rewrap: %w: %s", ofCiphertext(result.Error), plain(result.Error, k.own.token()))
		case parseErr != nil:
			return nil, fmt.Errorf("%w: Vault answered with no wrapped key", keys.ErrUnavailable)
		default:
			results[i].Wrapped = result.Ciphertext
		}
	}
	return results, nil
}
