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
	// DefaultKeyCacheTTL is how long an unwrapped recording key is cached by default.
	DefaultKeyCacheTTL = time.Minute
	// DefaultKeyCacheSize is how many unwrapped recording keys are cached by default.
	DefaultKeyCacheSize = 1024
)

// WithKeyCache sets how long an unwrapped recording key is cached in memory, and how many are. With the cache, a
// player that sends many requests costs one unwrapping. The defaults are [DefaultKeyCacheTTL] and
// [DefaultKeyCacheSize]. A ttl of 0 disables the cache.
//
// A key is cached for the grant that unwrapped it and for no other, no longer than the grant lasts, and is wiped
// when it leaves the cache. [Vault.EndGrant] removes it at once. A grant that is revoked elsewhere may open recordings
// for up to ttl, by Open, Stat and ServeRecording. A Recording that is open stays open in any case.
func WithKeyCache(ttl time.Duration, size int) Option {
	return func(v *Vault) error {
		if ttl < 0 || size <= 0 {
			return fmt.Errorf("a key cache of %d keys for %v: the size must be positive and the time not negative", size, ttl)
		}
		v.keyCache = newKeyCache(ttl, size)
		return nil
	}
}

// keyCache caches unwrapped recording keys by grant and envelope. Concurrent callers that need the same key share
// one call to the keyring, which is cancelled when the last of them leaves. (singleflight cannot do that, and
// gives every caller the same key, which none could wipe.)
type keyCache struct {
	ttl time.Duration // 0 disables the cache

	mu     sync.Mutex
	closed bool // caches no more keys
	cached *simplelru.LRU[cacheKey, *cachedKey]
	calls  map[cacheKey]*call
}

// cacheKey identifies a grant and a wrapped key without holding the grant's token. After a change of the envelope the
// keyring is called again. The binding keeps recording keys and metadata keys apart.
type cacheKey struct {
	grant   [sha256.Size]byte
	wrapped [sha256.Size]byte
	binding keys.Binding
}

type cachedKey struct {
	key    *keys.Key
	expiry *time.Timer
}

// call is a call to the keyring that is under way, and the callers that wait for it.
type call struct {
	cancel  context.CancelFunc
	waiters int
	ended   bool          // the grant was ended, so the key is not cached
	done    chan struct{} // closed when key and err are set
	key     *keys.Key
	err     error
}

func newKeyCache(ttl time.Duration, size int) *keyCache {
	cached, err := simplelru.NewLRU(size, func(_ cacheKey, c *cachedKey) {
		c.expiry.Stop()
		c.key.Wipe()
	})
	if err != nil {
		panic("vault: internal error: " + err.Error()) // WithKeyCache checks the size
	}
	return &keyCache{ttl: ttl, cached: cached, calls: map[cacheKey]*call{}}
}

// unwrap returns the recording key of an envelope, from the cache or else from the keyring by way of unwrapKey.
// The caller must wipe the key, which is a copy.
func (c *keyCache) unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey,
	unwrapKey func(ctx context.Context) (*keys.Key, error),
) (*keys.Key, error) {
	if c.ttl == 0 {
		return unwrapKey(ctx)
	}
	k := cacheKey{grantHash(grant), sha256.Sum256([]byte(wrapped)), binding}
	c.mu.Lock()
	if cached, ok := c.cached.Get(k); ok {
		defer c.mu.Unlock()
		return copyKey(cached.key), nil
	}
	pending := c.calls[k]
	if pending == nil {
		pending = c.start(ctx, k, grant.Expires(), unwrapKey)
	}
	pending.waiters++
	c.mu.Unlock()

	select {
	case <-pending.done:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leave(ctx, k, pending)
}

// start calls the keyring on a goroutine. The call has the context's values but not its end, because other
// callers may join. The caller holds the lock.
func (c *keyCache) start(ctx context.Context, k cacheKey, expires time.Time,
	unwrapKey func(ctx context.Context) (*keys.Key, error),
) *call {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	pending := &call{cancel: cancel, done: make(chan struct{})}
	c.calls[k] = pending
	until := time.Now().Add(c.ttl) // counted from before the call, because the keyring checks the grant during it
	if !expires.IsZero() && expires.Before(until) {
		until = expires
	}
	go func() {
		key, err := unwrapKey(ctx)
		cancel()
		c.complete(k, pending, key, err, until)
	}()
	return pending
}

// complete hands the result of a call to the callers that wait, and caches the key until the given time.
func (c *keyCache) complete(k cacheKey, pending *call, key *keys.Key, err error, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[k] == pending {
		delete(c.calls, k)
	}
	pending.key, pending.err = key, err
	close(pending.done)
	if err != nil {
		return
	}
	if pending.waiters == 0 {
		key.Wipe()
		return
	}
	ttl := time.Until(until)
	if ttl <= 0 || c.closed || pending.ended {
		return
	}
	cached := &cachedKey{key: copyKey(key)}
	cached.expiry = time.AfterFunc(ttl, func() { c.expire(k, cached) })
	c.cached.Add(k, cached)
}

// leave takes one waiter off a call and returns the call's result, or the context's error if there is no result
// yet. The last waiter wipes the call's key, or cancels the call. The caller holds the lock.
func (c *keyCache) leave(ctx context.Context, k cacheKey, pending *call) (*keys.Key, error) {
	pending.waiters--
	select {
	case <-pending.done:
		if pending.err != nil {
			return nil, pending.err
		}
		key := copyKey(pending.key)
		if pending.waiters == 0 {
			pending.key.Wipe()
		}
		return key, nil
	default:
		if pending.waiters == 0 {
			pending.cancel()
			if c.calls[k] == pending {
				delete(c.calls, k)
			}
		}
		return nil, ctx.Err()
	}
}

// expire wipes a key at the end of its time, unless another key has taken its place.
func (c *keyCache) expire(k cacheKey, cached *cachedKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now, ok := c.cached.Peek(k); ok && now == cached {
		c.cached.Remove(k)
	}
}

// forget wipes the keys that were unwrapped with a grant. Calls that are under way go on, and their keys are not cached.
func (c *keyCache) forget(grant keys.Grant) {
	hash := grantHash(grant)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.cached.Keys() {
		if k.grant == hash {
			c.cached.Remove(k)
		}
	}
	for k, pending := range c.calls {
		if k.grant == hash {
			pending.ended = true
			delete(c.calls, k) // nobody joins it from now on
		}
	}
}

func grantHash(grant keys.Grant) [sha256.Size]byte { return sha256.Sum256([]byte(grant.Token())) }

// close wipes all cached keys and ends the caching.
func (c *keyCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cached.Purge()
}

func copyKey(key *keys.Key) *keys.Key {
	copied, err := keys.KeyFromBytes(key.Bytes())
	if err != nil {
		panic("vault: internal error: " + err.Error())
	}
	return copied
}
