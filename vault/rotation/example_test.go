package rotation_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// A scheduled job gives every patient's key a new version and moves the recordings to it. A later one
// retires the old versions.
func Example() {
	path, err := os.MkdirTemp("", "recvault-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(path)
	keyring, err := local.Open(filepath.Join(path, "keys"), local.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer keyring.Close()
	store, err := dir.Open(filepath.Join(path, "objects"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	ctx := context.Background()
	v, err := vault.New(keyring, store)
	if err != nil {
		log.Fatal(err)
	}
	for _, patient := range []keys.Patient{"943 476 5919", "943 476 5870"} {
		if _, err := keyring.Enrol(ctx, patient); err != nil {
			log.Fatal(err)
		}
		if _, err := v.Put(ctx, patient, strings.NewReader("a consultation"), vault.Metadata{}); err != nil {
			log.Fatal(err)
		}
	}

	r, err := rotation.New(keyring, store, rotation.Options{})
	if err != nil {
		log.Fatal(err)
	}
	rotated, err := r.Rotate(ctx, scope.All())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("patients rotated:", rotated.Patients.Changed)

	rewrapped, err := r.Rewrap(ctx, scope.All())
	if err != nil {
		log.Fatal(err) // run it again: it does what is left
	}
	fmt.Println("envelopes rewrapped:", rewrapped.Envelopes.Rewrapped, "complete:", rewrapped.Complete())

	retired, err := r.Retire(ctx, scope.All())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("patients retired:", retired.Patients.Changed, "findings:", retired.Findings.Counts)
	// Output:
	// patients rotated: 2
	// envelopes rewrapped: 2 complete: true
	// patients retired: 0 findings: map[grace_period:2]
}
