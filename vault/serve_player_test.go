package vault_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// unwraps counts the requests for each recording's key in Vault's audit log, by binding: those that were allowed
// and those that were refused.
func (b *backend) unwraps(t *testing.T) (allowed, refused map[string]int) {
	t.Helper()
	allowed, refused = map[string]int{}, map[string]int{}
	for _, entry := range b.Vault.Audit(t) {
		if entry.Type != "response" || !strings.HasPrefix(entry.Request.Path, b.Vault.Mount()+"/decrypt/") {
			continue
		}
		binding, err := base64.StdEncoding.DecodeString(fmt.Sprint(entry.Request.Data["context"]))
		require.NoError(t, err)
		if entry.Error == "" {
			allowed[string(binding)]++
		} else {
			refused[string(binding)]++
		}
	}
	return allowed, refused
}

// view plays a recording as a browser does: it requests ranges at many offsets, on six connections at a time.
func view(ctx context.Context, client *http.Client, url string, data []byte, requests int) error {
	const connections = 6
	next := make(chan int)
	failures := make(chan error, connections)
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for i := range next {
				if err := viewRange(ctx, client, url, data, i); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	defer all.Wait()
	defer close(next)
	for i := range requests {
		select {
		case next <- i:
		case err := <-failures:
			return err
		}
	}
	return nil
}

func viewRange(ctx context.Context, client *http.Client, url string, data []byte, i int) error {
	const length = 20_000
	start := i * 7919 % (len(data) - length)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", start, start+length-1))
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusPartialContent || !bytes.Equal(data[start:start+length], body) {
		return fmt.Errorf("status %d and %d bytes for %s", response.StatusCode, len(body), r.Header.Get("Range"))
	}
	return nil
}

// manyConnections returns a client that keeps a connection for each of many viewers.
func manyConnections(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 2000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestAPlayerWithManyRequestsUnwrapsOnce(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	data := random(t, 1_000_000)
	id := b.put(t, alice, data)
	grant, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{TTL: time.Minute, MaxUses: 1, Subject: "dr-lee", Purpose: keys.Treatment})
	require.NoError(t, err)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, grant))
	require.NoError(t, view(t.Context(), manyConnections(t), page(server, id), data, 200))
	allowed, refused := b.unwraps(t)
	assert.Equal(t, map[string]int{id.Binding().String(): 1}, allowed)
	assert.Empty(t, refused)

	// Another grant needs another unwrapping, and every refused attempt reaches Vault.
	bobs := listen(t, site(v, b.Grant(t, b.enrol(t))))
	for range 5 {
		assert.Equal(t, http.StatusForbidden, fetch(t, page(bobs, id)).status)
	}
	other := listen(t, site(v, b.Grant(t, alice)))
	require.NoError(t, view(t.Context(), manyConnections(t), page(other, id), data, 50))
	allowed, refused = b.unwraps(t)
	assert.Equal(t, map[string]int{id.Binding().String(): 2}, allowed)
	assert.Equal(t, map[string]int{id.Binding().String(): 5}, refused, "each refused attempt is in the audit log")
}

func TestManyViewersUnwrapOncePerGrantAndRecording(t *testing.T) {
	const viewers, requests = 200, 4
	for name, c := range map[string]struct{ grants, recordings int }{
		"one recording, one session":     {1, 1},
		"one recording, many sessions":   {viewers, 1},
		"many recordings, one session":   {1, viewers},
		"many recordings, many sessions": {viewers, viewers},
	} {
		t.Run(name, func(t *testing.T) {
			b := servers(t)
			alice := b.enrol(t)
			data := random(t, 300_000)
			v := b.vaultOf(t, b.server)
			defer v.Close()
			ids, pages := make([]vault.ID, c.recordings), make([]string, viewers)
			for i := range ids {
				ids[i] = b.put(t, alice, data)
			}
			grants := make([]keys.Grant, c.grants)
			for i := range grants {
				grants[i] = b.Grant(t, alice)
			}
			sessions := http.NewServeMux()
			for i, grant := range grants {
				prefix := fmt.Sprintf("/%d/", i)
				sessions.Handle(prefix, http.StripPrefix(prefix, site(v, grant)))
			}
			server := listen(t, sessions)
			for i := range pages {
				pages[i] = fmt.Sprintf("%s/%d/%s", server.URL, i%c.grants, ids[i%c.recordings])
			}
			client := manyConnections(t)
			failures := make([]error, viewers)
			var all sync.WaitGroup
			for i, url := range pages {
				all.Go(func() { failures[i] = view(t.Context(), client, url, data, requests) })
			}
			all.Wait()
			for _, err := range failures {
				require.NoError(t, err)
			}
			want := map[string]int{}
			for i := range max(c.grants, c.recordings) {
				want[ids[i%c.recordings].Binding().String()]++
			}
			allowed, refused := b.unwraps(t)
			assert.Equal(t, want, allowed)
			assert.Empty(t, refused)
		})
	}
}

func TestARevocationIsHonouredWithinTheCacheTTL(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := random(t, 100_000)
		id := b.put(t, alice, data)
		for _, ttl := range []time.Duration{0, 300 * time.Millisecond, 2 * time.Second} {
			t.Run(ttl.String(), func(t *testing.T) {
				v := b.vaultOf(t, b.server, vault.WithKeyCache(ttl, 10))
				defer v.Close()
				grant := b.Grant(t, alice)
				server := listen(t, site(v, grant))
				require.Equal(t, http.StatusOK, fetch(t, page(server, id)).status)
				require.NoError(t, b.server.RevokeSelf(t.Context(), grant))
				revoked := time.Now()
				if ttl == 0 {
					assert.Equal(t, http.StatusUnauthorized, fetch(t, page(server, id)).status, "without a cache, at once")
					return
				}
				// The player goes on sending requests, which must not extend the key's time.
				require.Eventually(t, func() bool { return fetch(t, page(server, id)).status == http.StatusUnauthorized },
					ttl+10*time.Second, 5*time.Millisecond)
				assert.Less(t, time.Since(revoked), ttl+time.Second)
			})
		}
	})
}

func TestACachedKeyEndsWithItsGrant(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("a consultation"))
		v := b.vaultOf(t, b.server, vault.WithKeyCache(time.Hour, 10))
		defer v.Close()
		grant, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{TTL: time.Second, Subject: "dr-lee", Purpose: keys.Treatment})
		require.NoError(t, err)
		server := listen(t, site(v, grant))
		require.Equal(t, http.StatusOK, fetch(t, page(server, id)).status)
		require.Eventually(t, func() bool { return fetch(t, page(server, id)).status == http.StatusUnauthorized }, 10*time.Second, 10*time.Millisecond)
		assert.WithinDuration(t, grant.Expires(), time.Now(), 2*time.Second)
	})
}

func TestACachedKeyOpensNothingElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id, sibling := b.put(t, alice, random(t, 1000)), b.put(t, alice, random(t, 1000))
		v := b.vaultOf(t, b.server)
		defer v.Close()
		grant, bobs := b.Grant(t, alice), b.Grant(t, bob)
		server := listen(t, site(v, grant))
		require.Equal(t, http.StatusOK, fetch(t, page(server, id)).status)
		for name, other := range map[string]struct {
			grant  keys.Grant
			status int
		}{
			"another patient's grant":                  {bobs, http.StatusForbidden},
			"another patient's token, Alice's details": {keys.NewGrant(grant.Details(), bobs.Token()), http.StatusForbidden},
			"no token, Alice's details":                {keys.NewGrant(grant.Details(), "hvs.nonsense"), http.StatusUnauthorized},
			"the zero grant":                           {keys.Grant{}, http.StatusUnauthorized},
			"Alice's token cut short":                  {keys.NewGrant(grant.Details(), grant.Token()[:len(grant.Token())-1]), http.StatusUnauthorized},
			"Alice's token and one byte more":          {keys.NewGrant(grant.Details(), grant.Token()+"\x00"), http.StatusUnauthorized},
		} {
			t.Run(name, func(t *testing.T) {
				assert.Equal(t, other.status, fetch(t, page(listen(t, site(v, other.grant)), id)).status)
			})
		}
		renamed := bytes.ReplaceAll(teststore.Read(t, b.Store, objectName(sibling, "envelope")), []byte(sibling.String()), []byte(id.String()))
		teststore.Write(t, b.Store, objectName(id, "envelope"), renamed)
		assert.Equal(t, http.StatusBadGateway, fetch(t, page(server, id)).status, "another envelope in its place")
		require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
		assert.Equal(t, http.StatusNotFound, fetch(t, page(server, id)).status, "deleted")
	})
}

func TestAFailureIsNotCached(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 1000)
	id := b.put(t, alice, data)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.Grant(t, alice)))
	b.Vault.Seal(t)
	require.Equal(t, http.StatusServiceUnavailable, fetch(t, page(server, id)).status)
	b.Vault.Unseal(t)
	assert.Equal(t, data, fetch(t, page(server, id)).body)
}

// The first request of a burst calls the keyring. If its client disconnects, the others still get the result.
func TestTheFirstOfABurstMayBeCancelledAlone(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	data := random(t, 1000)
	id := b.put(t, alice, data)
	grant := b.Grant(t, alice)
	b.CloseIdle()
	ignore := goleak.IgnoreCurrent()
	keyring := &gatedKeyring{Keyring: b.server, gate: make(chan struct{}), entered: make(chan struct{}, 100)}
	watched := &watchedStore{Store: b.Store}
	v, err := vault.New(keyring, watched)
	require.NoError(t, err)
	open := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			recording, err := v.Open(ctx, grant, id)
			if err == nil {
				err = recording.Close()
			}
			done <- err
		}()
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := open(ctx)
	<-keyring.entered
	var others []<-chan error
	for range 20 {
		others = append(others, open(t.Context()))
	}
	// Each request has read its envelope and a segment of the media when it waits for the key.
	require.Eventually(t, func() bool { return watched.gets.Load() >= 2*21 && watched.open.Load() == 0 }, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	close(keyring.gate)
	for _, other := range others {
		require.NoError(t, <-other)
	}
	assert.LessOrEqual(t, len(keyring.entered), 1)
	require.NoError(t, v.Close())
	b.assertNoLeak(t, ignore)
}

// watchedStore counts the calls of Get, the objects that are open, and the bytes that were read.
type watchedStore struct {
	storage.Store
	gets, open, read atomic.Int64
}

func (s *watchedStore) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	s.open.Add(1)
	s.gets.Add(1)
	return &storage.Object{ReadCloser: &watchedBody{ReadCloser: object.ReadCloser, store: s}, Info: object.Info}, nil
}

type watchedBody struct {
	io.ReadCloser
	store *watchedStore
	once  sync.Once
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.store.read.Add(int64(n))
	return n, err
}

func (b *watchedBody) Close() error {
	b.once.Do(func() { b.store.open.Add(-1) })
	return b.ReadCloser.Close()
}

func TestAClientThatDisconnectsStopsTheDownload(t *testing.T) {
	const size = 128 << 20
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, &pattern{left: size}, metadata())
		require.NoError(t, err)
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		watched := &watchedStore{Store: b.Store}
		v, err := vault.New(b.server, watched)
		require.NoError(t, err)
		grant := b.Grant(t, alice)
		var serving atomic.Int64
		inner := site(v, grant)
		server := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.Add(1)
			defer serving.Add(-1)
			inner.ServeHTTP(w, r)
		}))
		for name, header := range map[string]string{
			"all of it":      "bytes=0-",
			"from the end":   fmt.Sprintf("bytes=-%d", size-1000),
			"several ranges": fmt.Sprintf("bytes=0-%d,%d-%d", size/2, size/2+100, size-100),
		} {
			t.Run(name, func(t *testing.T) {
				for range 10 {
					watched.read.Store(0)
					ctx, disconnect := context.WithCancel(t.Context())
					r, err := http.NewRequestWithContext(ctx, http.MethodGet, page(server, id), nil)
					require.NoError(t, err)
					r.Header.Set("Range", header)
					response, err := server.Client().Do(r)
					require.NoError(t, err)
					require.Equal(t, http.StatusPartialContent, response.StatusCode)
					_, err = io.CopyN(io.Discard, response.Body, 1<<20)
					require.NoError(t, err)
					require.Positive(t, serving.Load(), "there is more to come")
					disconnect()
					require.NoError(t, response.Body.Close())
					require.Eventually(t, func() bool { return serving.Load() == 0 && watched.open.Load() == 0 }, 10*time.Second, time.Millisecond)
					assert.Less(t, watched.read.Load(), int64(size/2))
				}
			})
		}
		server.Close()
		require.NoError(t, v.Close())
		b.assertNoLeak(t, ignore)
	})
}

// The request's context may outlive the handler, so the handler itself must close what it opened.
func TestEveryRequestClosesWhatItOpened(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, random(t, 8<<20))
		ignore := goleak.IgnoreCurrent()
		watched := &watchedStore{Store: b.Store}
		v, err := vault.New(b.server, watched)
		require.NoError(t, err)
		handler := site(v, b.Grant(t, alice))
		for _, header := range []http.Header{{}, headerOf("Range", "bytes=100-"), headerOf("Range", "bytes=0-5000000,1-100"), headerOf("Range", "bytes=99999999-"), headerOf("If-None-Match", "*")} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				r := httptest.NewRequest(method, "/"+id.String(), nil)
				r.Header = header
				handler.ServeHTTP(&brokenWriter{header: http.Header{}, left: 1 << 20}, r)
				require.Eventually(t, func() bool { return watched.open.Load() == 0 }, 10*time.Second, time.Millisecond, "%s %v", method, header)
			}
		}
		require.NoError(t, v.Close())
		b.assertNoLeak(t, ignore)
	})
}

// brokenWriter is a response whose Write fails after some bytes.
type brokenWriter struct {
	header http.Header
	left   int
}

func (w *brokenWriter) Header() http.Header { return w.header }

func (w *brokenWriter) WriteHeader(int) {}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, io.ErrClosedPipe
	}
	w.left -= len(p)
	return len(p), nil
}
