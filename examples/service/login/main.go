// Command login signs users in and decides who may see what. It alone holds the granter's token, has no credentials for the
// bucket, and opens no recording.
package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/examples/service/internal/process"
	"github.com/recvault/recvault/examples/service/internal/session"
)

func main() {
	users := flag.String("users", "users.json", "the accounts; a real login asks an identity provider")
	cookieKey := flag.String("cookie-key", "cookie-key", "a `file` with the cookies' key, the same for login and play")
	plain := flag.Bool("plain", false, "send cookies without TLS, for development")
	grantTTL := flag.Duration("grant-ttl", 15*time.Minute, "how long a grant lasts")
	process.Run("login", "127.0.0.1:8081", "127.0.0.1:9081", 10*time.Second, func(ctx context.Context, p *process.Process) (err error) {
		accounts, err := readAccounts(*users)
		if err != nil {
			return err
		}
		cookies, err := session.New(*cookieKey, sessionTTL, *plain)
		if err != nil {
			return err
		}
		keyring, logOut, err := p.RoleKeyring(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, logOut()) }()
		l := &login{
			log: p.Log, granter: keyring, accounts: accounts, cookies: cookies, grantTTL: *grantTTL,
			ended: ended{before: time.Now()},
			grants: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "grants_total", Help: "Grants issued, by purpose.",
			}, []string{"purpose"}),
		}
		p.Metrics.MustRegister(l.grants)
		return p.Serve(ctx, l.routes())
	})
}
