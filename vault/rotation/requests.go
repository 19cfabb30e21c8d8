package rotation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

const (
	// requestTimeout bounds one request that reads or writes an envelope.
	requestTimeout = 30 * time.Second
	// finishTime is how long changes that were begun may outlive their context.
	finishTime = 5 * time.Second
)

var (
	// errDamaged: what is stored is no envelope of this recording.
	errDamaged = errors.New("envelope is damaged")
	// errUnknownVersion: the wrapped key names a version that the envelope key does not have.
	errUnknownVersion = errors.New("key version does not exist")
	// errUnproved: the keyring cannot use a wrapped key. The error wraps the keyring's.
	errUnproved = errors.New("key is not proved")
	// errContended: others kept changing the envelope.
	errContended = errors.New("envelope kept changing")
	// errInterrupted: the run ended before the outcome of the request was known.
	errInterrupted = errors.New("run was interrupted")
)

// requests makes the requests of one run: within the rates, so many at a time, counted and timed. It ends the run
// when the keyring or the store keeps failing.
type requests struct {
	keyring Keyring
	objects *objects.Objects // reads through a meteredStore

	keyringTurns, storageTurns  turns
	calls, lists, reads, writes meter

	// Each kind of request has its own count: with the wrong role, or a read-only store, one kind keeps
	// failing while another works.
	versionsFailed, changesFailed, rewrapsFailed jobs.Streak
	listingsFailed, readsFailed, writesFailed    jobs.Streak

	giveUp func(error) // ends the run
}

// meter counts requests of one kind and the time that they took. Each request under way has one of the slots. Lists, reads
// and calls share theirs. Writes have their own, so that a slow write holds up no read.
type meter struct {
	slots        chan struct{}
	count, taken atomic.Int64
}

func (m *meter) mean() time.Duration { return time.Duration(m.taken.Load() / max(1, m.count.Load())) }

func (q *requests) counts() Requests {
	return Requests{
		Keyring: int(q.calls.count.Load()), Lists: int(q.lists.count.Load()),
		Reads: int(q.reads.count.Load()), Writes: int(q.writes.count.Load()),
	}
}

// turns spreads requests evenly. One request at a time waits for the rate and then for a slot, and the others queue
// behind it: a request that has its turn begins at once, and no slot is held by one that waits for its turn.
type turns struct {
	rate *rate.Limiter
	next chan struct{} // holds the request that is next
}

func newTurns(perSecond float64) turns {
	limiter := rate.NewLimiter(rate.Limit(perSecond), 1)
	if perSecond == 0 {
		limiter.SetLimit(rate.Inf)
	}
	return turns{limiter, make(chan struct{}, 1)}
}

// begin waits until a request may begin, and starts its time. The request must call end. It returns the
// context's error once that has ended.
func (q *requests) begin(ctx context.Context, t turns, m *meter) (end func(), err error) {
	if t.rate.Limit() != rate.Inf {
		if !enter(ctx, t.next) {
			return nil, ctx.Err()
		}
		defer leave(t.next)
		// The limiter's own Wait fails at once when the turn comes after the context's deadline, and so would
		// every other request until then.
		if delay := t.rate.Reserve().Delay(); delay > 0 {
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
		}
	}
	if !enter(ctx, m.slots) {
		return nil, ctx.Err()
	}
	m.count.Add(1)
	start := time.Now()
	return func() {
		m.taken.Add(int64(time.Since(start)))
		leave(m.slots)
	}, nil
}

// enter takes a place in a semaphore, and reports whether the context has not ended before.
func enter(ctx context.Context, semaphore chan struct{}) bool {
	select {
	case semaphore <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	if ctx.Err() != nil {
		leave(semaphore)
		return false
	}
	return true
}

func leave(semaphore chan struct{}) { <-semaphore }

// call makes one call to the keyring. It waits for its turn with one context, and once it has begun goes on with the
// other, which is longer if the call changes something.
func call[T any](ctx, finish context.Context, q *requests, failed *jobs.Streak, do func(context.Context) (T, error)) (T, error) {
	end, err := q.begin(ctx, q.keyringTurns, &q.calls)
	if err != nil {
		return *new(T), ended(ctx, err)
	}
	answer, err := do(finish)
	end()
	q.watch(failed, err, keys.ErrDenied, keys.ErrUnauthenticated, keys.ErrUnavailable)
	return answer, ended(finish, err)
}

func (q *requests) versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	return call(ctx, ctx, q, &q.versionsFailed, func(ctx context.Context) (keys.Versions, error) { return q.keyring.Versions(ctx, id) })
}

func (q *requests) rewrapKeys(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := call(ctx, ctx, q, &q.rewrapsFailed, func(ctx context.Context) ([]keys.RewrapResult, error) {
		return q.keyring.Rewrap(ctx, id, items)
	})
	if err == nil && len(results) != len(items) {
		return nil, fmt.Errorf("%w: it answered for %d items of %d", keys.ErrUnavailable, len(results), len(items))
	}
	return results, err
}

// change makes one call that changes an envelope key: see call for the contexts.
func (q *requests) change(ctx, finish context.Context, do func(context.Context) error) error {
	_, err := call(ctx, finish, q, &q.changesFailed, func(ctx context.Context) (struct{}, error) { return struct{}{}, do(ctx) })
	return err
}

// stored is an envelope as it was read.
type stored struct {
	objects.Stored
	version int // of the envelope key that wraps its keys, by their labels: the older of the two
}

// newest is the newer of the versions in the labels.
func (s stored) newest() int {
	newest := s.version
	for _, item := range s.Wraps() {
		version, _ := item.Wrapped.Version() // was parsed with the envelope
		newest = max(newest, version)
	}
	return newest
}

// at reports whether both labels name this keyring and version.
func (s stored) at(keyring string, version int) bool {
	return s.by(keyring) && s.version == version && s.newest() == version
}

// by reports whether both labels name this keyring.
func (s stored) by(keyring string) bool {
	return !slices.ContainsFunc(s.Wraps(), func(item keys.RewrapItem) bool {
		name, _, _, _ := item.Wrapped.Parse() // was parsed with the envelope
		return name != keyring
	})
}

// read reads an envelope. The error is errDamaged if what is stored is not the recording's envelope.
func (q *requests) read(ctx context.Context, id keys.RecordingID) (stored, error) {
	found, err := q.objects.Envelope(ctx, id)
	q.watchStorage(&q.readsFailed, err)
	if objects.Damaged(err) {
		return stored{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return stored{}, ended(ctx, err)
	}
	return stored{found, found.Version()}, nil
}

// replace puts an envelope in the place of one that was read, if that is still there. The caller has begun the
// request.
func (q *requests) replace(ctx context.Context, old stored, next envelope.Envelope) error {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := q.objects.Replace(limited, old.Stored, next)
	q.watchStorage(&q.writesFailed, err)
	return ended(ctx, err)
}

// meteredStore is the store of a run. Its lists and reads wait for their turn.
type meteredStore struct {
	storage.Store
	requests *requests
}

// listPage is how many objects a store lists in one request.
const listPage = 1000

// List lists objects. It waits for its turn before the first object, and again after each page.
func (s meteredStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		end, err := s.requests.begin(ctx, s.requests.storageTurns, &s.requests.lists)
		if err != nil {
			yield(storage.Info{}, err)
			return
		}
		defer func() { end() }()
		n := 0
		for object, err := range s.Store.List(ctx, prefix) {
			end()
			end = func() {}
			if !yield(object, err) || err != nil {
				return
			}
			if n++; n%listPage == 0 {
				if end, err = s.requests.begin(ctx, s.requests.storageTurns, &s.requests.lists); err != nil {
					end = func() {}
					yield(storage.Info{}, err)
					return
				}
			}
		}
	}
}

// Get reads an object. The request goes on until the object is closed.
func (s meteredStore) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	end, err := s.requests.begin(ctx, s.requests.storageTurns, &s.requests.reads)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	done := sync.OnceFunc(func() {
		cancel()
		end()
	})
	object, err := s.Store.Get(ctx, name, offset, length)
	if err != nil {
		done()
		return nil, err
	}
	object.ReadCloser = meteredBody{object.ReadCloser, done}
	return object, nil
}

type meteredBody struct {
	io.ReadCloser
	done func()
}

func (b meteredBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// watch counts the failures in a row of one kind of request that are not about a single patient or
// recording, and gives up after too many.
func (q *requests) watch(failed *jobs.Streak, err error, failures ...error) {
	if failed.Failed(err, failures...) {
		q.giveUp(err)
	}
}

// failure returns why every request of a kind failed, or nil.
func (q *requests) failure() error {
	for _, kind := range []*jobs.Streak{
		&q.versionsFailed, &q.rewrapsFailed, &q.changesFailed, &q.listingsFailed, &q.readsFailed, &q.writesFailed,
	} {
		if err := kind.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (q *requests) watchStorage(failed *jobs.Streak, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = storage.ErrUnavailable
	}
	q.watch(failed, err, storage.ErrUnavailable, storage.ErrDenied, storage.ErrNoBucket, storage.ErrFull)
}

// ended distinguishes a request that was interrupted with its run, one that failed, and one that took too long.
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
