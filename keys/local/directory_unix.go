//go:build unix

package local

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// checkPrivate returns ErrInsecure for a directory that another user owns or can access.
func checkPrivate(root *os.Root) error {
	info, err := root.Stat(".")
	if err != nil {
		return unavailable(err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w: its mode is %04o, not 0700", ErrInsecure, mode)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it belongs to another user", ErrInsecure)
	}
	return nil
}

// syncDir makes the names in a folder durable and closes it. It takes the results of os.Open.
func syncDir(folder *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
