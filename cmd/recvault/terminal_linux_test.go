package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: master shows what a program writes to tty.
type terminal struct{ master, tty *os.File }

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { tty.Close() })
	return &terminal{master, tty}
}

// watch reads what the terminal shows, until it is closed.
func (term *terminal) watch() <-chan string {
	shown := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		_, _ = all.ReadFrom(term.master) // ends with EIO after the last program has ended
		shown <- all.String()
	}()
	return shown
}

func TestTerminalShowsABarAndRemovesIt(t *testing.T) {
	d := inDirectory(t).asProcess()
	patient, _ := d.enrol("alice")
	for range 20 {
		inProcess := *d
		inProcess.binary = ""
		inProcess.put(patient, random(t, 10))
	}
	for name, quiet := range map[string]bool{"bar": false, "quiet": true} {
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			d.run("rotate", "--all").ok()
			term := newTerminal(t)
			args := []string{"rewrap", "--all", "--storage-rate", "20"}
			if quiet {
				args = append(args, "--quiet")
			}
			command := d.command(args...)
			command.Env = append(command.Env, "TERM=xterm")
			var stdout bytes.Buffer
			command.Stdout, command.Stderr = &stdout, term.tty
			shown := term.watch()
			require.NoError(t, command.Run())
			require.NoError(t, term.tty.Close())
			text := <-shown
			assert.Contains(t, stdout.String(), "20 rewrapped")
			if quiet {
				assert.Empty(t, text)
				return
			}
			assert.Regexp(t, `rewrap: patients 1, recordings \d+ of 20 found .*%`, text)
			assert.Regexp(t, `\r +\r$`, text, "the bar is removed")
		})
	}
}

func TestTypedSecretsAreNotShown(t *testing.T) {
	d := inDirectory(t).asProcess()
	alice, aliceID := d.enrol("alice")
	identifier := strings.TrimSpace(readFile(t, alice))
	term := newTerminal(t)
	command := d.command("list", "--patient-file", "-", "--output", "json")
	var stdout bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = term.tty, &stdout, term.tty
	shown := term.watch()
	require.NoError(t, command.Start())
	require.Eventually(t, func() bool { // echo is off
		state, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
		return err == nil && state.Lflag&unix.ECHO == 0
	}, 10*time.Second, time.Millisecond)
	_, err := term.master.WriteString(identifier + "\n")
	require.NoError(t, err)
	require.NoError(t, command.Wait())
	require.NoError(t, term.tty.Close())
	assert.Contains(t, stdout.String(), aliceID)
	text := <-shown
	assert.Contains(t, text, "patient's identifier: ")
	assert.NotContains(t, text, identifier)
}

func TestSignalAtThePromptRestoresTheTerminal(t *testing.T) {
	d := inDirectory(t).asProcess()
	term := newTerminal(t)
	before, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	command := d.command("list", "--patient-file", "-")
	command.Stdin, command.Stderr = term.tty, term.tty
	require.NoError(t, command.Start())
	echoes := func() bool {
		state, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
		require.NoError(t, err)
		return state.Lflag&unix.ECHO != 0
	}
	require.Eventually(t, func() bool { return !echoes() }, 10*time.Second, time.Millisecond)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	var exit *exec.ExitError
	require.ErrorAs(t, command.Wait(), &exit)
	assert.Equal(t, exitInterrupted, exit.ExitCode())
	after, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	assert.Equal(t, before, after)
}

func TestGetRefusesATerminal(t *testing.T) {
	d := inDirectory(t).asProcess()
	alice, _ := d.enrol("alice")
	id := d.put(alice, random(t, 10))
	grant := d.grant(alice, "grant")
	term := newTerminal(t)
	command := d.command("get", "--grant-file", grant, "--out", "-", id)
	command.Stdout = term.tty
	var stderr bytes.Buffer
	command.Stderr = &stderr
	var exit *exec.ExitError
	require.ErrorAs(t, command.Run(), &exit)
	assert.Equal(t, exitUsage, exit.ExitCode())
	assert.Contains(t, stderr.String(), "terminal")
}
