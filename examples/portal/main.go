// Command portal is a small patient portal on recvault, with a switch that reproduces the bug of 2020.
//
//	go run ./examples/portal
//
// It needs nothing but Go, and works in a temporary directory that it removes. With VAULT_ADDR and
// VAULT_TOKEN (an administrator's) in the environment it keeps its keys in that Vault, and with
// AWS_ENDPOINT_URL, and credentials where AWS's and MinIO's tools look for them, its objects on that S3
// server. Package examples/internal/deployment says what it makes
// there.
//
// Read login.go first, which decides who may see what and issues grants, then serve.go, which lists
// and plays with a grant and has no right of its own. bug.go is the mistake of 2020, and events.go what
// became of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/recvault/recvault/examples/internal/deployment"
	"github.com/recvault/recvault/vault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "portal:", err)
		os.Exit(1)
	}
}

// tokenTTL is how long the roles' tokens last, and so how long the portal runs on Vault.
const tokenTTL = 12 * time.Hour

// run serves the portal until the context ends.
func run(ctx context.Context, arguments []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("portal", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8080", "where to listen; port 0 takes a free one")
	accessTTL := flags.Duration("access", 2*time.Minute, "how long a clinician's access lasts")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	defer listener.Close() // again, where it was not served
	d, err := deployment.New(ctx, "portal", tokenTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Remove()) }()
	if err := seed(ctx, d, people); err != nil {
		return err
	}
	p, err := newPortal(d, people, *accessTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Fprintf(out, "portal: keys in %s, recordings in %s\n", d.KeysAt, d.ObjectsAt)
	fmt.Fprintf(out, "portal: http://%s/\n", listener.Addr())
	return serve(ctx, listener, p.handler())
}

// serve answers requests until the context ends, and with it every request that is still running: a
// video, or a page that listens for events.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(shutdown)
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-stopped
}

// keyCacheTTL is how long a recording's key is kept after it was unwrapped, and so how long playing goes
// on after a grant was ended. The vault's default is a minute. Here a clinician who gives up access, or
// an incident desk that takes it away, should see it end at the next seek. Two seconds still make
// one unwrap of the burst of requests that a browser sends at every seek.
const (
	keyCacheTTL  = 2 * time.Second
	keyCacheSize = 1024
)

// portal is the two halves of the application. They share the sessions, in which the login leaves a
// grant and the serving half finds it, and nothing else that opens a recording. In production
// they are two services.
type portal struct {
	login   *login
	server  *server
	closing func() error
}

func newPortal(d *deployment.Deployment, people []person, accessTTL time.Duration) (*portal, error) {
	events := newPanel()
	v, err := vault.New(d.Server, d.Store, vault.WithPrefix(d.Prefix),
		vault.WithKeyCache(keyCacheTTL, keyCacheSize), vault.WithEventHook(events.add))
	if err != nil {
		return nil, err
	}
	sessions := newSessions(d.Server)
	listings := &listings{vault: v, store: d.Store, prefix: d.Prefix}
	pages, err := newPages(d.Decides, &listings.bugged)
	if err != nil {
		return nil, err
	}
	return &portal{
		login: &login{
			granter: d.Granter, people: people, patient: d.Patient, accessTTL: accessTTL,
			sessions: sessions, register: &events.register, pages: pages,
		},
		server: &server{vault: v, listings: listings, sessions: sessions, events: events, pages: pages},
		closing: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return errors.Join(sessions.close(ctx), v.Close())
		},
	}, nil
}

func (p *portal) close() error { return p.closing() }

func (p *portal) handler() http.Handler {
	mux := http.NewServeMux()
	p.login.routes(mux)
	p.server.routes(mux)
	mux.Handle("GET /static/", static())
	return secured(mux)
}

// secured refuses what another site makes a browser send, besides the SameSite of the session's cookie,
// and tells browsers to run and load nothing but what this portal serves as a file.
func secured(next http.Handler) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
			"media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "private, no-store")
		next.ServeHTTP(w, r)
	}))
}
