package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// newFile is a file for a grant or a receipt that did not exist before. It is created before the grant is issued or
// the patient erased, so that nothing happens if it cannot be created.
type newFile struct{ file *os.File }

// createFile creates a file with mode 0600. It returns fs.ErrExist if there is a file of that name.
func createFile(path string) (*newFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &newFile{file}, nil
}

// checkNewFile returns, for a dry run, the error that createFile would return if the file exists or its directory does not.
func checkNewFile(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	_, err := os.Stat(filepath.Dir(path))
	return err
}

// commit writes the file and syncs it to disk.
func (f *newFile) commit(text []byte) error {
	_, err := f.file.Write(text)
	err = errors.Join(err, f.file.Sync(), f.file.Close())
	if err == nil {
		err = syncDir(filepath.Dir(f.file.Name()))
	}
	return err
}

// discard removes the file.
func (f *newFile) discard() {
	_ = f.file.Close()
	_ = os.Remove(f.file.Name())
}

// partialFile is a file that gets its name only when it is complete.
type partialFile struct {
	*os.File
	path      string
	overwrite bool
}

// createPartial creates a temporary file beside path. It returns fs.ErrExist if path exists and may not be
// overwritten. Only a regular file is ever overwritten: renaming would replace a device, a pipe or a link by a file.
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
	return fmt.Errorf("%s: %w", path, fs.ErrExist)
}

// commit syncs the file to disk and gives it its name.
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
	// Unlike a rename, a link fails if a file of this name was created in between.
	err := os.Link(f.Name(), f.path)
	switch {
	case err == nil:
		return os.Remove(f.Name())
	case errors.Is(err, fs.ErrExist):
		return existsError(f.path)
	}
	// The file system has no links, as on many USB sticks.
	if _, err := os.Lstat(f.path); err == nil {
		return existsError(f.path)
	}
	return os.Rename(f.Name(), f.path)
}

// discard removes the temporary file. After a successful commit it does nothing.
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
