package keys

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// StoreID identifies the one place whose recordings a keyring serves: a bucket and prefix, or a directory. It is
// 26 characters of base32 (RFC 4648, "A" to "Z" and "2" to "7"), 130 random bits. It is not a secret.
type StoreID string

// storeIDLen is the length of a StoreID in characters.
const storeIDLen = 26

// NewStoreID draws a StoreID.
func NewStoreID() StoreID { return StoreID(rand.Text()) }

// ParseStoreID reads the text of a StoreID. It returns [ErrInvalidStoreID] if the text is not one.
func ParseStoreID(text string) (StoreID, error) {
	if len(text) != storeIDLen || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", fmt.Errorf("%w: want %d characters of base32", ErrInvalidStoreID, storeIDLen)
	}
	return StoreID(text), nil
}

// Served returns nil if s is the store that a keyring serves: by, which is "" if it serves none yet. Otherwise it returns
// [ErrForeignStore] with both IDs, or [ErrInvalidStoreID] if s is none. Keyrings call it.
func (s StoreID) Served(by StoreID) error {
	if _, err := ParseStoreID(string(s)); err != nil {
		return err
	}
	switch by {
	case s:
		return nil
	case "":
		return fmt.Errorf("%w: the keyring serves none yet, and this is store %s", ErrForeignStore, s)
	}
	return fmt.Errorf("%w: the keyring serves store %s, and this is store %s", ErrForeignStore, by, s)
}
