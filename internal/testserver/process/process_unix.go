//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// guarded is a shell script that starts a guard in the background and then becomes the server ("$@").
//
// The guard reads from descriptor 3, a pipe whose other end only the process that starts the server holds. A line
// means that the server has ended, so the guard exits. The end of the pipe without a line means that the other
// process has ended, by a panic, os.Exit or a signal. Then the guard kills the server ($$, the shell's process,
// which exec has replaced by the server) and removes its directory ($0, empty if it is kept). The removal may need
// a second attempt, as the server may still write while it is being killed.
const guarded = `{
	if ! read -r _ <&3; then
		kill -KILL $$
		[ -z "$0" ] || rm -rf "$0" || { sleep 1; rm -rf "$0"; }
	fi
} 2>/dev/null &
exec 3<&-
exec "$@"`

// Process is a running server. It uses no goroutine, so that tests with a server can check for leaks.
type Process struct {
	pid   int
	guard *os.File

	mu     sync.Mutex
	reaped bool
}

// Start starts a server.
func Start(c Command) (*Process, error) {
	read, write, err := os.Pipe() // closed on exec, so no other child process holds an end
	if err != nil {
		return nil, err
	}
	defer read.Close()
	remove := ""
	if c.Remove {
		remove = c.Dir
	}
	cmd := exec.Command("sh", append([]string{"-c", guarded, remove}, c.Args...)...)
	cmd.Dir = c.Dir
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = c.Log, c.Log
	cmd.ExtraFiles = []*os.File{read}
	// A terminal sends Ctrl-C to the whole process group of the caller, and the guard must outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	pid := cmd.Process.Pid
	if err := cmd.Process.Release(); err != nil { // the method Ended waits for it, without blocking
		return nil, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL), write.Close())
	}
	return &Process{pid: pid, guard: write}, nil
}

// PID returns the server's process ID.
func (p *Process) PID() int { return p.pid }

// Ended reports whether the server has ended, for any reason.
func (p *Process) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return true
	}
	var status syscall.WaitStatus
	if pid, err := syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil); pid == 0 || errors.Is(err, syscall.EINTR) {
		return false
	}
	p.reaped = true
	// From now on, the system may reuse the pid, so the guard must exit.
	_, _ = p.guard.WriteString("ended\n")
	_ = p.guard.Close()
	return true
}

// Terminate sends SIGTERM to the server and waits until it has ended. If that takes longer than the grace
// period, Terminate kills the server and returns an error.
func (p *Process) Terminate(grace time.Duration) error {
	p.signal(syscall.SIGTERM)
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if p.Ended() {
			return nil
		}
	}
	p.Kill()
	return fmt.Errorf("did not end within %v of SIGTERM and was killed", grace)
}

// Kill ends the server at once, as a power cut would end it.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	for !p.Ended() {
		time.Sleep(pollInterval)
	}
}

func (p *Process) signal(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped { // before that, the pid is certainly the server's
		_ = syscall.Kill(p.pid, signal)
	}
}
