package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/namespace"
	"github.com/recvault/recvault/keys"
)

// Several recordings are written at a time, and room can come back between two lines.
func TestAFullDiskGluesNoLinesOfTheJournal(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	full := namespace.Mount(t, "size=1m,mode=0700")
	open := func() (f *exportFolder, noted []exportedRecording) {
		f, err := openExportFolder(filepath.Join(full, "copy"), keys.NewKeyID(make([]byte, keys.KeyIDBytes)))
		require.NoError(t, err)
		noted, err = f.readJournal()
		require.NoError(t, err)
		return f, noted
	}
	f, _ := open()
	filler := filepath.Join(full, "filler")
	assert.Error(t, os.WriteFile(filler, make([]byte, 2<<20), 0o600))
	var want []exportedRecording
	for err := error(nil); err == nil; {
		r := exportedRecording{ID: fmt.Sprintf("recording %d", len(want))}
		if err = f.note(r); err == nil {
			want = append(want, r)
		}
	}
	text := readFile(t, filepath.Join(full, "copy.partial", exportJournalName))
	require.False(t, strings.HasSuffix(text, "\n"), "a line is cut")
	require.NoError(t, os.Remove(filler))
	last := exportedRecording{ID: "the last"}
	require.NoError(t, f.note(last))
	require.NoError(t, f.close())
	f, noted := open()
	assert.Equal(t, append(want, last), noted)
	require.NoError(t, f.close())
}

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
