package main

import (
	"archive/zip"
	"context"
	"io"
	"strings"
	"time"
)

// exportZip is an export in a zip, which is written in one pass. Only with its end can a program open it.
type exportZip struct {
	zip     *zip.Writer
	file    *partialFile // nil for standard output
	written time.Time
}

func newExportZip(w io.Writer, file *partialFile) *exportZip {
	return &exportZip{zip.NewWriter(w), file, time.Now().UTC()}
}

// A zip always starts from the beginning.
func (z *exportZip) earlier(context.Context, map[string]bool) (map[string]exportedRecording, error) {
	return nil, nil
}

func (z *exportZip) create(name string) (exportFile, error) {
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: z.written}
	if strings.HasPrefix(name, exportMedia+"/") {
		header.Method = zip.Store // media does not get smaller
	}
	header.SetMode(0o600)
	w, err := z.zip.CreateHeader(header)
	return zipEntry{w}, err
}

func (z *exportZip) note(exportedRecording) error { return nil }

func (z *exportZip) finish() error {
	err := z.zip.Close()
	if err == nil && z.file != nil {
		err = z.file.commit()
	}
	return err
}

func (z *exportZip) close() error {
	if z.file != nil {
		z.file.discard()
	}
	return nil
}

// zipEntry is a file in a zip. What was written cannot be taken back.
type zipEntry struct{ io.Writer }

func (zipEntry) commit() error { return nil }

func (zipEntry) discard() bool { return true }
