package fhir_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

// validate returns what is wrong with each resource by HL7's definitions of FHIR R4, which npm installs for the test. It
// skips the test without Node and npm, or fails it if the environment has RECVAULT_SERVERS=require.
func validate(t *testing.T, resources ...[]byte) (wrong [][]string) {
	t.Helper()
	for _, command := range []string{"node", "npm"} {
		if _, err := exec.LookPath(command); err != nil {
			if os.Getenv("RECVAULT_SERVERS") == "require" {
				t.Fatalf("%s is missing: run `make test`, which installs it", command)
			}
			t.Skipf("%s is missing", command)
		}
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/validate")))
	run := func(input []byte, name string, arguments ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, arguments...)
		var out, problems bytes.Buffer
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, bytes.NewReader(input), &out, &problems
		require.NoError(t, cmd.Run(), "%s %s", out.String(), problems.String())
		return out.Bytes()
	}
	run(nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	out := run(bytes.Join(resources, []byte("\n")), "node", "validate.mjs", fhir.Kinds, site.Purposes, balp+"CodeSystem/BasicAuditEntityType")
	for line := range bytes.Lines(out) {
		var issues []string
		require.NoError(t, json.Unmarshal(line, &issues))
		wrong = append(wrong, issues)
	}
	require.Len(t, wrong, len(resources))
	return wrong
}

func TestResourcesHoldTheDefinitionsOfFHIR(t *testing.T) {
	var names []string
	var resources [][]byte
	for name, event := range cases() {
		for _, r := range encoder(t).Encode(event) {
			names, resources = append(names, name), append(resources, r)
		}
	}
	for action, change := range changes {
		names, resources = append(names, "change "+action), append(resources, encoder(t).EncodeChange(change))
	}
	whole := len(resources)
	// What is broken on purpose is found.
	text := string(encoder(t).Encode(eventOf(events.Damaged))[0])
	for _, c := range []struct{ what, was, is string }{
		{"Missing required property", `"source":`, `"sauce":`},
		{"Invalid instant format", "2026-03-01T12:00:00.123456Z", "2026-03-01"},
		{"additional property", `"outcomeDesc":`, `"outcomeDescription":`},
		{"is not in http://hl7.org/fhir/ValueSet/audit-event-action", `"action":"R"`, `"action":"X"`},
		{"is not in http://hl7.org/fhir/ValueSet/network-type", `machine-name","type":"1"`, `machine-name","type":"9"`},
		{"is not in http://hl7.org/fhir/ValueSet/issue-type", `"code":"exception"`, `"code":"damage"`},
		{"has no code 990113", "110113", "990113"},
		{"not \"Security Alarm\"", "Security Alert", "Security Alarm"},
		{"sev-1", `"name":"event"`, `"name":"event","query":"YQ=="`},
	} {
		was := strings.ReplaceAll(c.was, "machine-name", site.Application.Address)
		require.Contains(t, text, was)
		names = append(names, c.what)
		resources = append(resources, []byte(strings.ReplaceAll(text, was, strings.ReplaceAll(c.is, "machine-name", site.Application.Address))))
	}
	for i, wrong := range validate(t, resources...) {
		if i < whole {
			assert.Empty(t, wrong, "%s: %s", names[i], resources[i])
		} else {
			assert.Contains(t, strings.Join(wrong, "\n"), names[i])
		}
	}
}
