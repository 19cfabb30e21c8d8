package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/keys"
)

// exportFolder is an export in a folder. Until it is complete, the folder has another name and holds a journal, with
// which another run continues: a line for the patient, and a line for each recording whose file is on disk.
type exportFolder struct {
	path, partial string
	root          *os.Root // the partial folder
	journal       *os.File // locked
	begun         exportJournal
	fresh         bool // this run began the journal
	noted         int  // recordings in the journal
}

// exportJournal is the first line of the journal.
type exportJournal struct {
	Format string     `json:"format"`
	KeyID  keys.KeyID `json:"key_id"`
}

const (
	partialSuffix     = ".partial"
	exportJournalName = ".recvault-export"
)

// checkPrivate refuses a folder of an interrupted run that somebody else could have made: a link, or one that others may
// look into or write to. The names of its files have titles.
func checkPrivate(root *os.Root, path string) error {
	opened, err := root.Stat(".")
	if err != nil {
		return err
	}
	named, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, named) || runtime.GOOS != "windows" && named.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is a link, or is open to others: remove it, or choose another folder", path)
	}
	return nil
}

// checkUnused returns fs.ErrExist if there is something of this name.
func checkUnused(path string) error {
	_, err := os.Lstat(path)
	if err == nil {
		return existsError(path)
	}
	return ignoreMissing(err)
}

// openExportFolder makes the partial folder, or takes over that of an interrupted run.
func openExportFolder(out string, keyID keys.KeyID) (_ *exportFolder, err error) {
	f := &exportFolder{path: filepath.Clean(out), begun: exportJournal{exportFormat, keyID}}
	f.partial = f.path + partialSuffix
	if err := checkUnused(f.path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(f.partial, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if f.root, err = os.OpenRoot(f.partial); err != nil {
		return nil, err
	}
	if err := checkPrivate(f.root, f.partial); err != nil {
		return nil, errors.Join(err, f.root.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	if err := f.openJournal(); err != nil {
		return nil, err
	}
	if err := checkUnused(f.path); err != nil { // another run has finished since
		info, statErr := f.journal.Stat()
		f.fresh = statErr == nil && info.Size() == 0 // so that close removes the folder
		return nil, err
	}
	if err := f.root.Mkdir(exportMedia, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return f, nil
}

// openJournal opens and locks the journal. Only an empty folder may lack it.
func (f *exportFolder) openJournal() error {
	found, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return err
	}
	flag := os.O_RDWR
	if len(found) == 0 {
		flag |= os.O_CREATE
	}
	f.journal, err = f.root.OpenFile(exportJournalName, flag, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return f.foreignError()
	}
	if err != nil {
		return err
	}
	locked, err := filelock.TryLock(f.journal)
	if err != nil {
		return err
	}
	if !locked {
		return fmt.Errorf("another process is writing this export to %s", f.partial)
	}
	return nil
}

// foreignError: the partial folder is not of this command, or of another release.
func (f *exportFolder) foreignError() error {
	return fmt.Errorf("%w, and is no unfinished export: choose another --out", existsError(f.partial))
}

// earlier reads the journal. It keeps the files whose content is as noted, and removes all others.
func (f *exportFolder) earlier(ctx context.Context, listed map[string]bool) (map[string]exportedRecording, error) {
	noted, err := f.readJournal()
	if err != nil {
		return nil, err
	}
	done, kept := map[string]exportedRecording{}, map[string]bool{}
	for _, r := range noted {
		if !listed[r.ID] {
			continue
		}
		same, err := f.verify(ctx, r)
		if err != nil {
			return nil, err
		}
		if same {
			done[r.ID] = r
			kept[r.File] = true
		}
	}
	found, err := fs.ReadDir(f.root.FS(), exportMedia)
	if err != nil {
		return nil, err
	}
	for _, entry := range found {
		if name := path.Join(exportMedia, entry.Name()); !kept[name] {
			if err := f.root.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	f.noted = len(done)
	return done, nil
}

// readJournal reads the recordings in the journal, and begins the journal if it is new. The next line
// replaces one that a crash has cut.
func (f *exportFolder) readJournal() ([]exportedRecording, error) {
	lines := bufio.NewReader(f.journal)
	var (
		noted []exportedRecording
		end   int64
	)
	for number := 0; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if number == 0 {
			var begun exportJournal
			if err := json.Unmarshal(line, &begun); err != nil || begun.Format != exportFormat {
				return nil, f.foreignError()
			}
			if begun.KeyID != f.begun.KeyID {
				return nil, usagef("%s is the unfinished export of another patient", f.partial)
			}
		} else {
			var r exportedRecording
			if err := json.Unmarshal(line, &r); err != nil {
				return nil, fmt.Errorf("the journal of %s is damaged: remove the folder to start from the beginning", f.partial)
			}
			noted = append(noted, r)
		}
		end += int64(len(line))
	}
	if _, err := f.journal.Seek(end, io.SeekStart); err != nil {
		return nil, err
	}
	if end == 0 {
		f.fresh = true
		return nil, errors.Join(f.writeLine(f.begun), f.syncDir("."), syncDir(filepath.Dir(f.partial)))
	}
	return noted, nil
}

// verify reports whether a file is on disk as the journal notes it.
func (f *exportFolder) verify(ctx context.Context, r exportedRecording) (bool, error) {
	file, err := f.root.Open(r.File)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, contextReader{ctx, file}); err != nil {
		return false, err
	}
	return hexOf(sum) == r.SHA256, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// contextReader is a reader that ends with a context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

func (f *exportFolder) create(name string) (exportFile, error) {
	file, err := f.root.OpenFile(name+partialSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &folderFile{file, f, name}, nil
}

func (f *exportFolder) note(r exportedRecording) error {
	f.noted++
	return f.writeLine(r)
}

// writeLine appends a line to the journal and syncs it.
func (f *exportFolder) writeLine(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if n, err := f.journal.Write(append(line, '\n')); err != nil {
		_, seekErr := f.journal.Seek(-int64(n), io.SeekCurrent) // the next line replaces what there is of this one
		return errors.Join(err, seekErr)
	}
	return f.journal.Sync()
}

// finish gives the folder its name. The journal goes last: a crash leaves either the unfinished or the finished export. The lock
// is held until then, so that no other run takes over what is complete, but for Windows, which renames no folder with an open file.
func (f *exportFolder) finish() error {
	err := f.syncDir(".")
	if runtime.GOOS == "windows" {
		err = errors.Join(err, f.closeFiles())
	}
	if err == nil {
		err = os.Rename(f.partial, f.path)
	}
	if err == nil {
		f.fresh = false // nothing is left for close to remove
		err = errors.Join(syncDir(filepath.Dir(f.path)), os.Remove(filepath.Join(f.path, exportJournalName)), syncDir(f.path))
	}
	return err
}

// close leaves the unfinished folder for another run. It removes the folder if this run made it and wrote no recording.
func (f *exportFolder) close() error {
	if f.root == nil {
		return nil
	}
	err := f.closeFiles()
	if f.fresh && f.noted == 0 {
		err = errors.Join(err, os.RemoveAll(f.partial))
	}
	return err
}

func (f *exportFolder) closeFiles() error {
	var errs []error
	if f.journal != nil {
		errs = append(errs, f.journal.Close())
	}
	errs = append(errs, f.root.Close())
	f.journal, f.root = nil, nil
	return errors.Join(errs...)
}

func (f *exportFolder) syncDir(name string) error {
	opened, err := f.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}

// folderFile is a file in the partial folder. It gets its name when it is complete.
type folderFile struct {
	*os.File
	folder *exportFolder
	name   string
}

func (f *folderFile) commit() error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = f.folder.root.Rename(f.name+partialSuffix, f.name)
	}
	if err == nil {
		err = f.folder.syncDir(path.Dir(f.name))
	}
	return err
}

func (f *folderFile) discard() bool {
	_ = f.Close()
	_ = f.folder.root.Remove(f.name + partialSuffix)
	return false
}
