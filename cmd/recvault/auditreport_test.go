package main

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

func TestAuditReport(t *testing.T) {
	v := testserver.Vault(t, testserver.Dedicated())
	d := onVault(t, v)
	alice, aliceID := d.enrol("alice")
	bob, bobID := d.enrol("bob")
	one, two := d.put(alice, random(t, 10)), d.put(bob, random(t, 10))
	grant := d.grant(alice, "grant")
	d.run("list", "--grant-file", grant).ok()
	d.run("get", "--grant-file", grant, "--out", d.path("out"), one).ok()
	d.run("get", "--grant-file", grant, "--out", d.path("out2"), two).exits(exitDenied)
	log := v.AuditFile()
	report := func(args ...string) *outcome { return d.run(append([]string{"audit", "report"}, args...)...) }

	page := report(log).ok().stdout
	for _, part := range []string{"WHO SAW WHICH RECORDINGS", aliceID, one, "wrong_patient", two} {
		assert.Contains(t, page, part)
	}
	object := report("--output", "json", log).ok().object()
	uses := object["totals"].(map[string]any)["uses"]
	assert.Equal(t, map[string]any{"opened": 1.0, "described": 1.0, "wrong_patient": 1.0}, uses)
	for _, name := range []string{
		"patients", "outside", "after_revocation", "incidents", "unusual", "break_glass", "granters", "accesses", "grants", "changes", "gaps",
	} {
		assert.IsType(t, []any{}, object[name], name)
		rows, err := csv.NewReader(strings.NewReader(report("--output", "csv", "--table", name, log).ok().stdout)).ReadAll()
		require.NoError(t, err)
		assert.Len(t, rows, len(object[name].([]any))+1, name)
	}
	assert.Contains(t, report("--output", "html", log).ok().stdout, "<!doctype html>")

	// Another engine than the deployment's has no requests, and the page marks that.
	defaults := d.with("RECVAULT_MOUNT", "", "RECVAULT_POLICY_PREFIX", "")
	assert.Regexp(t, `! +0  requests to the engine at recordings`, defaults.run("audit", "report", log).ok().stdout)
	assert.Contains(t, defaults.run("audit", "report", "--output", "html", log).ok().stdout, "The log has no request to this engine.")
	assert.NotContains(t, report("--output", "html", log).ok().stdout, "The log has no request to this engine.")
	assert.Regexp(t, `  +[1-9][0-9]*  requests to the engine at `, page)

	site := map[string]any{
		"patients": "urn:test:patients", "recordings": "urn:test:recordings", "users": "urn:test:users", "grants": "urn:test:grants",
		"purposes": "urn:test:purposes", "application": map[string]any{"name": "report", "address": "report.test"},
		"server": map[string]any{"name": "vault", "address": "vault.test"},
	}
	siteFile := func(name string, change func()) string {
		change()
		text, err := json.Marshal(site)
		require.NoError(t, err)
		return d.file(name, text)
	}
	good := siteFile("site.json", func() {})
	bundle := report("--output", "fhir", "--fhir-site", good, "--key-id", aliceID, "--subject", "dr-lee", log).ok()
	assert.Equal(t, "Bundle", bundle.object()["resourceType"])
	assert.Contains(t, bundle.stdout, one)
	assert.NotContains(t, bundle.stdout, two)
	unknown := siteFile("unknown.json", func() { site["colour"] = "blue" })
	incomplete := siteFile("incomplete.json", func() { delete(site, "colour"); delete(site, "users") })
	report("--output", "fhir", "--fhir-site", d.path("missing"), log).exits(exitFailure)
	for want, args := range map[string][]string{
		"name a file with --fhir-site":             {},
		`unknown field "colour"`:                   {"--fhir-site", unknown},
		"Users":                                    {"--fhir-site", incomplete},
		"does not name a JSON object of patients":  {"--fhir-site", d.file("list.json", []byte("[]"))},
		"more than one JSON object":                {"--fhir-site", d.file("twice.json", []byte("{} {}"))},
		"--patient-view is printed as text, JSON ": {"--fhir-site", good, "--patient-view", "--key-id", aliceID},
	} {
		o := report(append(args, "--output", "fhir", log)...).exits(exitUsage)
		assert.Contains(t, o.stderr, want)
		assert.Empty(t, o.stdout, want)
	}

	// Patients' identifiers are resolved through Vault, and printed nowhere.
	accesses := func(o *outcome) []any { return o.ok().object()["accesses"].([]any) }
	o := d.as("writer").run("audit", "report", "--output", "json", "--patient-file", bob, log)
	require.Len(t, accesses(o), 1)
	assert.Equal(t, bobID, accesses(o)[0].(map[string]any)["key_id"])
	assert.Len(t, accesses(report("--output", "json", "--key-id", aliceID, log)), 2)
	assert.Len(t, accesses(report("--output", "json", "--recording", two, log)), 1)
	assert.Len(t, accesses(report("--output", "json", "--subject", "dr-lee", "--purpose", "TREAT", "--since", "1h", log)), 3)
	assert.Empty(t, accesses(report("--output", "json", "--purpose", "BTG", log)))
	assert.Empty(t, accesses(report("--output", "json", "--until", "2026-01-02", log)))

	// What a patient is shown has names in place of accounts, and titles where a grant shows them.
	names := d.file("names.json", []byte(`{"dr-lee": "Dr. Lee, cardiology"}`))
	view := d.as("writer").run("audit", "report", "--patient-view", "--patient-file", alice, "--names", names, "--output", "json", log).ok()
	assert.Equal(t, []any{"title and time", "played"}, column(view.object()["accesses"], "what"))
	assert.Equal(t, []any{"Dr. Lee, cardiology", "Dr. Lee, cardiology"}, column(view.object()["accesses"], "who"))
	assert.Equal(t, []any{"recording 1", "recording 1"}, column(view.object()["accesses"], "recording"))
	view = report("--patient-view", "--key-id", aliceID, "--grant-file", grant, "--output", "json", log).ok()
	assert.Equal(t, []any{"“Follow-up”", "“Follow-up”"}, column(view.object()["accesses"], "recording")[:2])
	view = report("--patient-view", "--key-id", bobID, log).ok()
	assert.Contains(t, view.stdout, "Nobody has.\n\nAttempts that were refused: 1\n")
	assert.Contains(t, report("--patient-view", "--key-id", aliceID, "--output", "html", log).ok().stdout, "Who has seen your recordings")

	// A process that reports one opening leaves the others to be named.
	event := `{"kind":"opened","time":"` + time.Now().UTC().Format(time.RFC3339Nano) + `","began":"2026-01-01T00:00:00Z","count":1,"recording":"` + one +
		`","unwraps":1,"bytes":10,"ranges":[{"start":0,"end":10}],"grant":{"key_id":"` + aliceID + `","subject":"dr-lee","purpose":"TREAT"}}` + "\n"
	o = report("--output", "json", "--events", d.file("events.log", []byte(event)), log).exits(exitIncomplete)
	assert.ElementsMatch(t, []any{"only_in_log", "only_in_log"}, column(o.object()["deliveries"], "verdict"))
	assert.Contains(t, column(o.object()["deliveries"], "bytes"), 10.0)
	d.wants(exitFailure, "failure", "audit", "report", "--events", d.file("none", nil), log)

	// Standard input is read twice too.
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	uses = report("--output", "json", log).ok().object()["totals"].(map[string]any)["uses"] // with the descriptions from above
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for name, input := range map[string][]byte{"plain": text, "compressed": zipped.Bytes(), "twice": append(bytes.Clone(text), text...)} {
		o := d.runWith(bytes.NewReader(input), "audit", "report", "--output", "json", "-").ok()
		assert.Equal(t, uses, o.object()["totals"].(map[string]any)["uses"], name)
	}

	cut := d.file("cut.log", text[:len(text)-100])
	o = report(cut).exits(exitIncomplete)
	assert.Contains(t, o.stdout, cut+":")
	report("--output", "fhir", "--fhir-site", good, cut).exits(exitIncomplete)
	d.wants(exitFailure, "failure", "audit", "report", d.file("other", []byte("no log\n")))
	d.wants(exitFailure, "failure", "audit", "report", d.path("missing"))
	for _, args := range [][]string{
		{},
		{"--since", "yesterday", log},
		{"--table", "grants", log},
		{"--output", "csv", "--table", "x", log},
		{"--recording", "x", log},
		{"--fhir-site", good, log},
		{d.home},
		{"--patient-view", log},
		{"--patient-view", "--key-id", aliceID, "--key-id", bobID, log},
		{"--names", names, log},
		{"--patient-view", "--key-id", aliceID, "--names", log, log},
		{"--patient-view", "--key-id", bobID, "--grant-file", grant, log},
	} {
		d.wants(exitUsage, "usage", append([]string{"audit", "report"}, args...)...)
	}
	report("--output", "xml", log).exits(exitUsage)
	d.with("RECVAULT_OUTPUT", "html").run("version").exits(exitUsage)
	inDirectory(t).wants(exitUsage, "usage", "audit", "report", log)
}

// TestAuditReportFromEventsAlone uses a deployment that has no log of Vault.
func TestAuditReportFromEventsAlone(t *testing.T) {
	d := inDirectory(t)
	stream := d.path("events.jsonl")
	d = d.with("RECVAULT_EVENTS_FILE", stream)
	alice, aliceID := d.enrol("alice")
	bob, _ := d.enrol("bob")
	one, two := d.put(alice, random(t, 10)), d.put(bob, random(t, 20))
	grant := d.grant(alice, "grant")
	d.run("list", "--grant-file", grant).ok()
	d.run("get", "--grant-file", grant, "--out", d.path("out"), one).ok()
	d.run("get", "--grant-file", grant, "--out", d.path("out2"), two).exits(exitDenied)

	object := d.run("audit", "report", "--output", "json", "--events", stream).ok().object()
	assert.Equal(t, "events", object["source"])
	assert.Equal(t, map[string]any{"opened": 1.0, "described": 1.0, "wrong_patient": 1.0}, object["totals"].(map[string]any)["uses"])
	assert.Equal(t, []any{10.0}, column(object["deliveries"], "bytes"))
	assert.Equal(t, []any{nil}, column(object["grants"], "issue_not_logged"))
	page := d.run("audit", "report", "--events", stream).ok().stdout
	assert.Contains(t, page, "a report from the event stream alone")
	assert.NotContains(t, page, "OUTSIDE A GRANT")
	view := d.run("audit", "report", "--patient-view", "--patient-file", alice, "--events", stream).ok().stdout
	assert.Contains(t, view, "dr-lee: recording 1, played")
	assert.NotContains(t, view, aliceID)
	d.wants(exitFailure, "failure", "audit", "report", "--events", d.file("none", nil))
	d.wants(exitUsage, "usage", "audit", "report", "--events", stream, stream)
}

// column returns a field of each object in a list.
func column(list any, name string) (values []any) {
	for _, object := range list.([]any) {
		values = append(values, object.(map[string]any)[name])
	}
	return values
}

func TestParseMoment(t *testing.T) {
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "72h": now.Add(-72 * time.Hour), "2026-03-01": time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
		"2026-03-01T10:30:00+01:00": time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC),
	} {
		got, err := parseMoment(text, now)
		require.NoError(t, err)
		assert.True(t, want.Equal(got), text)
	}
	_, err := parseMoment("-1h", now)
	assert.Error(t, err)
}
