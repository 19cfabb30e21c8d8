package upkeep_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
	"github.com/recvault/recvault/vault/upkeep"
)

// exampleDeployment is the embedded default in a temporary directory, with one patient, her grant and a recording.
type exampleDeployment struct {
	path    string
	keyring *local.Keyring
	store   *dir.Store
	vault   *vault.Vault
	grant   keys.Grant
	id      vault.ID
}

func deployExample(ctx context.Context) *exampleDeployment {
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	const alice = keys.Patient("943 476 5919")
	d := new(exampleDeployment)
	var err error
	d.path, err = os.MkdirTemp("", "recvault-example-")
	must(err)
	d.keyring, err = local.Open(filepath.Join(d.path, "keys"), local.Options{})
	must(err)
	d.store, err = dir.Open(filepath.Join(d.path, "objects"))
	must(err)
	d.vault, err = vault.New(d.keyring, d.store)
	must(err)
	_, err = d.keyring.Enrol(ctx, alice)
	must(err)
	d.grant, err = d.keyring.Issue(ctx, alice, keys.GrantOptions{TTL: time.Hour, Subject: "auditor-1", Purpose: keys.HealthOperations})
	must(err)
	d.id, err = d.vault.Put(ctx, alice, strings.NewReader("a recorded consultation"), vault.Metadata{Title: "Follow-up"})
	must(err)
	return d
}

func (d *exampleDeployment) remove() {
	_ = d.vault.Close()
	_ = d.store.Close()
	_ = d.keyring.Close()
	_ = os.RemoveAll(d.path)
}

// damage flips a bit of the recording's media.
func (d *exampleDeployment) damage() {
	path := filepath.Join(d.path, "objects", "objects", "recordings", d.id.KeyID().String(), d.id.Rec(), "media")
	media, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	media[len(media)-1] ^= 1
	if err := os.WriteFile(path, media, 0o600); err != nil {
		log.Fatal(err)
	}
}

func ExampleVerify() {
	ctx := context.Background()
	d := deployExample(ctx)
	defer d.remove()
	d.damage()

	report, err := upkeep.Verify(ctx, d.keyring, d.store, scope.All(), upkeep.VerifyOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("without a key:", report.Checked, "checked, sound:", report.Complete())

	report, err = upkeep.Verify(ctx, d.keyring, d.store, scope.Of(d.grant.KeyID()), upkeep.VerifyOptions{
		Vault: d.vault,
		Grant: func(id keys.KeyID) (keys.Grant, bool) { return d.grant, id == d.grant.KeyID() },
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("with a grant:", report.Checked, "checked, sound:", report.Complete())
	for _, finding := range report.Findings.Listed {
		fmt.Println(finding.Kind, finding.ID == d.id)
	}
	// Output:
	// without a key: 1 checked, sound: true
	// with a grant: 1 checked, sound: false
	// unauthentic true
}

func ExampleSweep() {
	ctx := context.Background()
	d := deployExample(ctx)
	defer d.remove()

	// No recording of this application takes longer than four hours.
	options := upkeep.SweepOptions{OlderThan: 6 * time.Hour, DryRun: true}
	report, err := upkeep.Sweep(ctx, d.store, scope.All(), options)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("would remove", report.Orphans.Count, "orphans and", report.Uploads, "uploads beside", report.Recordings, "recording")

	options.DryRun = false
	if report, err = upkeep.Sweep(ctx, d.store, scope.All(), options); err != nil {
		log.Fatal(err)
	}
	fmt.Println("complete:", report.Complete())
	// Output:
	// would remove 0 orphans and 0 uploads beside 1 recording
	// complete: true
}
