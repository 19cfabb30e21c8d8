package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestRekeyGivesARecordingANewKeyAndANewID(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := random(t, 300_000)
		id := b.put(t, alice, data)
		grant := b.grant(t, alice)
		v := b.vaultOf(t, b.writer)
		before, err := v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		media, envelope := b.read(t, objectName(id, "media")), b.read(t, objectName(id, "envelope"))

		renewed, err := v.Rekey(t.Context(), grant, id)
		require.NoError(t, err)
		assert.NotEqual(t, id, renewed)
		assert.Equal(t, id.KeyID(), renewed.KeyID())
		got, err := b.open(t, grant, renewed)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
		after, err := v.Stat(t.Context(), grant, renewed)
		require.NoError(t, err)
		before.ID = renewed
		assert.Equal(t, before, after, "CreatedAt too")
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrNotFound)
		assert.Equal(t, []string{objectName(renewed, "envelope"), objectName(renewed, "media")}, b.objects(t))

		// What the old key opens is the old ciphertext, and nothing of the new one.
		b.overwrite(t, objectName(id, "envelope"), envelope)
		b.overwrite(t, objectName(id, "media"), b.read(t, objectName(renewed, "media")))
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		b.overwrite(t, objectName(id, "media"), media)
		got, err = b.open(t, grant, id)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
	})
}

func TestRekeyOfAnEmptyRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, nil)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.grant(t, alice), id)
		require.NoError(t, err)
		got, err := b.open(t, b.grant(t, alice), renewed)
		require.NoError(t, err)
		assert.Empty(t, got)
	})
}

func TestRekeyNeedsThePatientsGrantAndTheWritersRight(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		before := b.objects(t)
		refused := func(keyring vault.Keyring, grant keys.Grant, id vault.ID, want error) {
			t.Helper()
			renewed, err := b.vaultOf(t, keyring).Rekey(t.Context(), grant, id)
			require.ErrorIs(t, err, want)
			assert.True(t, renewed.IsZero())
			assert.Equal(t, before, b.objects(t))
		}
		refused(b.writer, b.grant(t, bob), id, keys.ErrDenied)
		refused(b.writer, keys.Grant{}, id, keys.ErrInvalidGrant)
		refused(b.writer, b.grant(t, alice), vault.ID{}, keys.ErrInvalidRecordingID)
		refused(b.writer, b.grant(t, alice), keys.NewRecordingID(id.KeyID()), vault.ErrNotFound)
		if b.server != b.writer { // the embedded keyring knows no roles
			refused(b.server, b.grant(t, alice), id, keys.ErrDenied)
		}
		got, err := b.open(t, b.grant(t, alice), id)
		require.NoError(t, err)
		assert.Equal(t, "Alice's consultation", string(got))
	})
}

func TestRekeyRefusesWhileAHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		clearHold := b.hold(t, id.KeyID())
		before := b.objects(t)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.True(t, renewed.IsZero())
		assert.Equal(t, before, b.objects(t))
		clearHold()

		// One that is set before the old recording goes keeps it.
		store := &hookedStore{Store: b.store, afterPut: func(name string) {
			if name != objectName(id, "media") && strings.HasSuffix(name, "/media") {
				b.hold(t, id.KeyID())
			}
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err = v.Rekey(t.Context(), b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrHeld)
		for _, id := range []vault.ID{id, renewed} {
			got, err := b.open(t, b.grant(t, alice), id)
			require.NoError(t, err)
			assert.Equal(t, "Alice's consultation", string(got))
		}
	})
}

// hookedStore does something after an object was put.
type hookedStore struct {
	storage.Store
	afterPut func(name string)
}

func (s *hookedStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	info, err := s.Store.Put(ctx, name, r, size, condition)
	if err == nil {
		s.afterPut(name)
	}
	return info, err
}

func TestRekeyBringsNothingBackThatWasDeletedMeanwhile(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		deleted := false
		store := &hookedStore{Store: b.store, afterPut: func(string) {
			require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
			deleted = true
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err := v.Rekey(t.Context(), b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrNotFound)
		assert.True(t, renewed.IsZero())
		assert.True(t, deleted)
		assert.Empty(t, b.objects(t))
	})
}

func TestRekeyKeepsTheOldRecordingUnlessTheNewOneOpens(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		store := &hookedStore{Store: b.store, afterPut: func(name string) {
			if strings.HasSuffix(name, "/media") { // a store that keeps something else than it was given
				media := b.read(t, name)
				media[len(media)-1] ^= 1
				b.overwrite(t, name, media)
			}
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		_, err = v.Rekey(t.Context(), b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		got, err := b.open(t, b.grant(t, alice), id)
		require.NoError(t, err)
		assert.Equal(t, "Alice's consultation", string(got))
	})
}

func TestRekeyLeavesADamagedRecordingAsItIs(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, random(t, 1<<20))
		media := b.read(t, objectName(id, "media"))
		media[len(media)/2] ^= 1
		b.overwrite(t, objectName(id, "media"), media)
		before := b.objects(t)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		assert.True(t, renewed.IsZero())
		assert.Equal(t, before, b.objects(t), "and what was written of the new one is gone")
		assert.Empty(t, b.leftovers(t))
	})
}

func TestRekeyTakesBoundedMemory(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		const size, limit = 160 << 20, 96 << 20
		alice := b.enrol(t)
		id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, io.LimitReader(zeros{}, size), metadata())
		require.NoError(t, err)
		before, peak := inUse(), uint64(0)
		store := &weighedStore{Store: b.store, every: 16 << 20, look: func() { peak = max(peak, inUse()) }}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err := v.Rekey(t.Context(), b.grant(t, alice), id)
		require.NoError(t, err)
		require.Positive(t, peak)
		assert.Less(t, int64(peak)-int64(before), int64(limit))
		info, err := b.vaultOf(t, b.server).Stat(t.Context(), b.grant(t, alice), renewed)
		require.NoError(t, err)
		assert.Equal(t, int64(size), info.Size)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// inUse returns the bytes of the heap that are in use.
func inUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// weighedStore looks every so many bytes while an object is put.
type weighedStore struct {
	storage.Store
	every int
	look  func()
}

func (s *weighedStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	read := 0
	return s.Store.Put(ctx, name, readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if (read+n)/s.every > read/s.every {
			s.look()
		}
		read += n
		return n, err
	}), size, condition)
}

func ExampleVault_Rekey() {
	e := newExample()
	defer e.remove()
	ctx := context.Background()
	grant := e.grant(alice)
	id := e.put(alice, "Alice's consultation") // whose recording key may have become known

	renewed, err := e.vault.Rekey(ctx, grant, id)
	fmt.Println(renewed != id, err) // the application stores the new ID
	info, err := e.vault.Stat(ctx, grant, renewed)
	fmt.Println(info.Title, err)
	_, err = e.vault.Stat(ctx, grant, id)
	fmt.Println(errors.Is(err, vault.ErrNotFound))
	// Output:
	// true <nil>
	// Follow-up <nil>
	// true
}

// faults makes one call of many fail: before it is carried out, or after, or by cancelling the context.
type faults struct {
	at     int64 // the call, counted from 1
	after  bool
	cancel context.CancelFunc
	calls  atomic.Int64
}

func (f *faults) hit(failure error, call func() error) error {
	if f.calls.Add(1) != f.at {
		return call()
	}
	if f.cancel != nil {
		f.cancel()
		return call()
	}
	if f.after {
		_ = call()
	}
	return failure
}

type faultyKeyring struct {
	vault.Keyring
	*faults
}

func (k faultyKeyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.RecordingKey) (w keys.WrappedKey, err error) {
	err = k.hit(keys.ErrUnavailable, func() (err error) { w, err = k.Keyring.Wrap(ctx, binding, key); return })
	return w, err
}

func (k faultyKeyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (key *keys.RecordingKey, err error) {
	err = k.hit(keys.ErrUnavailable, func() (err error) { key, err = k.Keyring.Unwrap(ctx, grant, binding, wrapped); return })
	return key, err
}

type faultyStore struct {
	storage.Store
	*faults
}

func (s faultyStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (info storage.Info, err error) {
	err = s.hit(storage.ErrUnavailable, func() (err error) { info, err = s.Store.Put(ctx, name, r, size, condition); return })
	return info, err
}

func (s faultyStore) Get(ctx context.Context, name string, offset, length int64) (object *storage.Object, err error) {
	err = s.hit(storage.ErrUnavailable, func() (err error) { object, err = s.Store.Get(ctx, name, offset, length); return })
	if err != nil {
		if object != nil {
			object.Close()
		}
		return nil, err
	}
	return object, nil
}

func (s faultyStore) Stat(ctx context.Context, name string) (info storage.Info, err error) {
	err = s.hit(storage.ErrUnavailable, func() (err error) { info, err = s.Store.Stat(ctx, name); return })
	return info, err
}

func (s faultyStore) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	panic("Rekey does not list")
}

func (s faultyStore) Delete(ctx context.Context, name string) error {
	return s.hit(storage.ErrUnavailable, func() error { return s.Store.Delete(ctx, name) })
}

func TestRekeyThatIsInterruptedAtAnyCallLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		data := random(t, 300_000)
		for name, prepare := range map[string]func(f *faults, cancel context.CancelFunc){
			"a call fails":             func(*faults, context.CancelFunc) {},
			"an answer is lost":        func(f *faults, _ context.CancelFunc) { f.after = true },
			"the context is cancelled": func(f *faults, cancel context.CancelFunc) { f.cancel = cancel },
		} {
			done := false
			for at := int64(1); !done; at++ {
				require.Less(t, at, int64(100), name)
				ctx, cancel := context.WithCancel(t.Context())
				f := &faults{at: at}
				prepare(f, cancel)
				id := b.put(t, alice, data)
				v, err := vault.New(faultyKeyring{b.writer, f}, faultyStore{b.store, f}, vault.WithKeyCache(0, 1))
				require.NoError(t, err)
				renewed, err := v.Rekey(ctx, grant, id)
				done = f.calls.Load() < at
				cancel()
				if done {
					require.NoError(t, err, name)
				}
				var uncertain *vault.UncertainError
				if errors.As(err, &uncertain) {
					require.True(t, renewed.IsZero(), name)
				}
				kept := 0
				for _, id := range []vault.ID{id, renewed} {
					if id.IsZero() {
						continue
					}
					got, err := b.open(t, grant, id)
					if errors.Is(err, vault.ErrNotFound) {
						require.NotEqual(t, renewed, id, "%s: call %d: the new one is not there", name, at)
						continue
					}
					require.NoError(t, err, "%s: call %d", name, at)
					require.True(t, bytes.Equal(data, got))
					kept++
				}
				require.Positive(t, kept, "%s: call %d: lost: %v", name, at, err)
				if err == nil {
					require.Equal(t, 1, kept, "%s: call %d: both stand", name, at)
				}
			}
		}
	})
}
