// Package filelock locks open files against other processes.
//
// A lock is advisory, exclusive and whole-file. It belongs to the open file, not to the process: two
// files opened by one process exclude each other, too. The system releases it when the file is closed,
// also when the process is killed, so no lock outlives its holder.
//
// On Unix it is flock(2), on Windows LockFileEx, elsewhere every call returns
// [errors.ErrUnsupported]. Network file systems vary: NFS has flock since Linux 2.6.12, between Linux
// clients.
package filelock

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Waiting for a lock polls, because flock(2) and LockFileEx cannot be interrupted by a context.
const (
	minInterval = time.Millisecond
	maxInterval = 10 * time.Millisecond
)

// Lock locks f, and waits until it can or the context ends. Its error is the context's, or the
// system's. Locking a file that this *os.File has locked already is a mistake: what it does depends on the
// system.
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

// TryLock locks f if nobody else holds its lock, and tells whether it did.
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

// control calls fn with f's descriptor, which cannot be closed, and its number reused, meanwhile.
func control(f *os.File, fn func(fd uintptr) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var fnErr error
	if err := conn.Control(func(fd uintptr) { fnErr = fn(fd) }); err != nil {
		return os.ErrClosed // Control fails for no other reason, with an error that nobody can test for
	}
	return fnErr
}
