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
)

// long is work that began long ago, and tells of itself in lines.
func long(c *cli) *progress {
	p := c.startProgress("put")
	p.begun = p.begun.Add(-time.Minute)
	p.next = p.begun
	return p
}

func TestWithoutATerminalALineIsPrintedEveryTenSeconds(t *testing.T) {
	var stderr bytes.Buffer
	c := &cli{stderr: &stderr, output: outputText, getenv: func(string) string { return "" }}
	p := long(c)
	_, err := io.Copy(io.Discard, p.reader(io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<19), 1<<20))
	require.NoError(t, err)
	line := stderr.String()
	assert.Regexp(t, `^put: \S+ .?i?B of 1\.0 MiB, \S+ .?i?B/s \(\d+%, about \S+ left\)\n$`, line, "one line, though it was told many times")
	assert.WithinDuration(t, time.Now().Add(lineEvery), p.next, time.Second)
	p.end()
	assert.Equal(t, line, stderr.String())
}

func TestProgressIsJSONWithJSONAndNothingWithQuiet(t *testing.T) {
	var stderr bytes.Buffer
	c := &cli{stderr: &stderr, output: outputJSON, getenv: func(string) string { return "" }}
	_, err := fmt.Fprint(long(c).writer(io.Discard, 10), "12345")
	require.NoError(t, err)
	var line struct {
		Progress bytesDone `json:"progress"`
	}
	require.NoError(t, json.Unmarshal(stderr.Bytes(), &line))
	assert.Equal(t, bytesDone{"put", 5, 10}, line.Progress)

	stderr.Reset()
	c.quiet = true
	_, err = fmt.Fprint(long(c).writer(io.Discard, 10), "12345")
	require.NoError(t, err)
	c.note("a note")
	assert.Empty(t, stderr.String())
}
