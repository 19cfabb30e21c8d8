package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCopyAndReassign(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.enrol("alice")
		bob, bobID := d.enrol("bob")
		grant, bobsGrant := d.grant(alice, "grant"), d.grant(bob, "bobs-grant")
		video := random(t, 100_000)
		id := d.put(alice, video)
		writer := d.as("writer")
		plays := func(grant, id string) {
			t.Helper()
			assert.Equal(t, string(video), d.run("get", "--grant-file", grant, "--out", "-", id).ok().stdout)
		}
		title := func(grant, id string) any {
			t.Helper()
			return d.run("describe", "--grant-file", grant, "--output", "json", id).ok().object()["title"]
		}
		shared := strings.Replace(id, aliceID, bobID, 1)

		planned := writer.run("copy", "--grant-file", grant, "--patient-file", bob, "--dry-run", "--output", "json", id).ok().object()
		assert.Equal(t, map[string]any{"dry_run": true, "old": id, "new": shared, "key_id": bobID, "shares_keys": true}, planned)
		d.run("inspect", shared).exits(exitNotFound)
		assert.Equal(t, shared, writer.run("copy", "--grant-file", grant, "--patient-file", bob, id).line())
		plays(bobsGrant, shared)
		plays(grant, id)
		assert.Nil(t, title(bobsGrant, shared), "the title may name the first patient")
		writer.wants(exitFailure, "exists", "copy", "--grant-file", grant, "--patient-file", bob, id)
		writer.wants(exitFailure, "exists", "copy", "--grant-file", grant, "--patient-file", bob, "--dry-run", id)

		// A copy that is there is what an interrupted reassign leaves, so reassign finishes.
		assert.Contains(t, writer.run("reassign", "--grant-file", grant, "--patient-file", bob, "--dry-run", id).ok().stdout,
			"would move "+id+" to "+bobID+", sharing its keys, as "+shared)
		plays(grant, id)
		assert.Equal(t, shared, writer.run("reassign", "--grant-file", grant, "--patient-file", bob, "--with-description", id).line())
		plays(bobsGrant, shared)
		d.run("inspect", id).exits(exitNotFound)

		back := writer.run("reassign", "--grant-file", bobsGrant, "--patient-file", alice, "--rekey", "--output", "json", shared).ok().object()
		renewed := back["new"].(string)
		assert.Equal(t, false, back["shares_keys"])
		assert.NotEqual(t, id, renewed)
		plays(grant, renewed)
		d.run("inspect", shared).exits(exitNotFound)

		titled := d.put(alice, video)
		moved := writer.run("reassign", "--grant-file", grant, "--patient-file", bob, "--with-description", titled).line()
		assert.Equal(t, "Follow-up", title(bobsGrant, moved))

		for _, command := range []string{"copy", "reassign"} {
			t.Run(command, func(t *testing.T) {
				writer := writer.in(t)
				for _, dryRun := range []string{"--dry-run=false", "--dry-run"} {
					writer.wants(exitUsage, "usage", command, "--grant-file", grant, "--patient-file", alice, dryRun, renewed)
					writer.wants(exitDenied, "denied", command, "--grant-file", bobsGrant, "--patient-file", bob, dryRun, renewed)
					writer.wants(exitNotFound, "not_found", command, "--grant-file", grant, "--patient-file", bob, dryRun, id)
					writer.wants(exitNotFound, "not_enrolled", command, "--grant-file", grant, "--patient-file", d.patient("nobody"), dryRun, renewed)
				}
			})
		}
		plays(grant, renewed)
	})
}

// If the original cannot be removed, the new recording exists, so its ID is printed beside the error.
func TestReassignReportsTheIDThatExists(t *testing.T) {
	d := onServers(t)
	target, err := url.Parse(d.environment["AWS_ENDPOINT_URL"])
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(target) // keeps the Host header, which the client signs
	keeper := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("<Error><Code>AccessDenied</Code><Message>no</Message></Error>"))
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(keeper.Close)
	alice, _ := d.enrol("alice")
	bob, _ := d.enrol("bob")
	grant, bobsGrant := d.grant(alice, "grant"), d.grant(bob, "bobs-grant")
	id := d.put(alice, random(t, 10))
	o := d.as("writer").with("AWS_ENDPOINT_URL", keeper.URL).run("reassign", "--grant-file", grant, "--patient-file", bob, "--output", "json", id).exits(exitDenied)
	assert.Equal(t, "denied", o.failure().Code)
	moved := o.object()["new"].(string)
	d.run("get", "--grant-file", bobsGrant, "--out", d.path("out"), moved).ok()
	d.run("inspect", id).ok()
	assert.Equal(t, moved, d.as("writer").run("reassign", "--grant-file", grant, "--patient-file", bob, id).line(), "running it again finishes")
	d.run("inspect", id).exits(exitNotFound)
}
