// Command portal is a small patient portal on recvault, with a switch that reproduces the bug of 2020.
//
//	go run ./examples/portal
//
// It needs nothing but Go. It works in a temporary directory and removes it at the end. With VAULT_ADDR
// and VAULT_TOKEN (an administrator's) in the environment, it keeps its keys in that Vault. With
// AWS_ENDPOINT_URL, and credentials where the tools of AWS and MinIO look for them, it keeps its objects
// on that S3 server. Package examples/internal/deployment says what it makes there.
//
// Read login.go first: it decides who may see what, and issues grants. Then read serve.go: it lists and
// plays with a grant, and has no right of its own. bug.go has the mistake of 2020, and events.go shows
// how it is noticed. reports.go says who saw what, to the security desk and to patients. limits.go bounds
// what a client can take of the server.
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
	"path/filepath"
	"syscall"
	"time"

	"github.com/recvault/recvault/examples/internal/deployment"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
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

// tokenTTL is how long the tokens of the roles last. On Vault the portal can run no longer.
const tokenTTL = 12 * time.Hour

// run serves the portal until the context ends.
func run(ctx context.Context, arguments []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("portal", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8080", "where to listen; port 0 takes a free one")
	hosts := flags.String("hosts", loopback, "the host names to answer to, separated by commas")
	accessTTL := flags.Duration("access", 2*time.Minute, "how long a clinician's access lasts")
	var logs []string
	flags.Func("audit", "a `file` of Vault's audit log, for the reports; can be repeated", func(name string) error {
		logs = append(logs, name)
		return nil
	})
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	defer listener.Close() // serve closes it too
	d, err := deployment.New(ctx, "portal", tokenTTL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Remove()) }()
	if err := seed(ctx, d, people); err != nil {
		return err
	}
	p, err := newPortal(d, people, *accessTTL, logs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	fmt.Fprintf(out, "portal: keys in %s, recordings in %s\n", d.KeysAt, d.ObjectsAt)
	fmt.Fprintf(out, "portal: http://%s/\n", listener.Addr())
	return serve(ctx, listener, p.handler(*hosts))
}

// serve answers requests until the context ends. Requests that are running then end too, such as a video or
// a page that listens for events.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := newServer(ctx, handler)
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

// portal is the two halves of the application, which in production are two services. They share the
// sessions: the login puts a grant there, and the serving half uses it. They share nothing else that opens
// a recording.
type portal struct {
	login   *login
	server  *server
	closing func() error
}

// newPortal returns a portal. logs are the files of Vault's audit log, if it can read them.
func newPortal(d *deployment.Deployment, people []person, accessTTL time.Duration, logs []string) (*portal, error) {
	if len(logs) > 0 && d.Mount == "" {
		return nil, errors.New("-audit is for keys in Vault: keys in a directory have no audit log")
	}
	for _, name := range logs {
		if _, err := os.Stat(name); err != nil {
			return nil, err
		}
	}
	journal, err := os.Create(filepath.Join(d.Directory, "events.jsonl"))
	if err != nil {
		return nil, err
	}
	panel := newPanel()
	stream := events.New(panel.add, events.Log(nil), events.JSON(journal))
	v, err := vault.New(d.Server, d.Store, vault.WithPrefix(d.Prefix), vault.WithEvents(stream))
	if err != nil {
		return nil, errors.Join(err, journal.Close())
	}
	sessions := newSessions(v)
	listings := &listings{vault: v, store: d.Store, prefix: d.Prefix}
	pages, err := newPages(d.Decides, &listings.bugged)
	if err != nil {
		return nil, errors.Join(err, v.Close(), journal.Close())
	}
	return &portal{
		login: &login{
			granter: stream.Issuer(d.Granter), people: people, patient: d.Patient, accessTTL: accessTTL,
			sessions: sessions, register: &panel.register, pages: pages,
		},
		server: &server{
			vault: v, listings: listings, sessions: sessions, events: panel, pages: pages,
			reports: &reports{
				stream: stream, journal: journal.Name(), logs: logs, mount: d.Mount, since: time.Now(), names: namesOf(people),
				reading: make(chan struct{}, 1),
			},
		},
		closing: func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return errors.Join(sessions.close(ctx), v.Close(), journal.Close())
		},
	}, nil
}

func (p *portal) close() error { return p.closing() }

// handler returns the portal's routes, for requests to the host names only.
func (p *portal) handler(hosts string) http.Handler {
	mux := http.NewServeMux()
	p.login.routes(mux)
	p.server.routes(mux)
	mux.Handle("GET /static/", static())
	return secured(onlyHosts(hosts, wholeRequests(mux)))
}

// secured refuses requests that another site makes a browser send, in addition to the session cookie's
// SameSite. Its content security policy lets browsers run and load only the files that the portal serves.
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
