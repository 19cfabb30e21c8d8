package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// input is a file, or standard input, that a flag or an argument names. Its errors do not repeat the name, which may be
// a secret or a patient's identifier given by mistake in place of the file that holds it.
type input struct {
	source io.ReadCloser
	flag   string
	size   int64 // in bytes, or -1 if unknown
}

// openInput opens a file, or standard input for "-". Standard input can be opened once. Reading from a pipe or a
// device, which may block forever, ends with the context.
func (c *cli) openInput(ctx context.Context, name, what, flag string) (*input, error) {
	in := &input{flag: flag, size: -1}
	if name == dash {
		if c.stdinFor != "" {
			return nil, usagef("standard input cannot be read twice, for the %s and the %s", c.stdinFor, what)
		}
		c.stdinFor = what
		in.source = interruptible(ctx, func() (io.ReadCloser, error) { return io.NopCloser(c.stdin), nil })
		return in, nil
	}
	info, err := statInput(name, flag)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		in.source = interruptible(ctx, func() (io.ReadCloser, error) { return os.Open(name) })
		return in, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, in.withoutName(err)
	}
	if info.Size() > 0 { // files in /proc report size 0
		in.size = info.Size()
	}
	in.source = file
	return in, nil
}

// statInput returns a file's info, or an error if there is no file of that name or it is a directory.
func statInput(name, flag string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, (&input{flag: flag}).withoutName(err)
	}
	if info.IsDir() {
		return nil, usagef("%s names a directory", flag)
	}
	return info, nil
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.source.Read(p)
	return n, in.withoutName(err)
}

func (in *input) Close() error { return in.source.Close() }

// withoutName replaces the file's name in an error by the flag.
func (in *input) withoutName(err error) error {
	var named *fs.PathError
	if errors.As(err, &named) {
		return fmt.Errorf("%s: %w", in.flag, named.Err)
	}
	return err
}

// interruptible returns a reader that ends with the context. Opening or reading a terminal or a pipe cannot be
// cancelled, so the goroutine that waits for it may last as long as the process.
func interruptible(ctx context.Context, open func() (io.ReadCloser, error)) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		source, err := open()
		if err == nil {
			_, err = io.Copy(writer, source)
			_ = source.Close()
		}
		_ = writer.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { _ = writer.CloseWithError(ctx.Err()) })
	return reader
}
