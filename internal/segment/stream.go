package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// stream reads consecutive segments of ciphertext with one request, and asks again, from the segment
// where it stopped, when the connection drops.
type stream struct {
	reader *Reader
	ctx    context.Context
	end    int64 // the segment to stop before
	body   io.ReadCloser
	at     int64 // the segment that body stands at
}

const (
	// maxDrops is how often in a row, without one segment in between, a connection may drop.
	maxDrops = 3
	// dropWait is how long to wait before asking again; it doubles with each drop in a row.
	dropWait = 50 * time.Millisecond
)

// read reads count segments, from segment first on, into buffer, which has their length. It returns how many
// it has read, which is fewer only with an error.
func (s *stream) read(buffer []byte, first, count int64) (int64, error) {
	d := s.reader.decrypter
	for read, drops := int64(0), 0; ; drops++ {
		n, err := s.try(buffer, first+read)
		if err == nil {
			s.at = first + count
			return count, nil
		}
		s.close()
		whole := read
		for whole < count && d.ciphertextEnd(first+whole)-ciphertextStart(first+read) <= int64(n) {
			whole++
		}
		buffer = buffer[ciphertextStart(first+whole)-ciphertextStart(first+read):]
		if whole > read {
			read, drops = whole, 0
		}
		clear(buffer)
		if ctxErr := s.ctx.Err(); ctxErr != nil {
			return read, ctxErr
		}
		var dropped *droppedError
		if !errors.As(err, &dropped) || drops == maxDrops {
			return read, err
		}
		select {
		case <-s.ctx.Done():
			return read, s.ctx.Err()
		case <-time.After(dropWait << drops):
		}
	}
}

// droppedError is the error of a stream that was open.
type droppedError struct {
	segment int64
	err     error
}

func (e *droppedError) Error() string { return fmt.Sprintf("reading segment %d: %v", e.segment, e.err) }

func (e *droppedError) Unwrap() error { return e.err }

// try fills buffer from segment i on, and returns how many bytes it got.
func (s *stream) try(buffer []byte, i int64) (int, error) {
	if s.body == nil || s.at != i {
		s.close()
		start := ciphertextStart(i)
		body, err := s.reader.source(s.ctx, start, s.reader.decrypter.ciphertextEnd(s.end-1)-start)
		if err != nil {
			return 0, err
		}
		s.body, s.at = body, i
	}
	n, err := io.ReadFull(s.body, buffer)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = &droppedError{i, err}
	}
	return n, err
}

func (s *stream) close() {
	if s.body != nil {
		_ = s.body.Close() // nothing that was read depends on it
		s.body = nil
	}
}
