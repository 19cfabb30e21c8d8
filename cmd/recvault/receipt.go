package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/recvault/recvault/vault/erasure"
)

// receiptFile is the file of a receipt. Until there is a receipt, it says what is known of the time before the erasure,
// and a second file beside it reserves the space. So neither an interruption nor a full disk loses the proof.
type receiptFile struct {
	path    string
	earlier *erasure.Beginning // that an earlier confirm left in the file
	reserve *os.File           // nil until the erasure begins
}

// pendingReceipt is the content of a receipt's file while there is no receipt.
type pendingReceipt struct {
	Incomplete string             `json:"incomplete"`
	Beginning  *erasure.Beginning `json:"beginning"`
}

const incompleteErasure = "this is no receipt: run the same recvault erase confirm again"

// openReceipt creates the file, or reads what an earlier confirm left there. It returns fs.ErrExist for any other file.
func openReceipt(path string) (*receiptFile, error) {
	f := &receiptFile{path: path}
	text, err := os.ReadFile(path)
	switch {
	case err == nil && len(text) == 0:
		return f, nil // of a confirm that was killed before it began
	case err == nil:
		var pending pendingReceipt
		if json.Unmarshal(text, &pending) != nil || pending.Beginning == nil {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
		f.earlier = pending.Beginning
		return f, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	file, err := createFile(path)
	if err != nil {
		return nil, err
	}
	return f, file.file.Close()
}

// checkReceipt returns, for a dry run, the error of openReceipt.
func checkReceipt(path string) error {
	err := checkNewFile(path)
	if errors.Is(err, fs.ErrExist) {
		_, err = openReceipt(path)
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
	reserved := f.path + ".reserve"
	_ = os.Remove(reserved) // of a confirm that was killed
	if f.reserve, err = os.OpenFile(reserved, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	_, err = f.reserve.Write(bytes.Repeat([]byte{' '}, space))
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
	err = errors.Join(err, f.reserve.Truncate(int64(len(text))), f.reserve.Sync(), f.reserve.Close())
	if err == nil {
		err = os.Rename(f.reserve.Name(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	return err
}

// fail ends an erasure without a receipt. The file stays if something was erased: the next confirm needs it.
func (f *receiptFile) fail(err error) {
	if f.reserve != nil {
		_ = f.reserve.Close()
		_ = os.Remove(f.reserve.Name())
	}
	if f.earlier == nil && !errors.Is(err, erasure.ErrIncomplete) {
		_ = os.Remove(f.path)
	}
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
