package local_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
)

func Example() {
	if err := run(context.Background()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// Alice's recording, Bob's grant: unwrap: permission denied: the grant is for another patient
	// Alice's recording, Alice's grant: 32 bytes
	// after logging out: true
}

func run(ctx context.Context) error {
	parent, err := os.MkdirTemp("", "recvault")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(parent) }()
	keyring, err := local.Open(filepath.Join(parent, "keys"), local.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = keyring.Close() }()

	// Package vault does this when a recording is put.
	id, err := keyring.Enrol(ctx, "alice")
	if err != nil {
		return err
	}
	binding := keys.RecordingIDOf(id, [keys.RecBytes]byte{1}).Binding()
	wrapped, err := keyring.Wrap(ctx, binding, keys.NewKey())
	if err != nil {
		return err
	}

	// The application does this after login.
	options := keys.GrantOptions{TTL: 15 * time.Minute, Subject: "dr-lee", Purpose: keys.Treatment}
	alice, err := keyring.Issue(ctx, "alice", options)
	if err != nil {
		return err
	}
	bob, err := keyring.Issue(ctx, "bob", options)
	if err != nil {
		return err
	}

	// Package vault does this when a recording is opened.
	_, err = keyring.Unwrap(ctx, bob, binding, wrapped)
	fmt.Println("Alice's recording, Bob's grant:", err)
	key, err := keyring.Unwrap(ctx, alice, binding, wrapped)
	if err != nil {
		return err
	}
	defer key.Wipe()
	fmt.Println("Alice's recording, Alice's grant:", len(key.Bytes()), "bytes")

	if err := keyring.RevokeSelf(ctx, alice); err != nil {
		return err
	}
	_, err = keyring.Unwrap(ctx, alice, binding, wrapped)
	fmt.Println("after logging out:", errors.Is(err, keys.ErrInvalidGrant))
	return nil
}
