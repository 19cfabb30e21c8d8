package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/recvault/recvault/storage"
)

// What can be in the way.
var (
	errNoDirectory = fmt.Errorf("%w: the path is, or leads through, a file", storage.ErrNoBucket)

	errIsParent  = fmt.Errorf("%w: other objects' names start with it", storage.ErrInvalidName)
	errHasParent = fmt.Errorf("%w: its parent is an object", storage.ErrInvalidName)
	errNotPlain  = fmt.Errorf("%w: a symbolic link or a special file is in the way", storage.ErrDenied)
)

// classify wraps an error of the file system in the one of package storage that tells its cause. Errors
// that have their meaning already, or are the caller's own, pass.
func classify(err error) error {
	var source *sourceError
	switch {
	case err == nil, errors.As(err, &source), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), isStorageError(err):
		return err
	case isFull(err):
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	case isDenied(err):
		return fmt.Errorf("%w: %w", storage.ErrDenied, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", storage.ErrNoBucket, err)
	case errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", storage.ErrTooLarge, err)
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %w", storage.ErrInvalidName, err)
	default:
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
}

func isStorageError(err error) bool {
	for _, known := range []error{
		storage.ErrNotFound, storage.ErrExists, storage.ErrChanged, storage.ErrInvalidName,
		storage.ErrSize, storage.ErrInUse, storage.ErrDenied, storage.ErrNoBucket, storage.ErrUnavailable,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

func isDenied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}
