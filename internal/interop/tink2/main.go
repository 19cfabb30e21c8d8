// Command tink2 does the jobs of package peer with github.com/tink-crypto/tink-go/v2.
package main

import (
	"bytes"
	"log"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/streamingaead"

	"github.com/recvault/recvault/internal/interop/peer"
)

func main() {
	if err := peer.Serve(open); err != nil {
		log.Fatal("tink2: ", err)
	}
}

func open(text []byte) (peer.Primitive, error) {
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, err
	}
	return streamingaead.New(handle)
}
