package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/namespace"
)

func TestAFullDiskLeavesNoExport(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	full := namespace.Mount(t, "size=1m,mode=0700")
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	for range 5 {
		d.put(alice, random(t, 100_000))
	}
	other := filepath.Join(full, "other")
	require.NoError(t, os.WriteFile(other, make([]byte, 700_000), 0o600))
	d.wants(exitFailure, "disk_full", "export", "--grant-file", grant, "--out", filepath.Join(full, "copy.zip"))
	left, err := os.ReadDir(full)
	require.NoError(t, err)
	assert.Len(t, left, 1, "no zip and no part of it")

	out := filepath.Join(full, "copy")
	d.wants(exitFailure, "disk_full", "export", "--grant-file", grant, "--out", out)
	assert.NoDirExists(t, out)
	require.NoError(t, os.Remove(other))
	assert.NotZero(t, d.run("export", "--grant-file", grant, "--out", out, "--output", "json").ok().object()["continued"])
	assert.Len(t, checkExport(t, contents(t, out)).Recordings, 5)
}
