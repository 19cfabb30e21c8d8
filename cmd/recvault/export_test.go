package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hostileTitles try to leave the folder, the name, the line or the page.
var hostileTitles = []string{
	"../../../../etc/passwd", `..\..\evil`, "CON", "nul.txt", "a/b:c*d?e\"f<g>h|i", ".hidden", "", "-rf", "line\nbreak\x00\x1b[31m",
	"</title><script>alert(1)</script>", `" onerror="alert(1)`, "\u202egnp.exe", "e\u0301tude", "étude", strings.Repeat("ü", 500),
	"診察 3月", "{{.}}", "Same", "Same", "same. . .", "javascript:alert(1)",
}

// putDescribed stores a recording with metadata and returns its ID.
func (d *deployment) putDescribed(patient string, m map[string]any, data []byte) string {
	d.t.Helper()
	about, err := json.Marshal(m)
	require.NoError(d.t, err)
	return d.as("writer").run("put", "--patient-file", patient, "--metadata-file", d.file("about.json", about), d.file("media.webm", data)).line()
}

// contents reads all files of an export in a folder, by name.
func contents(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		info, infoErr := entry.Info()
		require.NoError(t, infoErr)
		assert.Zero(t, info.Mode().Perm()&0o077, "%s is the owner's alone", path)
		if entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		require.NoError(t, err)
		files[filepath.ToSlash(name)], err = os.ReadFile(path)
		return err
	}))
	return files
}

// unzipped reads all files of a zip, by name.
func unzipped(t *testing.T, text []byte) map[string][]byte {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(text), int64(len(text)))
	require.NoError(t, err)
	files := map[string][]byte{}
	for _, file := range archive.File {
		require.True(t, filepath.IsLocal(file.Name), file.Name)
		if strings.HasPrefix(file.Name, "recordings/") {
			assert.Equal(t, zip.Store, file.Method, file.Name)
		}
		r, err := file.Open()
		require.NoError(t, err)
		files[file.Name], err = io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
	return files
}

// checkExport checks an export's files against each other and returns its metadata.json.
func checkExport(t *testing.T, files map[string][]byte) exportDocument {
	t.Helper()
	var document exportDocument
	require.NoError(t, json.Unmarshal(files["metadata.json"], &document))
	assert.Equal(t, len(document.Missing) == 0, document.Complete)
	summed := map[string]string{}
	for line := range strings.Lines(string(files["SHA256SUMS"])) {
		sum, name, found := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		require.True(t, found, line)
		assert.Equal(t, fmt.Sprintf("%x", sha256.Sum256(files[name])), sum, name)
		summed[name] = sum
	}
	for _, r := range document.Recordings {
		assert.Len(t, files[r.File], int(r.Size))
		assert.Equal(t, summed[r.File], r.SHA256)
	}
	assert.Len(t, summed, len(document.Recordings)+2)
	assert.Contains(t, summed, "index.html")
	assert.Contains(t, summed, "metadata.json")
	return document
}

func TestExportGivesEveryRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		bob, _ := d.enrol("bob")
		d.put(bob, random(t, 10))
		grant := d.grant(alice, "grant")
		want := map[string][]byte{}
		for n, title := range hostileTitles {
			data := random(t, 1+n*20_000)
			id := d.putDescribed(alice, map[string]any{
				"title": title, "recorded_at": fmt.Sprintf("2026-03-%02dT10:30:00Z", n+1), "duration": "1h2m3s",
				"content_type": []string{"video/webm", "audio/mpeg", "text/html"}[n%3], "truncated": n == 0,
				"attributes": map[string]string{"clinic": "north"},
			}, data)
			want[id] = data
		}
		check := func(files map[string][]byte) {
			t.Helper()
			document := checkExport(t, files)
			assert.True(t, document.Complete)
			require.Len(t, document.Recordings, len(want))
			assert.Len(t, files, len(want)+3)
			for n, r := range document.Recordings {
				assert.True(t, bytes.Equal(want[r.ID], files[r.File]), r.File)
				from := len(hostileTitles) - 1 - n // the newest comes first
				assert.Equal(t, hostileTitles[from], r.Title)
				assert.Equal(t, time.Date(2026, 3, from+1, 10, 30, 0, 0, time.UTC), r.RecordedAt)
				assert.EqualValues(t, 3723, r.Seconds)
				assert.Equal(t, map[string]string{"clinic": "north"}, r.Attributes)
				assert.Equal(t, from == 0, r.Truncated)
				assert.WithinDuration(t, time.Now(), r.CreatedAt, time.Hour)
			}
			for name, text := range files {
				assert.True(t, filepath.IsLocal(name), name)
				for _, secret := range d.secrets {
					assert.NotContains(t, name, secret)
					assert.False(t, bytes.Contains(text, []byte(secret)), "a secret in %s", name)
				}
			}
			page := string(files["index.html"])
			assert.NotContains(t, page, "<script")
			assert.NotContains(t, page, ` onerror="`)
			assert.Contains(t, page, "1 h 2 min")
			assert.Contains(t, page, "broke off")
			assert.Equal(t, 7, strings.Count(page, "<video "))
			assert.Equal(t, 7, strings.Count(page, "<audio "))
		}
		folder := d.path("copy")
		result := d.run("export", "--grant-file", grant, "--out", folder, "--output", "json").ok().object()
		assert.Equal(t, true, result["complete"])
		assert.EqualValues(t, len(want), result["recordings"])
		check(contents(t, folder))

		archive := d.path("copy.zip")
		assert.Contains(t, d.run("export", "--grant-file", grant, "--out", archive).ok().stdout, "exported 21 recordings, ")
		check(unzipped(t, []byte(readFile(t, archive))))
		check(unzipped(t, []byte(d.run("export", "--grant-file", grant, "--out", "-").ok().stdout)))
		for _, command := range []*exec.Cmd{exec.Command("sha256sum", "-c", "--strict", "SHA256SUMS"), exec.Command("unzip", "-t", archive)} {
			if command.Err == nil {
				command.Dir = folder
				printed, err := command.CombinedOutput()
				assert.NoError(t, err, "%s", printed)
			}
		}

		before := d.files()
		for _, out := range []string{folder, archive, folder + "/", "."} {
			d.wants(exitFailure, "exists", "export", "--grant-file", grant, "--out", out)
		}
		d.wants(exitUsage, "usage", "export", "--grant-file", grant)
		d.run("export", "--grant-file", grant, "--out", "-", "--output", "json").exits(exitUsage)
		assert.Equal(t, before, d.files())
	})
}

func TestExportedNamesAreSafe(t *testing.T) {
	at := time.Date(2026, 3, 1, 23, 0, 0, 0, time.FixedZone("", -3600))
	seen := map[string]bool{}
	for n, title := range hostileTitles {
		id := fmt.Sprintf("patient.%026d", n)
		name := exportName(exportedRecording{ID: id, metadata: metadata{Title: title, RecordedAt: at, ContentType: "video/webm; codecs=vp9"}})
		folder, file := filepath.Split(name)
		assert.Equal(t, "recordings/", folder)
		assert.Regexp(t, `^2026-03-02_([\pL\pM\p{Nd}-]+_)?[0-9]{26}\.webm$`, file)
		assert.LessOrEqual(t, len(file), 120)
		assert.True(t, utf8.ValidString(file))
		assert.False(t, seen[file], file)
		seen[file] = true
	}
	name := func(title, contentType string) string {
		return exportName(exportedRecording{ID: "p.r", metadata: metadata{Title: title, ContentType: contentType}, CreatedAt: at})
	}
	assert.Equal(t, name("étude", ""), name("e\u0301tude", ""), "Unicode's normal form")
	assert.Equal(t, "recordings/2026-03-02_Follow-up-2_r.mp3", name(" Follow-up, 2! ", "audio/mpeg"))
	assert.Equal(t, "recordings/2026-03-02_r.bin", name("///", "text/html"), "nothing that a browser would run")
}

func TestExportGoesOnWithoutTheUnreadable(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	grant := d.grant(alice, "grant")
	put := func(title string) string {
		return d.putDescribed(alice, map[string]any{"title": title, "recorded_at": "2026-03-01T10:30:00Z"}, random(t, 300_000))
	}
	old := put("old")
	var oldEnvelope []byte
	d.damage(objectName(old, "envelope"), func(envelope []byte) []byte {
		oldEnvelope = bytes.Clone(envelope)
		return envelope
	})
	d.run("rotate", "--all").ok()
	d.run("rewrap", "--all").ok()
	require.Eventually(t, func() bool {
		return d.run(append([]string{"retire", "--all"}, shortGrace...)...).code == exitOK
	}, time.Minute, 100*time.Millisecond)
	d.damage(objectName(old, "envelope"), func([]byte) []byte { return oldEnvelope })
	fine, first, middle, cut, later := put("fine"), put("first"), put("middle"), put("cut"), put("later")
	flip := func(at int) func([]byte) []byte {
		return func(media []byte) []byte {
			media[at] ^= 1
			return media
		}
	}
	d.damage(objectName(first, "media"), flip(100))
	d.damage(objectName(middle, "media"), flip(200_000))
	d.damage(objectName(cut, "envelope"), func(envelope []byte) []byte { return envelope[:20] })
	d.damage(objectName(later, "envelope"), func(envelope []byte) []byte {
		return []byte(strings.Replace(string(envelope), `{"version":1,`, `{"version":2,`, 1))
	})
	check := func(files map[string][]byte, partial bool) {
		t.Helper()
		document := checkExport(t, files)
		require.Len(t, document.Recordings, 1)
		assert.Equal(t, fine, document.Recordings[0].ID)
		missing := map[string]exportedRecording{}
		for _, m := range document.Missing {
			missing[m.ID] = m
			assert.Empty(t, m.File)
			assert.Equal(t, partial && m.ID == middle, m.Partial != "")
		}
		require.Len(t, missing, 5)
		for id, code := range map[string]string{first: "damaged", middle: "damaged", cut: "damaged", later: "unsupported", old: "retired"} {
			assert.Equal(t, code, missing[id].Error)
		}
		assert.Equal(t, "first", missing[first].Title, "its metadata can be read")
		assert.Empty(t, missing[cut].Title)
		page := string(files["index.html"])
		assert.Contains(t, page, "5 recordings are missing")
		assert.Contains(t, page, later)
		if partial {
			part := files[missing[middle].Partial]
			assert.True(t, 0 < len(part) && len(part) < 300_000, "%d bytes", len(part))
		} else {
			assert.Len(t, files, 4)
		}
	}
	d.run("export", "--grant-file", grant, "--out", d.path("copy")).exits(exitIncomplete)
	check(contents(t, d.path("copy")), false)
	result := d.run("export", "--grant-file", grant, "--out", d.path("copy.zip"), "--output", "json").exits(exitIncomplete)
	assert.Equal(t, "incomplete", result.failure().Code)
	assert.Len(t, result.object()["missing"], 5)
	check(unzipped(t, []byte(readFile(t, d.path("copy.zip")))), true)
	printed := d.run("export", "--grant-file", grant, "--out", "-").exits(exitIncomplete)
	check(unzipped(t, []byte(printed.stdout)), true)
	assert.Contains(t, printed.stderr, "missing: "+later+" (unsupported)\n")
}

// The first recording is being written when the second one is deleted.
func TestExportNamesWhatVanishes(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	ids := []string{d.put(alice, random(t, 1<<20)), d.put(alice, random(t, 1<<20))}
	slices.Sort(ids)
	args := []string{"export", "--grant-file", d.grant(alice, "grant"), "--out", "-"}
	reader, stdout := io.Pipe()
	exit := make(chan int, 1)
	var stderr bytes.Buffer
	go func() {
		exit <- run(t.Context(), args, func(name string) string { return d.environment[name] }, strings.NewReader(""), stdout, &stderr)
		stdout.Close()
	}()
	begin := make([]byte, 1)
	_, err := io.ReadFull(reader, begin)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(d.environment["RECVAULT_DIR"], objectsDir, "objects", objectName(ids[1], "envelope"))))
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Equal(t, exitIncomplete, <-exit, stderr.String())
	document := checkExport(t, unzipped(t, append(begin, rest...)))
	require.Len(t, document.Missing, 1)
	assert.Equal(t, ids[1], document.Missing[0].ID)
	assert.Equal(t, "not_found", document.Missing[0].Error)
}

// The grant ends after three uses.
func TestExportContinuesWithANewGrant(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		bob, _ := d.enrol("bob")
		for range 7 {
			d.put(alice, random(t, 100_000))
		}
		limited := func(name, uses string) string {
			path := d.path(name)
			d.as("granter").run("grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT",
				"--max-uses", uses, "--out", path).ok()
			d.secrets = append(d.secrets, strings.TrimSpace(readFile(t, path)))
			return path
		}
		short := limited("short", "3")
		out := d.path("copy")
		export := func(grant string) []string {
			return []string{"export", "--grant-file", grant, "--out", out, "--output", "json"}
		}
		failed := d.run(export(short)...).exits(exitDenied).failure()
		assert.Equal(t, "invalid_grant", failed.Code)
		assert.Contains(t, failed.Error, "3 of 7 recordings are written")
		assert.NoDirExists(t, out)

		assert.Contains(t, d.run(export(d.grant(bob, "wrong"))...).exits(exitUsage).failure().Error, "another patient")
		assert.Contains(t, d.run(export(short)...).exits(exitDenied).failure().Error, "3 of 7", "nothing is lost")
		journal, err := os.OpenFile(filepath.Join(out+".partial", exportJournalName), os.O_WRONLY|os.O_APPEND, 0)
		require.NoError(t, err)
		_, err = journal.WriteString(`{"id":"` + strings.Repeat("x", 5000)) // as a crash cuts a line
		require.NoError(t, errors.Join(err, journal.Close()))
		assert.Contains(t, d.run(export(limited("one", "1"))...).exits(exitDenied).failure().Error, "4 of 7")
		done := d.run(export(d.grant(alice, "grant"))...).ok().object()
		assert.EqualValues(t, 4, done["continued"])
		assert.EqualValues(t, 7, done["recordings"])
		assert.Len(t, checkExport(t, contents(t, out)).Recordings, 7)
		assert.NoDirExists(t, out+".partial")

		d.run(append(export(short)[:4], d.path("short.zip"))...).exits(exitDenied)
		assert.NoFileExists(t, d.path("short.zip"))
		d.run(append(export(short)[:4], d.path("other"))...).exits(exitDenied)
		assert.NoDirExists(t, d.path("other.partial"), "nothing was written")
		for _, name := range d.files() {
			assert.False(t, strings.HasPrefix(name, ".recvault-"), name)
		}
		printed := d.run("export", "--grant-file", limited("cut", "3"), "--out", "-").exits(exitDenied).stdout
		require.NotEmpty(t, printed)
		_, err = zip.NewReader(strings.NewReader(printed), int64(len(printed)))
		assert.ErrorIs(t, err, zip.ErrFormat, "no program opens half a zip")
	})
}

func TestExportOfNothingNeedsAGrant(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		grant := d.grant(alice, "grant")
		d.run("export", "--grant-file", grant, "--out", d.path("copy")).ok()
		files := contents(t, d.path("copy"))
		assert.Empty(t, checkExport(t, files).Recordings)
		assert.Contains(t, string(files["index.html"]), "no recordings")

		d.run("revoke", "--grant-file", grant).ok()
		before := d.files()
		for _, out := range []string{"other", "other.zip"} {
			d.wants(exitDenied, "invalid_grant", "export", "--grant-file", grant, "--out", d.path(out))
		}
		assert.Empty(t, d.run("export", "--grant-file", grant, "--out", "-").exits(exitDenied).stdout)
		d.wants(exitDenied, "invalid_grant", "list", "--grant-file", grant)
		assert.Equal(t, before, d.files())
	})
}

func TestExportTakesOverNoOtherFolder(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	d.put(alice, random(t, 10))
	grant := d.grant(alice, "grant")
	partial := d.path("copy.partial")
	require.NoError(t, os.Mkdir(partial, 0o700))
	mine := filepath.Join(partial, "recordings")
	require.NoError(t, os.WriteFile(mine, []byte("mine"), 0o600))
	d.wants(exitFailure, "exists", "export", "--grant-file", grant, "--out", d.path("copy"))
	journal := filepath.Join(partial, exportJournalName)
	require.NoError(t, os.WriteFile(journal, []byte("{}\n"), 0o600))
	d.wants(exitFailure, "exists", "export", "--grant-file", grant, "--out", d.path("copy"))
	assert.Equal(t, "mine", readFile(t, mine))
	require.NoError(t, os.Remove(journal))
	require.NoError(t, os.Remove(mine))

	// Others could read the names, which have titles, or have made the folder.
	require.NoError(t, os.Rename(partial, d.path("elsewhere")))
	require.NoError(t, os.Symlink(d.path("elsewhere"), partial))
	assert.Contains(t, d.run("export", "--grant-file", grant, "--out", d.path("copy")).exits(exitFailure).stderr, "is a link")
	require.NoError(t, os.Remove(partial))
	require.NoError(t, os.Rename(d.path("elsewhere"), partial))
	if runtime.GOOS != "windows" {
		require.NoError(t, os.Chmod(partial, 0o755))
		assert.Contains(t, d.run("export", "--grant-file", grant, "--out", d.path("copy")).exits(exitFailure).stderr, "open to others")
		require.NoError(t, os.Chmod(partial, 0o700))
	}
	d.run("export", "--grant-file", grant, "--out", d.path("copy")).ok()
}
