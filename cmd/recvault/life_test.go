package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/erasure"
)

// shortGrace sets a grace period that a test can wait for. There are no other writers.
var shortGrace = []string{"--freshness", "1ns", "--commit-timeout", "1ns", "--clock-skew", "1ns", "--grace", "1s"}

func TestLifeOfARecording(t *testing.T) {
	onEachBackend(t, wholeLife)
}

func TestLifeOfARecordingAsProcesses(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) { wholeLife(t, d.asProcess()) })
}

// wholeLife runs every command, each with the token of its role.
func wholeLife(t *testing.T, d *deployment) {
	assert.Equal(t, []any{}, d.as("setup").run("setup", "--max-grant-ttl", "1h", "--output", "json").ok().object()["changes"],
		"nothing is left to set up")
	alice, aliceID := d.enrol("alice")
	assert.Equal(t, aliceID, d.as("enroller").run("enrol", "--patient-file", alice).line(), "enrolling twice changes nothing")
	bob, bobID := d.enrol("bob")

	video := random(t, 300_000)
	first, second := d.put(alice, video), d.put(alice, random(t, 10))
	bobs := d.put(bob, random(t, 10))
	grant, bobsGrant := d.grant(alice, "grant"), d.grant(bob, "bobs-grant")

	// Reading, with the grant as the only right.
	out := d.path("copy.webm")
	got := d.run("get", "--grant-file", grant, "--out", out, "--output", "json", first).ok().object()
	assert.Equal(t, "video/webm", got["content_type"])
	assert.Equal(t, "Follow-up", got["title"])
	assertFile(t, video, out)
	assert.Equal(t, string(video), d.run("get", "--grant-file", grant, "--out", "-", first).ok().stdout)
	d.run("get", "--grant-file", grant, "--out", d.path("nothing"), bobs).exits(exitDenied)
	assert.NoFileExists(t, d.path("nothing"))
	listed := d.run("list", "--key-id", aliceID, "--output", "json").ok().object()
	assert.Len(t, listed["recordings"], 2)
	assert.NotContains(t, d.run("list", "--key-id", aliceID).ok().stdout, "Follow-up")
	titles := d.run("list", "--grant-file", grant).ok().stdout
	assert.Equal(t, 2, strings.Count(titles, "Follow-up"))
	assert.Equal(t, titles, d.as("writer").with("RECVAULT_GRANT", readFile(t, grant)).run("list").ok().stdout)

	// Rotation.
	rotated := d.as("rotator").run("rotate", "--all", "--output", "json").ok().object()
	assert.EqualValues(t, 2, rotated["patients"].(map[string]any)["changed"])
	again := d.as("rotator").run("rotate", "--all", "--older-than", "1h", "--output", "json").ok().object()
	assert.EqualValues(t, 2, again["patients"].(map[string]any)["unchanged"])
	resumed := d.as("rotator").run("rotate", "--all", "--older-than", rotated["older_than"].(string), "--output", "json").ok().object()
	assert.EqualValues(t, 2, resumed["patients"].(map[string]any)["unchanged"], "a resumed run rotates no key twice")
	plan := d.as("rotator").run("plan", "--all", "--output", "json").ok().object()
	assert.EqualValues(t, 3, plan["envelopes"].(map[string]any)["older"])
	retired := d.as("retirer").run(append([]string{"retire", "--all", "--output", "json"}, shortGrace...)...).exits(exitIncomplete)
	assert.Equal(t, "incomplete", retired.failure().Code)
	assert.Equal(t, false, retired.object()["complete"])
	rewrapped := d.as("rotator").run("rewrap", "--all", "--output", "json").ok().object()
	assert.EqualValues(t, 3, rewrapped["envelopes"].(map[string]any)["rewrapped"])
	require.Eventually(t, func() bool {
		return d.as("retirer").run(append([]string{"retire", "--all"}, shortGrace...)...).code == exitOK
	}, time.Minute, 100*time.Millisecond)
	assert.Contains(t, d.as("retirer").run("reinstate", "--key-id", aliceID, "--oldest", "1").ok().stdout, "the key has the versions 1 to 2, the newest made 20")
	d.as("retirer").run(append([]string{"retire", "--key-id", aliceID}, shortGrace...)...).ok()
	trimmed := d.as("trimmer").run(append([]string{"trim", "--all", "--output", "json"}, shortGrace...)...).ok().object()
	assert.EqualValues(t, 2, trimmed["patients"].(map[string]any)["changed"])
	assert.Contains(t, d.as("retirer").run("reinstate", "--key-id", aliceID, "--oldest", "1").exits(exitUsage).stderr, "the key has the versions 2 to 2")
	inspected := d.run("inspect", "--output", "json", first).ok().object()
	assert.EqualValues(t, 2, inspected["key_version"])
	assert.Equal(t, aliceID, inspected["key_id"])
	assert.Len(t, inspected["commitment"], 64)
	assert.Equal(t, string(video), d.run("get", "--grant-file", grant, "--out", "-", first).ok().stdout)

	renewed := d.as("writer").run("rekey", "--grant-file", grant, first).line()
	assert.NotEqual(t, first, renewed)
	d.run("get", "--grant-file", grant, "--out", "-", first).exits(exitNotFound)
	assert.Equal(t, string(video), d.run("get", "--grant-file", grant, "--out", "-", renewed).ok().stdout)

	// Corrections.
	assert.Contains(t, d.run("stat", "--grant-file", grant, renewed).ok().stdout, "Follow-up")
	described := d.run("describe", "--grant-file", grant, "--output", "json", renewed).ok().object()
	assert.Equal(t, "Follow-up", described["title"])
	assert.EqualValues(t, 0, described["revision"])
	corrected := d.run("describe", "--grant-file", grant, "--set", "title=First visit", "--output", "json", renewed).ok().object()
	assert.EqualValues(t, 1, corrected["revision"])
	assert.Contains(t, d.run("describe", "--grant-file", grant, renewed).ok().stdout, "First visit")

	// Other patients.
	carol, _ := d.enrol("carol")
	carolsGrant := d.grant(carol, "carols-grant")
	copied := d.as("writer").run("copy", "--grant-file", grant, "--patient-file", carol, renewed).line()
	assert.Equal(t, string(video), d.run("get", "--grant-file", carolsGrant, "--out", "-", copied).ok().stdout)
	d.run("get", "--grant-file", grant, "--out", d.path("nothing"), copied).exits(exitDenied)
	moved := d.as("writer").run("reassign", "--grant-file", carolsGrant, "--patient-file", bob, "--rekey", copied).line()
	assert.Equal(t, string(video), d.run("get", "--grant-file", bobsGrant, "--out", "-", moved).ok().stdout)
	d.run("get", "--grant-file", carolsGrant, "--out", "-", copied).exits(exitNotFound)

	// Checks.
	grants := d.file("grants", []byte(readFile(t, grant)+readFile(t, bobsGrant)))
	verified := d.as("auditor").run("verify", "--all", "--grant-file", grants, "--output", "json").ok().object()
	assert.EqualValues(t, 4, verified["read"])
	assert.Equal(t, true, verified["complete"])
	assert.EqualValues(t, 2*len(video)+20, verified["bytes_read"])
	assert.Contains(t, d.as("rotator").run("verify", "--all", "--expect-min", "4").ok().stdout, "4 of 4 proved by the keyring")
	if len(d.tokens) > 0 {
		assert.EqualValues(t, 0, verified["proved"], "an auditor may not re-wrap")
		labels := d.as("auditor").run("verify", "--all").ok().stdout
		assert.Contains(t, labels, "only the versions in their labels were compared")
		assert.Contains(t, labels, "no problems found, but wrapped keys were not proved")
	}
	d.run("verify", "--all", "--no-keyring").ok()
	d.run("sweep", "--all", "--dry-run").ok()
	d.run("sweep", "--all").ok()

	// Holds and erasure.
	d.run("hold", "set", "--key-id", aliceID, "--reason", "case 1", "--operator", "okafor").ok()
	assert.Equal(t, "held", d.run("hold", "set", "--key-id", aliceID, "--reason", "case 2", "--operator", "okafor", "--output", "json").
		exits(exitHeld).failure().Code)
	assert.Contains(t, d.run("hold", "show", "--key-id", aliceID).ok().stdout, "case 1")
	held := d.as("eraser").run("erase", "plan", "--key-id", aliceID, "--output", "json").ok().object()
	confirm := []string{"erase", "confirm", "--key-id", aliceID, "--operator", "okafor", "--output", "json", "--digest"}
	d.as("eraser").run(append(confirm, held["digest"].(string))...).exits(exitHeld)
	d.as("writer").run("rekey", "--grant-file", grant, renewed).exits(exitHeld)
	for _, dryRun := range [][]string{nil, {"--dry-run"}} {
		d.run(append([]string{"describe", "--grant-file", grant, "--set", "title=x", renewed}, dryRun...)...).exits(exitHeld)
		d.as("writer").run(append([]string{"reassign", "--grant-file", grant, "--patient-file", bob, renewed}, dryRun...)...).exits(exitHeld)
	}
	d.run("hold", "clear", "--key-id", aliceID, "--reason", "closed", "--operator", "okafor").ok()
	d.run("hold", "clear", "--key-id", aliceID, "--reason", "closed", "--operator", "okafor").exits(exitNotFound)
	assert.Contains(t, d.run("hold", "show", "--key-id", aliceID).ok().stdout, "is not on hold")

	one := d.as("eraser").run("erase", "plan", "--recording", second, "--output", "json").ok().object()
	d.as("eraser").run("erase", "confirm", "--recording", second, "--operator", "okafor", "--digest", one["digest"].(string)).ok()
	assert.Equal(t, "plan_changed", d.as("eraser").run(append(confirm, held["digest"].(string))...).exits(exitFailure).failure().Code)
	plan = d.as("eraser").run("erase", "plan", "--patient-file", alice, "--output", "json").ok().object()
	receiptFile := d.path("receipt.json")
	printed := d.as("eraser").run(append(confirm, plan["digest"].(string), "--receipt", receiptFile)...).ok().stdout
	receipt, err := erasure.ParseReceipt([]byte(readFile(t, receiptFile)))
	require.NoError(t, err)
	assert.Equal(t, printed, readFile(t, receiptFile))
	assert.Equal(t, "okafor", receipt.Operator)
	assert.Equal(t, aliceID, receipt.KeyID.String())
	d.as("eraser").run(append(confirm, "-", "--receipt", receiptFile)...).exits(exitFailure)
	assert.Equal(t, printed, readFile(t, receiptFile), "a receipt is never overwritten")
	d.as("eraser").run(append(confirm, "-")...).ok() // again, when the longest upload has ended

	assert.Equal(t, "erased", d.as("writer").run("put", "--patient-file", alice, "--output", "json", out).exits(exitNotFound).failure().Code)
	d.run("get", "--grant-file", grant, "--out", "-", renewed).exits(exitNotFound)
	d.run("get", "--grant-file", bobsGrant, "--out", "-", bobs).ok()
	assert.NotEqual(t, aliceID, bobID)

	// Grants end.
	d.run("revoke", "--grant-file", bobsGrant).ok()
	assert.Equal(t, "invalid_grant", d.run("get", "--grant-file", bobsGrant, "--out", d.path("late"), "--output", "json", bobs).exits(exitDenied).failure().Code)
	other := d.grant(bob, "other")
	accessor := d.as("granter").run("grant", "--patient-file", bob, "--subject", "dr-lee", "--purpose", "BTG", "--reason", "unconscious", "--out", d.path("third"), "--output", "json").
		ok().object()["accessor"].(string)
	d.as("revoker").run("revoke", "--accessor", accessor).ok()
	d.as("revoker").run("revoke", "--accessor", accessor).exits(exitDenied)
	d.run("get", "--grant-file", other, "--out", "-", bobs).ok()
}

func assertFile(t *testing.T, want []byte, path string) {
	t.Helper()
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, have), "%s has other contents", path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm(), path)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}
