package local

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/recvault/recvault/internal/filelock"
)

const (
	lockFile    = "lock"
	tempDir     = "tmp"
	openTimeout = 10 * time.Second // far longer than any process holds the lock
)

// directory is the keyring's directory. Its files are small, and are read and replaced whole.
type directory struct {
	root *os.Root
	lock *os.File
	turn chan struct{} // has one element while a goroutine of this process changes the directory
}

func openDirectory(name string) (*directory, error) {
	err := os.Mkdir(name, 0o700)
	if err == nil {
		err = syncDir(os.Open(filepath.Dir(name)))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, unavailable(err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, unavailable(err)
	}
	if err := checkPrivate(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	lock, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errors.Join(unavailable(err), root.Close())
	}
	return &directory{root: root, lock: lock, turn: make(chan struct{}, 1)}, nil
}

func (d *directory) close() error {
	return errors.Join(d.lock.Close(), d.root.Close())
}

// prepare makes the folders that have no keys, and removes temporary files that crashed processes
// left. The caller holds the lock, so no process is writing.
func (d *directory) prepare() error {
	for _, name := range []string{tempDir, grantsDir} {
		if err := d.mkdir(name); err != nil {
			return err
		}
	}
	names, err := d.list(tempDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.root.Remove(tempDir + "/" + name); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// exclusively calls change while no other goroutine and no other process changes the directory. It
// waits for its turn until the context ends.
func (d *directory) exclusively(ctx context.Context, change func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := filelock.Lock(ctx, d.lock); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return unavailable(err)
	}
	defer func() {
		if unlockErr := filelock.Unlock(d.lock); unlockErr != nil {
			err = errors.Join(err, unavailable(unlockErr))
		}
	}()
	return change()
}

// read returns the content of a file. It needs no lock, because files are replaced in one step. The
// error for a missing file is fs.ErrNotExist.
func (d *directory) read(name string) ([]byte, error) {
	data, err := d.root.ReadFile(name)
	if err != nil {
		return nil, unavailable(err)
	}
	return data, nil
}

// write replaces a file in one step. When it returns, the new file is durable.
func (d *directory) write(name string, data []byte) error {
	temp := tempDir + "/" + rand.Text()
	if err := d.writeTemp(temp, data); err != nil {
		return errors.Join(unavailable(err), d.discard(temp))
	}
	if err := d.root.Rename(temp, name); err != nil {
		return errors.Join(unavailable(err), d.discard(temp))
	}
	return d.sync(path.Dir(name))
}

func (d *directory) writeTemp(temp string, data []byte) error {
	file, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// discard removes a temporary file, if it exists.
func (d *directory) discard(temp string) error {
	if err := d.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// remove removes a file. When it returns, the removal is durable.
func (d *directory) remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return unavailable(err)
	}
	return d.sync(path.Dir(name))
}

// mkdir makes a folder, if it does not exist.
func (d *directory) mkdir(name string) error {
	if err := d.root.Mkdir(name, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return unavailable(err)
	}
	return d.sync(".")
}

func (d *directory) exists(name string) (bool, error) {
	_, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	return true, nil
}

func (d *directory) list(name string) ([]string, error) {
	folder, err := d.root.Open(name)
	if err != nil {
		return nil, unavailable(err)
	}
	names, err := folder.Readdirnames(-1)
	if err = errors.Join(err, folder.Close()); err != nil {
		return nil, unavailable(err)
	}
	return names, nil
}

// sync makes the names in a folder durable, after files were made, replaced or removed.
func (d *directory) sync(name string) error {
	if err := syncDir(d.root.Open(name)); err != nil {
		return unavailable(err)
	}
	return nil
}
