// Command play lists and plays recordings with the grant of the session that asks, whatever the ID. It has no token at Vault,
// and its credentials for the bucket can only read.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/examples/service/internal/process"
	"github.com/recvault/recvault/examples/service/internal/session"
	"github.com/recvault/recvault/vault"
)

// bodyTime is for requests with a body, which none of this process's need.
const bodyTime = 10 * time.Second

func main() {
	accessKey := flag.String("access-key", "access-key", "a `file` with the key that login and play share")
	plain := flag.Bool("plain", false, "expect cookies without TLS, for development")
	process.Run("play", "127.0.0.1:8083", "127.0.0.1:9083", 30*time.Second, func(ctx context.Context, p *process.Process) (err error) {
		// The keyring knows when a grant has ended, so the cookie's age does not matter.
		cookie, err := session.New("access", *accessKey, 24*time.Hour, *plain)
		if err != nil {
			return err
		}
		keyring, err := p.GrantKeyring()
		if err != nil {
			return err
		}
		store, err := p.Store()
		if err != nil {
			return err
		}
		v, err := vault.New(keyring, store, append(observed(p),
			// Without a key cache, the end of a grant is noticed at once, by any number of replicas. Each request costs one
			// request to Vault.
			vault.WithKeyCache(0, 1))...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, v.Close()) }() // delivers the last events
		return p.Serve(ctx, (&player{vault: v, cookie: cookie, log: p.Log}).routes(), bodyTime)
	})
}

// observed has the vault count its security events and failures. It logs them by itself.
func observed(p *process.Process) []vault.Option {
	events := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "security_events_total", Help: "Security events by kind. Be woken for wrong-patient and damaged.",
	}, []string{"kind"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "serve_failures_total", Help: "Recordings that were not served, by status; 0 is an answer that was broken off.",
	}, []string{"status"})
	p.Metrics.MustRegister(events, failures)
	return []vault.Option{
		vault.WithLogger(p.Log),
		vault.WithEventHook(func(e vault.Event) { events.WithLabelValues(string(e.Kind)).Add(float64(e.Count)) }),
		vault.WithServeHook(func(f vault.ServeFailure) { failures.WithLabelValues(strconv.Itoa(f.Status)).Inc() }),
	}
}

type player struct {
	vault  *vault.Vault
	cookie *session.Cookie
	log    *slog.Logger
}

func (p *player) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /recordings", p.list)
	mux.HandleFunc("GET /recordings/{id}", p.play)
	mux.HandleFunc("GET /recordings/{id}/media", p.media)
	return mux
}
