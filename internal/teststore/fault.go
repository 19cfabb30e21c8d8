package teststore

import (
	"context"
	"io"
	"iter"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

// Fault makes one call of many fail.
type Fault struct {
	at     int64              // the call, counted from 1
	lost   bool               // the call is carried out, and its answer lost
	cancel context.CancelFunc // if not nil, the call cancels the context in place of failing
	calls  atomic.Int64
}

// EachFault runs attempt with a fault in the first call, then in the second, and so on, until attempt makes fewer
// calls than that. It does so for each of three faults: the call fails, its answer is lost, the context is cancelled.
func EachFault(t *testing.T, attempt func(ctx context.Context, f *Fault)) {
	t.Helper()
	for name, prepare := range map[string]func(f *Fault, cancel context.CancelFunc){
		"a call fails":             func(*Fault, context.CancelFunc) {},
		"an answer is lost":        func(f *Fault, _ context.CancelFunc) { f.lost = true },
		"the context is cancelled": func(f *Fault, cancel context.CancelFunc) { f.cancel = cancel },
	} {
		for at := int64(1); ; at++ {
			ctx, cancel := context.WithCancel(t.Context())
			f := &Fault{at: at}
			prepare(f, cancel)
			attempt(ctx, f)
			cancel()
			require.False(t, t.Failed(), "%s: call %d", name, at)
			if !f.Hit() {
				require.Greater(t, at, int64(5), "%s: attempt made too few calls", name)
				break
			}
		}
	}
}

// Call makes a call. If it is the one with the fault, Call returns failure, unless the fault is to cancel the context.
func (f *Fault) Call(failure error, call func() error) error {
	if f.calls.Add(1) != f.at {
		return call()
	}
	if f.cancel != nil {
		f.cancel()
		return call()
	}
	if f.lost {
		_ = call()
	}
	return failure
}

// Hit reports whether the call with the fault was made.
func (f *Fault) Hit() bool { return f.calls.Load() >= f.at }

// Store returns a store whose calls are made through the fault.
func (f *Fault) Store(store storage.Store) storage.Store { return faulty{store, f} }

type faulty struct {
	store storage.Store
	fault *Fault
}

func (s faulty) call(call func() error) error { return s.fault.Call(storage.ErrUnavailable, call) }

func (s faulty) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (info storage.Info, err error) {
	err = s.call(func() (err error) { info, err = s.store.Put(ctx, name, r, size, condition); return })
	return info, err
}

func (s faulty) Get(ctx context.Context, name string, offset, length int64) (object *storage.Object, err error) {
	err = s.call(func() (err error) { object, err = s.store.Get(ctx, name, offset, length); return })
	if err == nil {
		return object, nil
	}
	if object != nil { // the answer is lost
		object.Close()
	}
	return nil, err
}

func (s faulty) Stat(ctx context.Context, name string) (info storage.Info, err error) {
	err = s.call(func() (err error) { info, err = s.store.Stat(ctx, name); return })
	return info, err
}

func (s faulty) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if err := s.call(func() error { return nil }); err != nil {
			yield(storage.Info{}, err)
			return
		}
		s.store.List(ctx, prefix)(yield)
	}
}

func (s faulty) Delete(ctx context.Context, name string) error {
	return s.call(func() error { return s.store.Delete(ctx, name) })
}
