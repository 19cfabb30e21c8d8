package transit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

// An administrator prepares Vault for the recordings in one bucket, and prints what was changed.
func ExampleSetup() {
	client, err := api.NewClient(nil) // VAULT_ADDR and VAULT_TOKEN
	if err != nil {
		log.Fatal(err)
	}
	bucket, err := s3.NewClient(s3.Config{Endpoint: "https://minio.example.org"})
	if err != nil {
		log.Fatal(err)
	}
	store, err := s3.New(bucket, "consultations")
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	id, err := vault.StoreID(ctx, store, "")
	if err != nil {
		log.Fatal(err)
	}
	report, err := transit.Setup(ctx, client, transit.SetupOptions{Store: id, ExpectedPatients: 50_000})
	fmt.Println(report)
	if err != nil {
		log.Fatal(err)
	}
}

// A process that records enrols patients and wraps recording keys.
func ExampleNew() {
	client, err := api.NewClient(nil) // its token has the policies recvault-enroller and recvault-writer
	if err != nil {
		log.Fatal(err)
	}
	keyring, err := transit.New(client, transit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	id, err := keyring.Enrol(ctx, "patient 943 476 5919")
	if err != nil {
		log.Fatal(err)
	}
	key := keys.NewKey()
	defer key.Wipe()
	wrapped, err := keyring.Wrap(ctx, keys.RecordingIDOf(id, [keys.RecBytes]byte{1}).Binding(), key)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id, wrapped)
}

// The login, which decides who may see what, issues grants.
func ExampleKeyring_Issue() {
	client, err := api.NewClient(nil) // its token has the policy recvault-granter
	if err != nil {
		log.Fatal(err)
	}
	granter, err := transit.New(client, transit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	grant, err := granter.Issue(context.Background(), "patient 943 476 5919", keys.GrantOptions{
		TTL:       15 * time.Minute,
		Subject:   "dr-lee",
		Purpose:   keys.Treatment,
		RequestID: "visit-2041",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(grant.KeyID(), grant.Expires())
}

// The process that serves recordings needs no token of its own.
func ExampleKeyring_Unwrap() {
	client, err := api.NewClient(nil)
	if err != nil {
		log.Fatal(err)
	}
	client.ClearToken()
	keyring, err := transit.New(client, transit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var grant keys.Grant // from the session
	var id keys.RecordingID
	var wrapped keys.WrappedKey // from the recording's envelope
	key, err := keyring.Unwrap(context.Background(), grant, id.Binding(), wrapped)
	if errors.Is(err, keys.ErrDenied) {
		log.Print("the grant is for another patient, or has ended") // Vault's audit log has the attempt
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	defer key.Wipe()
}

// A reviewer prints what Setup will do, without a Vault.
func ExampleSetupCalls() {
	calls, err := transit.SetupCalls(transit.SetupOptions{Mount: "clinic/recordings"})
	if err != nil {
		log.Fatal(err)
	}
	for _, call := range calls {
		body := ""
		if !strings.HasPrefix(call.Path, "sys/policies/") && call.Body != nil {
			data, err := json.Marshal(call.Body)
			if err != nil {
				log.Fatal(err)
			}
			body = " " + string(data)
		}
		fmt.Println(call.Method, call.Path+body)
	}
	// Output:
	// POST sys/mounts/clinic/recordings {"description":"recvault: envelope keys","type":"transit"}
	// POST sys/mounts/clinic/recordings/tune {"description":"recvault: envelope keys (recvault store STORE-ID)"}
	// POST sys/mounts/clinic/recordings/tune {"audit_non_hmac_request_keys":["context"]}
	// POST clinic/recordings/config/keys {"disable_upsert":true}
	// POST clinic/recordings/keys/pseudonym {"key_size":32,"type":"hmac"}
	// GET sys/auth
	// POST sys/policies/acl/recvault-enroller
	// POST sys/policies/acl/recvault-writer
	// POST sys/policies/acl/recvault-granter
	// POST sys/policies/acl/recvault-revoker
	// POST sys/policies/acl/recvault-grant
	// POST sys/policies/acl/recvault-describe
	// POST sys/policies/acl/recvault-rotator
	// POST sys/policies/acl/recvault-retirer
	// POST sys/policies/acl/recvault-trimmer
	// POST sys/policies/acl/recvault-eraser
	// POST sys/policies/acl/recvault-auditor
	// POST auth/token/roles/recvault-grant {"allowed_entity_aliases":["*-kek"],"allowed_policies":["recvault-grant"],"allowed_policies_glob":[],"orphan":true,"renewable":false,"token_explicit_max_ttl":14400,"token_no_default_policy":true,"token_period":0,"token_type":"service"}
	// POST auth/token/roles/recvault-describe {"allowed_entity_aliases":["*-kek"],"allowed_policies":["recvault-describe"],"allowed_policies_glob":[],"orphan":true,"renewable":false,"token_explicit_max_ttl":14400,"token_no_default_policy":true,"token_period":0,"token_type":"service"}
}

// A reviewer prints the policies, without a Vault.
func ExamplePolicies() {
	policies, err := transit.Policies(transit.Options{Mount: "clinic/recordings"}, "auth_token_1a2b3c4d")
	if err != nil {
		log.Fatal(err)
	}
	for _, policy := range policies {
		fmt.Println(policy.Name)
	}
	fmt.Println(policies[4].HCL)
	// Output:
	// recvault-setup
	// recvault-enroller
	// recvault-writer
	// recvault-granter
	// recvault-revoker
	// recvault-grant
	// recvault-describe
	// recvault-rotator
	// recvault-retirer
	// recvault-trimmer
	// recvault-eraser
	// recvault-auditor
	// # Held by the process that ends other users' grants: a lost device, a changed care relationship. It is
	// # separate from the granter because it can end any token in Vault by its accessor.
	//
	// path "auth/token/revoke-accessor" {
	//   capabilities = ["update"]
	// }
}
