package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/namespace"
)

func TestAFullDiskErasesNothing(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	full := namespace.Mount(t, "size=16k,mode=0700")
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	grant := d.grant(alice, "grant")
	digest := d.run("erase", "plan", "--key-id", aliceID, "--output", "json").ok().object()["digest"].(string)
	receipt := filepath.Join(full, "receipt.json")
	confirm := []string{"erase", "confirm", "--key-id", aliceID, "--digest", digest, "--operator", "okafor", "--receipt"}

	assert.Contains(t, d.run(append(confirm, receipt)...).exits(exitFailure).stderr, "nothing was erased")
	left, err := os.ReadDir(full)
	require.NoError(t, err)
	assert.Empty(t, left)
	d.run("get", "--grant-file", grant, "--out", "-", id).ok()
	d.run(append(confirm, d.path("receipt.json"))...).ok()

	plan := d.run("erase", "plan", "--key-id", aliceID).ok().stdout
	assert.Contains(t, plan, "finished")
	assert.Contains(t, plan, "Nothing is left to erase")
	again := d.run(append(confirm, d.path("again.json"))...).ok().stdout
	assert.Contains(t, again, "it was erased before, and nothing was left", fmt.Sprint(d.files()))
}
