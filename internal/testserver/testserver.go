// Package testserver starts real servers for tests, HashiCorp Vault, MinIO and versitygw, on free loopback ports, and
// returns clients for them.
//
// [Vault], [MinIO] and [VersityGW] return a server that all tests of a process share, with names that belong to one
// test: a mount path, a prefix for policies, a bucket. A test that stops, kills, restarts or seals a server
// requests its own with [Dedicated]. A test that needs TLS requests it with [TLS].
//
// Package binary finds and builds the programs. If one is missing, the test is skipped with a message that
// explains how to build it. If the environment has RECVAULT_SERVERS=require, as make test sets it, the
// program is built, and a test without it fails. A test that changes its working directory must request its
// servers first, because the search for the programs starts there.
//
// A server and its directory do not outlive the process that started the server, even if that panics or is
// killed. If a test fails, it prints what the server has logged since the test began.
//
// The package starts no goroutines, and cleanups of the test close the idle connections of its clients. To
// find leaks, check in TestMain, or in a cleanup that is registered before the server is requested.
package testserver

import (
	"context"
	"errors"
	"testing"
)

// Option selects the server that [Vault], [MinIO] and [VersityGW] return.
type Option func(*options)

type options struct {
	dedicated    bool
	tls          bool
	legacyTokens bool
}

// Dedicated requests a server for this test alone, which the test may stop, kill, restart and seal. The
// server is removed when the test ends.
func Dedicated() Option {
	return func(o *options) { o.dedicated = true }
}

// TLS requests a server that serves TLS with a certificate of a test authority. It implies [Dedicated].
func TLS() Option {
	return func(o *options) { o.dedicated, o.tls = true, true }
}

// LegacyTokens requests a Vault whose tokens start with "s.", as those of OpenBao and of Vault before 1.10 do. It implies
// [Dedicated]. A Vault that RECVAULT_VAULT_BIN or PATH names has no such setting since 1.14: the test is skipped.
func LegacyTokens() Option {
	return func(o *options) { o.dedicated, o.legacyTokens = true, true }
}

func newOptions(given []Option) options {
	var o options
	for _, option := range given {
		option(&o)
	}
	return o
}

// running is a running server.
type running interface {
	remove() error
	logSize() int64
	logTail(from int64) []byte
}

// obtain returns the shared server, or starts a dedicated one that is removed when the test ends.
func obtain[S running](t testing.TB, o options, shared func() (S, error), start func(context.Context, options) (S, error)) S {
	t.Helper()
	if !o.dedicated {
		s, err := shared()
		check(t, err)
		printLog(t, s, s.logSize())
		return s
	}
	s, err := start(t.Context(), o)
	check(t, err)
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error("testserver:", err)
		}
	})
	printLog(t, s, 0) // registered last, so it runs before the log is removed
	return s
}

// check ends the test if err is not nil. It skips the test if the program is not built or the system cannot
// start servers, and fails the test otherwise.
func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, errNotBuilt), errors.Is(err, errors.ErrUnsupported):
		t.Skip("testserver:", err)
	default:
		t.Fatal("testserver:", err)
	}
}

// printLog registers a cleanup that prints the server's log, from byte from on, if the test has failed.
func printLog(t testing.TB, s running, from int64) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("testserver: the server logged since the test began:\n%s", s.logTail(from))
		}
	})
}

// requireDedicated fails the test if the server is shared.
func requireDedicated(t testing.TB, o options) {
	t.Helper()
	if !o.dedicated {
		t.Fatal("testserver: the server is shared with other tests: request it with Dedicated()")
	}
}
