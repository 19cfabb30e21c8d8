package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/examples/sample"
	"github.com/recvault/recvault/keys"
)

func TestOnlyTheNamedHostsAreServed(t *testing.T) {
	p := startEmbedded(t)
	for _, c := range []struct {
		name, hosts, host string
		status            int
	}{
		{"address", loopback, "127.0.0.1:8080", http.StatusOK},
		{"IPv6 address", loopback, "[::1]:8080", http.StatusOK},
		{"name", loopback, "localhost:8080", http.StatusOK},
		{"name in capitals", loopback, "LOCALHOST", http.StatusOK},
		{"given name", "portal.example,127.0.0.1", "portal.example", http.StatusOK},
		{"given name in capitals", "Portal.example", "portal.example:443", http.StatusOK},
		{"another site's name", loopback, "evil.example:8080", http.StatusMisdirectedRequest},
		{"longer name", loopback, "localhost.evil.example", http.StatusMisdirectedRequest},
		{"another address", loopback, "192.0.2.1:8080", http.StatusMisdirectedRequest},
		{"no name", loopback, "", http.StatusMisdirectedRequest},
		{"loopback when another is given", "portal.example", "localhost", http.StatusMisdirectedRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodGet, "/", nil)
			request.Host = c.host
			answer := httptest.NewRecorder()
			p.handler(c.hosts).ServeHTTP(answer, request)
			assert.Equal(t, c.status, answer.Code)
		})
	}

	t.Run("sign-in by DNS rebinding", func(t *testing.T) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/login", strings.NewReader("account=P-1042"))
		require.NoError(t, err)
		request.Host = "evil.example"
		request.Header.Set("Origin", "http://evil.example") // the browser takes the portal for this site
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, err := http.DefaultTransport.RoundTrip(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		assert.Equal(t, http.StatusMisdirectedRequest, answer.StatusCode)
		assert.Contains(t, string(text), "-hosts")
		assert.Empty(t, answer.Cookies())
		assert.NotEmpty(t, answer.Header.Get("Content-Security-Policy"))
	})
}

func TestABodyBeyondItsBoundIsRefused(t *testing.T) {
	p := startEmbedded(t)
	// multipartForm returns a body with the account and a file, and its content type.
	multipartForm := func(fileBytes int) (*bytes.Buffer, string) {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		require.NoError(t, form.WriteField("account", "P-1042"))
		file, err := form.CreateFormFile("file", "file")
		require.NoError(t, err)
		_, err = file.Write(make([]byte, fileBytes))
		require.NoError(t, err)
		require.NoError(t, form.Close())
		return &body, form.FormDataContentType()
	}
	const onDisk = 48 << 20 // more than net/http keeps of a multipart form in memory
	multipartBody, multipartType := multipartForm(onDisk)
	smallBody, smallType := multipartForm(maxBody / 2)
	const urlencoded = "application/x-www-form-urlencoded"
	form := "account=P-1042&x="
	for _, c := range []struct {
		name, path, contentType string
		body                    io.Reader
		status                  int
	}{
		{"multipart", "/login", multipartType, multipartBody, http.StatusRequestEntityTooLarge},
		{"multipart within the bound", "/login", smallType, smallBody, http.StatusSeeOther},
		{"form", "/login", urlencoded, strings.NewReader(form + strings.Repeat("x", maxBody)), http.StatusRequestEntityTooLarge},
		{"form of unknown length", "/login", urlencoded, io.MultiReader(strings.NewReader(form + strings.Repeat("x", maxBody))), http.StatusRequestEntityTooLarge},
		{"form at the bound", "/login", urlencoded, strings.NewReader(form + strings.Repeat("x", maxBody-len(form))), http.StatusSeeOther},
		{"no page", "/nowhere", urlencoded, strings.NewReader(strings.Repeat("x", maxBody+1)), http.StatusRequestEntityTooLarge},
		{"no form", "/login", "application/json", strings.NewReader(strings.Repeat("x", maxBody+1)), http.StatusRequestEntityTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+c.path, c.body)
			require.NoError(t, err)
			request.Header.Set("Content-Type", c.contentType)
			answer, err := http.DefaultTransport.RoundTrip(request)
			require.NoError(t, err)
			defer answer.Body.Close()
			assert.Equal(t, c.status, answer.StatusCode)
			assert.Equal(t, c.status == http.StatusSeeOther, len(answer.Cookies()) == 1, "the browser is signed in")
		})
	}

	t.Run("longest reason", func(t *testing.T) {
		b := p.browse(t, "dr-novak")
		reason := strings.Repeat("\U0001F691", keys.MaxReasonLen/4)
		answer, text := b.post("/access", url.Values{"patient": {"P-1305"}, "purpose": {"BTG"}, "reason": {reason}})
		assert.Equal(t, http.StatusSeeOther, answer.StatusCode, text)
	})
}

// serveInMemory serves a handler as the command does, on connections in memory, and returns what dials one. In
// a bubble of synctest, the server's timeouts then pass on the fake clock.
func serveInMemory(t *testing.T, handler http.Handler) (dial func() net.Conn) {
	t.Helper()
	listener := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, handler) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	return func() net.Conn {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close() })
		listener.conns <- server
		return client
	}
}

type memoryListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func TestASlowRequestIsCutOff(t *testing.T) {
	for _, c := range []struct {
		name, begin string
	}{
		{"header", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "},
		{"form", "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\naccount="},
		{"body that is not wanted", "GET /static/portal.css HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"},
		{"body for another host", "POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 60000\r\n\r\n"},
		{"nothing", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			setEmbedded(t)
			synctest.Test(t, func(t *testing.T) {
				conn := serveInMemory(t, prepare(t).handler(loopback))()
				since := time.Now()
				var sending sync.WaitGroup
				defer sending.Wait()
				defer conn.Close()
				sending.Go(func() {
					_, err := io.WriteString(conn, c.begin)
					for err == nil && c.begin != "" {
						time.Sleep(time.Second)
						_, err = io.WriteString(conn, "x")
					}
				})
				_ = conn.SetReadDeadline(since.Add(time.Hour))
				_, err := io.Copy(io.Discard, conn)
				assert.NoError(t, err, "the server closes the connection")
				assert.LessOrEqual(t, time.Since(since), readTimeout+2*time.Second)
			})
		})
	}
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	setEmbedded(t)
	synctest.Test(t, func(t *testing.T) {
		conn := serveInMemory(t, prepare(t).handler(loopback))()
		since := time.Now()
		go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") }()
		_ = conn.SetReadDeadline(since.Add(time.Hour))
		_, err := io.Copy(io.Discard, conn)
		assert.NoError(t, err, "the server closes the connection")
		assert.Equal(t, idleTimeout, time.Since(since))
	})
}

// TestReadTimeoutsEndNoLongAnswer plays a video, and listens for events, for longer than every timeout.
func TestReadTimeoutsEndNoLongAnswer(t *testing.T) {
	setEmbedded(t)
	synctest.Test(t, func(t *testing.T) {
		p := prepare(t)
		p.url = "http://localhost"
		dial := serveInMemory(t, p.handler(loopback))
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }}
		t.Cleanup(transport.CloseIdleConnections)
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		b := &browser{t, &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, p}
		answer, _ := b.post("/login", url.Values{"account": {"P-1042"}})
		require.Equal(t, http.StatusSeeOther, answer.StatusCode)
		_, text := b.get("/consultations")
		own := found(ownLink, text)
		require.NotEmpty(t, own)

		events, err := b.client.Get(p.url + "/events")
		require.NoError(t, err)
		defer events.Body.Close()
		ended := make(chan time.Time, 1)
		go func() {
			_, _ = io.Copy(io.Discard, events.Body)
			ended <- time.Now()
		}()

		since := time.Now()
		video, err := b.client.Get(p.url + "/recordings/" + own[0])
		require.NoError(t, err)
		defer video.Body.Close()
		var played bytes.Buffer
		for err == nil {
			time.Sleep(readTimeout)
			_, err = io.CopyN(&played, video.Body, 32<<10)
		}
		assert.ErrorIs(t, err, io.EOF)
		assert.True(t, bytes.Equal(sample.Video, played.Bytes()), "%d bytes of %d", played.Len(), len(sample.Video))
		assert.Greater(t, time.Since(since), max(readTimeout, idleTimeout))
		assert.Greater(t, (<-ended).Sub(since), sessionTTL-time.Minute, "events arrive until the session ends")
	})
}

func TestSignInsBeyondTheBoundAreRefused(t *testing.T) {
	p := startEmbedded(t)
	patient, desk := p.browse(t, "P-1042"), p.browse(t, "security-desk")
	for range maxSessions - 2 {
		answer := httptest.NewRecorder()
		require.NoError(t, p.login.sessions.start(answer, httptest.NewRequest(http.MethodPost, "/login", nil), account{}, noAccess))
	}
	one := p.browse(t, "")
	answer, text := one.post("/login", url.Values{"account": {"P-1107"}})
	assert.Equal(t, http.StatusTooManyRequests, answer.StatusCode)
	assert.Contains(t, text, "Too many people are signed in")
	assert.Empty(t, answer.Cookies())
	err := p.login.sessions.start(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/login", nil), account{}, func() (access, error) {
		assert.Fail(t, "a grant was issued")
		return access{}, nil
	})
	assert.ErrorIs(t, err, errTooManySessions)

	answer, _ = patient.get("/consultations")
	assert.Equal(t, http.StatusOK, answer.StatusCode, "sessions that exist go on")
	answer, _ = desk.post("/login", url.Values{"account": {"dr-novak"}})
	assert.Equal(t, http.StatusSeeOther, answer.StatusCode, "a session that is replaced makes room")
	desk.post("/logout", nil)
	answer, _ = one.post("/login", url.Values{"account": {"P-1107"}})
	assert.Equal(t, http.StatusSeeOther, answer.StatusCode, "so does one that has ended")
}

func TestExpiredSessionsMakeRoom(t *testing.T) {
	setEmbedded(t)
	synctest.Test(t, func(t *testing.T) {
		s := prepare(t).login.sessions
		start := func() error {
			return s.start(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/login", nil), account{}, noAccess)
		}
		for range maxSessions {
			require.NoError(t, start())
		}
		require.ErrorIs(t, start(), errTooManySessions)
		time.Sleep(sessionTTL + time.Second)
		require.NoError(t, start())
		assert.Len(t, s.byCookie, 1)
	})
}

func TestAFailedSignInTakesNoRoom(t *testing.T) {
	p := startEmbedded(t)
	down := errors.New("the keyring is down")
	answer := httptest.NewRecorder()
	err := p.login.sessions.start(answer, httptest.NewRequest(http.MethodPost, "/login", nil), account{}, func() (access, error) {
		return access{}, down
	})
	assert.ErrorIs(t, err, down)
	assert.Empty(t, answer.Result().Cookies())
	assert.Empty(t, p.login.sessions.byCookie)

	var granted keys.Grant
	err = p.login.sessions.start(answer, httptest.NewRequest(http.MethodPost, "/login", nil), account{}, func() (access, error) {
		require.NoError(t, p.login.sessions.close(t.Context())) // between the two
		amina, _ := find(people, "P-1042")
		a, err := p.login.issue(t.Context(), amina, amina.account, keys.PatientRequest, "", patientTTL)
		granted = a.Grant
		return a, err
	})
	assert.ErrorIs(t, err, errNoSession)
	assert.ErrorIs(t, p.deployment.Server.RevokeSelf(t.Context(), granted), keys.ErrInvalidGrant, "no grant outlives its session")
}

// noAccess is the access of an account that gets none when it signs in.
func noAccess() (access, error) { return access{}, nil }
