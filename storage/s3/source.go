package s3

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/recvault/recvault/storage"
)

// source reads the data of a Put and checks that it has the announced size.
type source struct {
	reader *bufio.Reader
	size   int64 // or -1
	read   int64
}

// newSource returns a source with a buffer that suffices to look one byte ahead. Larger reads bypass the
// buffer.
func newSource(r io.Reader, size int64) *source {
	return &source{reader: bufio.NewReaderSize(r, 16), size: size}
}

// fill reads until the buffer is full or the data ends, and reports whether the data has ended. It does not
// use io.ReadFull, which returns the same error for a reader's io.ErrUnexpectedEOF as for a normal end.
func (s *source) fill(ctx context.Context, buffer []byte) (n int, last bool, err error) {
	for n < len(buffer) && err == nil {
		if err := ctx.Err(); err != nil {
			return 0, false, err
		}
		var m int
		m, err = s.reader.Read(buffer[n:])
		n += m
	}
	s.read += int64(n)
	if err == nil {
		_, err = s.reader.Peek(1)
	}
	switch {
	case err == io.EOF && s.size != -1 && s.read != s.size:
		return 0, false, fmt.Errorf("%w: %d bytes instead of %d", storage.ErrSize, s.read, s.size)
	case err == io.EOF:
		return n, true, nil
	case err != nil:
		return 0, false, fmt.Errorf("read the data: %w", err)
	case s.size >= 0 && s.read >= s.size:
		return 0, false, fmt.Errorf("%w: more than %d bytes", storage.ErrSize, s.size)
	}
	return n, false, nil
}
