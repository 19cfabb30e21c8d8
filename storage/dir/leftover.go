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

// A leftover is a temporary file that nobody is writing: its writer was killed.

var _ storage.UploadLister = (*Store)(nil)

// Uploads implements [storage.UploadLister]. It yields what writers left that were killed since the store
// was opened last, and nothing that is being written: a writer holds its file's lock. Which object it was to
// be is not known, so Name is empty and a prefix leaves nothing out. Started is when it was last
// written.
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

// leftovers visits leftovers until it is told to stop.
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
		// A store that may only be read keeps its leftovers, and that is no reason not to read it.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrInUse) && !isDenied(err) {
			return err
		}
	}
	return nil
}

func (s *Store) removeLeftover(name string) error {
	return s.withLeftover(name, s.root.Remove)
}

// tempNames returns the names of the temporary files.
func (s *Store) tempNames() ([]string, error) {
	dir, err := s.root.Open(tmpDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// withLeftover calls use with the path of a temporary file, while it holds the file's lock. It returns
// [storage.ErrInUse] if somebody else does.
func (s *Store) withLeftover(name string, use func(path string) error) error {
	if err := storage.ValidateName(name); err != nil {
		return err
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf("%w: an upload's ID is a file's name", storage.ErrInvalidName)
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
