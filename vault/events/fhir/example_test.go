package fhir_test

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

func ExampleEncoder_Encode() {
	encoder, err := fhir.New(fhir.Site{
		Patients:    "https://hospital.example/recvault/patients",
		Recordings:  "https://hospital.example/recvault/recordings",
		Users:       "https://hospital.example/accounts",
		Grants:      "https://hospital.example/recvault/grants",
		Purposes:    "https://hospital.example/purposes",
		Application: fhir.Party{Name: "portal", Address: "portal.hospital.example"},
		Server:      fhir.Party{Name: "recordings", Address: "https://s3.hospital.example/consultations"},
	})
	if err != nil {
		log.Fatal(err)
	}
	revoked := events.Event{
		Kind: events.GrantRevoked, Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Count: 1,
		Grant: keys.GrantDetails{Accessor: "hmac-accessor", Subject: "dr-lee", Purpose: keys.Treatment},
	}
	for _, resource := range encoder.Encode(revoked) {
		var read struct {
			ID, Recorded, Outcome string
			Type                  struct{ Display string }
			Subtype               []struct{ Code string }
		}
		if err := json.Unmarshal(resource, &read); err != nil {
			log.Fatal(err)
		}
		fmt.Println(read.Recorded, read.Type.Display, read.Subtype, read.Outcome)
	}
	// Output: 2026-03-01T12:00:00Z Security Alert [{110137} {grant-revoked}] 0
}

func ExampleEncoder_Sink() {
	encoder, err := fhir.New(site)
	if err != nil {
		log.Fatal(err)
	}
	sink, err := encoder.Sink("https://audit.hospital.example/fhir", http.DefaultClient)
	if err != nil {
		log.Fatal(err)
	}
	stream := events.New(events.Log(nil), sink)
	_ = stream // for vault.WithEvents
}

func ExampleWriteBundle() {
	encoder, err := fhir.New(site)
	if err != nil {
		log.Fatal(err)
	}
	var past []events.Event // such as the lines that events.JSON wrote
	err = fhir.WriteBundle(os.Stdout, func(yield func(json.RawMessage) bool) {
		for _, event := range past {
			for _, resource := range encoder.Encode(event) {
				if !yield(resource) {
					return
				}
			}
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: {"resourceType":"Bundle","type":"collection"}
}
