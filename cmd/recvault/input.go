package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// input is what a flag or an argument names to be read. No error of it repeats the name: somebody may
// have given a secret, or a patient, in place of the file that holds it.
type input struct {
	source io.ReadCloser
	flag   string
	size   int64 // in bytes, or -1 if only reading it tells
}

// openInput opens a file, or standard input for "-", which can be had once. Reading from what may never
// yield anything, such as a pipe, ends with the context.
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
		return nil, in.nameless(err)
	}
	if info.Size() > 0 { // files in /proc claim to be empty
		in.size = info.Size()
	}
	in.source = file
	return in, nil
}

// statInput tells whether there is something to read.
func statInput(name, flag string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, (&input{flag: flag}).nameless(err)
	}
	if info.IsDir() {
		return nil, usagef("%s names a directory", flag)
	}
	return info, nil
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.source.Read(p)
	return n, in.nameless(err)
}

func (in *input) Close() error { return in.source.Close() }

// nameless says the flag in place of the file's name.
func (in *input) nameless(err error) error {
	var named *fs.PathError
	if errors.As(err, &named) {
		return fmt.Errorf("%s: %w", in.flag, named.Err)
	}
	return err
}

// interruptible returns a reader that ends with the context. Neither opening nor reading a terminal or a
// pipe can be called off: the goroutine that waits for it ends with the process.
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
