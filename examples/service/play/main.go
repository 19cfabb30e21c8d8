// Command play lists and plays recordings with the grant of the session that asks, whatever the ID. It has no token at Vault,
// and its credentials for the bucket can only read.
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"time"

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
		v, err := vault.New(keyring, store, vault.WithEvents(p.Events),
			// Without a key cache, the end of a grant is noticed at once, by any number of replicas. Each request costs one
			// request to Vault.
			vault.WithKeyCache(0, 1))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, v.Close()) }() // delivers the last events
		return p.Serve(ctx, (&player{vault: v, cookie: cookie, log: p.Log}).routes(), bodyTime)
	})
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
