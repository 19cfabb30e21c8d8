package vault

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
)

// cacheFixture calls a keyCache as a vault does, counts the unwrappings and can see the cached keys.
type cacheFixture struct {
	*keyCache
	unwraps atomic.Int64
}

func newCacheFixture(ttl time.Duration, size int) *cacheFixture {
	return &cacheFixture{keyCache: newKeyCache(ttl, size)}
}

func someID() ID { return keystest.NewRecordingID(keys.NewKeyID(make([]byte, keys.KeyIDBytes))) }

func someGrant(expires time.Time) keys.Grant {
	return keys.NewGrant(keys.GrantDetails{Expires: expires}, "token")
}

func (f *cacheFixture) get(t *testing.T, grant keys.Grant, id ID) *keys.Key {
	t.Helper()
	key, err := f.unwrap(t.Context(), grant, id.Binding(), "wrapped", func(context.Context) (*keys.Key, error) {
		f.unwraps.Add(1)
		return keys.NewKey(), nil
	})
	require.NoError(t, err)
	return key
}

func (f *cacheFixture) cachedKeys() []*keys.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*keys.Key
	for _, cached := range f.cached.Values() {
		all = append(all, cached.key)
	}
	return all
}

func wiped(f *cacheFixture, key *keys.Key) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Equal(key.Bytes(), make([]byte, keys.KeySize))
}

func TestAKeyIsCachedForItsGrantAndEnvelopeOnly(t *testing.T) {
	f := newCacheFixture(time.Minute, 10)
	defer f.close()
	grant, id := someGrant(time.Time{}), someID()
	first := f.get(t, grant, id)
	again := f.get(t, grant, id)
	assert.Equal(t, first.Bytes(), again.Bytes())
	assert.EqualValues(t, 1, f.unwraps.Load())
	// Each caller gets and wipes its own copy.
	first.Wipe()
	assert.NotEqual(t, first.Bytes(), f.get(t, grant, id).Bytes())

	f.get(t, keys.NewGrant(keys.GrantDetails{}, "another token"), id)
	assert.EqualValues(t, 2, f.unwraps.Load(), "another grant")
	f.get(t, grant, someID())
	assert.EqualValues(t, 3, f.unwraps.Load(), "another recording")
	_, err := f.unwrap(t.Context(), grant, id.Binding(), "another envelope", func(context.Context) (*keys.Key, error) {
		return nil, keys.ErrIntegrity
	})
	require.ErrorIs(t, err, keys.ErrIntegrity)
}

func TestKeysThatLeaveTheCacheAreWiped(t *testing.T) {
	id := someID()
	t.Run("no room", func(t *testing.T) {
		f := newCacheFixture(time.Minute, 1)
		defer f.close()
		f.get(t, someGrant(time.Time{}), id)
		cached := f.cachedKeys()
		require.Len(t, cached, 1)
		f.get(t, someGrant(time.Time{}), someID())
		assert.True(t, wiped(f, cached[0]))
		assert.Len(t, f.cachedKeys(), 1)
	})
	t.Run("end of the TTL", func(t *testing.T) {
		f := newCacheFixture(20*time.Millisecond, 10)
		f.get(t, someGrant(time.Time{}), id)
		cached := f.cachedKeys()
		require.Eventually(t, func() bool { return len(f.cachedKeys()) == 0 }, 10*time.Second, time.Millisecond)
		for _, key := range cached {
			assert.True(t, wiped(f, key))
		}
	})
	t.Run("end of the grant", func(t *testing.T) {
		f := newCacheFixture(time.Hour, 10)
		f.get(t, someGrant(time.Now().Add(20*time.Millisecond)), id)
		require.Eventually(t, func() bool { return len(f.cachedKeys()) == 0 }, 10*time.Second, time.Millisecond)
		f.get(t, someGrant(time.Now().Add(-time.Second)), id)
		assert.Empty(t, f.cachedKeys(), "the key of a grant that has ended is not cached")
	})
	t.Run("vault closed", func(t *testing.T) {
		f := newCacheFixture(time.Minute, 10)
		f.get(t, someGrant(time.Time{}), id)
		cached := f.cachedKeys()
		f.close()
		assert.True(t, wiped(f, cached[0]))
	})
}

func TestConcurrentCallersShareOneUnwrapping(t *testing.T) {
	f := newCacheFixture(time.Minute, 10)
	defer f.close()
	grant, id := someGrant(time.Time{}), someID()
	release, entered := make(chan struct{}), make(chan struct{}, 100)
	secret := keys.NewKey()
	want := bytes.Clone(secret.Bytes())
	unwrap := func(ctx context.Context) (*keys.Key, error) {
		f.unwraps.Add(1)
		entered <- struct{}{}
		select {
		case <-release:
			return secret, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// The first caller is cancelled, and the others still get the key.
	first, cancelFirst := context.WithCancel(t.Context())
	firstErr := make(chan error)
	go func() {
		_, err := f.unwrap(first, grant, id.Binding(), "wrapped", unwrap)
		firstErr <- err
	}()
	<-entered
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			key, err := f.unwrap(t.Context(), grant, id.Binding(), "wrapped", unwrap)
			if assert.NoError(t, err) {
				assert.Equal(t, want, key.Bytes())
			}
		})
	}
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, pending := range f.calls {
			return pending.waiters == 51
		}
		return false
	}, 10*time.Second, time.Millisecond)
	cancelFirst()
	require.ErrorIs(t, <-firstErr, context.Canceled)
	close(release)
	wg.Wait()
	assert.EqualValues(t, 1, f.unwraps.Load())
	assert.True(t, wiped(f, secret), "the last caller wipes the keyring's key")
}

func TestAnUnwrappingWithoutWaitersIsCancelled(t *testing.T) {
	f := newCacheFixture(time.Minute, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	_, err := f.unwrap(ctx, someGrant(time.Time{}), someID().Binding(), "wrapped", func(ctx context.Context) (*keys.Key, error) {
		cancel()
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, <-ended, context.Canceled)
	assert.Empty(t, f.calls)
}

func TestARefusalIsNotCached(t *testing.T) {
	f := newCacheFixture(time.Minute, 10)
	defer f.close()
	grant, id := someGrant(time.Time{}), someID()
	refused := errors.New("refused")
	for range 3 {
		_, err := f.unwrap(t.Context(), grant, id.Binding(), "wrapped", func(context.Context) (*keys.Key, error) {
			f.unwraps.Add(1)
			return nil, refused
		})
		require.ErrorIs(t, err, refused)
	}
	assert.EqualValues(t, 3, f.unwraps.Load(), "every attempt reaches the keyring")
	f.get(t, grant, id)
	assert.EqualValues(t, 4, f.unwraps.Load())
}

// TestKeysOfBothKindsAreCachedApart: whoever writes to the bucket can give both the same wrapped text.
func TestKeysOfBothKindsAreCachedApart(t *testing.T) {
	f := newCacheFixture(time.Minute, 10)
	defer f.close()
	grant, id := someGrant(time.Time{}), someID()
	unwrap := func(context.Context) (*keys.Key, error) {
		f.unwraps.Add(1)
		return keys.NewKey(), nil
	}
	described, err := f.unwrap(t.Context(), grant, id.MetadataBinding(), "wrapped", unwrap)
	require.NoError(t, err)
	opened, err := f.unwrap(t.Context(), grant, id.Binding(), "wrapped", unwrap)
	require.NoError(t, err)
	assert.NotEqual(t, described.Bytes(), opened.Bytes())
	assert.EqualValues(t, 2, f.unwraps.Load())
}
