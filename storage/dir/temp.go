package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/storage"
)

// tempFile is an object that is being written. Its writer holds its lock. The lock distinguishes it from
// a leftover, the file of a killed writer.
type tempFile struct {
	root *os.Root
	path string
	file *os.File
}

func (s *Store) createTemp(ctx context.Context) (*tempFile, error) {
	for {
		path := filepath.Join(tmpDir, rand.Text())
		f, err := s.root.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		temp := &tempFile{root: s.root, path: path, file: f}
		if err := filelock.Lock(ctx, f); err != nil {
			temp.discard()
			return nil, err
		}
		_, err = s.root.Lstat(path)
		if err == nil {
			return temp, nil
		}
		temp.discard()
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// An Open removed the file as a leftover, before it was locked.
	}
}

// discard closes the file and removes it, unless it has become an object.
func (t *tempFile) discard() {
	t.root.Remove(t.path)
	t.unlock()
	t.file.Close()
}

// unlock releases the file's lock. Closing the file is not enough: a child process that is just being
// started may hold a copy of it. unlock ignores errors: they mean that the file is already closed or
// unlocked.
func (t *tempFile) unlock() {
	filelock.Unlock(t.file)
}

// fill copies all of r to the file and flushes it to the disk.
func (t *tempFile) fill(ctx context.Context, r io.Reader, size int64) error {
	buffer := make([]byte, 256<<10)
	for written := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, readErr := r.Read(buffer)
		written += int64(n)
		if size >= 0 && written > size {
			return fmt.Errorf("%w: more than %d bytes", storage.ErrSize, size)
		}
		if _, err := t.file.Write(buffer[:n]); err != nil {
			return err
		}
		switch {
		case readErr == io.EOF && size != -1 && written != size:
			return fmt.Errorf("%w: %d bytes instead of %d", storage.ErrSize, written, size)
		case readErr == io.EOF:
			return t.file.Sync()
		case readErr != nil:
			return &sourceError{readErr}
		}
	}
}

// sourceError wraps an error of the caller's reader. classify must not mistake it for an error of the
// store: the reader may be reading a file too.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "read the data: " + e.err.Error() }

func (e *sourceError) Unwrap() error { return e.err }
