//go:build !unix

package process

import (
	"errors"
	"fmt"
	"time"
)

// Process is not implemented on this system, which has no guard that would end a server with its caller.
type Process struct{}

// Start returns [errors.ErrUnsupported].
func Start(Command) (*Process, error) {
	return nil, fmt.Errorf("servers need Unix: %w", errors.ErrUnsupported)
}

func (*Process) PID() int { return 0 }

func (*Process) Ended() bool { return true }

func (*Process) Terminate(time.Duration) error { return errors.ErrUnsupported }

func (*Process) Kill() {}
