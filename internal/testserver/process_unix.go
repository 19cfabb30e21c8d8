//go:build unix

package testserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// guarded starts a server ("$@") and beside it a guard, which waits on descriptor 3, a pipe whose
// other end the test process alone holds. A line tells it that the server has ended in good order. The
// pipe's end without one means that the test process is gone, by a panic, os.Exit or a signal: then
// the guard ends the server ($$, which exec has made of the shell) and removes its folder ($0). That
// may take two attempts, for the server's last writes land while it is being killed.
const guarded = `{
	if ! read -r _ <&3; then
		kill -KILL $$
		rm -rf "$0" || { sleep 1; rm -rf "$0"; }
	fi
} 2>/dev/null &
exec 3<&-
exec "$@"`

// process is a running server. It needs no goroutine: tests that use a server can look for leaks.
type process struct {
	pid   int
	guard *os.File

	mu     sync.Mutex
	reaped bool
}

// startProcess starts a server that keeps all its files in dir and writes what it logs to log.
func startProcess(command, environment []string, dir string, log *os.File) (*process, error) {
	read, write, err := os.Pipe() // closed on exec, so no other child holds it
	if err != nil {
		return nil, err
	}
	defer read.Close()
	cmd := exec.Command("sh", append([]string{"-c", guarded, dir}, command...)...)
	cmd.Dir = dir
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{read}
	// A terminal sends Ctrl-C to the whole process group of the test, and the guard must outlive it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	pid := cmd.Process.Pid
	if err := cmd.Process.Release(); err != nil { // ended waits for it, without blocking
		return nil, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL), write.Close())
	}
	return &process{pid: pid, guard: write}, nil
}

// ended tells whether the server has ended, by itself or not.
func (p *process) ended() bool {
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
	// From here on the pid may be another's, so the guard must go.
	_, _ = p.guard.WriteString("ended\n")
	_ = p.guard.Close()
	return true
}

// terminate asks the server to end and waits until it has. One that takes longer than the grace is
// killed, and an error says so.
func (p *process) terminate(grace time.Duration) error {
	p.signal(syscall.SIGTERM)
	for deadline := time.Now().Add(grace); time.Now().Before(deadline); time.Sleep(pollInterval) {
		if p.ended() {
			return nil
		}
	}
	p.kill()
	return fmt.Errorf("did not end within %v of SIGTERM and was killed", grace)
}

// kill ends the server at once, as a power cut would end it.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	for !p.ended() {
		time.Sleep(pollInterval)
	}
}

func (p *process) signal(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped { // until then the pid is the server's
		_ = syscall.Kill(p.pid, signal)
	}
}
