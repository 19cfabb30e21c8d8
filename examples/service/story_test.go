package service_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/internal/testserver"
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

	t.Run("an upload that breaks off stores nothing", func(t *testing.T) {
		before := s.Names(t)
		_, err := s.upload(recorderKey, amina, "", io.MultiReader(bytes.NewReader(sample.Video), brokenReader{}))
		require.Error(t, err)
		s.ingest.awaitLog(t, "an upload broke off")
		assert.Equal(t, before, s.Names(t))
	})

	t.Run("a patient sees and plays the own recordings", func(t *testing.T) {
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
			return strings.Contains(s.play.metric(t), `security_events_total{kind="wrong-patient"}`)
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
		assert.Equal(t, http.StatusBadRequest, ask("thomas", "BTG", strings.Repeat("x", 501)).status)
		assert.Equal(t, http.StatusBadRequest, ask("thomas", "HRESCH", "research").status)
		assert.Equal(t, http.StatusNotFound, ask("nobody", "TREAT", "").status)
		_, refused, err := b.list()
		require.NoError(t, err)
		assert.Equal(t, http.StatusUnauthorized, refused.status, "there is no grant yet")

		assert.Contains(t, string(ask("amina", "TREAT", "").body), "Asthma review")
		assert.Contains(t, string(ask("thomas", "BTG", "unconscious on arrival").body), "canary-title of Thomas")
		line := lastLine(s.login.printed(), `"reason":"unconscious on arrival"`)
		require.NotEmpty(t, line)
		found := false
		for _, entry := range s.Vault.Audit(t) {
			found = found || entry.Auth.Metadata["purpose"] == "BTG" && strings.Contains(line, entry.Auth.Metadata["request_id"])
		}
		assert.True(t, found, "Vault's audit log has the same request ID as the reason")
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
		cookie := b.jar.Cookies(address)[0]
		assert.Equal(t, "__Host-session", cookie.Name)
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
		cookie := b.jar.Cookies(b.address(t))[0].Value
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
		return errors.Join(response.Body.Close()) == nil && response.StatusCode == http.StatusServiceUnavailable
	}, 10*time.Second, 10*time.Millisecond)
	a, err := s.upload(recorderKey, amina, "", strings.NewReader("too late"))
	require.NoError(t, err)
	assert.Equal(t, http.StatusBadGateway, a.status, "the port is closed")

	_, err = more.Write(sample.Video[half:])
	require.NoError(t, err)
	require.NoError(t, more.Close())
	got := <-uploaded
	require.NoError(t, got.err)
	assert.Equal(t, http.StatusCreated, got.status, "%s", got.body)
	<-s.ingest.ended
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
