package main

import (
	"encoding/base64"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The incident query of docs/operations.md must show every decrypt, however its context is written.
func TestIncidentQueryDropsNoLine(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("the query in docs/operations.md needs jq: install it to run this test")
	}
	query := regexp.MustCompile(`(?s)    jq -r '\n(.*?)' /var/log/vault/audit.log`).
		FindStringSubmatch(readFile(t, filepath.Join("..", "..", "docs", "operations.md")))
	require.NotNil(t, query)
	const of = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/bbbbbbbbbbbbbbbbbbbbbbbbbb"
	encoded := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	opened, described := encoded("recvault/v1/"+of), encoded("recvault/v1/metadata/"+of)
	for name, c := range map[string]struct {
		data    any
		wrapTTL int
		want    []string
	}{
		"opened":              {map[string]any{"context": opened}, 0, []string{"opened", "recvault/v1/" + of}},
		"described":           {map[string]any{"context": described}, 0, []string{"described", "recvault/v1/metadata/" + of}},
		"line breaks":         {map[string]any{"context": opened[:7] + "\n" + opened[7:20] + "\r\n" + opened[20:]}, 0, []string{"opened", "recvault/v1/" + of}},
		"wrapped":             {map[string]any{"context": opened}, 3600, []string{"opened", "WRAPPED"}},
		"a batch":             {map[string]any{"batch_input": []any{map[string]any{"context": described}}}, 0, []string{"described"}},
		"not base64":          {map[string]any{"context": "***"}, 0, []string{"not base64"}},
		"not text":            {map[string]any{"context": []string{opened}}, 0, []string{"not base64"}},
		"no context":          {map[string]any{"ciphertext": "x"}, 0, []string{"no context"}},
		"no data":             {nil, 0, []string{"no context"}},
		"data is not objects": {map[string]any{"batch_input": "x"}, 0, []string{"no context"}},
	} {
		t.Run(name, func(t *testing.T) {
			line, err := json.Marshal(map[string]any{
				"type": "response", "time": "2026-03-01T10:30:00Z", "auth": map[string]any{"metadata": map[string]any{"subject": "dr-lee", "purpose": "TREAT"}},
				"request": map[string]any{"path": "recordings/decrypt/x-kek", "data": c.data, "wrap_ttl": c.wrapTTL},
			})
			require.NoError(t, err)
			jq := exec.Command("jq", "-r", query[1])
			jq.Stdin = strings.NewReader(string(line) + "\n")
			printed, err := jq.CombinedOutput()
			require.NoError(t, err, "%s", printed)
			assert.Equal(t, 1, strings.Count(string(printed), "\n"))
			for _, want := range append(c.want, "dr-lee", "allowed") {
				assert.Contains(t, string(printed), want)
			}
			assert.Equal(t, c.wrapTTL > 0, strings.Contains(string(printed), "WRAPPED"))
		})
	}
}
