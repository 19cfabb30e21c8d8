package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/recvault/recvault/storage"
)

// List implements [storage.Store]. It reads only directories that can hold names with the prefix. At any
// time, memory holds the entries of one directory of each level.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		err := storage.ValidatePrefix(prefix)
		if err == nil {
			// The listing starts in the deepest directory that the prefix names in full.
			dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
			_, err = s.walk(ctx, dir, prefix, func(info storage.Info) bool { return yield(info, nil) })
		}
		if err != nil {
			yield(storage.Info{}, fmt.Errorf("list: %w", classify(err)))
		}
	}
}

// walk calls visit with the objects below dir, in the byte order of their names, until visit returns
// false. dir is empty or ends in a slash. walk reports whether the listing continues.
func (s *Store) walk(ctx context.Context, dir, prefix string, visit func(storage.Info) bool) (bool, error) {
	entries, err := s.readDir(dir)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		name := dir + entry.key
		goOn := true
		switch {
		case !strings.HasPrefix(name, prefix):
		case entry.IsDir():
			goOn, err = s.walk(ctx, name, prefix, visit)
		case entry.Mode().IsRegular() && storage.ValidateName(name) == nil:
			goOn = visit(describe(name, entry.FileInfo))
		}
		if err != nil || !goOn {
			return false, err
		}
	}
	return true, ctx.Err()
}

// entry is a file or a directory. Its key is its part of an object's name: "media", "ab12/".
type entry struct {
	fs.FileInfo
	key string
}

// readDir returns the entries of a directory in the byte order of the names below it, in which "a-b"
// comes before "a/b". It returns none for a directory that does not exist.
func (s *Store) readDir(dir string) ([]entry, error) {
	if dir != "" {
		info, err := s.lookup(strings.TrimSuffix(dir, "/"))
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errHasParent):
			return nil, nil
		case err != nil:
			return nil, err
		case !info.IsDir():
			return nil, nil
		}
	}
	f, err := s.root.Open(objectPath(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist) && dir != "":
		return nil, nil
	case err != nil:
		return nil, err
	}
	defer f.Close()
	infos, err := f.Readdir(-1)
	if errors.Is(err, fs.ErrNotExist) && dir != "" {
		return nil, nil // the directory was removed after the opening
	}
	if err != nil {
		return nil, err
	}
	entries := make([]entry, len(infos))
	for i, info := range infos {
		entries[i] = entry{info, info.Name()}
		if info.IsDir() {
			entries[i].key += "/"
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries, nil
}
