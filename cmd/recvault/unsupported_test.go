package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A recording of a later release is neither damaged nor touched.
func TestUnsupportedIsNotDamage(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	bob, _ := d.enrol("bob")
	grant := d.grant(alice, "grant")
	old := d.put(alice, random(t, 10))
	id := d.put(alice, random(t, 10))
	d.damage(objectName(id, "envelope"), func(envelope []byte) []byte {
		return []byte(strings.Replace(string(envelope), `{"version":1,`, `{"version":2,`, 1))
	})
	d.wants(exitUnsupported, "unsupported", "get", "--grant-file", grant, "--out", d.path("out"), id)
	d.wants(exitUnsupported, "unsupported", "describe", "--grant-file", grant, id)
	d.wants(exitUnsupported, "unsupported", "describe", "--grant-file", grant, "--set", "title=x", id)
	d.wants(exitUnsupported, "unsupported", "copy", "--grant-file", grant, "--patient-file", bob, id)
	d.wants(exitUnsupported, "unsupported", "reassign", "--grant-file", grant, "--patient-file", bob, id)
	d.wants(exitUnsupported, "unsupported", "rekey", "--grant-file", grant, id)
	d.wants(exitUnsupported, "unsupported", "inspect", id)

	listed := d.run("list", "--grant-file", grant, "--output", "json").ok().object()
	assert.EqualValues(t, 1, listed["unsupported"])
	assert.Len(t, listed["recordings"], 2)
	text := d.run("list", "--grant-file", grant).ok().stdout
	assert.Contains(t, text, "(unsupported)")
	assert.Contains(t, text, "unsupported: 1, which need a newer release")

	verified := d.run("verify", "--all").ok().stdout
	assert.Regexp(t, `(?m)^unsupported +1$`, verified)
	assert.Contains(t, verified, "1 of 2 proved by the keyring\n")
	assert.Contains(t, verified, "no problems found\nunsupported: 1, which need a newer release")
	object := d.run("verify", "--all", "--output", "json").ok().object()
	assert.Equal(t, true, object["complete"])
	assert.EqualValues(t, 1, object["unsupported"])

	for _, command := range []string{"rotate", "plan", "rewrap"} {
		text := d.run(command, "--all").ok().stdout
		assert.Contains(t, text, "1 unsupported", command)
		assert.Contains(t, text, "unsupported: 1, which need a newer release", command)
		if command == "rewrap" {
			assert.Contains(t, text, "1 rewrapped")
		}
	}
	require.Eventually(t, func() bool {
		refused := d.run(append([]string{"retire", "--key-id", aliceID}, shortGrace...)...)
		return refused.code == exitIncomplete && strings.Contains(refused.stderr, "unsupported (1)")
	}, time.Minute, 100*time.Millisecond)
	d.run("get", "--grant-file", grant, "--out", d.path("out"), old).ok()
}

func TestExpectMinFindsAWrongBucketOrPrefix(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		d.put(alice, random(t, 10))
		d.put(alice, random(t, 10))
		elsewhere := d.with("RECVAULT_PREFIX", "elsewhere/")
		for command, role := range map[string]string{
			"verify": "auditor", "plan": "rotator", "rotate": "rotator", "rewrap": "rotator", "retire": "retirer", "trim": "trimmer",
		} {
			t.Run(command, func(t *testing.T) {
				d, elsewhere := d.in(t).as(role), elsewhere.in(t).as(role)
				run := func(d *deployment, args ...string) *outcome {
					if command == "rotate" {
						args = append(args, "--dry-run") // a rotation would give the other commands something to do
					}
					return d.run(append([]string{command, "--all"}, args...)...)
				}
				run(d, "--expect-min", "2").ok()
				for _, output := range []string{"text", "json"} {
					o := run(d, "--expect-min", "3", "--output", output).exits(exitIncomplete)
					assert.Contains(t, o.stderr, "found 2 recordings, expected at least 3: is the bucket or prefix right?")
					if output == "json" {
						assert.Equal(t, false, o.object()["complete"])
						assert.Equal(t, "incomplete", o.failure().Code)
					}
				}
				if command == "retire" || command == "trim" {
					run(elsewhere, "--expect-min", "1").exits(exitUsage) // the keyring is not for this prefix
					return
				}
				o := run(elsewhere, "--expect-min", "1").exits(exitIncomplete)
				assert.Contains(t, o.stderr, "found 0 recordings, expected at least 1: is the bucket or prefix right?")
				none := run(elsewhere).ok().stdout
				assert.Contains(t, none, "no recordings found")
				assert.NotContains(t, none, "no problems found")
			})
		}
	})
}

// A label that was edited is found only if the keyring proves the wrapped key.
func TestVerifySaysWhatWasProved(t *testing.T) {
	d := onServers(t)
	alice, aliceID := d.enrol("alice")
	d.put(alice, random(t, 10))
	d.as("rotator").run("rotate", "--key-id", aliceID).ok()
	proved := d.as("rotator").run("verify", "--all").ok().stdout
	assert.Contains(t, proved, "1 of 1 proved by the keyring\n")
	assert.Contains(t, proved, "\nno problems found\n")
	labels := d.as("auditor").run("verify", "--all").ok().stdout
	assert.Contains(t, labels, "0 proved: only the versions in their labels were compared, which is no proof")
	assert.Contains(t, labels, "no problems found, but wrapped keys were not proved")
	unasked := d.as("auditor").run("verify", "--all", "--no-keyring").ok().stdout
	assert.Regexp(t, `wrapped keys +not checked`, unasked)

	local := inDirectory(t)
	alice, _ = local.enrol("alice")
	id := local.put(alice, random(t, 10))
	path := filepath.Join(local.environment["RECVAULT_DIR"], objectsDir, "objects", objectName(id, "envelope"))
	assert.FileExists(t, path)
	local.run("rotate", "--all").ok()
	local.damage(objectName(id, "envelope"), func(envelope []byte) []byte {
		return []byte(strings.ReplaceAll(string(envelope), `local:v1:`, `local:v2:`))
	})
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(text), "local:v2:")
	assert.Contains(t, local.run("verify", "--all").exits(exitIncomplete).stdout, "0 of 1 proved by the keyring\n")
}
