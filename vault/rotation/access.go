package rotation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

const (
	// maxFailures is how many requests of a kind may fail in a row.
	maxFailures = 10
	// requestTimeout bounds one request for an envelope or to write it.
	requestTimeout = 30 * time.Second
	// maxReads is how often an envelope is asked for at most, if connections drop while it comes.
	maxReads = 3
	// finishTime is how long changes that were begun may outlive their context.
	finishTime = 5 * time.Second
)

var (
	// errDamaged: what is stored is no envelope of this recording.
	errDamaged = errors.New("envelope is damaged")
	// errContended: others kept changing the envelope.
	errContended = errors.New("envelope kept changing")
	// errInterrupted: the run ended before it was known what became of the request.
	errInterrupted = errors.New("run was interrupted")
)

// access makes the requests of one run: within the rates, counted, and to an end when the keyring or
// the store keeps failing.
type access struct {
	keyring Keyring
	store   storage.Store
	layout  layout.Layout

	keyringRate, storageRate *rate.Limiter
	calls, reads, writes     atomic.Int64
	calling, reading         atomic.Int64 // time taken in all, in nanoseconds

	// Failures in a row, of each kind of request for itself: with the wrong role, or a store that is
	// read-only, one kind keeps failing while another works.
	versionsFailed, changesFailed, rewrapsFailed atomic.Int64
	listingsFailed, readsFailed, writesFailed    atomic.Int64

	giveUp func(error) // ends the run
}

// newLimiter spreads requests evenly.
func newLimiter(perSecond float64) *rate.Limiter {
	if perSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), 1)
}

func (a *access) requests() Requests {
	return Requests{Keyring: int(a.calls.Load()), Reads: int(a.reads.Load()), Writes: int(a.writes.Load())}
}

// meanTimes returns how long a keyring call and a read took.
func (a *access) meanTimes() (call, read time.Duration) {
	return time.Duration(a.calling.Load() / max(1, a.calls.Load())), time.Duration(a.reading.Load() / max(1, a.reads.Load()))
}

// ask makes one call to the keyring, when it is its turn, and counts its failures with those of its kind.
func ask[T any](ctx context.Context, a *access, inARow *atomic.Int64, call func(context.Context) (T, error)) (T, error) {
	if err := wait(ctx, a.keyringRate); err != nil {
		return *new(T), err
	}
	return askNow(ctx, a, inARow, call)
}

func askNow[T any](ctx context.Context, a *access, inARow *atomic.Int64, call func(context.Context) (T, error)) (T, error) {
	a.calls.Add(1)
	start := time.Now()
	answer, err := call(ctx)
	a.calling.Add(int64(time.Since(start)))
	a.watch(inARow, err, keys.ErrDenied, keys.ErrUnavailable)
	return answer, ended(ctx, err)
}

func (a *access) versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	return ask(ctx, a, &a.versionsFailed, func(ctx context.Context) (keys.Versions, error) { return a.keyring.Versions(ctx, id) })
}

func (a *access) rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := ask(ctx, a, &a.rewrapsFailed, func(ctx context.Context) ([]keys.RewrapResult, error) {
		return a.keyring.Rewrap(ctx, id, items)
	})
	if err == nil && len(results) != len(items) {
		return nil, fmt.Errorf("%w: it answered for %d items of %d", keys.ErrUnavailable, len(results), len(items))
	}
	return results, err
}

// change makes one call that changes an envelope key. It waits for its turn with one context, and once it
// has begun goes on with the other, longer one.
func (a *access) change(ctx, finish context.Context, call func(context.Context) error) error {
	if err := wait(ctx, a.keyringRate); err != nil {
		return err
	}
	_, err := askNow(finish, a, &a.changesFailed, func(ctx context.Context) (struct{}, error) { return struct{}{}, call(ctx) })
	return err
}

// stored is an envelope as it was read.
type stored struct {
	envelope envelope.Envelope
	version  int // of the envelope key that wraps it
	etag     string
}

// read fetches and parses an envelope. It is errDamaged if it is not one of this recording.
func (a *access) read(ctx context.Context, id keys.RecordingID) (stored, error) {
	text, etag, err := a.fetch(ctx, a.layout.Envelope(id))
	if err != nil {
		return stored{}, err
	}
	parsed, err := envelope.Parse(text)
	if err != nil {
		return stored{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if parsed.ID != id {
		return stored{}, fmt.Errorf("%w: it is that of another recording", errDamaged)
	}
	if etag == "" {
		return stored{}, fmt.Errorf("%w: it gives no ETag", storage.ErrUnavailable)
	}
	version, err := parsed.Wrapped.Version()
	return stored{parsed, version, etag}, err
}

// fetch gets an object, and asks again if the connection drops. Each request waits for its turn.
func (a *access) fetch(ctx context.Context, name string) (text []byte, etag string, err error) {
	for range maxReads {
		if err := wait(ctx, a.storageRate); err != nil {
			return nil, "", err
		}
		a.reads.Add(1)
		start := time.Now()
		text, etag, err = a.get(ctx, name)
		a.reading.Add(int64(time.Since(start)))
		if !errors.Is(err, layout.ErrDropped) {
			break
		}
	}
	a.watchStorage(&a.readsFailed, err)
	return text, etag, ended(ctx, err)
}

// get returns the text of an object, or of one that is too long for an envelope as much as makes it too
// long.
func (a *access) get(ctx context.Context, name string) (text []byte, etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	text, info, err := layout.ReadOnce(ctx, a.store, name, 0, envelope.MaxSize+1)
	return text, info.ETag, err
}

// replace puts an envelope in the place of one that was read, if that is still there. It is the caller who
// waits for its turn.
func (a *access) replace(ctx context.Context, old stored, next envelope.Envelope) error {
	a.writes.Add(1)
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	text := next.Encode()
	_, err := a.store.Put(limited, a.layout.Envelope(next.ID), bytes.NewReader(text), int64(len(text)), storage.IfMatch(old.etag))
	a.watchStorage(&a.writesFailed, err)
	return ended(ctx, err)
}

// wait waits for a request's turn. The limiter's own Wait fails at once when the turn comes after the
// context's deadline, and so would everything else until then.
func wait(ctx context.Context, limiter *rate.Limiter) error {
	if delay := limiter.Reserve().Delay(); delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	return ended(ctx, ctx.Err())
}

// watch counts failures in a row of one kind of request that are not about a single patient or
// recording, and gives up after too many.
func (a *access) watch(inARow *atomic.Int64, err error, failures ...error) {
	for _, failure := range failures {
		if errors.Is(err, failure) {
			if inARow.Add(1) >= maxFailures {
				a.giveUp(err)
			}
			return
		}
	}
	if !errors.Is(err, context.Canceled) {
		inARow.Store(0)
	}
}

func (a *access) watchStorage(inARow *atomic.Int64, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = storage.ErrUnavailable
	}
	a.watch(inARow, err, storage.ErrUnavailable, storage.ErrDenied, storage.ErrNoBucket, storage.ErrFull)
}

// ended tells a request that was interrupted with its run from one that failed, and one that took too
// long from both.
func ended(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errInterrupted, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: no answer within %v", storage.ErrUnavailable, requestTimeout)
	}
	return err
}
