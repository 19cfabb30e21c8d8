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

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

// refusal is the response to a request whose recording is not served.
type refusal struct {
	status int
	body   string
	retry  bool
}

var (
	forbidden   = refusal{http.StatusForbidden, "The grant does not open this recording.\n", false}
	ended       = refusal{http.StatusUnauthorized, "The grant has ended. Sign in again.\n", false}
	notFound    = refusal{http.StatusNotFound, "There is no such recording.\n", false}
	gone        = refusal{http.StatusGone, "The recording was erased.\n", false}
	unsupported = refusal{http.StatusNotImplemented, "The recording needs a newer release of this service.\n", false}
	damaged     = refusal{http.StatusBadGateway, "The recording is damaged.\n", false}
	unavailable = refusal{http.StatusServiceUnavailable, "Recordings cannot be opened at the moment.\n", true}
	broken      = refusal{http.StatusInternalServerError, "The recording cannot be opened.\n", false}
)

// assertRefused sends requests with many headers. Every response must be the same refusal, whatever the header.
func assertRefused(t *testing.T, want refusal, handler http.Handler, id vault.ID, planted canaries) {
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
			what := fmt.Sprintf("%s %v", method, header)
			assert.Equal(t, want.status, w.Code, what)
			assert.Equal(t, want.body, w.Body.String(), what)
			headers := headerOf("Cache-Control", "private, no-store", "X-Content-Type-Options", "nosniff", "Content-Type", "text/plain; charset=utf-8")
			if want.retry {
				assert.Regexp(t, `^[1-9][0-9]*$`, w.Header().Get("Retry-After"), what)
				headers.Set("Retry-After", w.Header().Get("Retry-After"))
			}
			if want.status == http.StatusUnauthorized {
				headers.Set("WWW-Authenticate", "Grant")
			}
			assert.Equal(t, headers, w.Header(), what)
			planted.lookFor(t, what, fmt.Appendf(nil, "%v\n%s", w.Header(), w.Body))
		}
	}
}

// secretsOf returns what no client may see.
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

func TestEveryErrorHasItsStatusAndNoDetails(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob, carol := b.enrol(t), b.enrol(t), b.enrol(t)
		data := bytes.Repeat([]byte("canary-plaintext "), 10_000)
		grant, bobs, carols := b.Grant(t, alice), b.Grant(t, bob), b.Grant(t, carol)
		planted := secretsOf(grant, bobs, carols)
		v := b.vaultOf(t, b.server)
		defer v.Close()
		id := b.put(t, alice, data)
		sealed, media := teststore.Read(t, b.Store, objectName(id, "envelope")), teststore.Read(t, b.Store, objectName(id, "media"))
		check := func(name string, want refusal, grant keys.Grant, id vault.ID) {
			t.Helper()
			t.Run(name, func(t *testing.T) {
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.ServeRecording(w, r, grant, id) })
				assertRefused(t, want, handler, id, planted)
			})
		}
		issue := func(options keys.GrantOptions) keys.Grant {
			options.Subject, options.Purpose = "dr-lee", keys.Treatment
			grant, err := b.granter.Issue(t.Context(), alice, options)
			require.NoError(t, err)
			return grant
		}

		// First with an empty key cache, and then with the key that the right grant left in it.
		for _, state := range []string{"cold", "warm"} {
			check(state+", another patient's grant", forbidden, bobs, id)
			check(state+", the zero grant", ended, keys.Grant{}, id)
			check(state+", a grant with another token", ended, keys.NewGrant(grant.Details(), "nonsense"), id)
			check(state+", another patient's grant that claims to be hers", forbidden, keys.NewGrant(grant.Details(), bobs.Token()), id)
			check(state+", a grant with a line break", ended, keys.NewGrant(grant.Details(), grant.Token()+"\n"), id)
			check(state+", a recording that never was", notFound, grant, keystest.NewRecordingID(grant.KeyID()))
			check(state+", the zero ID", notFound, grant, vault.ID{})
			recorder := httptest.NewRecorder()
			v.ServeRecording(recorder, httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
			require.Equal(t, http.StatusOK, recorder.Code)
			require.True(t, bytes.Equal(data, recorder.Body.Bytes()))
		}

		revoked := issue(keys.GrantOptions{TTL: time.Minute})
		require.NoError(t, b.server.RevokeSelf(t.Context(), revoked))
		check("a revoked grant", ended, revoked, id)
		used := issue(keys.GrantOptions{TTL: time.Minute, MaxUses: 1})
		_, err := b.open(t, used, id) // by another process
		require.NoError(t, err)
		check("a grant that is used up", ended, used, id)
		short := issue(keys.GrantOptions{TTL: time.Second})
		require.Eventually(t, func() bool {
			_, err := b.open(t, short, id)
			return err != nil
		}, 10*time.Second, 20*time.Millisecond)
		check("an expired grant", ended, short, id)

		// A patient without a key has no recordings, so the test writes one that has another patient's wrapped key.
		stranger := keys.Patient("canary-patient-stranger")
		strangers := b.Grant(t, stranger)
		unenrolled := keystest.NewRecordingID(strangers.KeyID())
		teststore.Write(t, b.Store, objectName(unenrolled, "envelope"), bytes.ReplaceAll(sealed, []byte(id.String()), []byte(unenrolled.String())))
		teststore.Write(t, b.Store, objectName(unenrolled, "media"), media)
		check("a patient who is not enrolled", notFound, strangers, unenrolled)

		erased := b.put(t, carol, data)
		require.NoError(t, b.admin.Erase(t.Context(), erased.KeyID()))
		check("an erased patient", gone, carols, erased)

		for name, change := range map[string]struct{ envelope, media []byte }{
			"not an envelope":  {[]byte("x"), media},
			"another envelope": {teststore.Read(t, b.Store, objectName(b.put(t, alice, data), "envelope")), media},
			"media cut":        {sealed, media[:len(media)-1]},
			"media empty":      {sealed, nil},
		} {
			teststore.Write(t, b.Store, objectName(id, "envelope"), change.envelope)
			teststore.Write(t, b.Store, objectName(id, "media"), change.media)
			check(name, damaged, grant, id)
		}
		teststore.Write(t, b.Store, objectName(id, "envelope"), bytes.Replace(sealed, []byte(`"version":1`), []byte(`"version":2`), 1))
		check("another version", unsupported, grant, id)
		teststore.Write(t, b.Store, objectName(id, "envelope"), sealed)
		require.NoError(t, b.Store.Delete(t.Context(), objectName(id, "media")))
		check("media missing", damaged, grant, id)
		require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
		check("deleted", notFound, grant, id)
	})
}

func TestOtherMethodsAreRefusedBeforeOpening(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	watched := &watchedStore{Store: b.Store}
	v, err := vault.New(b.server, watched)
	require.NoError(t, err)
	defer v.Close()
	id := b.put(t, alice, []byte("a consultation"))
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodPatch, http.MethodTrace, "PROPFIND"} {
		t.Run(method, func(t *testing.T) {
			w := httptest.NewRecorder()
			v.ServeRecording(w, httptest.NewRequest(method, "/", nil), b.Grant(t, alice), id)
			assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
			assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
			assert.Equal(t, "private, no-store", w.Header().Get("Cache-Control"))
			assert.Equal(t, 1, strings.Count(w.Body.String(), "\n"))
		})
	}
	assert.Zero(t, watched.gets.Load())
}

func TestAnOutageIsAnsweredWithRetryAfter(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	data := random(t, 300_000)
	id := b.put(t, alice, data)
	grant := b.Grant(t, alice)
	planted := secretsOf(grant)
	planted.plant("the root token", b.Vault.RootToken())
	planted.plant("MinIO's user", b.MinIO.AccessKey())
	planted.plant("MinIO's password", b.MinIO.SecretKey())
	planted.plant("Vault's address", strings.TrimPrefix(b.Vault.Address(), "http://"))
	planted.plant("MinIO's address", b.MinIO.Endpoint())
	planted.plant("the bucket", b.MinIO.Bucket())
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
	refused := func(what string) { // one request only, because each takes seconds
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
	b.Vault.Seal(t)
	refused("sealed Vault")
	b.Vault.Unseal(t)
	served()
	b.Vault.Kill(t)
	refused("killed Vault")
	b.Vault.Restart(t)
	served()
	b.MinIO.Kill(t)
	refused("killed MinIO")
	b.MinIO.Restart(t)
	served()
}

func TestAStoreThatRefusesIsAServerError(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	grant := b.Grant(t, alice)
	for _, err := range []error{storage.ErrDenied, storage.ErrNoBucket} {
		v, newErr := vault.New(b.server, failingStore{b.Store, err})
		require.NoError(t, newErr)
		defer v.Close()
		t.Run(err.Error(), func(t *testing.T) { assertRefused(t, broken, site(v, grant), id, secretsOf(grant)) })
	}
}

// failingStore is a store whose Get fails, with an error that names the object as a real client's does.
type failingStore struct {
	storage.Store
	err error
}

func (s failingStore) Get(context.Context, string, int64, int64) (*storage.Object, error) {
	return nil, fmt.Errorf("get canary-object-name: %w", s.err)
}

// The end of a deadline that the application sets is answered. Only a client that disconnects gets no answer.
func TestADeadlineIsAnsweredWithRetryAfter(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	for name, ttl := range map[string]time.Duration{"no cache": 0, "cache": time.Minute} {
		t.Run(name, func(t *testing.T) {
			v, err := vault.New(&gatedKeyring{Keyring: b.server, gate: make(chan struct{})}, b.Store, vault.WithKeyCache(ttl, 1))
			require.NoError(t, err)
			defer v.Close()
			inner := site(v, b.Grant(t, alice))
			server := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
				defer cancel()
				inner.ServeHTTP(w, r.WithContext(ctx))
			}))
			got, err := ask(t, server.Client(), page(server, id), get())
			require.NoError(t, err)
			assert.Equal(t, unavailable.status, got.status)
			assert.NotEmpty(t, got.header.Get("Retry-After"))
		})
	}
}

// gatedKeyring is a keyring whose Unwrap waits until the channel gate is closed.
type gatedKeyring struct {
	vault.Keyring
	gate    chan struct{}
	entered chan struct{} // if not nil, receives a value from each Unwrap
}

func (k *gatedKeyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
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

// onEachProtocol runs a test over HTTP/1.1 without TLS, and over HTTP/1.1 and HTTP/2 with TLS.
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

func TestDamageInMidstreamBreaksTheResponse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
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
			media := teststore.Read(t, b.Store, objectName(id, "media"))
			media[at*segment.Size+1000] ^= 1
			teststore.Write(t, b.Store, objectName(id, "media"), media)
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
				// If the first byte is damaged, no byte was sent yet, and the status reports the damage.
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
				// A range without damage is served.
				got, err := ask(t, client, page(server, victim.id), get("Range", fmt.Sprintf("bytes=%d-%d", at-100, at-1)))
				if assert.NoError(t, err) {
					assert.Equal(t, http.StatusPartialContent, got.status)
					assert.True(t, bytes.Equal(data[at-100:at], got.body))
				}
			}
		})
	})
}

func TestAStoreFailureInMidstreamBreaksTheResponse(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice := b.enrol(t)
	const size = 64 << 20
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, &pattern{left: size}, metadata())
	require.NoError(t, err)
	v := b.vaultOf(t, b.server)
	defer v.Close()
	server := listen(t, site(v, b.Grant(t, alice)))
	response, err := server.Client().Get(page(server, id))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	_, err = io.CopyN(io.Discard, response.Body, 1<<20)
	require.NoError(t, err)
	b.MinIO.Kill(t)
	n, err := io.Copy(io.Discard, response.Body)
	assert.Error(t, err)
	assert.Less(t, n, int64(size-1<<20))
}

// TestEachFailureToServeIsReported: also one after the first bytes were sent.
func TestEachFailureToServeIsReported(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, random(t, 3*segment.Size))
	large, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, &pattern{left: 64 << 20}, metadata())
	require.NoError(t, err)
	w := newWitness()
	v := b.vaultOf(t, b.server, vault.WithEvents(w.stream), vault.WithKeyCache(0, 1))
	grant := b.Grant(t, alice)
	serveTo := func(ctx context.Context, to http.ResponseWriter, grant keys.Grant, id vault.ID) (recovered any) {
		defer func() { recovered = recover() }()
		v.ServeRecording(to, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil), grant, id)
		return nil
	}
	serve := func(ctx context.Context, grant keys.Grant, id vault.ID) any {
		return serveTo(ctx, httptest.NewRecorder(), grant, id)
	}
	var all []events.Event
	reported := func(grant keys.Grant, id vault.ID, kind events.Kind, status int) {
		t.Helper()
		event := w.next(t)
		all = append(all, event)
		assert.Equal(t, kind, event.Kind)
		assert.Equal(t, status, event.Status)
		assert.Equal(t, id, event.Recording)
		assert.Equal(t, grant.Details(), event.Grant)
		assert.Equal(t, kind == events.Opened, event.Error == "", event.Error)
	}
	require.Nil(t, serve(t.Context(), grant, id))
	reported(grant, id, events.Opened, 0)

	bobs := b.Grant(t, bob)
	require.Nil(t, serve(t.Context(), bobs, id))
	reported(bobs, id, events.WrongPatient, http.StatusForbidden)
	missing := keystest.NewRecordingID(id.KeyID())
	require.Nil(t, serve(t.Context(), grant, missing))
	reported(grant, missing, events.Failed, http.StatusNotFound)

	// Damage and a client that leaves. Another grant keeps the events apart from those before.
	grant = b.Grant(t, alice)
	media := teststore.Read(t, b.Store, objectName(id, "media"))
	media[len(media)-1] ^= 1
	teststore.Write(t, b.Store, objectName(id, "media"), media)
	require.Equal(t, http.ErrAbortHandler, serve(t.Context(), grant, id))
	reported(grant, id, events.Damaged, 0)
	reported(grant, id, events.Opened, 0)
	whole := all[len(all)-1]
	assert.Equal(t, []events.Range{{Start: 0, End: whole.Bytes}}, whole.Ranges)
	assert.Positive(t, whole.Bytes)
	assert.Less(t, whole.Bytes, int64(3*segment.Size), "what is damaged was not delivered")
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.Equal(t, http.ErrAbortHandler, serve(gone, grant, id))
	assert.Empty(t, w.events, "a client that leaves is no failure")

	// A sealed Vault, a missing bucket, and a store that dies in midstream.
	b.Vault.Seal(t)
	require.Nil(t, serve(t.Context(), grant, large))
	reported(grant, large, events.Failed, http.StatusServiceUnavailable)
	b.Vault.Unseal(t)
	client, err := s3.NewClient(s3.Config{Endpoint: "http://" + b.MinIO.Endpoint(), Credentials: credentials.NewStaticV4(b.MinIO.AccessKey(), b.MinIO.SecretKey(), "")})
	require.NoError(t, err)
	nowhere, err := s3.New(client, "no-such-bucket")
	require.NoError(t, err)
	elsewhere, err := vault.New(b.server, nowhere, vault.WithEvents(w.stream))
	require.NoError(t, err)
	elsewhere.ServeRecording(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), grant, large)
	reported(grant, large, events.Failed, http.StatusInternalServerError)
	killed := &hookedWriter{ResponseWriter: httptest.NewRecorder(), after: 1 << 20, hook: func() { b.MinIO.Kill(t) }}
	require.Equal(t, http.ErrAbortHandler, serveTo(t.Context(), killed, grant, large))
	reported(grant, large, events.Failed, 0)
	reported(grant, large, events.Opened, 0)
	opened := all[len(all)-1]
	assert.Equal(t, []events.Range{{Start: 0, End: killed.written}}, opened.Ranges)
	assert.Equal(t, killed.written, opened.Bytes)

	require.NoError(t, v.Close())
	w.assertSame(t, all)
	assert.NotContains(t, w.log.String(), grant.Token())
}

// hookedWriter calls a function once so many bytes of the body were written.
type hookedWriter struct {
	http.ResponseWriter
	written, after int64
	hook           func()
}

func (w *hookedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	if w.written < w.after && w.written+int64(n) >= w.after {
		w.hook()
	}
	w.written += int64(n)
	return n, err
}

func TestAServicesOwnTokenIsNotTheUsersFault(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	service := b.Vault.Client("hvs.expired")
	keyring, err := transit.New(service, transit.Options{Mount: b.Vault.Mount(), Prefix: b.Vault.Prefix()})
	require.NoError(t, err)
	_, err = b.vaultOf(t, keyring).Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{})
	require.ErrorIs(t, err, keys.ErrUnauthenticated)
	require.NotErrorIs(t, err, keys.ErrDenied)
	require.NotErrorIs(t, err, keys.ErrInvalidGrant)
	status, _ := vault.HTTPStatus(err)
	assert.Equal(t, http.StatusServiceUnavailable, status)
}
