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

// syncPath makes the entries of a directory outside the store durable.
func syncPath(path string) error {
	return syncOpened(os.Open(path))
}

func syncOpened(f *os.File, err error) error {
	if err != nil {
		return err
	}
	defer f.Close()
	if runtime.GOOS == "windows" {
		return nil // Windows cannot flush a directory; NTFS journals changes of its entries
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // some network file systems do not support fsync of a directory
	}
	return err
}
