package auditlog_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// testSize reports on a large log, as JSON and as FHIR. The log is made from the story's real lines: 32 MiB, or as many MiB as
// RECVAULT_AUDIT_LOG says. The command runs as a process of its own, whose peak of memory the kernel knows.
func testSize(t *testing.T, s *story) {
	size := int64(32)
	if text := os.Getenv("RECVAULT_AUDIT_LOG"); text != "" {
		var err error
		size, err = strconv.ParseInt(text, 10, 64)
		require.NoError(t, err)
	}
	folder := t.TempDir()
	program := filepath.Join(folder, "recvault")
	built, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "github.com/recvault/recvault/cmd/recvault").CombinedOutput()
	require.NoError(t, err, string(built))
	files := []string{filepath.Join(folder, "first.log"), filepath.Join(folder, "second.log")}
	blocks := multiply(t, s.devices[:2], files, size<<20)
	total := int64(0)
	for _, file := range files {
		info, err := os.Stat(file)
		require.NoError(t, err)
		total += info.Size()
	}

	report := func(arguments ...string) (output string, took time.Duration, most int64) {
		output = filepath.Join(folder, "report")
		command := exec.CommandContext(t.Context(), program, append(append([]string{"audit", "report"}, arguments...), files...)...)
		command.Env = []string{"RECVAULT_MOUNT=" + s.Place.Mount, "RECVAULT_POLICY_PREFIX=" + s.Place.Prefix}
		command.Stdout, err = os.Create(output)
		require.NoError(t, err)
		var problems bytes.Buffer
		command.Stderr = &problems
		began := time.Now()
		require.NoError(t, command.Start())
		peak := make(chan int64)
		go func() { peak <- peakOf(command.Process.Pid) }()
		_ = command.Wait() // it ends with 6, because of the uses outside a grant
		took, most = time.Since(began), <-peak
		require.Equal(t, 6, command.ProcessState.ExitCode(), problems.String())
		assert.Less(t, most, int64(64<<20), "bytes at the peak")
		assert.NotZero(t, most)
		return output, took, most
	}
	output, took, most := report("--output", "json")
	text, err := os.ReadFile(output)
	require.NoError(t, err)
	var r reported
	require.NoError(t, json.Unmarshal(text, &r))
	rate := func(took time.Duration) string {
		return fmt.Sprintf("%v: %.0f MiB/s", took.Round(time.Millisecond), float64(total>>20)/took.Seconds())
	}
	t.Logf("%d MiB with %d entries, %d grants and %d uses of keys in %s, peak %d MiB", total>>20, r.Entries, r.Totals.Grants,
		len(r.Accesses), rate(took), most>>20)
	assert.Equal(t, blocks*s.grants, r.Totals.Grants)
	uses := 0
	for _, n := range r.Totals.Uses {
		uses += n
	}
	assert.Equal(t, blocks*s.uses(), uses)
	assert.Equal(t, blocks-1, r.Totals.Unexplained, "the second device is broken at the end of each block; the last looks like an older copy")

	site := filepath.Join(folder, "site.json")
	require.NoError(t, os.WriteFile(site, []byte(`{"patients": "urn:test:patients", "recordings": "urn:test:recordings", "users": "urn:test:users",
		"grants": "urn:test:grants", "purposes": "urn:test:purposes", "application": {"name": "report", "address": "report.test"},
		"server": {"name": "vault", "address": "vault.test"}}`), 0o600))
	output, took, most = report("--output", "fhir", "--fhir-site", site)
	bundle, err := os.Open(output)
	require.NoError(t, err)
	defer bundle.Close()
	var read struct {
		Entry []struct {
			Resource struct{ ResourceType string }
		}
	}
	require.NoError(t, json.NewDecoder(bundle).Decode(&read))
	events := len(r.Accesses) + len(r.Grants) + len(r.Changes)
	for _, grant := range r.Grants {
		if !grant.Ended.IsZero() {
			events++
		}
	}
	assert.Len(t, read.Entry, events)
	info, err := bundle.Stat()
	require.NoError(t, err)
	t.Logf("the same as %d AuditEvents, %d MiB, in %s, peak %d MiB", events, info.Size()>>20, rate(took), most>>20)
}

// peakOf watches a process until it ends, and returns the greatest size of its memory, in bytes. The size that the kernel reports of a
// process that has ended is at least that of the process that started it.
func peakOf(pid int) (most int64) {
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		found := resident.FindSubmatch(status)
		if err != nil || found == nil {
			return most
		}
		if kibibytes, err := strconv.ParseInt(string(found[1]), 10, 64); err == nil {
			most = max(most, kibibytes<<10)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var resident = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// variable is what differs from block to block of a log that is made larger.
var variable = regexp.MustCompile(`hmac-sha256:[0-9a-f]{8}|"id":"[0-9a-f]{8}-|\b[a-z2-7]{32}\b|"context":"[^"]*"|"time":"[^"]*"`)

// multiply writes the files again and again, until together they have a size, with other times, requests, tokens and patients each
// time, and returns how often.
func multiply(t *testing.T, files, larger []string, size int64) (blocks int) {
	t.Helper()
	var templates [][][]byte // of each file, what is and what is not variable by turns
	writers := []*bufio.Writer{}
	for i, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		parts, from := [][]byte{}, 0
		for _, at := range variable.FindAllIndex(text, -1) {
			parts, from = append(parts, text[from:at[0]], text[at[0]:at[1]]), at[1]
		}
		templates = append(templates, append(parts, text[from:]))
		file, err := os.Create(larger[i])
		require.NoError(t, err)
		defer file.Close()
		writers = append(writers, bufio.NewWriterSize(file, 1<<20))
	}
	for written := int64(0); written < size; blocks++ {
		for i, parts := range templates {
			for j, part := range parts {
				if j%2 == 1 {
					part = vary(t, part, blocks)
				}
				n, err := writers[i].Write(part)
				require.NoError(t, err)
				written += int64(n)
			}
		}
	}
	for _, w := range writers {
		require.NoError(t, w.Flush())
	}
	return blocks
}

func vary(t *testing.T, part []byte, block int) []byte {
	if block == 0 {
		return part
	}
	hexadecimal := func(digits []byte) string {
		n, err := strconv.ParseUint(string(digits), 16, 32)
		require.NoError(t, err)
		return fmt.Sprintf("%08x", uint32(n)^uint32(block)*2654435761)
	}
	patient := func(keyID []byte) []byte { // who comes back in ten blocks
		const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
		n := block / 10
		return append([]byte{alphabet[n/32%32], alphabet[n%32]}, keyID[2:]...)
	}
	value := func(prefix string) ([]byte, bool) {
		rest, ok := bytes.CutPrefix(part, []byte(prefix))
		return bytes.TrimSuffix(rest, []byte(`"`)), ok
	}
	if digits, ok := value("hmac-sha256:"); ok {
		return []byte("hmac-sha256:" + hexadecimal(digits))
	}
	if digits, ok := value(`"id":"`); ok {
		return []byte(`"id":"` + hexadecimal(digits[:8]) + "-")
	}
	if text, ok := value(`"time":"`); ok {
		at, err := time.Parse(time.RFC3339Nano, string(text))
		require.NoError(t, err)
		return []byte(`"time":"` + at.Add(time.Duration(block)*10*time.Minute).Format(time.RFC3339Nano) + `"`)
	}
	if text, ok := value(`"context":"`); ok {
		text = bytes.ReplaceAll(text, []byte(`\n`), nil)
		binding, err := base64.StdEncoding.DecodeString(string(text))
		require.NoError(t, err)
		binding = keyIDs.ReplaceAllFunc(binding, patient)
		return []byte(`"context":"` + base64.StdEncoding.EncodeToString(binding) + `"`)
	}
	return patient(part)
}

var keyIDs = regexp.MustCompile(`\b[a-z2-7]{32}\b`)
