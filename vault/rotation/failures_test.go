package rotation_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// failing is a keyring whose rewraps fail after the first few.
type failing struct {
	rotation.Keyring
	err    error
	after  int64
	before sync.WaitGroup // a failure waits for it
	calls  atomic.Int64
}

func (f *failing) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	if f.calls.Add(1) > f.after {
		f.before.Wait()
		return nil, f.err
	}
	return f.Keyring.Rewrap(ctx, id, items)
}

// announcing is a store that calls write before each write.
type announcing struct {
	storage.Store
	write func()
}

func (s announcing) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	s.write()
	return s.Store.Put(ctx, name, r, size, condition)
}

func TestRunEndsAfterTenKeyringFailures(t *testing.T) {
	b := embedded(t)
	for range 60 {
		patient, _ := b.Enrol(t)
		b.put(t, patient, 10)
	}
	for err, kind := range map[error]job.Kind{keys.ErrUnavailable: rotation.KindUnavailable, keys.ErrDenied: rotation.KindDenied} {
		t.Run(string(kind), func(t *testing.T) {
			b.rotate(t)
			keyring := &failing{Keyring: b.rotator, err: err, after: 5}
			keyring.before.Add(5) // so that no late success comes between the failures
			store := announcing{b.store, keyring.before.Done}
			report, runErr := rotationOf(t, keyring, store, rotation.Options{Concurrency: 2}).Rewrap(t.Context(), scope.All())
			assert.ErrorIs(t, runErr, err)
			assert.Less(t, keyring.calls.Load(), int64(5+10+5), "it did not go on")
			assert.LessOrEqual(t, report.Envelopes.Rewrapped+report.Envelopes.Current, 5)
			assert.EqualValues(t, report.Envelopes.Failed, report.Findings.Counts[kind])
			assert.Positive(t, report.Envelopes.Failed)
			assert.False(t, report.Complete())
		})
	}
	// Fewer in a row do not end a run.
	b.rotate(t)
	keyring := &failing{Keyring: b.rotator, err: keys.ErrUnavailable, after: 55}
	report, err := b.rotation(t, keyring, rotation.Options{}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, 5, report.Envelopes.Failed)
	assert.Equal(t, 5, report.Patients.Failed)
	assert.Equal(t, 60, b.rewrap(t).Patients.Seen)
	assert.Equal(t, rotation.Patients{Seen: 60, Unchanged: 60}, b.rewrap(t).Patients)
}

// changesDenied is a keyring whose role may read and not change.
type changesDenied struct {
	rotation.Keyring
	calls atomic.Int64
}

func (k *changesDenied) Rotate(context.Context, keys.KeyID) error {
	k.calls.Add(1)
	return keys.ErrDenied
}

func (k *changesDenied) Retire(context.Context, keys.KeyID, int) error {
	k.calls.Add(1)
	return keys.ErrDenied
}

func TestRunEndsAfterTenFailuresOfOneKind(t *testing.T) {
	b := embedded(t)
	ids := make([]keys.KeyID, 30)
	for i := range ids {
		var patient keys.Patient
		patient, ids[i] = b.Enrol(t)
		b.put(t, patient, 10)
	}
	one := hasty()
	one.Concurrency = 1

	keyring := &changesDenied{Keyring: b.rotator}
	_, err := b.rotation(t, keyring, one).Rotate(t.Context(), scope.All())
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.EqualValues(t, 10, keyring.calls.Load())

	b.rotate(t)
	writes := 0
	store := &faulty{Store: b.store, putError: func(string) fault { writes++; return lostWrite }}
	_, err = rotationOf(t, b.rotator, store, one).Rewrap(t.Context(), scope.All())
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.GreaterOrEqual(t, writes, 10)
	// Two envelopes are being written at most. One has its tenth failure behind it, the other four attempts before it.
	assert.LessOrEqual(t, writes, 10+3+4, "writes that were begun are finished, and no others")

	b.rewrap(t)
	for _, id := range ids {
		b.waitForGrace(t, id)
	}
	keyring = &changesDenied{Keyring: b.retirer}
	_, err = b.rotation(t, keyring, one).Retire(t.Context(), scope.All())
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.EqualValues(t, 10, keyring.calls.Load())
}

// dropping is a store whose connections drop during reads.
type dropping struct {
	storage.Store
	gets atomic.Int64
}

func (s *dropping) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	s.gets.Add(1)
	object, err := s.Store.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	_ = object.Close()
	object.ReadCloser = io.NopCloser(iotest.ErrReader(errors.New("the test's fault")))
	return object, nil
}

func TestDroppedReadsAreCountedAndKeepTheRate(t *testing.T) {
	b := embedded(t)
	patient, _ := b.Enrol(t)
	b.putMany(t, patient, 2)
	store := &dropping{Store: b.store}
	start := time.Now()
	report, err := rotationOf(t, b.rotator, store, rotation.Options{StorageRate: 20}).Rewrap(t.Context(), scope.All())
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.GreaterOrEqual(t, time.Since(start), 5*time.Second/20)
	assert.EqualValues(t, 6, store.gets.Load(), "three for each envelope")
	assert.Equal(t, 6, report.Requests.Reads)
	assert.Equal(t, map[job.Kind]int64{rotation.KindUnavailable: 2}, report.Findings.Counts)
}

// gauge counts the requests that are under way.
type gauge struct{ now, most atomic.Int64 }

func (g *gauge) during(request func()) {
	now := g.now.Add(1)
	for most := g.most.Load(); now > most && !g.most.CompareAndSwap(most, now); most = g.most.Load() {
	}
	request()
	g.now.Add(-1)
}

type gaugedKeyring struct {
	rotation.Keyring
	asking *gauge
}

func (k gaugedKeyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) (results []keys.RewrapResult, err error) {
	k.asking.during(func() { results, err = k.Keyring.Rewrap(ctx, id, items) })
	return results, err
}

type gaugedStore struct {
	storage.Store
	asking, writing *gauge
}

func (s gaugedStore) Get(ctx context.Context, name string, offset, length int64) (object *storage.Object, err error) {
	s.asking.during(func() { object, err = s.Store.Get(ctx, name, offset, length) })
	return object, err
}

func (s gaugedStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (info storage.Info, err error) {
	s.writing.during(func() { info, err = s.Store.Put(ctx, name, r, size, condition) })
	return info, err
}

func TestRequestsUnderWayAreBounded(t *testing.T) {
	b := embedded(t)
	const patients, each = 20, 60 // more together than 4 for each of the most workers
	for range patients {
		patient, _ := b.Enrol(t)
		b.putMany(t, patient, each)
	}
	for i, concurrency := range []int{1, 8, rotation.MaxConcurrency} {
		b.rotate(t)
		var asking, writing gauge
		r := rotationOf(t, gaugedKeyring{b.rotator, &asking}, gaugedStore{b.store, &asking, &writing}, rotation.Options{Concurrency: concurrency})
		plan, err := r.Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, patients*each, plan.Envelopes.Older)
		report, err := r.Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, patients*each, report.Envelopes.Rewrapped)
		assert.Equal(t, map[int]int{i + 2: patients * each}, report.After)
		assert.Equal(t, patients, report.Requests.Keyring)
		assert.LessOrEqual(t, asking.most.Load(), int64(concurrency))
		assert.LessOrEqual(t, writing.most.Load(), int64(concurrency))
	}
}

// Fewer patients than end a run by their failures.
func TestRunThatIsDeniedAltogetherFails(t *testing.T) {
	b := embedded(t)
	for range 3 {
		patient, _ := b.Enrol(t)
		b.put(t, patient, 10)
	}
	keyring := &changesDenied{Keyring: b.rotator}
	report, err := b.rotation(t, keyring, rotation.Options{}).Rotate(t.Context(), scope.All())
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.Equal(t, 3, report.Patients.Failed)
	assert.EqualValues(t, 3, report.Findings.Counts[rotation.KindDenied])

	b.rotate(t)
	denied := &failing{Keyring: b.rotator, err: keys.ErrDenied, after: 1}
	report, err = b.rotation(t, denied, rotation.Options{Concurrency: 1}).Rewrap(t.Context(), scope.All())
	assert.NoError(t, err, "one patient was not denied")
	assert.Equal(t, 2, report.Patients.Failed)
	denied = &failing{Keyring: b.rotator, err: keys.ErrDenied}
	_, err = b.rotation(t, denied, rotation.Options{}).Rewrap(t.Context(), scope.All())
	assert.ErrorIs(t, err, keys.ErrDenied)
}
