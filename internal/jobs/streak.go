package jobs

import (
	"context"
	"errors"
	"sync"
)

// maxFailures is how many requests of a kind may fail in a row.
const maxFailures = 10

// Streak watches one kind of request for failures that are not about a single patient or recording. It is safe for
// concurrent use.
type Streak struct {
	mu     sync.Mutex
	failed int   // in a row
	last   error // the last failure, until a request works
	worked bool
}

// Failed notes the outcome of a request. It reports whether so many have failed in a row, with one of the failures,
// that the job should end.
func (s *Streak) Failed(err error, failures ...error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, failure := range failures {
		if errors.Is(err, failure) {
			s.failed++
			s.last = err
			return s.failed >= maxFailures
		}
	}
	if !errors.Is(err, context.Canceled) {
		s.failed, s.worked = 0, true
	}
	return false
}

// Err returns the last failure if no request worked. So a job for a few patients ends as one for many does.
func (s *Streak) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worked {
		return nil
	}
	return s.last
}
