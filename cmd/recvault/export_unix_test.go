//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/keys"
)

// The others try all the time, and one may find no folder, or the folder, or what has become of it.
func TestAFinishedExportIsNotTakenOver(t *testing.T) {
	id := keys.NewKeyID(make([]byte, keys.KeyIDBytes))
	for range 100 {
		out := filepath.Join(t.TempDir(), "copy")
		f, err := openExportFolder(out, id)
		require.NoError(t, err)
		_, err = f.earlier(t.Context(), nil)
		require.NoError(t, err)
		var others errgroup.Group
		for range 4 {
			others.Go(func() error {
				for {
					other, err := openExportFolder(out, id)
					switch {
					case err == nil:
						return errors.Join(errors.New("taken over"), other.close())
					case errors.Is(err, fs.ErrExist):
						return nil
					}
				}
			})
		}
		require.NoError(t, f.finish())
		require.NoError(t, f.close())
		require.NoError(t, others.Wait())
		assert.Equal(t, []string{"recordings"}, names(t, out))
		require.Equal(t, []string{"copy"}, names(t, filepath.Dir(out)))
	}
}

// names returns what is in a folder.
func names(t *testing.T, folder string) (all []string) {
	t.Helper()
	found, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, entry := range found {
		all = append(all, entry.Name())
	}
	return all
}

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
