package vault

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/recvault/recvault/keys"
)

const (
	// DefaultKeyCacheTTL is how long an unwrapped recording key is kept.
	DefaultKeyCacheTTL = time.Minute
	// DefaultKeyCacheSize is how many of them are kept.
	DefaultKeyCacheSize = 1024
)

// WithKeyCache sets how long an unwrapped recording key is kept in memory, so that a player which
// sends many requests has it unwrapped once, and how many are kept. The time is also how long a revocation
// may take to be honoured by Open, Stat and ServeRecording; what is open already stays open. A key is kept for the grant that unwrapped it and for no other, no longer than the
// grant lasts, and is wiped when it goes. The defaults are [DefaultKeyCacheTTL] and
// [DefaultKeyCacheSize]; a time of 0 keeps none.
func WithKeyCache(ttl time.Duration, size int) Option {
	return func(v *Vault) error {
		if ttl < 0 || size <= 0 {
			return fmt.Errorf("a key cache of %d keys for %v", size, ttl)
		}
		v.keyCache = newKeyCache(ttl, size)
		return nil
	}
}

// keyCache keeps unwrapped recording keys, per grant and envelope, and lets callers that ask for the
// same one at once share one unwrapping.
type keyCache struct {
	ttl time.Duration

	mu      sync.Mutex
	closed  bool // keep no more
	kept    *simplelru.LRU[keyCacheKey, *keptKey]
	flights map[keyCacheKey]*flight
}

// keyCacheKey holds no token, only what tells tokens apart. An envelope that was changed asks anew.
type keyCacheKey struct {
	grantAndWrapped [sha256.Size]byte
	id              ID
}

type keptKey struct {
	key    *keys.RecordingKey
	expiry *time.Timer
}

// flight is an unwrapping under way, for all who wait for it.
type flight struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed when key and err are set
	key     *keys.RecordingKey
	err     error
	waiters int
}

func newKeyCache(ttl time.Duration, size int) *keyCache {
	kept, err := simplelru.NewLRU(size, func(_ keyCacheKey, k *keptKey) {
		k.expiry.Stop()
		k.key.Wipe()
	})
	if err != nil {
		panic("vault: internal error: " + err.Error()) // of a size that WithKeyCache refuses
	}
	return &keyCache{ttl: ttl, kept: kept, flights: map[keyCacheKey]*flight{}}
}

// unwrap returns a copy of the recording key, which the caller must wipe.
func (c *keyCache) unwrap(ctx context.Context, grant keys.Grant, id ID, wrapped keys.WrappedKey,
	unwrap func(ctx context.Context) (*keys.RecordingKey, error),
) (*keys.RecordingKey, error) {
	if c.ttl == 0 {
		return unwrap(ctx)
	}
	k := keyCacheKey{sha256.Sum256([]byte(grant.Token() + "\x00" + string(wrapped))), id}
	c.mu.Lock()
	if kept, ok := c.kept.Get(k); ok {
		defer c.mu.Unlock()
		return copyKey(kept.key), nil
	}
	f := c.flights[k]
	if f == nil {
		// It goes on as long as anybody waits, whoever came first.
		flightCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{cancel: cancel, done: make(chan struct{})}
		c.flights[k] = f
		until := time.Now().Add(c.ttl) // from now on a revocation would be noticed
		if expires := grant.Expires(); !expires.IsZero() && expires.Before(until) {
			until = expires
		}
		go func() {
			key, err := unwrap(flightCtx)
			cancel()
			c.land(k, f, key, err, until)
		}()
	}
	f.waiters++
	c.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	select {
	case <-f.done:
		if f.err != nil {
			return nil, f.err
		}
		key := copyKey(f.key)
		if f.waiters == 0 {
			f.key.Wipe()
		}
		return key, nil
	default:
		if f.waiters == 0 {
			f.cancel()
			delete(c.flights, k)
		}
		return nil, ctx.Err()
	}
}

// land hands the outcome of a flight to those who wait, and keeps a key for the time that is left.
func (c *keyCache) land(k keyCacheKey, f *flight, key *keys.RecordingKey, err error, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[k] == f {
		delete(c.flights, k)
	}
	f.key, f.err = key, err
	close(f.done)
	if err != nil {
		return
	}
	if f.waiters == 0 {
		key.Wipe()
		return
	}
	ttl := time.Until(until)
	if ttl <= 0 || c.closed {
		return
	}
	kept := &keptKey{key: copyKey(key)}
	kept.expiry = time.AfterFunc(ttl, func() { c.forget(k, kept) })
	c.kept.Add(k, kept)
}

// forget wipes a key whose time is over, unless another has taken its place.
func (c *keyCache) forget(k keyCacheKey, kept *keptKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, ok := c.kept.Peek(k); ok && now == kept {
		c.kept.Remove(k)
	}
}

// close wipes all keys, and has no more kept.
func (c *keyCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.kept.Purge()
}

func copyKey(key *keys.RecordingKey) *keys.RecordingKey {
	copied, err := keys.RecordingKeyFromBytes(key.Bytes())
	if err != nil {
		panic("vault: internal error: " + err.Error())
	}
	return copied
}
