//go:build unix

package local

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// checkPrivate refuses a directory that anybody but this user could read or write.
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

// syncDir takes what os.Open returned.
func syncDir(folder *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
