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
	lost   bool               // it is carried out, and its answer lost
	cancel context.CancelFunc // if it is not nil, the call cancels the context instead
	calls  atomic.Int64
}

// EachFault runs attempt with the first call failing, then the second, and so on, until there are not that
// many; and each in three ways: the call fails, its answer is lost, the context is cancelled.
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
				require.Greater(t, at, int64(5), "%s: that was hardly all", name)
				break
			}
		}
	}
}

// Call makes a call, which may be the one. If it is, it fails so.
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

// Hit tells whether the call was made.
func (f *Fault) Hit() bool { return f.calls.Load() >= f.at }

// Store returns the store, of whose calls one may fail.
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
	if object != nil { // it was answered, and the answer lost
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
