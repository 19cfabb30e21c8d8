package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Scripts rely on the JSON fields, so none may be renamed or removed by accident.
func TestJSONFieldsAreStable(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	grant := d.grant(alice, "grant")
	file := d.file("a.webm", random(t, 10))
	about := d.file("about.json", []byte(`{"title":"t","recorded_at":"2026-03-01T10:30:00Z","duration":"40m","attributes":{"clinic":"north"}}`))
	id := d.put(alice, random(t, 10))
	var all strings.Builder
	record := func(exit int, args ...string) map[string]any {
		t.Helper()
		object := d.run(append(args, "--output", "json")...).exits(exit).object()
		all.WriteString("recvault " + strings.Join(words(args), " ") + "\n")
		fields := map[string]bool{}
		collect(fields, "", object)
		for _, field := range slices.Sorted(maps.Keys(fields)) {
			all.WriteString("    " + field + "\n")
		}
		return object
	}
	record(0, "setup", "--dry-run")
	record(0, "doctor", "--quick")
	record(0, "enrol", "--patient-file", alice)
	described := record(0, "put", "--patient-file", alice, "--metadata-file", about, file)["id"].(string)
	record(0, "get", "--grant-file", grant, "--out", d.path("out"), described)
	record(0, "export", "--grant-file", grant, "--out", d.path("copy"))
	record(0, "list", "--grant-file", grant)
	record(0, "stat", "--grant-file", grant, described)
	record(0, "describe", "--grant-file", grant, "--set", "title=other", described)
	accessor := record(0, "grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--request-id", "r", "--out", d.path("g"))["accessor"].(string)
	record(0, "revoke", "--accessor", accessor)
	record(0, "plan", "--all")
	record(0, "rotate", "--all")
	record(exitIncomplete, append([]string{"retire", "--all"}, shortGrace...)...)
	record(0, "rewrap", "--all")
	record(0, "reinstate", "--key-id", aliceID, "--oldest", "1")
	record(0, "rekey", "--grant-file", grant, id)
	bob, _ := d.enrol("bob")
	record(0, "copy", "--grant-file", grant, "--patient-file", bob, described)
	record(0, "reassign", "--grant-file", grant, "--patient-file", bob, "--rekey", d.put(alice, random(t, 10)))
	record(0, "inspect", described)
	record(0, "inspect", "--grant-file", grant, described)
	record(exitDamaged, "inspect", d.file("envelope", nil))
	record(0, "verify", "--all")
	record(0, "sweep", "--all")
	require.NoError(t, os.WriteFile(filepath.Join(d.environment["RECVAULT_DIR"], objectsDir, "objects", "recordings", "stray"), nil, 0o600))
	record(exitIncomplete, "verify", "--all")
	hold := []string{"--key-id", aliceID, "--reason", "r", "--operator", "o"}
	record(0, append([]string{"hold", "set"}, hold...)...)
	record(0, "hold", "show", "--key-id", aliceID)
	record(0, append([]string{"hold", "clear"}, hold...)...)
	digest := record(0, "erase", "plan", "--key-id", aliceID)["digest"].(string)
	record(0, "erase", "confirm", "--key-id", aliceID, "--digest", digest, "--operator", "o", "--grant-file", grant)
	record(0, "version")

	golden := filepath.Join("testdata", "json.golden")
	if *update {
		require.NoError(t, os.WriteFile(golden, []byte(all.String()), 0o644))
	}
	assert.Equal(t, readFile(t, golden), all.String(), "to accept a change: go test ./cmd/recvault -run TestJSON -update")
}

// words returns the arguments up to the first flag.
func words(args []string) []string {
	for i, arg := range args {
		if strings.HasPrefix(arg, "-") {
			return args[:i]
		}
	}
	return args[:1]
}

// collect collects the names of all fields. A key version becomes "N".
func collect(fields map[string]bool, path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, field := range value {
			if _, err := strconv.Atoi(name); err == nil {
				name = "N"
			}
			if name == "grace_period" || name == "older_versions_needed" {
				name = "KIND" // which one depends on the speed of the machine
			}
			fields[path+name] = true
			collect(fields, path+name+".", field)
		}
	case []any:
		for _, element := range value {
			collect(fields, strings.TrimSuffix(path, ".")+"[].", element)
		}
	}
}
