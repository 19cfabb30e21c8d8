// Package front sends requests to the three processes, which stand behind one address. It is what the configuration of a
// load balancer does in production: that one ends TLS too.
package front

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// Handler sends requests to login, ingest and play at these hosts and ports.
func Handler(login, ingest, play string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		to := login
		switch path := r.In.URL.Path; {
		case path == "/recordings" && r.In.Method == http.MethodPost:
			to = ingest
		case path == "/recordings", strings.HasPrefix(path, "/recordings/"):
			to = play
		}
		r.SetURL(&url.URL{Scheme: "http", Host: to})
		r.Out.Host = r.In.Host // it is what a form's origin is compared with
	}}
}
