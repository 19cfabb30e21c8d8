package rotation_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// called matches a call of the command in a block of code, up to the first character for the shell.
var called = regexp.MustCompile(`(?m)^ {4}.*?\brecvault ((?:"[^"]*"|[^\n>|#)"])*)`)

// TestDocumentedCommandsAreAccepted checks the flags of every call in docs/operations.md, from which operators
// copy.
func TestDocumentedCommandsAreAccepted(t *testing.T) {
	binary := build(t)
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	calls := called.FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(calls), 30)
	for _, call := range calls {
		// With --help the command checks its flags and does nothing.
		args := append(strings.Fields(strings.ReplaceAll(call[1], `"`, "")), "--help")
		t.Run(strings.TrimSpace(call[1]), func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
			assert.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "recvault "+args[0])
		})
	}
}
