package devserver_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/devserver"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/testserver/binary"
)

// start starts Vault on a directory until the test ends.
func start(t *testing.T, dir string) *devserver.Server {
	t.Helper()
	testserver.Vault(t) // skips the test without the program
	path, err := binary.Vault.Find()
	require.NoError(t, err)
	server, err := devserver.StartVault(t.Context(), path, dir)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, server.Stop()) })
	return server
}

func TestAddressIsKeptUnlessItIsTaken(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	require.NoError(t, first.Stop())
	require.ErrorContains(t, first.Ended(), "vault has ended")
	second := start(t, dir)
	assert.Equal(t, first.Address, second.Address)
	require.NoError(t, second.Stop())

	listener, err := net.Listen("tcp", first.Address)
	require.NoError(t, err)
	defer listener.Close()
	assert.NotEqual(t, first.Address, start(t, dir).Address)
}

func TestTwoServersOfADirectoryExcludeEachOther(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	path, err := binary.Vault.Find()
	require.NoError(t, err)
	_, err = devserver.StartVault(t.Context(), path, dir)
	require.ErrorContains(t, err, "already runs")
}
