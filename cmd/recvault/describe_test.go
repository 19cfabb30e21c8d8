package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

func TestDescribeCorrectsOnlyWhatItIsGiven(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	about := d.file("about.json", []byte(`{"title":"Wrong","recorded_at":"2026-03-01T10:30:00Z","duration":"40m",`+
		`"attributes":{"clinic":"north","title":"x","ward":"1"}}`))
	id := d.as("writer").run("put", "--patient-file", alice, "--metadata-file", about, d.file("a.webm", random(t, 10))).line()
	describe := func(args ...string) map[string]any {
		t.Helper()
		return d.run(append([]string{"describe", "--grant-file", grant, "--output", "json", id}, args...)...).ok().object()
	}
	first := describe()
	assert.EqualValues(t, 0, first["revision"])
	assert.Equal(t, false, first["changed"])
	assert.EqualValues(t, 10, first["size"])

	planned := describe("--dry-run", "--set", "title=Right", "--unset", "duration")
	assert.Equal(t, true, planned["changed"])
	assert.EqualValues(t, 1, planned["revision"])
	assert.Equal(t, "Right", planned["title"])
	assert.Equal(t, first, describe(), "a dry run changes nothing")

	right := d.file("right.json", []byte(`{"title":"From the file","content_type":"video/mp4","attributes":{"clinic":"south"}}`))
	changed := describe("--metadata-file", right, "--set", "title=A, b=c", "--set", "recorded_at=2026-03-02T10:30:00+01:00",
		"--attribute", "bed=4", "--unset", "duration", "--unset", "ward", "--unset", "attributes.title")
	assert.Equal(t, true, changed["changed"])
	assert.EqualValues(t, 1, changed["revision"])
	assert.Equal(t, "Wrong", changed["before"].(map[string]any)["title"])
	assert.Equal(t, "A, b=c", changed["title"], "a flag takes precedence over the file")
	assert.Equal(t, "video/mp4", changed["content_type"])
	assert.Equal(t, "2026-03-02T09:30:00Z", changed["recorded_at"])
	assert.NotContains(t, changed, "duration")
	assert.Equal(t, map[string]any{"bed": "4", "clinic": "south"}, changed["attributes"])
	assert.Equal(t, first["created_at"], changed["created_at"])

	again := describe("--metadata-file", right, "--set", "title=A, b=c", "--unset", "ward")
	assert.Equal(t, false, again["changed"], "the same correction again writes nothing")
	assert.EqualValues(t, 1, again["revision"])
	text := d.run("describe", "--grant-file", grant, "--dry-run", "--unset", "title", id).ok().stdout
	assert.Contains(t, text, "would correct:\n")
	assert.Contains(t, text, "A, b=c -> -")
	assert.Contains(t, d.run("get", "--grant-file", grant, "--out", d.path("out"), id).ok().stdout, "A, b=c")

	for _, args := range [][]string{
		{"--set", "title="},
		{"--set", "title"},
		{"--set", "canary=x"},
		{"--set", "recorded_at=canary"},
		{"--set", "duration=canary"},
		{"--set", "content_type=canary"},
		{"--set", "content_type=canary", "--dry-run"},
		{"--dry-run"},
	} {
		o := d.run(append([]string{"describe", "--grant-file", grant, id}, args...)...).exits(exitUsage)
		assert.NotContains(t, o.stderr, "canary")
	}
	d.wants(exitDenied, "denied", "describe", "--grant-file", d.grant(d.enrolled("bob"), "wrong"), "--set", "title=x", id)
	assert.EqualValues(t, 1, describe()["revision"])
}

// enrolled enrols a patient and returns the file that holds the identifier.
func (d *deployment) enrolled(name string) string {
	d.t.Helper()
	file, _ := d.enrol(name)
	return file
}

func TestListAndDescribeOpenNothing(t *testing.T) {
	d := onServers(t)
	server := testserver.Vault(t)
	alice, keyID := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	grant := d.grant(alice, "grant")
	for n, args := range [][]string{{"list"}, {"describe", id}, {"describe", "--set", "title=Corrected", id}} {
		d.run(append(args, "--grant-file", grant)...).ok()
		unwrapped := server.Unwrapped(t, keyID+"-kek")
		require.Len(t, unwrapped, n+1)
		assert.Contains(t, unwrapped[n], "recvault/v1/metadata/")
	}
	d.run("get", "--grant-file", grant, "--out", d.path("out"), id).ok()
	unwrapped := server.Unwrapped(t, keyID+"-kek")
	assert.NotContains(t, unwrapped[len(unwrapped)-1], "metadata")
}

func TestGrantToDescribePlaysNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		id := d.put(alice, random(t, 100))
		grant := d.path("grant")
		issued := d.as("granter").run("grant", "--patient-file", alice, "--subject", "clerk", "--purpose", "CAREMGT",
			"--describe-only", "--out", grant, "--output", "json").ok().object()
		assert.Equal(t, true, issued["describe_only"])
		d.run("describe", "--grant-file", grant, id).ok()
		d.run("list", "--grant-file", grant).ok()
		d.run("get", "--grant-file", grant, "--out", d.path("out"), id).exits(exitDenied)
		assert.NoFileExists(t, d.path("out"))
	})
}
