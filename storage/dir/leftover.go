package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/storage"
)

// A leftover is a temporary file without a lock: its writer was killed.

var _ storage.UploadLister = (*Store)(nil)

// Uploads implements [storage.UploadLister]. It yields the temporary files of writers that were killed
// since the store was last opened, and no upload in progress: its writer holds the file's lock. The object's
// name is unknown, so Name is empty and every prefix yields all uploads. Started is the time of the last
// write.
func (s *Store) Uploads(ctx context.Context, prefix string) iter.Seq2[storage.Upload, error] {
	return func(yield func(storage.Upload, error) bool) {
		err := storage.ValidatePrefix(prefix)
		if err == nil {
			err = s.leftovers(ctx, func(upload storage.Upload) bool { return yield(upload, nil) })
		}
		if err != nil {
			yield(storage.Upload{}, fmt.Errorf("list uploads: %w", classify(err)))
		}
	}
}

// leftovers calls visit with each leftover, until visit returns false.
func (s *Store) leftovers(ctx context.Context, visit func(storage.Upload) bool) error {
	names, err := s.tempNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		var info fs.FileInfo
		err := s.withLeftover(name, func(path string) (err error) {
			info, err = s.root.Lstat(path)
			return err
		})
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, storage.ErrInUse):
			continue
		case err != nil:
			return err
		case !visit(storage.Upload{ID: name, Started: info.ModTime()}):
			return nil
		}
	}
	return ctx.Err()
}

// AbortUpload implements [storage.UploadLister].
func (s *Store) AbortUpload(ctx context.Context, upload storage.Upload) error {
	err := ctx.Err()
	if err == nil {
		err = s.removeLeftover(upload.ID)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort upload: %w", classify(err))
	}
	return nil
}

// removeLeftovers removes all leftovers.
func (s *Store) removeLeftovers() error {
	names, err := s.tempNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		err := s.removeLeftover(name)
		// A read-only store keeps its leftovers, and can still be read.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrInUse) && !isDenied(err) {
			return err
		}
	}
	return nil
}

func (s *Store) removeLeftover(name string) error {
	return s.withLeftover(name, s.root.Remove)
}

// tempNames returns the names of all files in tmp/.
func (s *Store) tempNames() ([]string, error) {
	dir, err := s.root.Open(tmpDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// withLeftover calls use with the path of a temporary file while it holds the file's lock. It returns
// [storage.ErrInUse] if a writer holds the lock.
func (s *Store) withLeftover(name string, use func(path string) error) error {
	if err := storage.ValidateName(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf("%w: an upload's ID has no slash", storage.ErrInvalidName)
	}
	path := filepath.Join(tmpDir, name)
	f, err := s.root.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	leftover, err := filelock.TryLock(f)
	if err != nil {
		return err
	}
	if !leftover {
		return storage.ErrInUse
	}
	defer filelock.Unlock(f)
	return use(path)
}
