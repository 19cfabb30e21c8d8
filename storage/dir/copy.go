package dir

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/storage"
)

var _ storage.Copier = (*Store)(nil)

// Copy implements [storage.Copier]. On Linux file systems that support it (Btrfs, XFS), the copy shares the source's
// blocks until either is removed (FICLONE), which takes no time and no space. On others, Copy copies the data,
// with 256 KiB of memory for any size. It is atomic and durable as [Store.Put] is. A source that is replaced or
// deleted during the copy is copied as it was when Copy opened it.
func (s *Store) Copy(ctx context.Context, from, to string) (storage.Info, error) {
	for _, name := range []string{from, to} {
		if err := storage.ValidateName(name); err != nil {
			return storage.Info{}, fmt.Errorf("copy: %w", err)
		}
	}
	info, err := s.copy(ctx, from, to)
	if err != nil {
		return storage.Info{}, fmt.Errorf("copy %s to %s: %w", from, to, classify(err))
	}
	return info, nil
}

func (s *Store) copy(ctx context.Context, from, to string) (storage.Info, error) {
	if err := ctx.Err(); err != nil {
		return storage.Info{}, err
	}
	source, opened, err := s.openObject(from)
	if err != nil {
		return storage.Info{}, err
	}
	defer source.Close()
	return s.put(ctx, to, storage.IfAbsent(), func(temp *tempFile) error {
		if cloneFile(temp.file, source) == nil {
			return temp.file.Sync()
		}
		err := temp.fill(ctx, source, opened.Size())
		if failed, ok := errors.AsType[*sourceError](err); ok {
			return failed.err // the source is a file of the store
		}
		return err
	})
}
