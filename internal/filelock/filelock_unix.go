//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package filelock

import (
	"errors"

	"golang.org/x/sys/unix"
)

func tryLock(fd uintptr) (bool, error) {
	err := retryInterrupted(func() error { return unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

func unlock(fd uintptr) error {
	return retryInterrupted(func() error { return unix.Flock(int(fd), unix.LOCK_UN) })
}

// retryInterrupted repeats the call as long as a signal interrupts it. The Go runtime sends itself signals.
func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
