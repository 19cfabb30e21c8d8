package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// metricsIn returns the metrics in a file: by name, their values.
func metricsIn(t *testing.T, path, verb string) map[string]float64 {
	t.Helper()
	text := readFile(t, path)
	assert.Regexp(t, `^(# HELP \w+ [^\n]+\.\n# TYPE \w+ gauge\n\w+\{verb="\w+",scope="[^"]+"\} [0-9.]+\n)+$`, text)
	found := map[string]float64{}
	for _, line := range regexp.MustCompile(`(?m)^(\w+)\{verb="(\w+)",scope="[^"]+"\} (.*)$`).FindAllStringSubmatch(text, -1) {
		value, err := strconv.ParseFloat(line[3], 64)
		require.NoError(t, err)
		assert.Equal(t, verb, line[2])
		found[line[1]] = value
	}
	return found
}

func TestEveryJobLeavesMetrics(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	file := d.path("recvault.prom")
	jobs := []string{"plan", "rotate", "rewrap", "retire", "trim", "verify", "sweep"}
	for _, verb := range jobs {
		d.run(verb, "--all", "--metrics-file", file)
		found := metricsIn(t, file, verb)
		for _, name := range []string{lastRunMetric, durationMetric, exitCodeMetric, findingsMetric} {
			assert.Contains(t, found, name, verb)
		}
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o644), info.Mode().Perm(), "node_exporter is another user")
	}
	d.run("rotate", "--all").ok()
	retire := []string{"retire", "--all", "--metrics-file", file}
	d.run(retire...).exits(exitIncomplete)
	found := metricsIn(t, file, "retire")
	assert.EqualValues(t, 1, found[leftMetric])
	assert.EqualValues(t, exitIncomplete, found[exitCodeMetric])
	assert.NotContains(t, found, lastSuccessMetric)

	verify := []string{"verify", "--key-id", aliceID, "--metrics-file", file}
	d.run(verify...).ok()
	succeeded := metricsIn(t, file, "verify")
	assert.Equal(t, succeeded[lastRunMetric], succeeded[lastSuccessMetric])
	assert.InDelta(t, succeeded[lastRunMetric], succeeded[oldestKeyMetric], 60)
	d.with("RECVAULT_DIR", d.path("elsewhere")).run(verify...).exits(exitUsage)
	failed := metricsIn(t, file, "verify")
	assert.EqualValues(t, exitUsage, failed[exitCodeMetric])
	assert.Equal(t, succeeded[lastSuccessMetric], failed[lastSuccessMetric], "the time of the last success stays")
	assert.Greater(t, failed[lastRunMetric], failed[lastSuccessMetric])

	d.run("audit", "setup", "--metrics-file", file).exits(exitUsage) // a directory has no Vault
	assert.Contains(t, readFile(t, file), exitCodeMetric+`{verb="audit setup",scope="all"} 2`)
	d.run("audit", "report", "--metrics-file", file).exits(exitUsage)
	assert.Contains(t, readFile(t, file), exitCodeMetric+`{verb="audit report",scope="all"} 2`)

	d.run("plan", "--shard", "1/4", "--metrics-file", file).ok()
	assert.Contains(t, readFile(t, file), `{verb="plan",scope="1/4"}`)
	d.with("RECVAULT_SHARDS", "4", "JOB_COMPLETION_INDEX", "2").run("plan", "--metrics-file", file).ok()
	assert.Contains(t, readFile(t, file), `{verb="plan",scope="2/4"}`)

	for _, refused := range [][]string{
		{"--metrics-file", d.path("recvault.txt")}, {"--metrics-file", d.path("missing/recvault.prom")}, {"--metrics-file", file, "--dry-run"},
	} {
		d.run(append([]string{"rewrap", "--all"}, refused...)...).exits(exitUsage)
	}
}
