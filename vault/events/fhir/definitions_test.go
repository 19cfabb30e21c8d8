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

// validate returns what is wrong with each resource by HL7's definitions of FHIR R4, which npm installs for the test. If it
// cannot, the test is skipped, or fails if the environment has RECVAULT_SERVERS=require.
func validate(t *testing.T, resources ...[]byte) (wrong [][]string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/validate")))
	command := func(name string, arguments ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), name, arguments...)
		cmd.Dir = dir
		return cmd
	}
	install := command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	if out, err := install.CombinedOutput(); err != nil && os.Getenv("RECVAULT_SERVERS") != "require" {
		t.Skipf("npm ci: %v", err)
	} else {
		require.NoError(t, err, "%s: `make test` installs npm", out)
	}
	validator := command("node", "validate.mjs", fhir.Kinds, site.Purposes, balp+"CodeSystem/BasicAuditEntityType")
	var problems bytes.Buffer
	validator.Stdin, validator.Stderr = bytes.NewReader(bytes.Join(resources, []byte("\n"))), &problems
	out, err := validator.Output()
	require.NoError(t, err, problems.String())
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
	for name, event := range inLog() {
		names, resources = append(names, "logged "+name), append(resources, encoder(t).EncodeLogged(event)[0])
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
		is := strings.ReplaceAll(c.is, "machine-name", site.Application.Address)
		names, resources = append(names, c.what), append(resources, []byte(strings.ReplaceAll(text, was, is)))
	}
	for i, wrong := range validate(t, resources...) {
		if i < whole {
			assert.Empty(t, wrong, "%s: %s", names[i], resources[i])
		} else {
			assert.Contains(t, strings.Join(wrong, "\n"), names[i])
		}
	}
}
