// Package dir keeps objects as files in a local directory.
//
// Writes are atomic and durable: an object appears whole or not at all, even if the process is killed
// or the machine loses power, and it stays once [Store.Put] has returned. Any number of processes on
// one host may share a directory. A network file system must support the locks that package filelock
// takes.
//
// The directory holds
//
//	objects/<name>   one file for each object
//	tmp/<random>     one file for each Put in progress, locked by its writer
//	lock             locked while objects/ changes
//
// Reading takes no lock: a reader sees the object as it was when the reader opened it. Permissions are
// 0700 and 0600, less the umask. Symbolic links below objects/ are never followed: a name that leads
// through one is refused with [storage.ErrDenied]. Listings skip everything that is neither a
// directory nor a regular file with a valid name.
//
// On a case-insensitive file system (the default on macOS and Windows), names that differ only in case
// are one name. Windows lacks some names that [storage.ValidateName] permits ("nul", "a."). recvault's
// own names are lower-case and avoid both problems.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/storage"
)

// Paths relative to the root of the directory.
const (
	objectsDir = "objects"
	tmpDir     = "tmp"
	lockFile   = "lock"
)

// Store keeps objects in a directory. It implements [storage.Store].
type Store struct {
	root *os.Root

	// changing holds one token while this process changes objects/. The lock file, which excludes
	// other processes, would exclude goroutines too, but waiting for it means polling.
	changing chan struct{}
}

var _ storage.Store = (*Store)(nil)

// Open opens the store in the directory at path. If the directory does not exist, Open makes it in its
// parent, which must exist. Open removes the temporary files of killed writers. A read-only directory
// that already holds a store can be opened for reading.
//
// Errors: [storage.ErrNoBucket] if neither the directory nor its parent exists, [storage.ErrDenied],
// [storage.ErrFull], [storage.ErrUnavailable].
func Open(path string) (*Store, error) {
	store, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open directory store: %w", classify(err))
	}
	return store, nil
}

func open(path string) (_ *Store, err error) {
	made, err := makeDir(func() error { return os.Mkdir(path, 0o700) })
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, errNoDirectory
	}
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return nil, errNoDirectory
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()
	s := &Store{root: root, changing: make(chan struct{}, 1)}
	if made {
		if err := syncPath(filepath.Dir(filepath.Clean(path))); err != nil {
			return nil, err
		}
	}
	if err := s.makeLayout(); err != nil {
		return nil, err
	}
	return s, s.removeLeftovers()
}

// makeLayout makes the directories inside the store, durably.
func (s *Store) makeLayout() error {
	madeAny := false
	for _, dir := range []string{objectsDir, tmpDir} {
		made, err := makeDir(func() error { return s.root.Mkdir(dir, 0o700) })
		if err != nil {
			return err
		}
		madeAny = madeAny || made
		info, err := s.root.Lstat(dir)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errNotPlain
		}
	}
	if !madeAny {
		return nil
	}
	return s.syncDir(".")
}

// makeDir calls mkdir and reports whether that made a directory. A name that already exists is not an
// error.
func makeDir(mkdir func() error) (made bool, err error) {
	err = mkdir()
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Close releases the directory. Open objects stay readable.
func (s *Store) Close() error {
	return s.root.Close()
}

// Put implements [storage.Store]. It uses 256 KiB of memory for any size. The file system needs space
// for the new object in addition to the object that it replaces. The context does not interrupt a
// Read of r that blocks.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	info, err := s.put(ctx, name, condition, func(temp *tempFile) error { return temp.fill(ctx, r, size) })
	if err != nil {
		return storage.Info{}, fmt.Errorf("put %s: %w", name, classify(err))
	}
	return info, nil
}

// put makes an object of a temporary file that fill fills and flushes to the disk.
func (s *Store) put(ctx context.Context, name string, condition storage.Condition, fill func(*tempFile) error) (storage.Info, error) {
	// This check refuses early, before any data is read. The decisive check is made under the lock, by commit.
	if _, err := s.check(name, condition); err != nil {
		return storage.Info{}, err
	}
	temp, err := s.createTemp(ctx)
	if err != nil {
		return storage.Info{}, err
	}
	defer temp.discard()
	if err := fill(temp); err != nil {
		return storage.Info{}, err
	}
	var info storage.Info
	err = s.change(ctx, func() (err error) {
		info, err = s.commit(temp, name, condition)
		return err
	})
	if err != nil {
		return storage.Info{}, err
	}
	if err := s.makeDurable(temp, name); err != nil {
		// The object exists, but a power cut may undo it: only ErrUnavailable leaves that open.
		return storage.Info{}, fmt.Errorf("%w: making it durable: %w", storage.ErrUnavailable, err)
	}
	return info, nil
}

// check returns an error if no object may be put under name. Otherwise it returns the existing
// object's FileInfo, or nil if there is none.
func (s *Store) check(name string, condition storage.Condition) (fs.FileInfo, error) {
	old, err := s.lookup(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		old = nil
	case err != nil:
		return nil, err
	case old.IsDir():
		return nil, errIsParent
	}
	switch {
	case condition.IsIfAbsent() && old != nil:
		return nil, storage.ErrExists
	case condition.ETag() != "" && (old == nil || condition.ETag() != describe(name, old).ETag):
		return nil, storage.ErrChanged
	}
	return old, nil
}

// commit turns a written temporary file into the object if the condition holds. The caller must hold
// the store's lock.
func (s *Store) commit(temp *tempFile, name string, condition storage.Condition) (storage.Info, error) {
	old, err := s.check(name, condition)
	if err != nil {
		return storage.Info{}, err
	}
	stamped, err := s.stamp(temp.path, old)
	if err != nil {
		return storage.Info{}, err
	}
	path := objectPath(name)
	if err := s.root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.removeEmptyParents(path)
		return storage.Info{}, err
	}
	if err := s.root.Rename(temp.path, path); err != nil {
		s.removeEmptyParents(path)
		return storage.Info{}, err
	}
	temp.unlock() // the file is an object now; on Windows the lock would block its readers
	return describe(name, stamped), nil
}

// stamp sets the file's modification time later than that of old, the file that it will replace. So
// every write of a name gets a new ETag, even with a coarse clock or coarse file times.
func (s *Store) stamp(path string, old fs.FileInfo) (fs.FileInfo, error) {
	for step := time.Nanosecond; ; step *= 10 {
		modified := time.Now()
		if old != nil && !modified.After(old.ModTime()) {
			modified = old.ModTime().Add(step)
		}
		if err := s.root.Chtimes(path, modified, modified); err != nil {
			return nil, err
		}
		info, err := s.root.Lstat(path)
		if err != nil || old == nil || info.ModTime().After(old.ModTime()) {
			return info, err
		}
		if step > 10*time.Second { // FAT has the coarsest file times: 2 s
			return nil, errors.New("the file system does not keep file times")
		}
	}
}

// makeDurable flushes a committed object to the disk.
func (s *Store) makeDurable(temp *tempFile, name string) error {
	// The contents are on the disk since fill. The modification time, part of the ETag, may not be.
	if err := temp.file.Sync(); err != nil {
		return err
	}
	// All parents are flushed: another process may have just made one and not flushed it yet.
	for dir := filepath.Dir(objectPath(name)); dir != "."; dir = filepath.Dir(dir) {
		// If a parent no longer exists, the object has been deleted since the commit.
		if err := s.syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Get implements [storage.Store].
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if err := storage.ValidateName(name); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	if offset < 0 || length < -1 {
		return nil, fmt.Errorf("get %s: %w: offset %d, length %d", name, storage.ErrInvalidRange, offset, length)
	}
	object, err := s.get(ctx, name, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, classify(err))
	}
	return object, nil
}

func (s *Store) get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, opened, err := s.openObject(name)
	if err != nil {
		return nil, err
	}
	size := opened.Size()
	offset = min(offset, size)
	if length < 0 || length > size-offset {
		length = size - offset
	}
	body := &body{ctx: ctx, name: name, data: io.NewSectionReader(f, offset, length), file: f}
	return &storage.Object{ReadCloser: body, Info: describe(name, opened)}, nil
}

// openObject opens an object's file and returns its FileInfo.
func (s *Store) openObject(name string) (*os.File, fs.FileInfo, error) {
	if _, err := s.object(name); err != nil {
		return nil, nil, err
	}
	f, err := s.root.Open(objectPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, storage.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	opened, err := f.Stat() // the object may have been replaced between the lookup and the opening
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, opened, nil
}

// body reads a range of an object's file.
type body struct {
	ctx  context.Context
	name string
	data *io.SectionReader
	file *os.File
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", b.name, err)
	}
	n, err := b.data.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read %s: %w", b.name, classify(err))
	}
	return n, err
}

func (b *body) Close() error {
	return b.file.Close()
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("stat: %w", err)
	}
	err := ctx.Err()
	var found fs.FileInfo
	if err == nil {
		found, err = s.object(name)
	}
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %s: %w", name, classify(err))
	}
	return describe(name, found), nil
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := storage.ValidateName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	err := s.change(ctx, func() error { return s.remove(name) })
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, classify(err))
	}
	return nil
}

// remove removes an object and the directories that become empty, durably. The caller must hold the
// store's lock.
func (s *Store) remove(name string) error {
	switch _, err := s.object(name); {
	case errors.Is(err, storage.ErrNotFound):
		// A process may have been killed between removing the object and flushing the removal.
		return s.syncNearest(filepath.Dir(objectPath(name)))
	case err != nil:
		return err
	}
	path := objectPath(name)
	if err := s.root.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.syncDir(s.removeEmptyParents(path))
}

// syncNearest makes the entries of a directory durable. If the directory does not exist, it does so for
// the nearest parent that exists.
func (s *Store) syncNearest(dir string) error {
	for {
		err := s.syncDir(dir)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) || dir == "." {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// removeEmptyParents removes the empty directories above path, lowest first, and returns the first
// directory that it keeps.
func (s *Store) removeEmptyParents(path string) string {
	dir := filepath.Dir(path)
	for ; dir != objectsDir; dir = filepath.Dir(dir) {
		if err := s.root.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return dir
}

// object returns the FileInfo of an object. It returns [storage.ErrNotFound] if the path does not exist
// or is a directory.
func (s *Store) object(name string) (fs.FileInfo, error) {
	info, err := s.lookup(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errHasParent):
		return nil, storage.ErrNotFound
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, storage.ErrNotFound
	}
	return info, nil
}

// lookup returns the FileInfo of the file or directory at an object's path. It checks each part of the
// path and refuses symbolic links. [os.Root] alone would refuse only links that lead outside the root.
func (s *Store) lookup(name string) (fs.FileInfo, error) {
	path := objectPath(name)
	for i := len(objectsDir); i < len(path); i++ {
		if !os.IsPathSeparator(path[i]) {
			continue
		}
		info, err := s.root.Lstat(path[:i])
		switch {
		case errors.Is(err, fs.ErrNotExist) && i == len(objectsDir):
			return nil, storage.ErrNoBucket
		case err != nil:
			return nil, err
		case info.Mode().IsRegular():
			return nil, errHasParent
		case !info.IsDir():
			return nil, errNotPlain
		}
	}
	info, err := s.root.Lstat(path)
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = errNotPlain
	}
	return info, err
}

func objectPath(name string) string {
	return filepath.Join(objectsDir, filepath.FromSlash(name))
}

// describe returns the Info of an object, given the FileInfo of its file.
func describe(name string, info fs.FileInfo) storage.Info {
	etag := strconv.FormatInt(info.ModTime().UnixNano(), 16) + "-" + strconv.FormatInt(info.Size(), 16)
	return storage.Info{Name: name, Size: info.Size(), ETag: etag, Modified: info.ModTime()}
}

// change calls fn with exclusive access to objects/: it excludes all other changes, in this process and
// in others.
func (s *Store) change(ctx context.Context, fn func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s.changing <- struct{}{}:
	}
	defer func() { <-s.changing }()

	f, err := s.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := filelock.Lock(ctx, f); err != nil {
		return err
	}
	// Closing is not enough: a child process that is just being started may hold a copy of the file.
	defer filelock.Unlock(f)
	return fn()
}
