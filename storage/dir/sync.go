package dir

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

// syncDir makes the entries of a directory durable.
func (s *Store) syncDir(dir string) error {
	return syncOpened(s.root.Open(dir))
}

// syncPath does the same for a directory outside the store.
func syncPath(path string) error {
	return syncOpened(os.Open(path))
}

func syncOpened(f *os.File, err error) error {
	if err != nil {
		return err
	}
	defer f.Close()
	if runtime.GOOS == "windows" {
		return nil // directories cannot be flushed there, and NTFS journals what changes in them
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // some network file systems have nothing to sync in a directory
	}
	return err
}
