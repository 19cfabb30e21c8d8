// Package filelock locks open files against other processes.
//
// A lock is advisory, exclusive, and covers the whole file. It belongs to the open file, not to the
// process: two open files of one process exclude each other as well. The system releases it when the file
// is closed or the process is killed, so no lock outlives its holder.
//
// On Unix it is flock(2), on Windows LockFileEx. On other systems every call returns
// [errors.ErrUnsupported]. Network file systems vary: NFS supports flock between Linux clients since Linux
// 2.6.12.
package filelock

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Lock polls at these intervals, because a context cannot interrupt flock(2) or LockFileEx.
const (
	minInterval = time.Millisecond
	maxInterval = 10 * time.Millisecond
)

// Lock waits until it can lock f or the context ends. It returns the context's error or the system's. Do not
// lock an *os.File that is already locked: the result depends on the system.
func Lock(ctx context.Context, f *os.File) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for interval := minInterval; ; interval = min(2*interval, maxInterval) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("lock file: %w", err)
		}
		locked, err := TryLock(f)
		if err != nil || locked {
			return err
		}
		timer.Reset(interval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
}

// TryLock locks f unless another open file holds the lock, and reports whether it did. It does not wait.
func TryLock(f *os.File) (bool, error) {
	var locked bool
	err := control(f, func(fd uintptr) (err error) {
		locked, err = tryLock(fd)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("lock file: %w", err)
	}
	return locked, nil
}

// Unlock releases the lock that [Lock] or [TryLock] took through the same *os.File.
func Unlock(f *os.File) error {
	if err := control(f, unlock); err != nil {
		return fmt.Errorf("unlock file: %w", err)
	}
	return nil
}

// control calls fn with f's descriptor. During the call the descriptor cannot be closed, so its number
// cannot be reused.
func control(f *os.File, fn func(fd uintptr) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := conn.Control(func(fd uintptr) { fnErr = fn(fd) }); err != nil {
		return os.ErrClosed // the only reason for which Control fails; its own error cannot be tested for
	}
	return fnErr
}
