//go:build unix

package auditlog_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// openPipe makes a named pipe, and opens it for reading. It is open for writing too, so that the reader waits for a writer.
func openPipe(t *testing.T, path string) *os.File {
	t.Helper()
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	return pipe
}
