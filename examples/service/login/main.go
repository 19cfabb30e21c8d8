// Command login signs users in and decides who may see what. It alone holds the granter's token and the key of the sessions,
// has no credentials for the bucket, and opens no recording.
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
	sessionKey := flag.String("session-key", "session-key", "a `file` with the key of the sessions, which only login has")
	accessKey := flag.String("access-key", "access-key", "a `file` with the key that login and play share")
	plain := flag.Bool("plain", false, "send cookies without TLS, for development")
	grantTTL := flag.Duration("grant-ttl", 15*time.Minute, "how long a grant lasts")
	process.Run("login", "127.0.0.1:8081", "127.0.0.1:9081", 10*time.Second, func(ctx context.Context, p *process.Process) (err error) {
		accounts, err := readAccounts(*users)
		if err != nil {
			return err
		}
		sessionCookie, err := session.New("session", *sessionKey, sessionTTL, *plain)
		if err != nil {
			return err
		}
		accessCookie, err := session.New("access", *accessKey, sessionTTL, *plain)
		if err != nil {
			return err
		}
		keyring, stop, err := p.RoleKeyring(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		l := &login{
			log: p.Log, granter: p.Events.Issuer(keyring), accounts: accounts, grantTTL: *grantTTL,
			sessionCookie: sessionCookie, accessCookie: accessCookie,
			sessions: sessions{before: time.Now(), byID: map[string]*known{}},
			signIns: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "sign_ins_total", Help: "Attempts to sign in, by outcome.",
			}, []string{"outcome"}),
			grants: prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "grants_total", Help: "Grants issued, by purpose.",
			}, []string{"purpose"}),
		}
		p.Metrics.MustRegister(l.signIns, l.grants)
		return p.Serve(ctx, l.routes(), formTime)
	})
}
