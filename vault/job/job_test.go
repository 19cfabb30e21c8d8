package job_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
)

func TestFindingsListTheFirstOfEachKind(t *testing.T) {
	report := job.NewReport("verify", "all patients", false)
	for i := range job.MaxListed + 20 {
		report.Findings.Add(job.Finding{Kind: "many", Object: fmt.Sprintf("%04d", i)})
	}
	report.Findings.Add(job.Finding{Kind: "one"})
	assert.Equal(t, map[job.Kind]int64{"many": job.MaxListed + 20, "one": 1}, report.Findings.Counts)
	assert.Len(t, report.Findings.Listed, job.MaxListed+1, "each kind has its own bound")
	assert.Equal(t, "0999", report.Findings.Listed[job.MaxListed-1].Object)
	assert.EqualValues(t, job.MaxListed+21, report.Findings.Total())
	assert.EqualValues(t, 1, report.Findings.Total("one", "none"))
	assert.Zero(t, report.Findings.Total("none"))
}

func TestFindingsOrderDoesNotDependOnWorkers(t *testing.T) {
	first, second := keys.NewKeyID(bytes.Repeat([]byte{1}, keys.KeyIDBytes)), keys.NewKeyID(bytes.Repeat([]byte{2}, keys.KeyIDBytes))
	recording := keystest.NewRecordingID(first)
	want := []job.Finding{
		{Kind: "b", KeyID: first},
		{Kind: "a", KeyID: first, ID: recording},
		{Kind: "b", KeyID: first, ID: recording},
		{Kind: "a", KeyID: second},
		{Kind: "a", Upload: "1", KeyID: second},
		{Kind: "a", Object: "a", KeyID: second},
		{Kind: "a", Object: "b", Upload: "1", KeyID: first},
		{Kind: "a", Object: "b", Upload: "2", KeyID: first},
	}
	for range 20 {
		report := job.NewReport("verify", "all patients", false)
		for _, i := range rand.Perm(len(want)) {
			report.Findings.Add(want[i])
		}
		report.Finish()
		require.Equal(t, want, report.Findings.Listed)
	}
}

func TestReportIsJSONWithoutNulls(t *testing.T) {
	report := job.NewReport("sweep", "all patients", true)
	report.Finish()
	text, err := json.Marshal(report)
	require.NoError(t, err)
	for _, field := range []string{`"verb":"sweep"`, `"scope":"all patients"`, `"dry_run":true`, `"findings":{"counts":{},"listed":[]}`} {
		assert.Contains(t, string(text), field)
	}
	assert.Equal(t, time.UTC, report.Started.Location())
	assert.False(t, report.Finished.Before(report.Started))

	modified := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	text, err = json.Marshal(job.About("stray", keys.RecordingID{}, storage.Info{Name: "recordings/README", Size: 7, Modified: modified}, "unknown name"))
	require.NoError(t, err)
	assert.JSONEq(t, `{"kind":"stray","object":"recordings/README","bytes":7,"since":"2026-01-02T02:04:05Z","detail":"unknown name"}`, string(text))
}

func TestKeyAgesSpanTheKeysOfKnownAge(t *testing.T) {
	var ages job.KeyAges
	for _, rotated := range []time.Time{time.Unix(20, 0), {}, time.Unix(0, 0), time.Unix(10, 0), time.Unix(30, 0)} {
		ages.Add(rotated)
	}
	assert.Equal(t, job.KeyAges{Oldest: time.Unix(10, 0).UTC(), Newest: time.Unix(30, 0).UTC()}, ages)
}
