package local

import (
	"bytes"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
)

const (
	rootFile      = "root.json"
	pseudonymFile = "pseudonym.json"
	signerFile    = "grants.json"
)

// loadRoot reads the root key that stands in the directory in clear, or makes one.
func (k *Keyring) loadRoot(mayMake bool) (tink.AEAD, error) {
	data, err := k.dir.read(rootFile)
	var handle *keyset.Handle
	switch {
	case err == nil:
		if handle, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data))); err != nil {
			return nil, damaged(rootFile)
		}
	case isNotExist(err) && mayMake:
		if handle, err = keyset.NewHandle(aead.AES256GCMKeyTemplate()); err != nil {
			return nil, unavailable(err)
		}
		var plain bytes.Buffer
		if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&plain)); err != nil {
			return nil, unavailable(err)
		}
		if err := k.dir.write(rootFile, plain.Bytes()); err != nil {
			return nil, err
		}
	case isNotExist(err):
		return nil, damaged(rootFile)
	default:
		return nil, err
	}
	root, err := aead.New(handle)
	if err != nil {
		return nil, damaged(rootFile)
	}
	return root, nil
}

// loadKeyset reads a keyset of the keyring's own, or makes one.
func (k *Keyring) loadKeyset(name string, template *tinkpb.KeyTemplate, mayMake bool) (*keyset.Handle, error) {
	data, err := k.dir.read(name)
	switch {
	case err == nil:
		return k.openKeyset(name, data)
	case isNotExist(err) && mayMake:
		handle, err := keyset.NewHandle(template)
		if err != nil {
			return nil, unavailable(err)
		}
		return handle, k.writeKeyset(name, handle)
	case isNotExist(err):
		return nil, damaged(name)
	default:
		return nil, err
	}
}

func (k *Keyring) openKeyset(name string, data []byte) (*keyset.Handle, error) {
	handle, err := keyset.ReadWithAssociatedData(keyset.NewJSONReader(bytes.NewReader(data)), k.root, place(name))
	if err != nil {
		return nil, damaged(name)
	}
	return handle, nil
}

func (k *Keyring) writeKeyset(name string, handle *keyset.Handle) error {
	var sealed bytes.Buffer
	if err := handle.WriteWithAssociatedData(keyset.NewJSONWriter(&sealed), k.root, place(name)); err != nil {
		return unavailable(err)
	}
	return k.dir.write(name, sealed.Bytes())
}

// place is the associated data that ties a keyset to its file.
func place(name string) []byte { return []byte("recvault/local/v1/" + name) }
