package vault_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestNewRefusesInvalidArguments(t *testing.T) {
	b := embedded(t)
	_, err := vault.New(nil, b.Store)
	require.Error(t, err)
	_, err = vault.New(b.writer, nil)
	require.Error(t, err)
	for _, prefix := range []string{"", "/", "a", "a//", "../", "a b/", strings.Repeat("a/", 300)} {
		_, err = vault.New(b.writer, b.Store, vault.WithPrefix(prefix))
		assert.ErrorIs(t, err, storage.ErrInvalidName, "%q", prefix)
	}
	for name, option := range map[string]vault.Option{
		"no freshness":            vault.WithFreshness(0),
		"no commit timeout":       vault.WithCommitTimeout(0),
		"too long commit timeout": vault.WithCommitTimeout(vault.MaxCommitTimeout + 1),
		"negative cache time":     vault.WithKeyCache(-1, 1),
		"no cache size":           vault.WithKeyCache(time.Minute, 0),
		"no stream of events":     vault.WithEvents(nil),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := vault.New(b.writer, b.Store, option)
			require.Error(t, err)
		})
	}
}

func TestPrefixesSeparateVaults(t *testing.T) {
	b := embedded(t)
	b.Serve(t, "clinics/north/")
	b.Serve(t, "clinics/south/")
	alice := b.enrol(t)
	north, south := b.vaultOf(t, b.writer, vault.WithPrefix("clinics/north/")), b.vaultOf(t, b.writer, vault.WithPrefix("clinics/south/"))
	id, err := north.Put(t.Context(), alice, strings.NewReader("north"), metadata())
	require.NoError(t, err)
	_, err = south.Open(t.Context(), b.Grant(t, alice), id)
	require.ErrorIs(t, err, vault.ErrNotFound)
	recording, err := north.Open(t.Context(), b.Grant(t, alice), id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	for _, name := range b.Names(t) {
		assert.True(t, strings.HasPrefix(name, "clinics/north/recordings/"+id.KeyID().String()+"/"), name)
	}
}
