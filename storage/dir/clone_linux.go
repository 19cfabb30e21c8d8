package dir

import (
	"os"

	"golang.org/x/sys/unix"
)

// cloneFile makes the empty file target share the contents of source. It fails, and leaves target empty, where the
// file system cannot do that.
func cloneFile(target, source *os.File) error {
	return unix.IoctlFileClone(int(target.Fd()), int(source.Fd()))
}
