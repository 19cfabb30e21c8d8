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

// called is a call of the command in a block of code, up to what is the shell's.
var called = regexp.MustCompile(`(?m)^ {4}.*?\brecvault ((?:"[^"]*"|[^\n>|#)"])*)`)

// TestDocumentedCommandsAreAccepted checks the flags of every call in the page that operators copy from.
func TestDocumentedCommandsAreAccepted(t *testing.T) {
	binary := build(t)
	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	calls := called.FindAllStringSubmatch(string(text), -1)
	require.Greater(t, len(calls), 30)
	for _, call := range calls {
		// With --help flags are checked, and nothing is done.
		args := append(strings.Fields(strings.ReplaceAll(call[1], `"`, "")), "--help")
		out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
		assert.NoError(t, err, "recvault %s\n%s", call[1], out)
		assert.Contains(t, string(out), "recvault "+args[0], "recvault %s", call[1])
	}
}
