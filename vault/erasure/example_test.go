package erasure_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func Example() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// will go: 1 recording, 2 objects, key versions up to 1
	// while a hold stands: patient is on hold: true
	// erased by records-office: 1 recording, 2 objects
	// versions: patient was erased
	// rewrap: patient was erased
}

func run(ctx context.Context) error {
	path, err := os.MkdirTemp("", "recvault-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(path)
	keyring, err := local.Open(filepath.Join(path, "keys"), local.Options{}) // or transit.New, with the eraser's token
	if err != nil {
		return err
	}
	defer keyring.Close()
	store, err := dir.Open(filepath.Join(path, "objects")) // or s3.New
	if err != nil {
		return err
	}
	defer store.Close()
	v, err := vault.New(keyring, store)
	if err != nil {
		return err
	}
	alice, err := keyring.Enrol(ctx, "943 476 5919")
	if err != nil {
		return err
	}
	if _, err := v.Put(ctx, "943 476 5919", strings.NewReader("a consultation"), vault.Metadata{}); err != nil {
		return err
	}

	e, err := erasure.New(keyring, store, erasure.Options{})
	if err != nil {
		return err
	}
	plan, err := e.PlanPatient(ctx, alice) // for a person to check
	if err != nil {
		return err
	}
	fmt.Printf("will go: %d recording, %d objects, key versions up to %d\n", plan.Recordings, plan.Objects, plan.KeyVersions.Latest)

	approval := erasure.Approval{Digest: plan.Digest, Operator: "records-office"}

	holds := erasure.NewHolds(store, nil)
	if _, err := holds.Set(ctx, alice, "legal", "case 2026-0417"); err != nil {
		return err
	}
	_, err = e.ConfirmPatient(ctx, alice, approval)
	fmt.Printf("while a hold stands: %v: %t\n", vault.ErrHeld, errors.Is(err, vault.ErrHeld))
	if _, err := holds.Clear(ctx, alice, "legal", "case 2026-0417 is closed"); err != nil { // keep the record that it returns
		return err
	}

	receipt, err := e.ConfirmPatient(ctx, alice, approval)
	if err != nil {
		return err // run it again
	}
	fmt.Printf("erased by %s: %d recording, %d objects\n", receipt.Operator, len(receipt.Recordings), receipt.ObjectsDeleted)
	for _, evidence := range receipt.Proof {
		fmt.Printf("%s: %s\n", evidence.Attempt, evidence.After)
	}
	return nil
}
