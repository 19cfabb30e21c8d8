package service_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/keys"
)

var long = testserver.Lifetime{TTL: time.Hour, Max: time.Hour}

func TestServiceOnRealServers(t *testing.T) {
	s := serve(t, long, time.Minute)
	aminas := s.mustUpload(t, amina, "Asthma review")
	thomass := s.mustUpload(t, thomas, "canary-title of Thomas")

	t.Run("a recorder is refused", func(t *testing.T) {
		for name, test := range map[string]struct {
			key, patient, title string
			status              int
		}{
			"a wrong key":          {"guess", amina, "", http.StatusUnauthorized},
			"no key":               {"", amina, "", http.StatusUnauthorized},
			"no patient":           {recorderKey, "", "", http.StatusBadRequest},
			"an unknown patient":   {recorderKey, "canary-patient", "", http.StatusConflict},
			"a title of 2 KiB":     {recorderKey, amina, strings.Repeat("canary", 350), http.StatusBadRequest},
			"a title of 5 KiB":     {recorderKey, amina, strings.Repeat("canary", 900), http.StatusBadRequest},
			"a title not in UTF-8": {recorderKey, amina, "\xff", http.StatusBadRequest},
		} {
			t.Run(name, func(t *testing.T) {
				a, err := s.upload(test.key, test.patient, test.title, strings.NewReader("media"))
				require.NoError(t, err)
				assert.Equal(t, test.status, a.status, "%s", a.body)
				assert.NotContains(t, string(a.body), "canary")
			})
		}
	})

	t.Run("a form ends with its recording", func(t *testing.T) {
		before := s.Names(t)
		for _, extra := range []string{"recording", "title", "more"} {
			var body bytes.Buffer
			form := multipart.NewWriter(&body)
			for _, name := range []string{"patient", "recording", extra} {
				require.NoError(t, form.WriteField(name, amina))
			}
			require.NoError(t, form.Close())
			r, err := http.NewRequest(http.MethodPost, s.front.URL+"/recordings", &body)
			require.NoError(t, err)
			r.Header.Set("Content-Type", form.FormDataContentType())
			r.Header.Set("Authorization", "Bearer "+recorderKey)
			a, err := s.browser().do(r)
			require.NoError(t, err)
			assert.Equal(t, http.StatusBadRequest, a.status)
		}
		assert.Equal(t, before, s.Names(t))
	})

	t.Run("an upload that breaks off stores nothing", func(t *testing.T) {
		before := s.Names(t)
		_, err := s.upload(recorderKey, amina, "", io.MultiReader(bytes.NewReader(sample.Video), brokenReader{}))
		require.Error(t, err)
		s.ingest.awaitLog(t, "an upload broke off")
		assert.Equal(t, before, s.Names(t))
	})

	t.Run("a patient sees and plays their recordings", func(t *testing.T) {
		b := s.browser()
		a, err := b.signIn("amina")
		require.NoError(t, err)
		assert.Equal(t, "/recordings", a.url)
		assert.Contains(t, string(a.body), "Asthma review")
		assert.NotContains(t, string(a.body), "Thomas")
		items, _, err := b.list()
		require.NoError(t, err)
		assert.Equal(t, []listed{{aminas, "Asthma review"}}, items)
		a, err = b.get("/recordings/" + aminas)
		require.NoError(t, err)
		assert.Contains(t, string(a.body), "<video")

		a, err = b.get("/recordings/" + aminas + "/media")
		require.NoError(t, err)
		assert.Equal(t, sample.Video, a.body)
		assert.Equal(t, sample.ContentType, a.header.Get("Content-Type"))
		a, err = b.get("/recordings/"+aminas+"/media", "Range", "bytes=100000-100999")
		require.NoError(t, err)
		assert.Equal(t, http.StatusPartialContent, a.status)
		assert.Equal(t, sample.Video[100000:101000], a.body)
	})

	t.Run("another patient's recording is noise", func(t *testing.T) {
		b := s.browser()
		_, err := b.signIn("amina")
		require.NoError(t, err)
		for _, path := range []string{"/recordings/" + thomass, "/recordings/" + thomass + "/media"} {
			a, err := b.get(path)
			require.NoError(t, err)
			assert.Equal(t, http.StatusForbidden, a.status)
			assert.NotContains(t, string(a.body), "canary")
		}
		require.Eventually(t, func() bool {
			return strings.Contains(s.play.metric(t), `events_total{kind="wrong-patient"}`)
		}, 10*time.Second, 50*time.Millisecond)
	})

	t.Run("a clinician needs a reason or a relationship", func(t *testing.T) {
		b := s.browser()
		a, err := b.signIn("dr-novak")
		require.NoError(t, err)
		assert.Equal(t, "/", a.url)
		ask := func(patient, purpose, reason string) answer {
			t.Helper()
			a, err := b.post("/access", "patient", patient, "purpose", purpose, "reason", reason)
			require.NoError(t, err)
			return a
		}
		assert.Equal(t, http.StatusForbidden, ask("thomas", "TREAT", "").status)
		assert.Equal(t, http.StatusBadRequest, ask("thomas", "BTG", " ").status)
		assert.Equal(t, http.StatusBadRequest, ask("thomas", "BTG", strings.Repeat("x", keys.MaxReasonLen+1)).status)
		assert.Equal(t, http.StatusBadRequest, ask("thomas", "HRESCH", "research").status)
		assert.Equal(t, http.StatusNotFound, ask("nobody", "TREAT", "").status)
		_, refused, err := b.list()
		require.NoError(t, err)
		assert.Equal(t, http.StatusUnauthorized, refused.status, "there is no grant yet")

		assert.Contains(t, string(ask("amina", "TREAT", "").body), "Asthma review")
		assert.Contains(t, string(ask("thomas", "BTG", "unconscious on arrival").body), "canary-title of Thomas")
		var asked struct {
			RequestID string `json:"request_id"`
		}
		require.NoError(t, json.Unmarshal([]byte(lastLine(s.login.printed(), `"reason":"unconscious on arrival"}`)), &asked))
		require.NotEmpty(t, asked.RequestID)
		opened := slices.ContainsFunc(s.Vault.Audit(t), func(entry testserver.AuditEntry) bool {
			return entry.Auth.Metadata["purpose"] == "BTG" && entry.Auth.Metadata["reason"] == "unconscious on arrival" &&
				entry.Auth.Metadata["request_id"] == asked.RequestID
		})
		assert.True(t, opened, "Vault's audit log has the reason and the request ID")
	})

	t.Run("a copied cookie is worth nothing after logout", func(t *testing.T) {
		for _, account := range []string{"amina", "dr-novak"} {
			t.Run(account, func(t *testing.T) {
				b, thief := s.browser(), s.browser()
				_, err := b.signIn(account)
				require.NoError(t, err)
				if account == "dr-novak" {
					_, err = b.post("/access", "patient", "amina", "purpose", "TREAT")
					require.NoError(t, err)
				}
				address := b.address(t)
				thief.jar.SetCookies(address, b.jar.Cookies(address))
				a, err := thief.get("/recordings/" + aminas + "/media")
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, a.status)
				_, err = thief.post("/access", "patient", "amina", "purpose", "TREAT") // a grant that only the thief has
				require.NoError(t, err)
				a, err = thief.get("/recordings/" + aminas + "/media")
				require.NoError(t, err)
				require.Equal(t, http.StatusOK, a.status)

				_, err = b.post("/logout")
				require.NoError(t, err)
				assert.Empty(t, b.jar.Cookies(address))
				a, err = thief.get("/recordings/" + aminas + "/media")
				require.NoError(t, err)
				assert.Equal(t, http.StatusUnauthorized, a.status)
				a, err = thief.post("/access", "patient", "amina", "purpose", "TREAT")
				require.NoError(t, err)
				assert.Equal(t, http.StatusUnauthorized, a.status)
			})
		}
	})

	t.Run("a cookie is sealed", func(t *testing.T) {
		b := s.browser()
		_, err := b.signIn("amina")
		require.NoError(t, err)
		address := b.address(t)
		cookie := b.cookie(t, "__Host-access")
		for i := range 8 {
			altered := []byte(cookie.Value)
			altered[len(altered)/8*i] ^= 1
			forged := s.browser()
			forged.jar.SetCookies(address, []*http.Cookie{{Name: cookie.Name, Value: string(altered), Secure: true, Path: "/"}})
			a, err := forged.get("/recordings/" + aminas + "/media")
			require.NoError(t, err)
			assert.Equal(t, http.StatusUnauthorized, a.status)
		}
	})

	t.Run("play cannot sign anybody in", func(t *testing.T) {
		forger, err := session.New("session", s.accessKey, time.Hour, false)
		require.NoError(t, err)
		w := httptest.NewRecorder()
		require.NoError(t, forger.SetSession(w, session.Session{ID: "x", Start: time.Now(), Account: "dr-novak"}))
		b := s.browser()
		b.jar.SetCookies(b.address(t), w.Result().Cookies())
		a, err := b.post("/access", "patient", "thomas", "purpose", "BTG", "reason", "forged")
		require.NoError(t, err)
		assert.Equal(t, http.StatusUnauthorized, a.status)
	})

	t.Run("a sign-in ends the session before it", func(t *testing.T) {
		b, copied := s.browser(), s.browser()
		_, err := b.signIn("amina")
		require.NoError(t, err)
		copied.jar.SetCookies(b.address(t), b.jar.Cookies(b.address(t)))
		_, err = b.signIn("dr-novak")
		require.NoError(t, err)
		for _, user := range []*browser{b, copied} {
			a, err := user.get("/recordings/" + aminas + "/media")
			require.NoError(t, err)
			assert.Equal(t, http.StatusUnauthorized, a.status)
		}
	})

	t.Run("a body that stands still is given up", func(t *testing.T) {
		connection, err := net.Dial("tcp", s.login.addr)
		require.NoError(t, err)
		defer connection.Close()
		require.NoError(t, connection.SetDeadline(time.Now().Add(40*time.Second)))
		_, err = io.WriteString(connection, "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nac")
		require.NoError(t, err)
		response, err := io.ReadAll(connection)
		require.NoError(t, err, "the server closes the connection")
		assert.Contains(t, string(response), "401")
	})

	t.Run("another site cannot send a form", func(t *testing.T) {
		r, err := http.NewRequest(http.MethodPost, s.front.URL+"/logout", nil)
		require.NoError(t, err)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		a, err := s.browser().do(r)
		require.NoError(t, err)
		assert.Equal(t, http.StatusForbidden, a.status)
	})

	t.Run("a wrong password", func(t *testing.T) {
		for _, account := range []string{"amina", "nobody"} {
			a, err := s.browser().post("/login", "account", account, "password", "guess")
			require.NoError(t, err)
			assert.Equal(t, http.StatusUnauthorized, a.status)
		}
	})

	t.Run("logs and metrics have no secret", func(t *testing.T) {
		b := s.browser()
		_, err := b.signIn("amina")
		require.NoError(t, err)
		cookie := b.cookie(t, "__Host-access").Value
		for _, p := range []*process{s.login, s.ingest, s.play} {
			for _, secret := range []string{amina, thomas, "canary", password, recorderKey, cookie, "hvs.", "Asthma"} {
				assert.NotContains(t, p.printed(), secret, p.name)
				assert.NotContains(t, p.metric(t), secret, p.name)
			}
		}
		assert.Contains(t, s.login.metric(t), `grants_total{purpose="BTG"} 1`)
		assert.Contains(t, s.ingest.metric(t), "recordings_stored_total 2")
		assert.Contains(t, s.play.metric(t), `http_requests_total{route="GET /recordings/{id}/media",status="206"} 1`)
	})
}

// A process that is stopped takes no more requests, and lets an upload end.
func TestShutdownLetsAnUploadEnd(t *testing.T) {
	s := serve(t, long, time.Minute)
	media, more := io.Pipe()
	type result struct {
		answer
		err error
	}
	uploaded := make(chan result, 1)
	go func() {
		a, err := s.upload(recorderKey, amina, "Follow-up", media)
		_ = media.CloseWithError(err) // or the test would go on writing
		uploaded <- result{a, err}
	}()
	half := len(sample.Video) / 2
	_, err := more.Write(sample.Video[:half])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !strings.Contains(s.ingest.metric(t), "\nrecording_bytes_total 0") }, 10*time.Second, 10*time.Millisecond)

	require.NoError(t, s.ingest.cmd.Process.Signal(syscall.SIGTERM))
	s.ingest.awaitLog(t, `"stopping"`)
	require.Eventually(t, func() bool {
		response, err := http.Get("http://" + s.ingest.metrics + "/ready")
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusServiceUnavailable
	}, 10*time.Second, 10*time.Millisecond)
	// The load balancer has not seen that yet.
	a, err := s.upload(recorderKey, thomas, "", strings.NewReader("in the drain time"))
	require.NoError(t, err)
	assert.Equal(t, http.StatusCreated, a.status)
	require.Eventually(t, func() bool {
		connection, err := net.Dial("tcp", s.ingest.addr)
		return err != nil || connection.Close() != nil
	}, 10*time.Second, 50*time.Millisecond, "the port is closed")

	_, err = more.Write(sample.Video[half:])
	require.NoError(t, err)
	require.NoError(t, more.Close())
	got := await(t, uploaded)
	require.NoError(t, got.err)
	assert.Equal(t, http.StatusCreated, got.status, "%s", got.body)
	await(t, s.ingest.ended)
	b := s.browser()
	_, err = b.signIn("amina")
	require.NoError(t, err)
	items, _, err := b.list()
	require.NoError(t, err)
	require.Len(t, items, 1)
	a, err = b.get("/recordings/" + items[0].ID + "/media")
	require.NoError(t, err)
	assert.Equal(t, sample.Video, a.body)
}

// await waits for a value, or until the channel is closed.
func await[T any](t *testing.T, c <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-c:
	case <-time.After(30 * time.Second):
		require.FailNow(t, "nothing came")
	}
	return value
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the test's fault") }

// lastLine returns the last line that has a text.
func lastLine(text, with string) string {
	found := ""
	for line := range strings.Lines(text) {
		if strings.Contains(line, with) {
			found = line
		}
	}
	return found
}
