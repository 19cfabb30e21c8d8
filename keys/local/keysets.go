package local

import (
	"bytes"
	"errors"
	"io/fs"

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

// loadRoot reads the root key, which is in the directory in clear. If it is missing and mayMake is
// set, loadRoot makes one.
func (k *Keyring) loadRoot(mayMake bool) (tink.AEAD, error) {
	data, err := k.dir.read(rootFile)
	var handle *keyset.Handle
	switch {
	case err == nil:
		if handle, err = insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(data))); err != nil {
			return nil, damaged(rootFile)
		}
	case errors.Is(err, fs.ErrNotExist) && mayMake:
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
	case errors.Is(err, fs.ErrNotExist):
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

// loadKeyset reads one of the keyring's own keysets. If it is missing and mayMake is set, loadKeyset
// makes one.
func (k *Keyring) loadKeyset(name string, template *tinkpb.KeyTemplate, mayMake bool) (*keyset.Handle, error) {
	data, err := k.dir.read(name)
	switch {
	case err == nil:
		return k.openKeyset(name, data, place(name))
	case errors.Is(err, fs.ErrNotExist) && mayMake:
		handle, err := keyset.NewHandle(template)
		if err != nil {
			return nil, unavailable(err)
		}
		sealed, err := k.sealKeyset(handle, place(name))
		if err != nil {
			return nil, err
		}
		return handle, k.dir.write(name, sealed)
	case errors.Is(err, fs.ErrNotExist):
		return nil, damaged(name)
	default:
		return nil, err
	}
}

func (k *Keyring) openKeyset(name string, sealed, associatedData []byte) (*keyset.Handle, error) {
	handle, err := keyset.ReadWithAssociatedData(keyset.NewJSONReader(bytes.NewReader(sealed)), k.root, associatedData)
	if err != nil {
		return nil, damaged(name)
	}
	return handle, nil
}

func (k *Keyring) sealKeyset(handle *keyset.Handle, associatedData []byte) ([]byte, error) {
	var sealed bytes.Buffer
	if err := handle.WriteWithAssociatedData(keyset.NewJSONWriter(&sealed), k.root, associatedData); err != nil {
		return nil, unavailable(err)
	}
	return sealed.Bytes(), nil
}

// place returns the associated data that ties a keyset to its file.
func place(name string) []byte { return []byte("recvault/local/v1/" + name) }
