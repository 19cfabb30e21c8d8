// Package dir keeps objects as files in a local directory.
//
// Writes are atomic and durable: an object appears whole or not at all, also when the process is
// killed or the machine loses power, and once [Store.Put] has returned it stays. Any number of
// processes on one host may share a directory; on a network file system, see the remark on locks in
// package filelock.
//
// The directory holds
//
//	objects/<name>   one file for each object
//	tmp/<random>     what is being written, each file locked by its writer
//	lock             locked while objects/ changes
//
// Reading takes no lock: a reader sees the object as it was when it opened it. Permissions are 0700
// and 0600, less the umask. Symbolic links below objects/ are never followed: a name that meets one
// is refused with [storage.ErrDenied]. Listings pass over whatever is neither a directory nor an
// object with a valid name.
//
// On a file system that folds case (macOS and Windows by default), names that differ only in case
// are one name, and Windows lacks some names that [storage.ValidateName] permits ("nul", "a.").
// recvault's own names are lower-case and avoid both.
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

// The places in the directory, relative to its root.
const (
	objectsDir = "objects"
	tmpDir     = "tmp"
	lockFile   = "lock"
)

// Store keeps objects in a directory. It implements [storage.Store].
type Store struct {
	root *os.Root

	// changing holds one token while this process changes objects/. The lock file excludes other
	// processes, and would do for goroutines too, but waiting for it is polling.
	changing chan struct{}
}

var _ storage.Store = (*Store)(nil)

// Open opens the store in the directory at path, which it makes if only the directory's parent
// exists. It removes what writers left that were killed. A read-only directory can be opened for
// reading if it holds a store already.
//
// Errors: [storage.ErrNoBucket] when there is no such directory and no parent to make it in,
// [storage.ErrDenied], [storage.ErrFull], [storage.ErrUnavailable].
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

// makeLayout makes the directories of the store, durably.
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

// makeDir calls mkdir and tells whether it made something. What exists already is not an error.
func makeDir(mkdir func() error) (made bool, err error) {
	err = mkdir()
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Close releases the directory. Objects that are open stay readable.
func (s *Store) Close() error {
	return s.root.Close()
}

// Put implements [storage.Store]. It needs 256 KiB of memory whatever the size, and as much room in
// the file system as the object takes, beside the one that it replaces. A Read of r that blocks is
// not interrupted by the context.
func (s *Store) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	info, err := s.put(ctx, name, r, size, condition)
	if err != nil {
		return storage.Info{}, fmt.Errorf("put %s: %w", name, classify(err))
	}
	return info, nil
}

func (s *Store) put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	// What is refused anyway is refused before r is read. What counts is the check under the lock.
	if _, err := s.check(name, condition); err != nil {
		return storage.Info{}, err
	}
	temp, err := s.createTemp(ctx)
	if err != nil {
		return storage.Info{}, err
	}
	defer temp.discard()
	if err := temp.fill(ctx, r, size); err != nil {
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
	if err := s.settle(temp, name); err != nil {
		// It is there and may or may not stay: not what another error would tell.
		return storage.Info{}, fmt.Errorf("%w: making it durable: %w", storage.ErrUnavailable, err)
	}
	return info, nil
}

// check tells whether an object may be put under name, and returns what is there: nil if nothing is.
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

// commit makes a written temporary file the object, if the condition holds. The caller holds the
// store's lock.
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
	temp.unlock() // it is nobody's leftover now, and on Windows the lock would keep readers out
	return describe(name, stamped), nil
}

// stamp gives a file a time of modification later than that of the one it is to replace, so that
// every write of a name has another ETag, however coarse the file system's or the system's clock.
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
		if step > 10*time.Second { // FAT, the coarsest, counts in 2 s
			return nil, errors.New("file times cannot be set")
		}
	}
}

// settle makes a committed object durable.
func (s *Store) settle(temp *tempFile, name string) error {
	// The contents are on disk already. The time of modification, which the ETag is made of, may not be.
	if err := temp.file.Sync(); err != nil {
		return err
	}
	// The whole chain, since another process may have made a parent just now and not synced it yet.
	for dir := filepath.Dir(objectPath(name)); dir != "."; dir = filepath.Dir(dir) {
		// A parent that is gone took the object with it: somebody deleted it meanwhile.
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
	if _, err := s.object(name); err != nil {
		return nil, err
	}
	f, err := s.root.Open(objectPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, storage.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat() // what was looked up may have been replaced before it was opened
	if err != nil {
		f.Close()
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

// remove removes an object and the directories that it leaves empty, durably. The caller holds the
// store's lock.
func (s *Store) remove(name string) error {
	switch _, err := s.object(name); {
	case errors.Is(err, storage.ErrNotFound):
		// Somebody may have been killed after removing it and before that was durable.
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

// syncNearest makes the entries of a directory durable, or if it is gone those of the nearest one above.
func (s *Store) syncNearest(dir string) error {
	for {
		err := s.syncDir(dir)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) || dir == "." {
			return err
		}
		dir = filepath.Dir(dir)
	}
}

// removeEmptyParents removes the directories above path as far as they are empty, and returns the
// first that stays.
func (s *Store) removeEmptyParents(path string) string {
	dir := filepath.Dir(path)
	for ; dir != objectsDir; dir = filepath.Dir(dir) {
		if err := s.root.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return dir
}

// object describes an object's file. Whatever is not there, or is a directory, is
// [storage.ErrNotFound].
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

// lookup describes the file or directory at an object's path. It looks at each part of the path, so
// that no symbolic link is followed. [os.Root] alone would refuse only those that lead outside.
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

// describe makes the Info of an object from its file's.
func describe(name string, info fs.FileInfo) storage.Info {
	etag := strconv.FormatInt(info.ModTime().UnixNano(), 16) + "-" + strconv.FormatInt(info.Size(), 16)
	return storage.Info{Name: name, Size: info.Size(), ETag: etag, Modified: info.ModTime()}
}

// change calls fn while nobody else changes objects/, in this process or another.
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
	// Closing would do, but for a child process that is being started and has a copy of the file.
	defer filelock.Unlock(f)
	return fn()
}
