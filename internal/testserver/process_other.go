//go:build !unix

package testserver

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// process stands for a server where none can be started: nothing there would end it with the test.
type process struct{ pid int }

func startProcess(_, _ []string, _ string, _ *os.File) (*process, error) {
	return nil, fmt.Errorf("servers are started on Unix only: %w", errors.ErrUnsupported)
}

func (*process) ended() bool { return true }

func (*process) terminate(time.Duration) error { return errors.ErrUnsupported }

func (*process) kill() {}
