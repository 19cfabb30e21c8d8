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

// guarded is a shell script that starts a guard in the background and then becomes the server ("$@").
//
// The guard reads from descriptor 3, a pipe whose other end only the test process holds. A line means that
// the server has ended, so the guard exits. The end of the pipe without a line means that the test process
// has ended, by a panic, os.Exit or a signal. Then the guard kills the server ($$, the shell's process,
// which exec has replaced by the server) and removes its directory ($0). The removal may need a second
// attempt, as the server may still write while it is being killed.
const guarded = `{
	if ! read -r _ <&3; then
		kill -KILL $$
		rm -rf "$0" || { sleep 1; rm -rf "$0"; }
	fi
} 2>/dev/null &
exec 3<&-
exec "$@"`

// process is a running server. It uses no goroutine, so that tests with a server can check for leaks.
type process struct {
	pid   int
	guard *os.File

	mu     sync.Mutex
	reaped bool
}

// startProcess starts a server that keeps all its files in dir and writes its log to log.
func startProcess(command, environment []string, dir string, log *os.File) (*process, error) {
	read, write, err := os.Pipe() // closed on exec, so no other child process holds an end
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
	if err := cmd.Process.Release(); err != nil { // the method ended waits for it, without blocking
		return nil, errors.Join(err, syscall.Kill(pid, syscall.SIGKILL), write.Close())
	}
	return &process{pid: pid, guard: write}, nil
}

// ended reports whether the server has ended, for any reason.
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
	// From now on, the system may reuse the pid, so the guard must exit.
	_, _ = p.guard.WriteString("ended\n")
	_ = p.guard.Close()
	return true
}

// terminate sends SIGTERM to the server and waits until it has ended. If that takes longer than the grace
// period, terminate kills the server and returns an error.
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
	if !p.reaped { // before that, the pid is certainly the server's
		_ = syscall.Kill(p.pid, signal)
	}
}
