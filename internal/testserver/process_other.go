//go:build !unix

package testserver

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// process is not implemented on this system, which has no guard that would end a server with its test.
type process struct{ pid int }

func startProcess(_, _ []string, _ string, _ *os.File) (*process, error) {
	return nil, fmt.Errorf("test servers need Unix: %w", errors.ErrUnsupported)
}

func (*process) ended() bool { return true }

func (*process) terminate(time.Duration) error { return errors.ErrUnsupported }

func (*process) kill() {}
