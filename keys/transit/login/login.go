// Package login keeps the token of a Vault client valid for as long as a process runs.
//
// [Start] gives the client a token and keeps it valid until Close. The token comes from a file that Vault Agent or
// another program keeps ([File]), or from a login with [AppRole], [Kubernetes], [JWT], or any other of HashiCorp's own
// api/auth modules. After a login, HashiCorp's LifetimeWatcher renews the token. When the token cannot be renewed, or
// comes to its maximum TTL, the session logs in again, after 80 to 90 % of the TTL. The old token is valid until the
// new one is in use.
//
// A token can also end unexpectedly: it was revoked, or the machine was suspended. [Session.Refresh] gets another one
// at once. It is made for the option of that name in package transit:
//
//	session, err := login.Start(ctx, client, login.Kubernetes("kubernetes", "recvault-writer", login.ServiceAccountFile), nil)
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//	keyring, err := transit.New(client, transit.Options{Refresh: session.Refresh})
//
// A token can be renewed if it has Vault's policy "default", or another that allows auth/token/renew-self. Without it,
// Vault refuses one renewal, and the session logs in again in time.
package login

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

const (
	// pollInterval is how often a file is read.
	pollInterval = time.Second
	// fileWait is how long Refresh waits for another token in a file.
	fileWait = 2 * time.Second
	// minPause and maxPause bound the wait between two logins. It doubles with each failure.
	minPause = time.Second
	maxPause = 15 * time.Second
	// requestTimeout bounds a login or a renewal with all its retries.
	requestTimeout = 10 * time.Second
)

// Session keeps a client's token valid. It is safe for concurrent use.
type Session struct {
	client *api.Client // the caller's; only its token is set
	own    *api.Client // for logins and renewals
	method api.AuthMethod
	report func(error)

	stop    context.CancelFunc
	ended   chan struct{}
	changed chan struct{} // wakes the goroutine after Refresh got a token; has room for one

	turn chan struct{} // has room for whoever gets a token, who may use the following

	secret   *api.Secret // that came with the token
	since    time.Time   // when it came
	failures int         // in a row, since then
	failed   error       // the last failure
	failedAt time.Time
}

// Start gets a token, gives it to the client, and keeps it valid until the session is closed. ctx is for the first
// token alone. A later failure is reported, and tried again after 1 to 15 seconds. report is called on the session's
// goroutine and must not block; nil logs to slog.Default() with level WARN.
//
// Start copies the client's address, namespace and TLS settings. Nothing else may set the client's token.
//
// Errors: [keys.ErrUnauthenticated] if Vault refuses the login or the file has no token, [keys.ErrUnavailable] if Vault
// does not answer, and the file system's own if a file cannot be read.
func Start(ctx context.Context, client *api.Client, method api.AuthMethod, report func(error)) (*Session, error) {
	if client == nil || method == nil {
		return nil, errors.New("login: no client or no method")
	}
	if report == nil {
		report = func(err error) { slog.Warn("recvault: no new Vault token", "error", err) }
	}
	config := client.CloneConfig()
	config.DisableRedirects = true // they could send credentials to another host
	own, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("login: clone the Vault client: %w", err)
	}
	own.SetHeaders(client.Headers()) // the namespace is one of them
	own.ClearToken()
	own.SetClientTimeout(requestTimeout)
	own.SetWrappingLookupFunc(func(string, string) string { return "" }) // VAULT_WRAP_TTL would make Vault wrap the token
	running, stop := context.WithCancel(context.Background())
	s := &Session{
		client: client, own: own, method: method, report: report, stop: stop,
		ended: make(chan struct{}), changed: make(chan struct{}, 1), turn: make(chan struct{}, 1),
	}
	if err := s.obtain(ctx); err != nil {
		stop()
		return nil, err
	}
	go s.keep(running)
	return s, nil
}

// Close ends the session. A request to Vault that is under way may delay it by up to 10 seconds. The token is valid
// until its TTL has passed.
func (s *Session) Close() error {
	s.stop()
	<-s.ended
	return nil
}

// Refresh gets another token, unless the client has another than the refused one already. Callers at the same time
// share one login, and there is at most one in a second. A file gets up to two seconds to change. For a second after a
// login that failed, Refresh returns its error. The errors are those of [Start], and the context's.
func (s *Session) Refresh(ctx context.Context, refused string) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.client.Token() != refused {
		return nil
	}
	if s.failures > 0 && time.Since(s.failedAt) < minPause {
		return s.failed
	}
	_, isFile := s.method.(file)
	if wait := minPause - time.Since(s.since); !isFile && wait > 0 { // if Vault refuses every new token, logins must not flood it
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := s.obtain(ctx); err != nil {
		return err
	}
	if isFile {
		return s.awaitChange(ctx, refused)
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// awaitChange reads the file until it has another token than the refused one. The program that keeps it may be logging
// in. The caller has the turn.
func (s *Session) awaitChange(ctx context.Context, refused string) error {
	for begun := time.Now(); s.client.Token() == refused; {
		if time.Since(begun) > fileWait {
			return s.fail(fmt.Errorf("%w: Vault refused the token in the file", keys.ErrUnauthenticated))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(fileWait / 20):
		}
		if err := s.obtain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// obtain gets a token and gives it to the client. The caller has the turn.
func (s *Session) obtain(ctx context.Context) error {
	secret, err := s.method.Login(ctx, s.own)
	if err == nil && (secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "") {
		err = fmt.Errorf("%w: Vault answered with no token", keys.ErrUnavailable)
	}
	switch {
	case err == nil:
		s.secret, s.since, s.failures = secret, time.Now(), 0
		s.client.SetToken(secret.Auth.ClientToken)
		return nil
	case ctx.Err() != nil: // it is not about the others who wait for a token
		return ctx.Err()
	}
	return s.fail(classify(err))
}

func (s *Session) fail(err error) error {
	s.failed, s.failedAt = fmt.Errorf("login: %w", err), time.Now()
	s.failures++
	return s.failed
}

// classify returns the error of an attempt to get a token.
func classify(err error) error {
	response, answered := errors.AsType[*api.ResponseError](err)
	_, unreachable := errors.AsType[net.Error](err) // timeouts included
	switch {
	case answered && response.RawError: // not Vault's form; it may be a proxy's
		return fmt.Errorf("%w: the answer %d to the login does not have Vault's form", keys.ErrUnavailable, response.StatusCode)
	case answered && response.StatusCode/100 == 4 && response.StatusCode != http.StatusTooManyRequests:
		return fmt.Errorf("%w: Vault answered %d: %s", keys.ErrUnauthenticated, response.StatusCode, strings.Join(response.Errors, "; "))
	case answered:
		return fmt.Errorf("%w: Vault answered %d: %s", keys.ErrUnavailable, response.StatusCode, strings.Join(response.Errors, "; "))
	case unreachable:
		return fmt.Errorf("%w: %w", keys.ErrUnavailable, err)
	}
	return err
}

// keep gets another token whenever it is time.
func (s *Session) keep(ctx context.Context) {
	defer close(s.ended)
	for ctx.Err() == nil {
		s.turn <- struct{}{}
		due, release := s.due()
		<-s.turn
		select {
		case <-ctx.Done():
		case <-s.changed: // Refresh got a token
		case <-due:
			s.turn <- struct{}{}
			if err := s.obtain(ctx); err != nil && ctx.Err() == nil {
				s.report(err)
			}
			<-s.turn
		}
		release()
	}
}

// due returns a channel that is closed when it is time to get another token, and a function that ends the wait. The
// caller has the turn.
func (s *Session) due() (<-chan struct{}, func()) {
	due := make(chan struct{})
	after := func(wait time.Duration) (<-chan struct{}, func()) {
		timer := time.AfterFunc(wait, func() { close(due) })
		return due, func() { timer.Stop() }
	}
	if s.failures > 0 {
		return after(min(minPause<<min(s.failures-1, 8), maxPause))
	}
	if _, isFile := s.method.(file); isFile {
		return after(pollInterval)
	}
	if s.secret.Auth.LeaseDuration == 0 {
		return due, func() {} // the token does not end by itself
	}
	watcher, err := s.own.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: s.secret})
	if err != nil {
		panic("login: internal error: " + err.Error()) // there is a secret
	}
	go func() {
		defer close(due)
		watcher.Start()
	}()
	return due, func() {
		watcher.Stop()
		<-due
	}
}
