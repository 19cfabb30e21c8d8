package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/recvault/recvault/storage"
)

// Reasons why a path cannot be used.
var (
	errNoDirectory = fmt.Errorf("%w: the path is a file or leads through one", storage.ErrNoBucket)

	errIsParent  = fmt.Errorf("%w: the name is the parent of other objects", storage.ErrInvalidName)
	errHasParent = fmt.Errorf("%w: the name's parent is an object", storage.ErrInvalidName)
	errNotPlain  = fmt.Errorf("%w: the path contains a symbolic link or a special file", storage.ErrDenied)
)

// classify wraps a file system error in the error of package storage that names its cause. It returns
// errors of package storage, of the context and of the caller's reader unchanged.
func classify(err error) error {
	_, fromReader := errors.AsType[*sourceError](err)
	switch {
	case err == nil, fromReader, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), isStorageError(err):
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
	return slices.ContainsFunc([]error{
		storage.ErrNotFound, storage.ErrExists, storage.ErrChanged, storage.ErrInvalidName,
		storage.ErrSize, storage.ErrInUse, storage.ErrDenied, storage.ErrNoBucket, storage.ErrUnavailable,
	}, func(known error) bool { return errors.Is(err, known) })
}

func isDenied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}
