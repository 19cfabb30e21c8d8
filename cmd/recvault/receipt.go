package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/recvault/recvault/internal/filelock"
	"github.com/recvault/recvault/vault/erasure"
)

// receiptFile is the file of a receipt. Until there is a receipt, it says what is known of the time before the erasure,
// and a second file beside it reserves the space. So neither an interruption nor a full disk loses the proof. The second
// file is locked: two confirms with the same file would remove each other's proof.
type receiptFile struct {
	path    string
	created bool               // by this confirm
	earlier *erasure.Beginning // that an earlier confirm left in the file
	reserve *os.File
}

// pendingReceipt is the content of a receipt's file while there is no receipt.
type pendingReceipt struct {
	Incomplete string             `json:"incomplete"`
	Beginning  *erasure.Beginning `json:"beginning"`
}

const incompleteErasure = "this is no receipt: run the same recvault erase confirm again"

// openReceipt creates the file, or reads what an earlier confirm left there. It returns fs.ErrExist for any other file, and
// while another confirm has the file.
func openReceipt(path string) (*receiptFile, error) {
	f := &receiptFile{path: path}
	if err := f.lock(); err != nil {
		return nil, err
	}
	if err := f.read(); err != nil {
		f.unlock()
		return nil, err
	}
	return f, nil
}

// lock opens and locks the file that reserves the space.
func (f *receiptFile) lock() (err error) {
	name := f.path + ".reserve"
	if f.reserve, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	locked, err := filelock.TryLock(f.reserve)
	if err == nil && locked {
		// Another confirm may have renamed or removed the file before it was locked.
		ours, statErr := f.reserve.Stat()
		named, lstatErr := os.Lstat(name)
		locked = statErr == nil && lstatErr == nil && named.Mode().IsRegular() && os.SameFile(ours, named)
	}
	if err == nil && !locked {
		err = fmt.Errorf("%s is in use by another confirm: %w", f.path, fs.ErrExist)
	}
	if err != nil {
		_ = f.reserve.Close()
	}
	return err
}

func (f *receiptFile) unlock() {
	_ = os.Remove(f.reserve.Name())
	_ = f.reserve.Close()
}

// read reads what an earlier confirm left in the file, or creates the file.
func (f *receiptFile) read() error {
	exists := fmt.Errorf("%s: %w", f.path, fs.ErrExist)
	info, err := os.Lstat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		file, err := createFile(f.path)
		if err != nil {
			return err
		}
		f.created = true
		return file.file.Close()
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return exists
	}
	text, err := os.ReadFile(f.path)
	if err != nil || len(text) == 0 { // empty: of a confirm that was killed before it began
		return err
	}
	var pending pendingReceipt
	if json.Unmarshal(text, &pending) != nil || pending.Beginning == nil {
		return exists
	}
	f.earlier = pending.Beginning
	return nil
}

// checkReceipt returns, for a dry run, the error of openReceipt.
func checkReceipt(path string) error {
	err := checkNewFile(path)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := openReceipt(path)
	if err == nil {
		f.unlock()
	}
	return err
}

// begin writes what is known before the erasure, and reserves the space for the receipt.
func (f *receiptFile) begin(b erasure.Beginning) error {
	text, err := indented(pendingReceipt{incompleteErasure, &b})
	if err != nil {
		return err
	}
	const rest, each = 16 << 10, 100 // bytes: everything but the IDs, and an ID on its line
	space := max(len(text), rest+each*b.Recordings)
	_, err = f.reserve.WriteAt(bytes.Repeat([]byte{' '}, space), 0)
	if err = errors.Join(err, f.reserve.Sync()); err != nil {
		return fmt.Errorf("reserve space for the receipt: %w", err)
	}
	if have, err := os.ReadFile(f.path); err == nil && bytes.Equal(have, text) {
		return syncDir(filepath.Dir(f.path))
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	return (&newFile{file}).commit(text)
}

// commit writes the receipt into the reserved space, and gives that the file's name.
func (f *receiptFile) commit(receipt erasure.Receipt) error {
	text, err := indented(receipt)
	if err != nil {
		return err
	}
	_, err = f.reserve.WriteAt(text, 0)
	err = errors.Join(err, f.reserve.Truncate(int64(len(text))), f.reserve.Sync())
	if err == nil {
		err = os.Rename(f.reserve.Name(), f.path) // while it is locked
	}
	err = errors.Join(err, f.reserve.Close())
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	return err
}

// fail ends an erasure without a receipt. The file stays if something was erased: the next confirm needs it.
func (f *receiptFile) fail(err error) {
	if f.created && !errors.Is(err, erasure.ErrIncomplete) {
		_ = os.Remove(f.path)
	}
	f.unlock()
}

// indented returns a value as JSON for people.
func indented(v any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(v)
	return text.Bytes(), err
}
