//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInterruptedRewrapIsReportedAndResumed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		d = d.asProcess()
		const recordings = 40
		patient, keyID := d.enrol("alice")
		inProcess := *d
		inProcess.binary = ""
		for range recordings {
			inProcess.put(patient, random(t, 10))
		}
		version := 1
		for _, signal := range []struct {
			signal syscall.Signal
			code   int
		}{{syscall.SIGINT, exitInterrupted}, {syscall.SIGTERM, exitTerminated}} {
			d.as("rotator").run("rotate", "--all").ok()
			version++
			newest := func() int {
				plan := inProcess.as("rotator").run("plan", "--key-id", keyID, "--output", "json").ok().object()
				n, _ := plan["versions"].(map[string]any)[fmt.Sprint(version)].(float64)
				return int(n)
			}
			// Slow enough to be interrupted: 10 reads and writes per second.
			command := d.as("rotator").command("rewrap", "--all", "--output", "json", "--storage-rate", "10", "--concurrency", "2")
			var stdout, stderr bytes.Buffer
			command.Stdout, command.Stderr = &stdout, &stderr
			require.NoError(t, command.Start())
			require.Eventually(t, func() bool { return newest() > 0 }, time.Minute, 20*time.Millisecond)
			require.NoError(t, command.Process.Signal(signal.signal))
			var exit *exec.ExitError
			require.ErrorAs(t, command.Wait(), &exit)

			o := (&outcome{t: t, code: exit.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}).exits(signal.code)
			assert.Equal(t, "interrupted", o.failure().Code)
			report := o.object()
			assert.Equal(t, true, report["interrupted"])
			rewrapped := int(report["envelopes"].(map[string]any)["rewrapped"].(float64))
			assert.Equal(t, newest(), rewrapped, "work that has begun is finished and reported")
			assert.Less(t, rewrapped, recordings)

			rest := d.as("rotator").run("rewrap", "--all", "--output", "json").ok().object()
			assert.EqualValues(t, recordings-rewrapped, rest["envelopes"].(map[string]any)["rewrapped"], "no recording is rewrapped twice")
			assert.Equal(t, recordings, newest())
		}
	})
}

func TestInterruptedPutStoresNothing(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	command := d.asProcess().command("put", "--patient-file", alice, "-")
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	require.NoError(t, command.Start())
	_, err = io.Copy(stdin, bytes.NewReader(random(t, 1<<20))) // the command reads when this returns
	require.NoError(t, err)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, command.Wait(), &exit)
	assert.Equal(t, exitInterrupted, exit.ExitCode())
	assert.Equal(t, "recvault: interrupted\n", stderr.String())
	assert.Empty(t, d.run("list", "--key-id", aliceID, "--output", "json").ok().object()["recordings"])
	assert.Contains(t, d.run("sweep", "--all", "--output", "json").ok().stdout, `"young_uploads": 0`)
}

func TestASecondSignalStopsAtOnce(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id := d.put(alice, random(t, 1<<20))
	unread, stdout, err := os.Pipe() // is never read, and holds less than the recording
	require.NoError(t, err)
	defer unread.Close()
	defer stdout.Close()
	command := d.asProcess().command("get", "--grant-file", d.grant(alice, "grant"), "--out", "-", id)
	command.Stdout = stdout
	require.NoError(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	for {
		_ = command.Process.Signal(syscall.SIGINT) // until the second one is received
		select {
		case err := <-ended:
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			status := exit.Sys().(syscall.WaitStatus)
			assert.True(t, status.Signaled() && status.Signal() == syscall.SIGINT, "%v", status)
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestSignalEndsReadingAPipe(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	pipe := d.path("pipe")
	for name, args := range map[string][]string{
		"recording":  {"put", "--patient-file", alice, pipe},
		"metadata":   {"put", "--patient-file", alice, "--metadata-file", pipe, alice},
		"grant":      {"get", "--grant-file", pipe, "--out", d.path("out"), id},
		"identifier": {"enrol", "--patient-file", pipe},
		"envelope":   {"inspect", pipe},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, syscall.Mkfifo(pipe, 0o600))
			command := d.in(t).asProcess().command(args...)
			require.NoError(t, command.Start())
			writer, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the command opens it
			require.NoError(t, err)
			require.NoError(t, command.Process.Signal(syscall.SIGTERM))
			var exit *exec.ExitError
			require.ErrorAs(t, command.Wait(), &exit)
			assert.Equal(t, exitTerminated, exit.ExitCode())
			require.NoError(t, writer.Close())
			require.NoError(t, os.Remove(pipe))
		})
	}
}

// The pipe has no writer, so opening it does not return.
func TestOpeningAPipeEndsWithTheContext(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	in, err := new(cli).openInput(ctx, pipe, "grant", "--grant-file")
	require.NoError(t, err)
	cancel()
	_, err = io.ReadAll(in)
	require.ErrorIs(t, err, context.Canceled)
	// A writer ends the goroutine that waits.
	writer, err := os.OpenFile(pipe, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, writer.Close())
}

func TestForceReplacesOnlyRegularFiles(t *testing.T) {
	d := inDirectory(t)
	alice, _ := d.enrol("alice")
	id, grant := d.put(alice, random(t, 10)), d.grant(alice, "grant")
	pipe, folder, link := d.path("pipe"), d.path("folder"), d.path("link")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.NoError(t, os.Symlink(os.DevNull, link))
	before := d.files()
	for name, out := range map[string]string{"pipe": pipe, "folder": folder, "link": link} {
		t.Run(name, func(t *testing.T) {
			d.in(t).wants(exitUsage, "usage", "get", "--force", "--grant-file", grant, "--out", out, id)
			info, err := os.Lstat(out)
			require.NoError(t, err)
			assert.False(t, info.Mode().IsRegular())
		})
	}
	assert.Equal(t, before, d.files())
	d.run("get", "--force", "--grant-file", grant, "--out", d.file("old", nil), id).ok()
}

func TestHangupEndsTheCommandUnlessIgnored(t *testing.T) {
	// The tests may run under nohup. Processes inherit a signal that is ignored, and none that is caught.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	begun := func(command *exec.Cmd) io.WriteCloser {
		stdin, err := command.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		_, err = io.Copy(stdin, bytes.NewReader(random(t, 1<<20))) // the command reads when this returns
		require.NoError(t, err)
		require.NoError(t, command.Process.Signal(syscall.SIGHUP))
		return stdin
	}
	put := d.asProcess().command("put", "--patient-file", alice, "-")
	begun(put)
	var exit *exec.ExitError
	require.ErrorAs(t, put.Wait(), &exit)
	assert.Equal(t, exitHungUp, exit.ExitCode())
	assert.Empty(t, d.run("list", "--key-id", aliceID, "--output", "json").ok().object()["recordings"])

	direct := d.asProcess().command("put", "--patient-file", alice, "-")
	nohup := exec.Command("/bin/sh", append([]string{"-c", `trap "" HUP; exec "$0" "$@"`}, direct.Args...)...)
	nohup.Env = direct.Env
	stdin := begun(nohup)
	require.NoError(t, stdin.Close())
	require.NoError(t, nohup.Wait())
	assert.Len(t, d.run("list", "--key-id", aliceID, "--output", "json").ok().object()["recordings"], 1)
}

// closedPipe returns a pipe for standard output whose reading end is closed.
func closedPipe(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, reader.Close())
	t.Cleanup(func() { writer.Close() })
	return writer
}

func TestUnprintedResultsAreReported(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.enrol("alice")
		file := d.file("visit.webm", random(t, 10))
		unprinted := func(d *deployment, args ...string) *outcome {
			t.Helper()
			command := d.asProcess().command(append(args, "--output", "json")...)
			var stderr bytes.Buffer
			command.Stdout, command.Stderr = closedPipe(t), &stderr
			var exit *exec.ExitError
			require.ErrorAs(t, command.Run(), &exit)
			return (&outcome{t: t, args: args, code: exit.ExitCode(), stderr: stderr.String()}).exits(exitFailure)
		}
		ids := func() []string {
			var all []string
			for _, recording := range d.run("list", "--key-id", aliceID, "--output", "json").ok().object()["recordings"].([]any) {
				all = append(all, recording.(map[string]any)["id"].(string))
			}
			return all
		}
		failed := unprinted(d.as("writer"), "put", "--patient-file", alice, file).failure()
		require.Len(t, ids(), 1)
		assert.Equal(t, "not_printed", failed.Code)
		assert.Contains(t, failed.Error, ids()[0])

		old, grant := ids()[0], d.grant(alice, "grant")
		failed = unprinted(d.as("writer"), "rekey", "--grant-file", grant, old).failure()
		require.Len(t, ids(), 1)
		assert.NotEqual(t, old, ids()[0])
		assert.Contains(t, failed.Error, ids()[0])

		issue := []string{"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", "-"}
		o := unprinted(d.as("granter"), issue...)
		assert.NotContains(t, o.stderr, "recvault-grant-1.")
		assert.Regexp(t, `accessor \S+ was issued and revoked again`, o.failure().Error)

		hold := []string{"--key-id", aliceID, "--reason", "case 4", "--operator", "okafor"}
		d.run(append([]string{"hold", "set"}, hold...)...).ok()
		o = unprinted(d, append([]string{"hold", "clear"}, hold...)...)
		assert.Contains(t, o.failure().Error, "the hold is cleared")
		assert.Equal(t, "case 4", decodeOne(t, strings.SplitN(o.stderr, "\n", 2)[0])["cleared"].(map[string]any)["cleared_reason"])

		digest := d.as("eraser").run("erase", "plan", "--key-id", aliceID, "--output", "json").ok().object()["digest"].(string)
		o = unprinted(d.as("eraser"), "erase", "confirm", "--key-id", aliceID, "--digest", digest, "--operator", "okafor")
		assert.Contains(t, o.failure().Error, "it is erased")
		receipt := decodeOne(t, strings.SplitN(o.stderr, "\n", 2)[0])
		assert.Equal(t, aliceID, receipt["key_id"])
		assert.Equal(t, "okafor", receipt["operator"])
	})
}

// failingWriter is standard output on a full disk. It keeps what it could not write.
type failingWriter struct{ lost bytes.Buffer }

func (f *failingWriter) Write(p []byte) (int, error) {
	f.lost.Write(p)
	return 0, syscall.ENOSPC
}

func TestUnprintedGrantIsRevoked(t *testing.T) {
	onEachBackend(t, func(t *testing.T, d *deployment) {
		alice, _ := d.enrol("alice")
		id := d.put(alice, random(t, 10))
		var stdout failingWriter
		var stderr bytes.Buffer
		granter := d.as("granter")
		args := []string{"grant", "--patient-file", alice, "--subject", "s", "--purpose", "TREAT", "--out", "-"}
		code := run(t.Context(), args, func(name string) string { return granter.environment[name] }, strings.NewReader(""), &stdout, &stderr)
		assert.Equal(t, exitFailure, code, stderr.String())
		grant := d.file("lost", stdout.lost.Bytes())
		require.Contains(t, readFile(t, grant), "recvault-grant-1.")
		d.wants(exitDenied, "invalid_grant", "get", "--grant-file", grant, "--out", d.path("out"), id)
	})
}

func TestVersion(t *testing.T) {
	d := newDeployment(t).asProcess()
	version := d.run("version", "--output", "json").ok().object()
	assert.NotEmpty(t, version["version"])
	assert.True(t, strings.HasPrefix(version["go"].(string), "go1."))
	assert.EqualValues(t, 1, version["format"])
}
