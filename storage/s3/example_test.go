package s3_test

import (
	"context"
	"log"
	"strings"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
)

func Example() {
	// Credentials come from the environment, as they do for AWS programs.
	client, err := s3.NewClient(s3.Config{
		Endpoint: "https://minio.example.org:9000",
		CAFile:   "/etc/ssl/example-org.pem",
	})
	if err != nil {
		log.Fatal(err)
	}
	store, err := s3.New(client, "recordings")
	if err != nil {
		log.Fatal(err)
	}
	_, err = store.Put(context.Background(), "letters/1", strings.NewReader("Dear reader"), -1, storage.IfAbsent())
	if err != nil {
		log.Fatal(err)
	}
}
