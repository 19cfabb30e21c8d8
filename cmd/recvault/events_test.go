package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault/events"
)

func TestTheEventsFileHasWhatTheCommandDid(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		file := d.path("events.jsonl")
		d = d.with("RECVAULT_EVENTS_FILE", file)
		alice, aliceID := d.enrol("alice")
		bob, _ := d.enrol("bob")
		grant, bobsGrant := d.grant(alice, "grant"), d.grant(bob, "bobs-grant")
		id := d.put(alice, random(t, 100_000))
		d.run("get", "--grant-file", grant, "--out", "-", id).ok()
		d.run("get", "--grant-file", bobsGrant, "--out", "-", id).exits(exitDenied)
		d.run("list", "--grant-file", grant).ok()
		d.run("revoke", "--grant-file", bobsGrant).ok()
		for _, arguments := range [][]string{{"set", "--reason", "case 7"}, {"clear", "--reason", "closed"}} {
			d.run(append([]string{"hold"}, append(arguments, "--operator", "o", "--key-id", aliceID)...)...).ok()
		}
		plan := d.as("eraser").run("erase", "plan", "--patient-file", alice, "--output", "json").ok().object()
		d.as("eraser").run("erase", "confirm", "--patient-file", alice, "--digest", plan["digest"].(string), "--operator", "o").ok()

		text := readFile(t, file)
		var kinds []events.Kind
		for line := range strings.Lines(text) {
			var e events.Event
			require.NoError(t, json.Unmarshal([]byte(line), &e))
			kinds = append(kinds, e.Kind)
			if e.Kind == events.Opened {
				assert.Equal(t, id, e.Recording.String())
				assert.EqualValues(t, 100_000, e.Bytes)
				assert.Equal(t, aliceID, e.KeyID.String())
			}
		}
		assert.Equal(t, []events.Kind{
			events.GrantIssued, events.GrantIssued, events.Stored, events.Opened, events.WrongPatient,
			events.Described, events.Listed, events.GrantRevoked, events.HoldSet, events.HoldCleared, events.Erased,
		}, kinds)
		assert.NotContains(t, text, strings.TrimSpace(readFile(t, alice)))
		assert.NotContains(t, text, "Follow-up")
		info, err := os.Stat(file)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())

		d = d.with("RECVAULT_EVENTS_FILE", d.path("no/such/directory"))
		failed := d.run("get", "--grant-file", grant, "--out", d.path("nothing"), id).exits(exitFailure)
		assert.Contains(t, failed.stderr, "RECVAULT_EVENTS_FILE")
		assert.NoFileExists(t, d.path("nothing"), "what would leave no event does not happen")
	})
}
