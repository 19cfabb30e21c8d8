package login_test

import (
	"context"
	"log"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/login"
)

// A service in a pod logs in with its service account, and has a valid token for as long as it runs.
func ExampleStart() {
	client, err := api.NewClient(nil) // VAULT_ADDR
	if err != nil {
		log.Fatal(err)
	}
	method := login.Kubernetes("kubernetes", "recvault-writer", login.ServiceAccountFile)
	session, err := login.Start(context.Background(), client, method, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	keyring, err := transit.New(client, transit.Options{Refresh: session.Refresh})
	if err != nil {
		log.Fatal(err)
	}
	_ = keyring // for vault.New
}
