//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKilledExportContinues(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		const recordings = 48
		alice, _ := d.enrol("alice")
		want := map[string][]byte{}
		for range recordings {
			data := random(t, 70_000)
			want[d.put(alice, data)] = data
		}
		out := d.path("copy")
		journal := filepath.Join(out+".partial", exportJournalName)
		lines := func() int {
			text, _ := os.ReadFile(journal)
			return bytes.Count(text, []byte("\n"))
		}
		export := func() []string {
			return []string{"export", "--grant-file", d.grant(alice, "grant-"+time.Now().Format("150405.000000")), "--out", out, "--output", "json"}
		}
		killed := d.asProcess().command(export()...)
		require.NoError(t, killed.Start())
		require.Eventually(t, func() bool { return lines() > 3 }, time.Minute, time.Millisecond)
		require.NoError(t, killed.Process.Kill())
		require.Error(t, killed.Wait())
		require.NoDirExists(t, out)
		noted := lines() - 1
		require.Less(t, noted, recordings)

		// What a crash of the machine may leave: half a file, a file without a line, a file of other content, half a line.
		media := filepath.Join(out+".partial", "recordings")
		require.NoError(t, os.WriteFile(filepath.Join(media, "half.webm.partial"), nil, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(media, "whole.webm"), nil, 0o600))
		text := readFile(t, journal)
		var altered exportedRecording
		require.NoError(t, json.Unmarshal([]byte(strings.Split(text, "\n")[1]), &altered))
		require.NoError(t, os.WriteFile(filepath.Join(out+".partial", altered.File), []byte("other"), 0o600))
		require.NoError(t, os.WriteFile(journal, []byte(text+`{"id":"`), 0o600))

		done := d.run(export()...).ok().object()
		assert.EqualValues(t, noted-1, done["continued"])
		files := contents(t, out)
		assert.Len(t, files, recordings+3)
		document := checkExport(t, files)
		require.Len(t, document.Recordings, recordings)
		for _, r := range document.Recordings {
			assert.True(t, bytes.Equal(want[r.ID], files[r.File]), r.File)
		}
		assert.NoDirExists(t, out+".partial")
	})
}
