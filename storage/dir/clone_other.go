//go:build !linux

package dir

import (
	"errors"
	"os"
)

// cloneFile fails: only on Linux can a file share the contents of another through an open file.
func cloneFile(target, source *os.File) error {
	return errors.ErrUnsupported
}
