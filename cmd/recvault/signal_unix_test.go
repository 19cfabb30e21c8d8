//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASignalInTheMiddleOfARewrapIsReportedAndResumed(t *testing.T) {
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
			// Slow enough to be met in the middle: reads and writes at 10 a second.
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
			assert.Equal(t, newest(), rewrapped, "what was begun is finished and reported")
			assert.Less(t, rewrapped, recordings)

			rest := d.as("rotator").run("rewrap", "--all", "--output", "json").ok().object()
			assert.EqualValues(t, recordings-rewrapped, rest["envelopes"].(map[string]any)["rewrapped"], "none is done twice")
			assert.Equal(t, recordings, newest())
		}
	})
}

func TestASignalEndsAPutThatLeavesNothing(t *testing.T) {
	d := inDirectory(t)
	alice, aliceID := d.enrol("alice")
	command := d.asProcess().command("put", "--patient-file", alice, "-")
	stdin, err := command.StdinPipe()
	require.NoError(t, err)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	require.NoError(t, command.Start())
	_, err = io.Copy(stdin, bytes.NewReader(random(t, 1<<20))) // it is reading when this returns
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
	pipe := d.path("pipe") // nobody writes to it, so opening it waits for ever
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	command := d.asProcess().command("put", "--patient-file", alice, pipe)
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

func TestTheProgramTellsItsVersion(t *testing.T) {
	d := newDeployment(t).asProcess()
	version := d.run("version", "--output", "json").ok().object()
	assert.NotEmpty(t, version["version"])
	assert.True(t, strings.HasPrefix(version["go"].(string), "go1."))
	assert.EqualValues(t, 1, version["format"])
}
