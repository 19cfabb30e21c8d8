package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// newFile is a file of one's own that did not exist before: a grant or a receipt. It is made before what it
// is for is done, so that a file that cannot be made stops it.
type newFile struct{ file *os.File }

// createFile makes a file that nobody else can read. It returns fs.ErrExist if there is one.
func createFile(path string) (*newFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &newFile{file}, nil
}

// checkNewFile tells, for a dry run, whether createFile would find a file of that name, or no directory for it.
func checkNewFile(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	_, err := os.Stat(filepath.Dir(path))
	return err
}

// commit writes the file, and returns when it is on disk.
func (f *newFile) commit(text []byte) error {
	_, err := f.file.Write(text)
	err = errors.Join(err, f.file.Sync(), f.file.Close())
	if err == nil {
		err = syncDir(filepath.Dir(f.file.Name()))
	}
	return err
}

// discard removes the file again.
func (f *newFile) discard() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
}

// partialFile is a file that appears under its name when it is whole, and not before.
type partialFile struct {
	*os.File
	path      string
	overwrite bool
}

// createPartial begins a file. It returns fs.ErrExist if there is one that may not be overwritten. Renaming
// would put a file in the place of a device, a pipe or a link, so none of those is ever overwritten.
func createPartial(path string, overwrite bool) (*partialFile, error) {
	if info, err := os.Lstat(path); err == nil {
		switch {
		case !overwrite:
			return nil, existsError(path)
		case !info.Mode().IsRegular():
			return nil, usagef("--force replaces a regular file, and --out names something else")
		}
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".recvault-*") // with mode 0600
	if err != nil {
		return nil, err
	}
	return &partialFile{file, path, overwrite}, nil
}

func existsError(path string) error {
	return fmt.Errorf("%s: %w; --force overwrites it", path, fs.ErrExist)
}

// commit gives the file its name, once it is on disk.
func (f *partialFile) commit() error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = f.rename()
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	return err
}

func (f *partialFile) rename() error {
	if f.overwrite {
		return os.Rename(f.Name(), f.path)
	}
	// Unlike renaming, linking fails if somebody else made a file of this name meanwhile.
	err := os.Link(f.Name(), f.path)
	switch {
	case err == nil:
		return os.Remove(f.Name())
	case errors.Is(err, fs.ErrExist):
		return existsError(f.path)
	}
	// The file system has no links, as on many memory sticks.
	if _, err := os.Lstat(f.path); err == nil {
		return existsError(f.path)
	}
	return os.Rename(f.Name(), f.path)
}

// discard removes what was written. After commit has succeeded it does nothing.
func (f *partialFile) discard() {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

func syncDir(path string) error {
	opened, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}
