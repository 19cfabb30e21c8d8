package events_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/vault/events"
)

// A login emits what it does with grants.
func ExampleStream_Issuer() {
	path, err := os.MkdirTemp("", "recvault-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(path)
	keyring, err := local.Open(path, local.Options{}) // or transit.New, with the granter's role
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	stream := events.New(func(e events.Event) error {
		fmt.Println(e.Kind, e.Grant.Subject, e.Grant.Purpose, e.Grant.Reason)
		return nil
	})
	issuer := stream.Issuer(keyring)
	grant, err := issuer.Issue(ctx, "patient 943 476 5919", keys.GrantOptions{
		TTL: time.Minute, Subject: "dr-lee", Purpose: keys.BreakTheGlass, Reason: "unconscious on arrival",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := issuer.RevokeSelf(ctx, grant); err != nil {
		log.Fatal(err)
	}
	if err := stream.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// grant-issued dr-lee BTG unconscious on arrival
	// grant-revoked dr-lee BTG unconscious on arrival
}
