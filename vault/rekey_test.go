package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestRekeyGivesARecordingANewKeyAndANewID(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := random(t, 300_000)
		id := b.put(t, alice, data)
		grant := b.Grant(t, alice)
		v := b.vaultOf(t, b.writer)
		before, err := v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		media, envelope := teststore.Read(t, b.Store, objectName(id, "media")), teststore.Read(t, b.Store, objectName(id, "envelope"))

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
		assert.Equal(t, []string{objectName(renewed, "envelope"), objectName(renewed, "media")}, teststore.Names(t, b.Store, "recordings/"))

		// The old key opens the old ciphertext and not the new one.
		teststore.Write(t, b.Store, objectName(id, "envelope"), envelope)
		teststore.Write(t, b.Store, objectName(id, "media"), teststore.Read(t, b.Store, objectName(renewed, "media")))
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		teststore.Write(t, b.Store, objectName(id, "media"), media)
		got, err = b.open(t, grant, id)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
	})
}

func TestRekeyOfAnEmptyRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, nil)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.Grant(t, alice), id)
		require.NoError(t, err)
		got, err := b.open(t, b.Grant(t, alice), renewed)
		require.NoError(t, err)
		assert.Empty(t, got)
	})
}

func TestRekeyNeedsThePatientsGrantAndTheWritersRight(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		before := b.Names(t)
		type attempt struct {
			keyring vault.Keyring
			grant   keys.Grant
			id      vault.ID
			want    error
		}
		attempts := map[string]attempt{
			"another patient's grant": {b.writer, b.Grant(t, bob), id, keys.ErrDenied},
			"no grant":                {b.writer, keys.Grant{}, id, keys.ErrInvalidGrant},
			"no ID":                   {b.writer, b.Grant(t, alice), vault.ID{}, keys.ErrInvalidRecordingID},
			"unknown ID":              {b.writer, b.Grant(t, alice), keystest.NewRecordingID(id.KeyID()), vault.ErrNotFound},
		}
		if b.server != b.writer { // the embedded default has no roles
			attempts["not the writer's right"] = attempt{b.server, b.Grant(t, alice), id, keys.ErrDenied}
		}
		for name, c := range attempts {
			t.Run(name, func(t *testing.T) {
				renewed, err := b.vaultOf(t, c.keyring).Rekey(t.Context(), c.grant, c.id)
				require.ErrorIs(t, err, c.want)
				assert.True(t, renewed.IsZero())
				assert.Equal(t, before, b.Names(t))
			})
		}
		got, err := b.open(t, b.Grant(t, alice), id)
		require.NoError(t, err)
		assert.Equal(t, "Alice's consultation", string(got))
	})
}

func TestRekeyRefusesWhileAHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		clearHold := b.hold(t, id.KeyID())
		before := b.Names(t)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.True(t, renewed.IsZero())
		assert.Equal(t, before, b.Names(t))
		clearHold()

		// A hold that is set before the old recording is removed keeps it.
		store := &hookedStore{Store: b.Store, afterPut: func(name string) {
			if name != objectName(id, "media") && strings.HasSuffix(name, "/media") {
				b.hold(t, id.KeyID())
			}
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err = v.Rekey(t.Context(), b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrHeld)
		for _, id := range []vault.ID{id, renewed} {
			got, err := b.open(t, b.Grant(t, alice), id)
			require.NoError(t, err)
			assert.Equal(t, "Alice's consultation", string(got))
		}
	})
}

// hookedStore calls a function after each successful Put.
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

func TestRekeyRestoresNoDeletedRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		deleted := false
		store := &hookedStore{Store: b.Store, afterPut: func(string) {
			require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
			deleted = true
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err := v.Rekey(t.Context(), b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrNotFound)
		assert.True(t, renewed.IsZero())
		assert.True(t, deleted)
		assert.Empty(t, teststore.Names(t, b.Store, "recordings/"))
	})
}

func TestRekeyKeepsTheOldOneUnlessTheNewOneOpens(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		store := &hookedStore{Store: b.Store, afterPut: func(name string) {
			if strings.HasSuffix(name, "/media") { // the store changes what it was given
				media := teststore.Read(t, b.Store, name)
				media[len(media)-1] ^= 1
				teststore.Write(t, b.Store, name, media)
			}
		}}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		_, err = v.Rekey(t.Context(), b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		got, err := b.open(t, b.Grant(t, alice), id)
		require.NoError(t, err)
		assert.Equal(t, "Alice's consultation", string(got))
	})
}

func TestRekeyLeavesADamagedRecordingUnchanged(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, random(t, 1<<20))
		media := teststore.Read(t, b.Store, objectName(id, "media"))
		media[len(media)/2] ^= 1
		teststore.Write(t, b.Store, objectName(id, "media"), media)
		before := b.Names(t)
		renewed, err := b.vaultOf(t, b.writer).Rekey(t.Context(), b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		assert.True(t, renewed.IsZero())
		assert.Equal(t, before, b.Names(t), "the new recording's media was removed")
		assert.Empty(t, b.Uploads(t))
	})
}

func TestRekeyTakesBoundedMemory(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		const size, limit = 160 << 20, 96 << 20
		alice := b.enrol(t)
		id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, io.LimitReader(zeros{}, size), metadata())
		require.NoError(t, err)
		before, peak := inUse(), uint64(0)
		store := &meteredStore{Store: b.Store, every: 16 << 20, sample: func() { peak = max(peak, inUse()) }}
		v, err := vault.New(b.writer, store)
		require.NoError(t, err)
		renewed, err := v.Rekey(t.Context(), b.Grant(t, alice), id)
		require.NoError(t, err)
		require.Positive(t, peak)
		assert.Less(t, int64(peak)-int64(before), int64(limit))
		info, err := b.vaultOf(t, b.server).Stat(t.Context(), b.Grant(t, alice), renewed)
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

// meteredStore calls a function after every so many bytes of a Put.
type meteredStore struct {
	storage.Store
	every  int
	sample func()
}

func (s *meteredStore) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	read := 0
	return s.Store.Put(ctx, name, readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if (read+n)/s.every > read/s.every {
			s.sample()
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
	id := e.put(alice, "Alice's consultation") // its recording key may have become known

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

// faultyKeyring is a keyring whose calls can fail.
type faultyKeyring struct {
	vault.Keyring
	fault *teststore.Fault
}

func (k faultyKeyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (w keys.WrappedKey, err error) {
	err = k.fault.Call(keys.ErrUnavailable, func() (err error) { w, err = k.Keyring.Wrap(ctx, binding, key); return })
	return w, err
}

func (k faultyKeyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (key *keys.Key, err error) {
	err = k.fault.Call(keys.ErrUnavailable, func() (err error) { key, err = k.Keyring.Unwrap(ctx, grant, binding, wrapped); return })
	return key, err
}

func TestRekeyInterruptedAtAnyCallLosesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		data := random(t, 300_000)
		teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
			id := b.put(t, alice, data)
			v, err := vault.New(faultyKeyring{b.writer, f}, f.Store(b.Store), vault.WithKeyCache(0, 1))
			require.NoError(t, err)
			renewed, err := v.Rekey(ctx, grant, id)
			if !f.Hit() {
				require.NoError(t, err)
			}
			var uncertain *vault.UncertainError
			if errors.As(err, &uncertain) {
				require.True(t, renewed.IsZero())
			}
			kept := 0
			for _, id := range []vault.ID{id, renewed} {
				if id.IsZero() {
					continue
				}
				got, err := b.open(t, grant, id)
				if errors.Is(err, vault.ErrNotFound) {
					require.NotEqual(t, renewed, id, "the new recording does not exist")
					continue
				}
				require.NoError(t, err)
				require.True(t, bytes.Equal(data, got))
				kept++
			}
			require.Positive(t, kept, "lost: %v", err)
			if err == nil {
				require.Equal(t, 1, kept, "both recordings exist")
			}
		})
	})
}
