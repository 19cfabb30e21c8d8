package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/job"
)

// startedLongAgo returns the progress of work that began a minute ago, so that it is shown at once.
func startedLongAgo(c *cli) *progress {
	p := c.startProgress("put")
	p.begun = p.begun.Add(-time.Minute)
	p.next = p.begun
	return p
}

func TestProgressIsALineEveryTenSeconds(t *testing.T) {
	var stderr bytes.Buffer
	c := &cli{stderr: &stderr, output: outputText, getenv: func(string) string { return "" }}
	p := startedLongAgo(c)
	_, err := io.Copy(io.Discard, p.reader(io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<19), 1<<20))
	require.NoError(t, err)
	line := stderr.String()
	assert.Regexp(t, `^put: \S+ .?i?B of 1\.0 MiB, \S+ .?i?B/s \(\d+%, about \S+ left\)\n$`, line, "one line for many reads")
	assert.WithinDuration(t, time.Now().Add(lineEvery), p.next, time.Second)
	p.end()
	assert.Equal(t, line, stderr.String())
}

func TestProgressFollowsOutputAndQuiet(t *testing.T) {
	var stderr bytes.Buffer
	c := &cli{stderr: &stderr, output: outputJSON, getenv: func(string) string { return "" }}
	_, err := fmt.Fprint(startedLongAgo(c).writer(io.Discard, 10), "12345")
	require.NoError(t, err)
	var line struct {
		Progress bytesDone `json:"progress"`
	}
	require.NoError(t, json.Unmarshal(stderr.Bytes(), &line))
	assert.Equal(t, bytesDone{"put", 5, 10}, line.Progress)

	stderr.Reset()
	c.quiet = true
	_, err = fmt.Fprint(startedLongAgo(c).writer(io.Discard, 10), "12345")
	require.NoError(t, err)
	c.note("a note")
	assert.Empty(t, stderr.String())
}

func TestJobProgressIsOneLine(t *testing.T) {
	for name, c := range map[string]struct {
		done job.Progress
		line string
	}{
		"rotate": {job.Progress{Patients: 12, Recordings: 30, Fraction: 0.5}, "patients 12"},
		"rewrap": {job.Progress{Patients: 12, Recordings: 30, Done: 20, Fraction: 0.5}, "patients 12, recordings 20 of 30 found"},
		"sweep": {
			job.Progress{Patients: 12, Recordings: 30, Done: 20, Bytes: 3 << 20, Findings: 2, Fraction: 0.5},
			"patients 12, recordings 20 of 30 found, 3.0 MiB, findings 2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			p := startedLongAgo(&cli{stderr: &stderr, output: outputText, getenv: func(string) string { return "" }})
			p.what = name
			p.job()(c.done)
			assert.Equal(t, name+": "+c.line+" (50%, about 1m0s left)\n", stderr.String())
		})
	}
}

func TestTextShowsAHundredFindingsOfEachKind(t *testing.T) {
	report := job.NewReport("verify", "all", false)
	for i := range 2 * job.MaxListed {
		report.Findings.Add(job.Finding{Kind: "stray", Object: fmt.Sprintf("recordings/stray-%d", i)})
	}
	report.Findings.Add(job.Finding{Kind: "unchecked", Upload: "upload", Detail: "x\x1b]0;y"})
	report.Finish()
	var text bytes.Buffer
	writeFindings(&text, report.Findings)
	assert.Regexp(t, `(?m)^  stray +2000$`, text.String(), "the count is that of all findings")
	assert.Equal(t, 100, strings.Count(text.String(), "recordings/stray-"))
	assert.Regexp(t, `(?m)^  unchecked +upload +x\?]0;y$`, text.String(), "a detail cannot control the terminal")
	assert.Contains(t, text.String(), "only the first 100 findings of each kind are shown; --output json lists up to 1000")

	text.Reset()
	few := job.NewReport("verify", "all", false)
	few.Findings.Add(job.Finding{Kind: "stray", Object: "recordings/stray"})
	writeFindings(&text, few.Findings)
	assert.NotContains(t, text.String(), "only the first")
}
