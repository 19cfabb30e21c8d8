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

// read reads segment i into buffer, which has its length.
func (s *stream) read(buffer []byte, i int64) error {
	for drops := 0; ; drops++ {
		err := s.try(buffer, i)
		if err == nil {
			s.at = i + 1
			return nil
		}
		s.close()
		clear(buffer)
		if ctxErr := s.ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		var dropped *droppedError
		if !errors.As(err, &dropped) || drops == maxDrops {
			return err
		}
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
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

// try fills buffer with segment i.
func (s *stream) try(buffer []byte, i int64) error {
	if s.body == nil || s.at != i {
		s.close()
		start := ciphertextStart(i)
		body, err := s.reader.source(s.ctx, start, s.reader.decrypter.ciphertextEnd(s.end-1)-start)
		if err != nil {
			return err
		}
		s.body, s.at = body, i
	}
	_, err := io.ReadFull(s.body, buffer)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return &droppedError{i, err}
	}
	return nil
}

func (s *stream) close() {
	if s.body != nil {
		_ = s.body.Close() // nothing that was read depends on it
		s.body = nil
	}
}
