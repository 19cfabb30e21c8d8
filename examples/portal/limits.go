package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The limits of one request. Another one, maxSessions, is in session.go.
const (
	maxBody     = 64 << 10         // bytes; the longest form has about 2 KiB: a reason of keys.MaxReasonLen bytes, escaped
	readTimeout = 10 * time.Second // for a whole request, with its body
	idleTimeout = 2 * time.Minute  // between two requests on one connection
)

// newServer returns a server that bounds how long a client may take to send a request. Its handler needs
// wholeRequests, or ReadTimeout ends videos. It has no WriteTimeout: a video is sent as fast as the browser plays
// it, and the stream of events is open as long as the session.
func newServer(ctx context.Context, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
}

// wholeRequests calls next when the whole request has been read. It refuses bodies of more than maxBody bytes
// with 413. No form is written to disk, because it fits in memory. No handler gets a part of a form.
//
// It then lifts the read deadline that ReadTimeout has set. When that deadline passes, net/http cancels the
// request's context, which would end a long answer such as a video.
func wholeRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			http.Error(w, "The request's body is too large.", http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			http.Error(w, "The request's body could not be read.", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // fails only if the connection has failed
		next.ServeHTTP(w, r)
	})
}

// loopback are the host names under which a portal on this machine is reached.
const loopback = "localhost,127.0.0.1,::1"

// onlyHosts refuses with 421 requests whose Host is none of the names, which are separated by commas. Any port
// is allowed. This stops DNS rebinding: another site gives its own name the portal's address, and the browser
// then takes the portal for a part of that site, so that neither cookies nor CrossOriginProtection help.
func onlyHosts(names string, next http.Handler) http.Handler {
	allowed := strings.Split(strings.ToLower(names), ",")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := &url.URL{Host: strings.ToLower(r.Host)}
		if !slices.Contains(allowed, host.Hostname()) {
			http.Error(w, "The portal is not served under this host name. Its flag -hosts names those that it is.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
