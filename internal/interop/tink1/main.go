// Command tink1 does the jobs of package peer with github.com/google/tink/go, whose last release is of 2022.
package main

import (
	"bytes"
	"log"

	"github.com/google/tink/go/insecurecleartextkeyset"
	"github.com/google/tink/go/keyset"
	"github.com/google/tink/go/streamingaead"

	"github.com/recvault/recvault/internal/interop/peer"
)

func main() {
	if err := peer.Serve(open); err != nil {
		log.Fatal("tink1: ", err)
	}
}

func open(text []byte) (peer.Primitive, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, err
	}
	return streamingaead.New(handle)
}
