package transit

import (
	"context"
	"fmt"
	"regexp"

	"github.com/recvault/recvault/keys"
)

// The store that a mount serves is recorded in the mount's description, so it goes where the mount goes.
var storeRecord = regexp.MustCompile(`\(recvault store ([A-Z2-7]{26})\)`)

// RecordedStore returns the store that is recorded in the description of a Transit mount, or "" if none is.
func RecordedStore(description string) keys.StoreID {
	match := storeRecord.FindStringSubmatch(description)
	if match == nil {
		return ""
	}
	return keys.StoreID(match[1])
}

// withStore returns a mount's description with a record of the store that it serves.
func withStore(description string, store keys.StoreID) string {
	return fmt.Sprintf("%s (recvault store %s)", description, store)
}

// ClaimStore implements [keys.Wrapper], for the writer's role. It records nothing: [Setup] does.
func (k *Keyring) ClaimStore(ctx context.Context, store keys.StoreID) error {
	return k.CheckStore(ctx, store)
}

// CheckStore implements [keys.Retirer] and [keys.Trimmer], for the roles of writers, retirers and trimmers.
func (k *Keyring) CheckStore(ctx context.Context, store keys.StoreID) error {
	var mount struct {
		Description string `json:"description"`
	}
	secret, err := k.vault.read(ctx, k.own, tunePath(k.mount))
	if err == nil {
		err = decode(secret, &mount)
	}
	if err == nil {
		err = store.Served(RecordedStore(mount.Description))
	}
	if err != nil {
		return fmt.Errorf("transit: check store: %w", err)
	}
	return nil
}

// tunePath is where the settings of a mount are read and changed, its description among them.
func tunePath(mount string) string { return "sys/mounts/" + mount + "/tune" }
