package vault_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// refusal is what a client may get to see of a recording that is not served.
type refusal struct {
	status int
	body   string
	retry  bool
}

var (
	forbidden   = refusal{http.StatusForbidden, "The grant does not open this recording.\n", false}
	notFound    = refusal{http.StatusNotFound, "There is no such recording.\n", false}
	gone        = refusal{http.StatusGone, "The recording was erased.\n", false}
	damaged     = refusal{http.StatusBadGateway, "The recording is damaged.\n", false}
	unavailable = refusal{http.StatusServiceUnavailable, "Recordings cannot be opened at the moment.\n", true}
	broken      = refusal{http.StatusInternalServerError, "The recording cannot be opened.\n", false}
)

// assertRefused asks in every way that could be answered with something else, and compares with the one answer
// that there is.
func assertRefused(t *testing.T, want refusal, handler http.Handler, id vault.ID, planted canaries, what string) {
	t.Helper()
	for _, header := range []http.Header{
		{},
		headerOf("Range", "bytes=0-9"), headerOf("Range", "bytes=9999999999-"), headerOf("Range", "bytes=-1"), headerOf("Range", "bytes=0-0,-1"),
		headerOf("If-None-Match", "*"), headerOf("If-None-Match", `"`+id.Rec()+`"`), headerOf("If-Match", `"another"`),
		headerOf("If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)),
		headerOf("If-Unmodified-Since", time.Unix(0, 0).UTC().Format(http.TimeFormat)),
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := httptest.NewRequestWithContext(t.Context(), method, "/"+id.String(), nil)
			r.Header = header
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			what := fmt.Sprintf("%s: %s %v", what, method, header)
			assert.Equal(t, want.status, w.Code, what)
			assert.Equal(t, want.body, w.Body.String(), what)
			headers := headerOf("Cache-Control", "private, no-store", "X-Content-Type-Options", "nosniff", "Content-Type", "text/plain; charset=utf-8")
			if want.retry {
				assert.Regexp(t, `^[1-9][0-9]*$`, w.Header().Get("Retry-After"), what)
				headers.Set("Retry-After", w.Header().Get("Retry-After"))
			}
			assert.Equal(t, headers, w.Header(), what)
			planted.lookFor(t, what, fmt.Appendf(nil, "%v\n%s", w.Header(), w.Body))
		}
	}
}

// secretsOf are what no client must get to see.
func secretsOf(grants ...keys.Grant) canaries {
	planted := canaries{}
	for _, grant := range grants {
		planted.plant("a grant's token", grant.Token())
		planted.plant("a grant", grant.Reveal())
	}
	planted.plant("a patient", "canary-patient")
	planted.plant("a title", metadata().Title)
	planted.plant("plaintext", "canary-plaintext")
	return planted
}

func TestEveryRefusalHasItsStatusAndSaysNothingElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob, carol := b.enrol(t), b.enrol(t), b.enrol(t)
		data := bytes.Repeat([]byte("canary-plaintext "), 10_000)
		grant, bobs, carols := b.grant(t, alice), b.grant(t, bob), b.grant(t, carol)
		planted := secretsOf(grant, bobs, carols)
		v := b.vaultOf(t, b.server)
		defer v.Close()
		id := b.put(t, alice, data)
		sealed, media := teststore.Read(t, b.store, objectName(id, "envelope")), teststore.Read(t, b.store, objectName(id, "media"))
		check := func(want refusal, grant keys.Grant, id vault.ID, what string) {
			t.Helper()
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.ServeRecording(w, r, grant, id) })
			assertRefused(t, want, handler, id, planted, what)
		}
		issue := func(options keys.GrantOptions) keys.Grant {
			options.Subject, options.Purpose = "dr-lee", keys.Treatment
			grant, err := b.granter.Issue(t.Context(), alice, options)
			require.NoError(t, err)
			return grant
		}

		// First with nothing kept, and then with the key that the right grant left in the cache.
		for _, state := range []string{"cold", "warm"} {
			check(forbidden, bobs, id, state+", another patient's grant")
			check(forbidden, keys.Grant{}, id, state+", the zero grant")
			check(forbidden, keys.NewGrant(grant.Details(), "nonsense"), id, state+", a grant with another token")
			check(forbidden, keys.NewGrant(grant.Details(), bobs.Token()), id, state+", another patient's grant that claims to be hers")
			check(forbidden, keys.NewGrant(grant.Details(), grant.Token()+"\n"), id, state+", a grant with a line break")
			check(notFound, grant, keys.NewRecordingID(grant.KeyID()), state+", a recording that never was")
			check(notFound, grant, vault.ID{}, state+", the zero ID")
			recorder := httptest.NewRecorder()
			v.ServeRecording(recorder, httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
			require.Equal(t, http.StatusOK, recorder.Code)
			require.True(t, bytes.Equal(data, recorder.Body.Bytes()))
		}

		revoked := issue(keys.GrantOptions{TTL: time.Minute})
		require.NoError(t, b.server.RevokeSelf(t.Context(), revoked))
		check(forbidden, revoked, id, "a revoked grant")
		used := issue(keys.GrantOptions{TTL: time.Minute, MaxUses: 1})
		_, err := b.open(t, used, id) // by another process
		require.NoError(t, err)
		check(forbidden, used, id, "a grant that is used up")
		short := issue(keys.GrantOptions{TTL: time.Second})
		require.Eventually(t, func() bool {
			_, err := b.open(t, short, id)
			return err != nil
		}, 10*time.Second, 20*time.Millisecond)
		check(forbidden, short, id, "an expired grant")

		// A recording of somebody who has no key: an envelope that was put there.
		stranger := keys.Patient("canary-patient-stranger")
		strangers := b.grant(t, stranger)
		unenrolled := keys.NewRecordingID(strangers.KeyID())
		teststore.Write(t, b.store, objectName(unenrolled, "envelope"), bytes.ReplaceAll(sealed, []byte(id.String()), []byte(unenrolled.String())))
		teststore.Write(t, b.store, objectName(unenrolled, "media"), media)
		check(notFound, strangers, unenrolled, "a patient who is not enrolled")

		erased := b.put(t, carol, data)
		require.NoError(t, b.admin.Erase(t.Context(), erased.KeyID()))
		check(gone, carols, erased, "an erased patient")

		for what, change := range map[string]struct{ envelope, media []byte }{
			"no envelope":      {[]byte("x"), media},
			"another envelope": {teststore.Read(t, b.store, objectName(b.put(t, alice, data), "envelope")), media},
			"media cut":        {sealed, media[:len(media)-1]},
			"media empty":      {sealed, nil},
		} {
			teststore.Write(t, b.store, objectName(id, "envelope"), change.envelope)
			teststore.Write(t, b.store, objectName(id, "media"), change.media)
			check(damaged, grant, id, what)
		}
		teststore.Write(t, b.store, objectName(id, "envelope"), sealed)
		require.NoError(t, b.store.Delete(t.Context(), objectName(id, "media")))
		check(damaged, grant, id, "media missing")
		require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
		check(notFound, grant, id, "deleted")
	})
}

func TestOtherMethodsAreRefusedBeforeAnythingIsOpened(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	watched := &watchedStore{Store: b.store}
	v, err := vault.New(b.server, watched)
	require.NoError(t, err)
	defer v.Close()
	id := b.put(t, alice, []byte("a consultation"))
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch, http.MethodTrace, "PROPFIND"} {
		w := httptest.NewRecorder()
		v.ServeRecording(w, httptest.NewRequest(method, "/", nil), b.grant(t, alice), id)
		assert.Equal(t, http.StatusMethodNotAllowed, w.Code, method)
		assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"), method)
		assert.Equal(t, "private, no-store", w.Header().Get("Cache-Control"), method)
		assert.Equal(t, 1, strings.Count(w.Body.String(), "\n"), method)
	}
	assert.Zero(t, watched.gets.Load())
}

func TestServersThatFailAreTriedAgainLater(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 300_000)
	id := b.put(t, alice, data)
	grant := b.grant(t, alice)
	planted := secretsOf(grant)
	planted.plant("the root token", b.vault.RootToken())
	planted.plant("MinIO's user", b.minio.AccessKey())
	planted.plant("MinIO's password", b.minio.SecretKey())
	planted.plant("Vault's address", strings.TrimPrefix(b.vault.Address(), "http://"))
	planted.plant("MinIO's address", b.minio.Endpoint())
	planted.plant("the bucket", b.minio.Bucket())
	v := b.vaultOf(t, b.server, vault.WithKeyCache(0, 1))
	defer v.Close()
	handler := site(v, grant)
	served := func() {
		t.Helper()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+id.String(), nil))
		require.Equal(t, http.StatusOK, w.Code)
		require.True(t, bytes.Equal(data, w.Body.Bytes()))
	}
	refusedOnce := func(what string) { // each attempt takes a while
		t.Helper()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+id.String(), nil))
		assert.Equal(t, unavailable.status, w.Code, what)
		assert.Equal(t, unavailable.body, w.Body.String(), what)
		assert.Equal(t, "5", w.Header().Get("Retry-After"), what)
		assert.Empty(t, w.Header().Get("ETag"), what)
		planted.lookFor(t, what, fmt.Appendf(nil, "%v\n%s", w.Header(), w.Body))
	}
	served()
	b.vault.Seal(t)
	refusedOnce("sealed Vault")
	b.vault.Unseal(t)
	served()
	b.vault.Kill(t)
	refusedOnce("killed Vault")
	b.vault.Restart(t)
	served()
	b.minio.Kill(t)
	refusedOnce("killed MinIO")
	b.minio.Restart(t)
	served()
}

func TestAStoreThatRefusesIsAnErrorOfTheServer(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	grant := b.grant(t, alice)
	for _, err := range []error{storage.ErrDenied, storage.ErrNoBucket} {
		v, newErr := vault.New(b.server, failingStore{b.store, err})
		require.NoError(t, newErr)
		defer v.Close()
		assertRefused(t, broken, site(v, grant), id, secretsOf(grant), err.Error())
	}
}

// failingStore gives an error of the kind that a real store's client gives.
type failingStore struct {
	storage.Store
	err error
}

func (s failingStore) Get(context.Context, string, int64, int64) (*storage.Object, error) {
	return nil, fmt.Errorf("get canary-object-name: %w", s.err)
}

// A deadline that the application sets on its requests is not the client going away.
func TestADeadlineIsTold(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	for what, ttl := range map[string]time.Duration{"no cache": 0, "cache": time.Minute} {
		v, err := vault.New(&gatedKeyring{Keyring: b.server, gate: make(chan struct{})}, b.store, vault.WithKeyCache(ttl, 1))
		require.NoError(t, err)
		defer v.Close()
		inner := site(v, b.grant(t, alice))
		server := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			inner.ServeHTTP(w, r.WithContext(ctx))
		}))
		got, err := ask(t, server.Client(), page(server, id), get())
		if assert.NoError(t, err, what) {
			assert.Equal(t, unavailable.status, got.status, what)
			assert.NotEmpty(t, got.header.Get("Retry-After"), what)
		}
	}
}

// gatedKeyring is a keyring that takes its time: an unwrapping waits until the gate is open.
type gatedKeyring struct {
	vault.Keyring
	gate    chan struct{}
	entered chan struct{} // if not nil, gets a value from each unwrapping
}

func (k *gatedKeyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.RecordingKey, error) {
	if k.entered != nil {
		k.entered <- struct{}{}
	}
	select {
	case <-k.gate:
		return k.Keyring.Unwrap(ctx, grant, binding, wrapped)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// onEachProtocol serves by HTTP/1.1 in clear, and by HTTP/1.1 and HTTP/2 over TLS.
func onEachProtocol(t *testing.T, handler http.Handler, test func(t *testing.T, server *httptest.Server, client *http.Client)) {
	t.Helper()
	for name, c := range map[string]struct {
		secure, http2 bool
		major         int
	}{
		"HTTP 1.1":          {false, false, 1},
		"HTTP 1.1 over TLS": {true, false, 1},
		"HTTP 2":            {true, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(handler)
			watchLog(t, server)
			if c.secure {
				server.EnableHTTP2 = c.http2
				server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
				server.StartTLS()
			} else {
				server.Start()
			}
			response, err := server.Client().Head(server.URL + "/no-such-page")
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, c.major, response.ProtoMajor)
			test(t, server, server.Client())
		})
	}
}

func TestDamageInMidstreamIsNeverTakenForACompleteRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.grant(t, alice)
		v := b.vaultOf(t, b.server)
		defer v.Close()
		const segments = 40
		data := random(t, segments*segment.Size)
		type victim struct {
			id vault.ID
			at int // the first plaintext byte that is damaged
		}
		var victims []victim
		for _, at := range []int{1, 2, segments / 2, segments - 1} {
			id := b.put(t, alice, data)
			media := teststore.Read(t, b.store, objectName(id, "media"))
			media[at*segment.Size+1000] ^= 1
			teststore.Write(t, b.store, objectName(id, "media"), media)
			victims = append(victims, victim{id, firstSegment + (at-1)*fullSegment})
		}
		whole := b.put(t, alice, data)
		onEachProtocol(t, site(v, grant), func(t *testing.T, server *httptest.Server, client *http.Client) {
			got, err := ask(t, client, page(server, whole), get())
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got.body))
			for _, victim := range victims {
				at := victim.at
				for header, begins := range map[string]int{
					"":                               0,
					fmt.Sprintf("bytes=0-%d", at):    0,
					fmt.Sprintf("bytes=%d-", at-100): at - 100,
					fmt.Sprintf("bytes=-%d", len(data)-at+10):  at - 10,
					fmt.Sprintf("bytes=%d-%d", at-10, at+1000): at - 10,
				} {
					q := get()
					if header != "" {
						q = get("Range", header)
					}
					got, err := ask(t, client, page(server, victim.id), q)
					what := fmt.Sprintf("damaged from %d, Range %q", at, header)
					assert.Error(t, err, what)
					assert.LessOrEqual(t, len(got.body), at-begins, what)
					assert.True(t, bytes.HasPrefix(data[begins:], got.body), what)
				}
				// Where nothing has gone out yet, there is a status to say it with.
				for _, header := range []string{fmt.Sprintf("bytes=%d-", at), fmt.Sprintf("bytes=%d-%d", at+5, at+10)} {
					got, err := ask(t, client, page(server, victim.id), get("Range", header))
					if assert.NoError(t, err, header) {
						assert.Equal(t, damaged.status, got.status, header)
						assert.Equal(t, damaged.body, string(got.body), header)
						assert.Empty(t, got.header.Get("Content-Range"), header)
						assert.Empty(t, got.header.Get("ETag"), header)
					}
				}
				// Several ranges, one of them damaged.
				_, err := ask(t, client, page(server, victim.id), get("Range", fmt.Sprintf("bytes=0-9,%d-%d,20-29", at, at+10)))
				assert.Error(t, err, "several ranges, damaged from %d", at)
				// What is not damaged is served.
				got, err := ask(t, client, page(server, victim.id), get("Range", fmt.Sprintf("bytes=%d-%d", at-100, at-1)))
				if assert.NoError(t, err) {
					assert.Equal(t, http.StatusPartialContent, got.status)
					assert.True(t, bytes.Equal(data[at-100:at], got.body))
				}
			}
		})
	})
}

func TestAStoreThatDiesInMidstreamLeavesNoCompleteAnswer(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	const size = 64 << 20
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, &pattern{left: size}, metadata())
	require.NoError(t, err)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.grant(t, alice)))
	response, err := server.Client().Get(page(server, id))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	_, err = io.CopyN(io.Discard, response.Body, 1<<20)
	require.NoError(t, err)
	b.minio.Kill(t)
	n, err := io.Copy(io.Discard, response.Body)
	assert.Error(t, err)
	assert.Less(t, n, int64(size-1<<20))
}
