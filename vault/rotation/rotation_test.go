package rotation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

func TestAKeyIsRotatedUsedRetiredAndTrimmed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.enrol(t)
		bob, bobID := b.enrol(t)
		_, without := b.enrol(t)
		recordings := []recording{b.put(t, alice, 100_000), b.put(t, alice, 0), b.put(t, bob, 1000)}
		before := b.envelope(t, recordings[0].id)

		report := b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{2: 2}, report.After)
		assert.True(t, report.Complete())
		for id, latest := range map[keys.KeyID]int{aliceID: 2, bobID: 2, without: 1} {
			v, err := b.admin.Versions(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, latest, v.Latest, "only patients with recordings are rotated")
		}
		b.opens(t, recordings...)

		report = b.rewrap(t)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 3, Rewrapped: 3}, report.Envelopes)
		assert.Equal(t, map[int]int{1: 3}, report.Before)
		assert.Equal(t, map[int]int{2: 3}, report.After)
		assert.Equal(t, rotation.Requests{Keyring: 2, Reads: 3, Writes: 3}, report.Requests)
		after := b.envelope(t, recordings[0].id)
		assert.NotEqual(t, before.Wrapped, after.Wrapped)
		after.Wrapped = before.Wrapped
		assert.Equal(t, before, after, "nothing but the wrapped key has changed")
		b.opens(t, recordings...)

		report = b.rewrap(t)
		assert.Equal(t, rotation.Envelopes{Seen: 3, Current: 3}, report.Envelopes)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, report.Patients)
		assert.Zero(t, report.Requests.Writes)

		retire := func() rotation.Report {
			report, err := b.rotation(t, b.retirer, hasty()).Retire(t.Context(), scope.All())
			require.NoError(t, err)
			return report
		}
		b.waitForGrace(t, aliceID)
		b.waitForGrace(t, bobID)
		report = retire()
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, report.Patients)
		assert.Equal(t, map[int]int{1: 2}, report.Before)
		assert.Equal(t, map[int]int{2: 2}, report.After)
		results, err := b.rotator.Rewrap(t.Context(), aliceID, []keys.RewrapItem{{Binding: before.ID.Binding(), Wrapped: before.Wrapped}})
		require.NoError(t, err)
		assert.ErrorIs(t, results[0].Err, keys.ErrRetired)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, retire().Patients)

		report, err = b.rotation(t, b.trimmer, hasty()).Trim(t.Context(), scope.Of(aliceID))
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), aliceID)
		require.NoError(t, err)
		assert.Equal(t, 2, v.MinAvailable)
		v, err = b.admin.Versions(t.Context(), bobID)
		require.NoError(t, err)
		assert.Equal(t, 1, v.MinAvailable, "Bob was not in the scope")
		b.opens(t, recordings...)
	})
}

func TestAPlanTellsWhatIsOld(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.enrol(t)
		bob, _ := b.enrol(t)
		b.put(t, alice, 10)
		b.rotate(t)
		b.put(t, alice, 10)
		b.put(t, bob, 10)
		b.rotate(t)
		b.put(t, alice, 10)
		b.rotate(t)
		b.put(t, alice, 10)

		plan, err := b.rotation(t, b.rotator, rotation.Options{KeyringRate: 100}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Changed: 2}, plan.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 5, Older: 4, Current: 1}, plan.Envelopes)
		assert.Equal(t, map[int]int{1: 2, 2: 1, 3: 1, 4: 1}, plan.Versions)
		assert.Equal(t, map[int]int{0: 1, 1: 1, 2: 2, 3: 1}, plan.Behind)
		assert.Equal(t, rotation.PatientPlan{KeyID: aliceID, Envelopes: 4, Older: 3, Latest: 4}, plan.Largest[0])
		assert.Greater(t, plan.Bytes, int64(5*400))
		assert.Equal(t, rotation.Requests{Keyring: 2, Reads: 5, Writes: 4}, plan.Rewrap.Requests)
		assert.Equal(t, rotation.Requests{Keyring: 4}, plan.Rotate.Requests)
		assert.Equal(t, 40*time.Millisecond, plan.Rotate.Duration, plan.Rotate.Basis)
		assert.Equal(t, 2, plan.Requests.Keyring)
		assert.Zero(t, plan.Requests.Writes)

		report := b.rewrap(t)
		assert.Equal(t, plan.Rewrap.Requests, report.Requests, "what was planned is what it took")
		plan, err = b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 2, Unchanged: 2}, plan.Patients)
		assert.Empty(t, plan.Largest)
	})
}

func TestADryRunChangesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, id := b.enrol(t)
		r := b.put(t, alice, 10)
		dry := hasty()
		dry.DryRun = true
		report, err := b.rotation(t, b.rotator, dry).Rotate(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		assert.True(t, report.DryRun)
		b.rotate(t)
		text := teststore.Read(t, b.store, objectName(r.id, "envelope"))
		report, err = b.rotation(t, b.rotator, dry).Rewrap(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Envelopes{Seen: 1, Rewrapped: 1}, report.Envelopes)
		assert.Equal(t, text, teststore.Read(t, b.store, objectName(r.id, "envelope")))
		b.rewrap(t)
		b.waitForGrace(t, id)
		report, err = b.rotation(t, b.retirer, dry).Retire(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		require.NoError(t, b.retirer.Retire(t.Context(), id, 2))
		report, err = b.rotation(t, b.trimmer, dry).Trim(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, report.Patients)
		v, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, keys.Versions{Latest: 2, MinDecryption: 2, MinAvailable: 1, Rotated: v.Rotated}, v)
	})
}

func TestAnInterruptedRotationGoesOnWhereItStopped(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var ids []keys.KeyID
		for range 3 {
			patient, id := b.enrol(t)
			b.put(t, patient, 10)
			ids = append(ids, id)
		}
		// The first run began after the keys were made, and came as far as one patient.
		v, err := b.admin.Versions(t.Context(), ids[2])
		require.NoError(t, err)
		began := v.Rotated.Truncate(time.Second).Add(time.Second)
		require.Eventually(t, func() bool { return time.Now().After(began) }, 10*time.Second, 10*time.Millisecond)
		rotate := func(s scope.Scope) rotation.Report {
			report, err := b.rotation(t, b.rotator, rotation.Options{OlderThan: began}).Rotate(t.Context(), s)
			require.NoError(t, err)
			return report
		}
		assert.Equal(t, rotation.Patients{Seen: 1, Changed: 1}, rotate(scope.Of(ids[0])).Patients)
		report := rotate(scope.All())
		assert.Equal(t, rotation.Patients{Seen: 3, Changed: 2, Unchanged: 1}, report.Patients)
		assert.Equal(t, map[int]int{1: 2, 2: 1}, report.Before)
		assert.Equal(t, map[int]int{2: 3}, report.After)
		assert.Equal(t, rotation.Patients{Seen: 3, Unchanged: 3}, rotate(scope.All()).Patients)
	})
}

func TestOnePatientsFailureStopsNobodyElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		var recordings []recording
		for range 3 {
			patient, _ := b.enrol(t)
			recordings = append(recordings, b.put(t, patient, 10))
		}
		erased, erasedID := b.enrol(t)
		lost := b.putMany(t, erased, 3)
		b.rotate(t)
		require.NoError(t, b.admin.Erase(t.Context(), erasedID))
		strangers, err := b.admin.KeyID(t.Context(), "never enrolled")
		require.NoError(t, err)
		stranger := keys.NewRecordingID(strangers)
		e := b.envelope(t, recordings[0].id)
		e.ID = stranger
		teststore.Write(t, b.store, objectName(stranger, "envelope"), e.Encode())
		strangerIsLeft := func(left []rotation.Left, reasons map[string]int) {
			assert.Equal(t, map[string]int{keys.ErrNotEnrolled.Error(): 1}, reasons)
			if assert.Len(t, left, 1) {
				assert.Equal(t, strangers, left[0].KeyID)
			}
		}

		report := b.rewrap(t)
		assert.False(t, report.Complete())
		strangerIsLeft(report.Left, report.Reasons)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, report.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 7, Rewrapped: 3, Keyless: 4}, report.Envelopes)
		b.opens(t, recordings...)
		_, err = b.read(t, lost[0])
		assert.ErrorIs(t, err, keys.ErrErased)

		report = b.rotate(t)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, report.Patients)
		assert.False(t, report.Complete())
		strangerIsLeft(report.Left, report.Reasons)
		plan, err := b.rotation(t, b.rotator, rotation.Options{}).Plan(t.Context(), scope.All())
		require.NoError(t, err)
		assert.Equal(t, rotation.Patients{Seen: 5, Changed: 3, Erased: 1, NotEnrolled: 1}, plan.Patients)
		assert.Equal(t, rotation.Envelopes{Seen: 7, Older: 3, Keyless: 4}, plan.Envelopes)
		strangerIsLeft(plan.Left, plan.Reasons)

		require.NoError(t, b.store.Delete(t.Context(), objectName(stranger, "envelope")))
		report = b.rewrap(t)
		assert.Equal(t, rotation.Patients{Seen: 4, Changed: 3, Erased: 1}, report.Patients)
		assert.True(t, report.Complete(), "what is left of an erased patient is waste")
	})
}

// failing is a keyring that answers with an error, from some call on.
type failing struct {
	rotation.Keyring
	err    error
	after  int64
	before sync.WaitGroup // what must have happened before it fails
	calls  atomic.Int64
}

func (f *failing) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	if f.calls.Add(1) > f.after {
		f.before.Wait()
		return nil, f.err
	}
	return f.Keyring.Rewrap(ctx, id, items)
}

// announcing is a store that tells of each write before it begins.
type announcing struct {
	storage.Store
	write func()
}

func (s announcing) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	s.write()
	return s.Store.Put(ctx, name, r, size, condition)
}

func TestARunEndsWhenTheKeyringKeepsFailing(t *testing.T) {
	b := embedded(t)
	for range 60 {
		patient, _ := b.enrol(t)
		b.put(t, patient, 10)
	}
	for _, err := range []error{keys.ErrUnavailable, keys.ErrDenied} {
		b.rotate(t)
		keyring := &failing{Keyring: b.rotator, err: err, after: 5}
		keyring.before.Add(5) // an answer that comes late is one between the failures
		store := announcing{b.store, keyring.before.Done}
		report, runErr := rotationOf(t, keyring, store, rotation.Options{Concurrency: 2}).Rewrap(t.Context(), scope.All())
		assert.ErrorIs(t, runErr, err)
		assert.Less(t, keyring.calls.Load(), int64(5+10+5), "it did not go on")
		assert.LessOrEqual(t, report.Envelopes.Rewrapped+report.Envelopes.Current, 5)
		assert.Equal(t, report.Envelopes.Failed, report.Reasons[err.Error()])
		assert.Positive(t, report.Envelopes.Failed)
		assert.False(t, report.Complete())
	}
	// Fewer in a row end nothing.
	keyring := &failing{Keyring: b.rotator, err: keys.ErrUnavailable, after: 55}
	report, err := b.rotation(t, keyring, rotation.Options{}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	assert.Equal(t, 5, report.Envelopes.Failed)
	assert.Equal(t, 5, report.Patients.Failed)
	assert.Equal(t, 60, b.rewrap(t).Patients.Seen)
	assert.Equal(t, rotation.Patients{Seen: 60, Unchanged: 60}, b.rewrap(t).Patients)
}

// changesDenied is a keyring whose role may look but change nothing.
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

func TestARunEndsWhenOneKindOfRequestKeepsFailing(t *testing.T) {
	b := embedded(t)
	ids := make([]keys.KeyID, 30)
	for i := range ids {
		var patient keys.Patient
		patient, ids[i] = b.enrol(t)
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
	assert.Less(t, writes, 14, "what was begun is finished, and nothing else")

	b.rewrap(t)
	for _, id := range ids {
		b.waitForGrace(t, id)
	}
	keyring = &changesDenied{Keyring: b.retirer}
	_, err = b.rotation(t, keyring, one).Retire(t.Context(), scope.All())
	assert.ErrorIs(t, err, keys.ErrDenied)
	assert.EqualValues(t, 10, keyring.calls.Load())
}

// dropping is a store whose connections drop while objects come.
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

func TestReadsThatDropAreCountedAndKeepTheRate(t *testing.T) {
	b := embedded(t)
	patient, _ := b.enrol(t)
	b.putMany(t, patient, 2)
	store := &dropping{Store: b.store}
	start := time.Now()
	report, err := rotationOf(t, b.rotator, store, rotation.Options{StorageRate: 20}).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(start), 5*time.Second/20)
	assert.EqualValues(t, 6, store.gets.Load(), "three for each")
	assert.Equal(t, 6, report.Requests.Reads)
	assert.Equal(t, map[string]int{storage.ErrUnavailable.Error(): 2}, report.Reasons)
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

func TestMoreEnvelopesThanAreHeldInMemory(t *testing.T) {
	b := embedded(t)
	const patients, each = 20, 60 // more together than 4 for each of the most workers
	for range patients {
		patient, _ := b.enrol(t)
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

// stuck is a keyring that does not answer.
type stuck struct{ rotation.Keyring }

func (stuck) Rewrap(ctx context.Context, _ keys.KeyID, _ []keys.RewrapItem) ([]keys.RewrapResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestACancelledRunCountsNoPatientItHasNotLookedAt(t *testing.T) {
	b := embedded(t)
	patient, _ := b.enrol(t)
	r := b.put(t, patient, 10)
	e := b.envelope(t, r.id)
	for _, part := range []string{"envelope", "media"} {
		require.NoError(t, b.store.Delete(t.Context(), objectName(r.id, part)))
	}
	// The first patient has as many envelopes as may be in flight, so the second must wait.
	for i := range 513 {
		fill := byte(1)
		if i == 512 {
			fill = 2
		}
		e.ID = keys.NewRecordingID(keys.NewKeyID(bytes.Repeat([]byte{fill}, keys.KeyIDBytes)))
		teststore.Write(t, b.store, objectName(e.ID, "envelope"), e.Encode())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last rotation.Progress
	options := rotation.Options{Progress: func(p rotation.Progress) {
		last = p
		if p.Patients.Seen == 2 {
			cancel()
		}
	}}
	report, err := b.rotation(t, stuck{b.rotator}, options).Rewrap(ctx, scope.All())
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, rotation.Patients{Seen: 2}, report.Patients)
	assert.True(t, last.Final)
	assert.Less(t, last.Fraction, 1.0)
}

func TestACancelledRunReportsAndCanBeRunAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, _ := b.enrol(t)
		recordings := b.putMany(t, patient, 40)
		b.rotate(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		store := &faulty{Store: b.store}
		writes := 0
		store.beforePut = func(string) {
			if writes++; writes == 5 {
				cancel()
			}
		}
		report, err := rotationOf(t, b.rotator, store, rotation.Options{Concurrency: 2}).Rewrap(ctx, scope.All())
		assert.ErrorIs(t, err, context.Canceled)
		assert.GreaterOrEqual(t, report.Envelopes.Rewrapped, 5, "writes that were begun are finished")
		assert.Less(t, report.Envelopes.Rewrapped, 10)
		assert.Zero(t, report.Envelopes.Failed, "%+v", report)
		assert.Equal(t, report.Envelopes.Rewrapped, store.puts())

		rest := b.rewrap(t)
		assert.Equal(t, 40-report.Envelopes.Rewrapped, rest.Envelopes.Rewrapped, "none is done twice")
		b.opens(t, recordings...)

		for _, verb := range []func(*rotation.Rotation) error{
			func(r *rotation.Rotation) error { _, err := r.Rotate(ctx, scope.All()); return err },
			func(r *rotation.Rotation) error { _, err := r.Retire(ctx, scope.All()); return err },
			func(r *rotation.Rotation) error { _, err := r.Plan(ctx, scope.All()); return err },
		} {
			assert.ErrorIs(t, verb(b.rotation(t, b.rotator, rotation.Options{})), context.Canceled)
		}
	})
}

func TestARunThatWaitsForItsTurnEndsAtOnce(t *testing.T) {
	b := embedded(t)
	patient, _ := b.enrol(t)
	b.putMany(t, patient, 4)
	b.rotate(t)
	for _, options := range []rotation.Options{{KeyringRate: 0.01}, {StorageRate: 0.01}} {
		r := b.rotation(t, b.rotator, options)
		for name, verb := range map[string]func(context.Context, scope.Scope) (rotation.Report, error){"rotate": r.Rotate, "rewrap": r.Rewrap} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			start := time.Now()
			report, err := verb(ctx, scope.All())
			cancel()
			if err == nil {
				continue // it needs no more than one such request
			}
			assert.ErrorIs(t, err, context.DeadlineExceeded, name)
			assert.Less(t, time.Since(start), 2*time.Second, name)
			assert.Empty(t, report.Left, name)
		}
	}
}

func TestProgressIsToldInTurnsAndAtTheEnd(t *testing.T) {
	b := embedded(t)
	for range 30 {
		patient, _ := b.enrol(t)
		b.put(t, patient, 10)
	}
	b.rotate(t)
	var mu sync.Mutex
	var told []rotation.Progress
	options := rotation.Options{KeyringRate: 50, Progress: func(p rotation.Progress) {
		assert.True(t, mu.TryLock(), "called concurrently")
		defer mu.Unlock()
		told = append(told, p)
	}}
	report, err := b.rotation(t, b.rotator, options).Rewrap(t.Context(), scope.All())
	require.NoError(t, err)
	require.Greater(t, len(told), 3)
	for i, p := range told[1:] {
		assert.GreaterOrEqual(t, p.Envelopes.Rewrapped, told[i].Envelopes.Rewrapped)
		assert.GreaterOrEqual(t, p.Fraction, told[i].Fraction)
		assert.Equal(t, i == len(told)-2, p.Final)
	}
	last := told[len(told)-1]
	assert.Equal(t, report.Patients, last.Patients)
	assert.Equal(t, report.Envelopes, last.Envelopes)
	assert.Equal(t, 1.0, last.Fraction)
	assert.Greater(t, told[len(told)/2].Fraction, 0.1)
	assert.GreaterOrEqual(t, report.Finished.Sub(report.Started), 29*time.Second/50, "the rate is kept")
}

func TestAReportIsJSONWithoutSecretsAndBounded(t *testing.T) {
	b := embedded(t)
	alice, _ := b.enrol(t)
	for _, r := range b.putMany(t, alice, rotation.MaxLeft+20) {
		teststore.Write(t, b.store, objectName(r.id, "envelope"), []byte("{}"))
	}
	report := b.rewrap(t)
	assert.Len(t, report.Left, rotation.MaxLeft)
	assert.Equal(t, map[string]int{"envelope is damaged": rotation.MaxLeft + 20}, report.Reasons)
	text, err := json.Marshal(report)
	require.NoError(t, err)
	assert.NotContains(t, string(text), string(alice))
	var again rotation.Report
	require.NoError(t, json.Unmarshal(text, &again))
	assert.Equal(t, report.Left, again.Left)
	for _, field := range []string{`"not_enrolled":0`, `"changed_meanwhile":0`, `"versions_before":{}`, `"keyring":0`} {
		assert.Contains(t, string(text), field)
	}
	assert.False(t, strings.Contains(string(text), `"id":""`))
}

func TestOptionsThatContradictAreRefused(t *testing.T) {
	b := embedded(t)
	for name, options := range map[string]rotation.Options{
		"grace shorter than freshness":  {Freshness: time.Hour},
		"grace equal to freshness":      {Freshness: 15 * time.Minute},
		"grace shorter than the commit": {CommitTimeout: 10 * time.Minute},
		"grace without skew":            {Freshness: 5 * time.Minute, CommitTimeout: 30 * time.Second, Grace: 6 * time.Minute},
		"negative grace":                {Grace: -time.Hour},
		"negative freshness":            {Freshness: -time.Hour},
		"negative skew":                 {ClockSkew: -time.Hour},
		"negative concurrency":          {Concurrency: -1},
		"endless concurrency":           {Concurrency: rotation.MaxConcurrency + 1},
		"negative rate":                 {KeyringRate: -1},
		"no number":                     {StorageRate: math.NaN()},
	} {
		_, err := rotation.New(b.rotator, b.store, options)
		assert.ErrorIs(t, err, rotation.ErrInvalidOptions, name)
	}
	_, err := rotation.New(b.rotator, b.store, rotation.Options{Prefix: "a"})
	assert.ErrorIs(t, err, storage.ErrInvalidName)
	_, err = rotation.New(nil, b.store, rotation.Options{})
	assert.Error(t, err)
	_, err = rotation.New(b.rotator, b.store, rotation.Options{Freshness: 10 * time.Minute, CommitTimeout: time.Minute, Grace: 12 * time.Minute})
	assert.NoError(t, err)
}
