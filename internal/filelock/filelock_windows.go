package filelock

import (
	"errors"

	"golang.org/x/sys/windows"
)

// allBytes in both halves of the length locks the whole file, even if it grows.
const allBytes = ^uint32(0)

func tryLock(fd uintptr) (bool, error) {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(fd), flags, 0, allBytes, allBytes, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

func unlock(fd uintptr) error {
	return windows.UnlockFileEx(windows.Handle(fd), 0, allBytes, allBytes, new(windows.Overlapped))
}
