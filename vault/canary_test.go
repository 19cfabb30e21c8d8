package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
	"github.com/recvault/recvault/vault/events/fhir"
)

// canaries are secrets, in several encodings, that must appear nowhere. Each maps to its description.
type canaries map[string]string

// plant adds a secret.
func (c canaries) plant(what, secret string) {
	for _, encoded := range []string{
		secret,
		base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.RawURLEncoding.EncodeToString([]byte(secret)),
		hex.EncodeToString([]byte(secret)),
		url.QueryEscape(secret),
	} {
		c[encoded] = what
	}
}

// lookFor fails the test if a text contains a secret.
func (c canaries) lookFor(t *testing.T, where string, text []byte) {
	t.Helper()
	for secret, what := range c {
		assert.False(t, bytes.Contains(text, []byte(secret)), "%s is in %s", what, where)
	}
}

// lookInNames fails the test if the path of a file in a directory contains a secret.
func (c canaries) lookInNames(t *testing.T, where, root string) {
	t.Helper()
	var found int
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		found++
		c.lookFor(t, where+": a path", []byte(path))
		return err
	}))
	require.Greater(t, found, 1, where)
}

func TestNoSecretIsInAnyErrorLogNameOrPath(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	planted := canaries{}
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer slog.SetDefault(before)

	alice, bob := b.enrol(t), b.enrol(t)
	stranger := keys.Patient("canary-stranger-943 476 5919")
	for _, patient := range []keys.Patient{alice, bob, stranger} {
		planted.plant("a patient", string(patient))
	}
	const title, attribute = "canary-title: follow-up", "canary-attribute"
	planted.plant("a title", title)
	planted.plant("an attribute", attribute)
	data := bytes.Repeat([]byte("canary-plaintext "), 10_000)
	planted.plant("plaintext", "canary-plaintext canary-plaintext")

	var lines, resources buffer
	encoder, err := fhir.New(fhir.Site{
		Patients: "urn:oid:2.999.1", Recordings: "urn:oid:2.999.2", Users: "urn:oid:2.999.3", Grants: "urn:oid:2.999.4", Purposes: "urn:oid:2.999.5",
		Application: fhir.Party{Name: "portal", Address: "portal.example.org"}, Server: fhir.Party{Name: "store", Address: "127.0.0.1"},
	})
	require.NoError(t, err)
	stream := events.New(events.Log(nil), events.JSON(&lines), func(e events.Event) error {
		_, err := fmt.Fprintf(&resources, "%s\n", encoder.Encode(e))
		return err
	})
	writer, server := b.vaultOf(t, b.writer, vault.WithEvents(stream)), b.vaultOf(t, b.server, vault.WithEvents(stream))
	id, err := writer.Put(t.Context(), alice, bytes.NewReader(data), vault.Metadata{Title: title, Attributes: map[string]string{"x": attribute}})
	require.NoError(t, err)
	alicesGrant, bobsGrant := b.Grant(t, alice), b.Grant(t, bob)
	for _, grant := range []keys.Grant{alicesGrant, bobsGrant} {
		planted.plant("a grant's token", grant.Token())
		planted.plant("a grant", grant.Reveal())
	}
	planted.plant("the root token", b.Vault.RootToken())
	planted.plant("MinIO's password", b.MinIO.SecretKey())

	// Every way in which a call can fail.
	var failures []error
	failed := func(err error) {
		t.Helper()
		require.Error(t, err)
		failures = append(failures, err)
	}
	attempt := func() {
		_, err := server.Open(t.Context(), bobsGrant, id)
		failed(err)
		_, err = server.Stat(t.Context(), keys.NewGrant(alicesGrant.Details(), alicesGrant.Token()[:20]), id)
		failed(err)
		_, err = server.Open(t.Context(), keys.NewGrant(alicesGrant.Details(), alicesGrant.Token()+"\n"), id)
		failed(err)
		_, err = writer.Put(t.Context(), stranger, strings.NewReader("x"), vault.Metadata{Title: title})
		failed(err)
		_, err = writer.Put(t.Context(), alice+"\xff", strings.NewReader("x"), vault.Metadata{})
		failed(err)
		_, err = writer.Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{Title: title + "\xff"})
		failed(err)
		_, err = writer.Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{Attributes: map[string]string{"": attribute}})
		failed(err)
		_, err = b.granter.Issue(t.Context(), alice, keys.GrantOptions{})
		failed(err)
		_, err = b.vaultOf(t, b.server).Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{}) // no token
		failed(err)
		_, err = b.admin.Rewrap(t.Context(), id.KeyID(), []keys.RewrapItem{{Binding: id.Binding(), Wrapped: "vault:v1:" + keys.WrappedKey(planted.any())}})
		if err != nil {
			failed(err)
		}
		failed(b.server.RevokeSelf(t.Context(), keys.NewGrant(keys.GrantDetails{}, bobsGrant.Token()[:30])))
		failed(b.admin.Revoke(t.Context(), "nonsense"))
		_, err = keys.ParseGrant(alicesGrant.Reveal()[:60])
		failed(err)
		_, err = keys.ParseKeyID(string(alice))
		failed(err)
		_, err = vault.ParseID(string(alice))
		failed(err)
		failed(writer.Delete(t.Context(), bob, id))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = writer.Put(ctx, alice, strings.NewReader("x"), vault.Metadata{Title: title})
		failed(err)
	}
	attempt()
	server.ServeRecording(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), alicesGrant,
		keystest.NewRecordingID(id.KeyID()))
	teststore.Write(t, b.Store, objectName(id, "media"), []byte("damaged"))
	_, err = server.Open(t.Context(), alicesGrant, id)
	failed(err)

	audit, err := os.ReadFile(b.Vault.AuditFile())
	require.NoError(t, err)
	require.Contains(t, string(audit), id.KeyID().String(), "the audit file does not name the patient's key")
	planted.lookFor(t, "Vault's audit file", audit)

	b.Vault.Seal(t)
	_, err = server.Open(t.Context(), alicesGrant, id)
	failed(err)
	_, err = writer.Put(t.Context(), "canary-stranger-2", strings.NewReader("x"), vault.Metadata{Title: title})
	failed(err)
	b.Vault.Stop(t)
	_, err = server.Open(t.Context(), alicesGrant, id)
	failed(err)
	_, err = b.granter.Issue(t.Context(), alice, keys.GrantOptions{TTL: time.Minute, Subject: "x", Purpose: "TREAT"})
	failed(err)

	require.NoError(t, server.Close()) // now all events are logged
	require.NoError(t, writer.Close())
	require.Contains(t, log.String(), "recvault: wrong-patient")
	for _, err := range failures {
		planted.lookFor(t, "an error", []byte(err.Error()))
		planted.lookFor(t, "an error, in detail", fmt.Appendf(nil, "%#v %+v", err, err))
	}
	for _, name := range b.Names(t) {
		planted.lookFor(t, "an object's name", []byte(name))
		planted.lookFor(t, "an object", teststore.Read(t, b.Store, name))
	}
	planted.lookFor(t, "the log", log.Bytes())
	planted.lookFor(t, "the events", []byte(lines.String()))
	planted.lookFor(t, "an AuditEvent", []byte(resources.String()))
	for _, kind := range []events.Kind{events.Stored, events.Damaged, events.WrongPatient, events.Refused, events.Failed} {
		require.Contains(t, lines.String(), `"kind":"`+string(kind)+`"`)
		require.Contains(t, resources.String(), `"code":"`+string(kind)+`"`)
	}
	planted.lookInNames(t, "Vault's storage", filepath.Dir(b.Vault.AuditFile()))

	b.MinIO.Stop(t)
	_, err = server.Open(t.Context(), alicesGrant, id)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	planted.lookFor(t, "an error", []byte(err.Error()))

	// Values that hold secrets do not print them.
	for _, v := range []*vault.Vault{writer, server} {
		planted.lookFor(t, "a printed vault", fmt.Appendf(nil, "%v %+v %#v", v, v, v))
	}
	recording := vault.Info{ID: id}
	for _, value := range []any{
		alice, &alice, alicesGrant, &alicesGrant, keys.NewKey(), recording,
		[]keys.Patient{alice},
		map[string]keys.Grant{"x": alicesGrant},
		struct{ G *keys.Grant }{&alicesGrant},
	} {
		text := fmt.Appendf(nil, "%v %+v %#v %s %q %x %d", value, value, value, value, value, value, value)
		planted.lookFor(t, fmt.Sprintf("a printed %T", value), text)
		text, err := json.Marshal(value)
		if err == nil {
			planted.lookFor(t, fmt.Sprintf("a %T in JSON", value), text)
		}
	}
}

// Vault keeps keys and decides. It gets no recording and no description, and a patient's identifier only to make the
// pseudonym.
func TestVaultGetsNothingOfARecording(t *testing.T) {
	b := servers(t)
	const title = "canary-title: follow-up"
	data := bytes.Repeat([]byte("canary-plaintext "), 10_000)
	type sent struct {
		path string
		body []byte
	}
	var mu sync.Mutex
	var requests []sent
	behind, err := url.Parse(b.Vault.Address())
	require.NoError(t, err)
	forward := httputil.NewSingleHostReverseProxy(behind)
	forward.Transport = new(http.Transport)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		mu.Lock()
		requests = append(requests, sent{r.URL.String() + fmt.Sprint(r.Header), body})
		mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(w, r)
	}))
	defer front.Close()
	defer forward.Transport.(*http.Transport).CloseIdleConnections()
	client := b.Vault.Client(b.Vault.RootToken())
	require.NoError(t, client.SetAddress(front.URL))
	defer client.CloneConfig().HttpClient.CloseIdleConnections()
	keyring, err := transit.New(client, transit.Options{Mount: b.Place.Mount, Prefix: b.Place.Prefix})
	require.NoError(t, err)

	patient := keys.Patient("canary-patient-943 476 5919-" + rand.Text())
	_, err = keyring.Enrol(t.Context(), patient)
	require.NoError(t, err)
	v := b.vaultOf(t, keyring)
	defer v.Close()
	id, err := v.Put(t.Context(), patient, bytes.NewReader(data), vault.Metadata{Title: title, ContentType: "video/webm"})
	require.NoError(t, err)
	grant, err := keyring.Issue(t.Context(), patient, keys.GrantOptions{TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment})
	require.NoError(t, err)
	_, err = v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.Title += "!"; return nil })
	require.NoError(t, err)
	id, err = v.Rekey(t.Context(), grant, id)
	require.NoError(t, err)
	recording, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	got, err := io.ReadAll(recording)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
	require.NoError(t, recording.Close())
	require.NoError(t, keyring.Rotate(t.Context(), id.KeyID()))
	_, err = keyring.Rewrap(t.Context(), id.KeyID(), b.storedEnvelope(t, id).Wraps())
	require.NoError(t, err)
	require.NoError(t, v.EndGrant(t.Context(), grant))
	require.NoError(t, keyring.Erase(t.Context(), id.KeyID()))

	pseudonyms := 0
	for _, request := range requests {
		text := request.path + string(request.body)
		for _, quoted := range regexp.MustCompile(`[A-Za-z0-9+/]{8,}=*`).FindAllString(string(request.body), -1) {
			decoded, _ := base64.StdEncoding.DecodeString(quoted)
			text += string(decoded)
		}
		assert.NotContains(t, text, "canary-title", request.path)
		assert.NotContains(t, text, "canary-plaintext", request.path)
		if strings.Contains(request.path, "/hmac/pseudonym/") {
			assert.Contains(t, text, string(patient), "the search cannot find what is there")
			pseudonyms++
			continue
		}
		assert.NotContains(t, text, "canary-patient", request.path)
	}
	assert.Positive(t, pseudonyms)
	assert.Greater(t, len(requests), 10)
}

// any returns one of the canaries.
func (c canaries) any() string {
	for secret := range c {
		return secret
	}
	panic("no canaries")
}
