// Package testserver starts real servers for tests, HashiCorp Vault and MinIO, on loopback and free
// ports, and hands out clients that are ready to use.
//
// [Vault] and [MinIO] share one server among the tests of a process and give each test names of its
// own: a mount path, a prefix for policies, a bucket. A test that stops, kills, restarts or seals a
// server asks for one of its own with [Dedicated], and one that wants TLS with [TLS].
//
// The programs are found and built by package binary. Where one is missing, tests are skipped and say
// how to get it; with RECVAULT_SERVERS=require in the environment, as make test has it, the program is
// built, and a test without it fails. A test that changes its working directory asks for its servers
// first, because they are found from there.
//
// A server does not outlive the process that started it, whether that returns, panics or is killed, and
// its folder goes with it. When a test fails, what the server logged meanwhile is printed.
//
// The package keeps no goroutine, and a client's idle connections are closed by the test's cleanup. To
// look for leaks, check in TestMain, or in a cleanup that is registered before the server is asked for.
package testserver

import (
	"context"
	"errors"
	"testing"
)

// Option changes the server that a test gets.
type Option func(*options)

type options struct {
	dedicated bool
	tls       bool
}

// Dedicated asks for a server of the test's own, which it may stop, kill, restart and seal. It is gone
// when the test ends.
func Dedicated() Option {
	return func(o *options) { o.dedicated = true }
}

// TLS asks for a server that serves TLS with a certificate of a test authority. It implies [Dedicated].
func TLS() Option {
	return func(o *options) { o.dedicated, o.tls = true, true }
}

func gather(given []Option) options {
	var o options
	for _, option := range given {
		option(&o)
	}
	return o
}

// running is a server of either kind.
type running interface {
	remove() error
	logSize() int64
	logTail(from int64) []byte
}

// obtain returns the process's server, or starts one that is gone when the test ends.
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
	printLog(t, s, 0) // cleanups run last first, so the log is still there
	return s
}

// check ends the test on an error. Where the server cannot be had, the test is skipped.
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

// printLog prints, when the test has failed, what the server logged since the test began.
func printLog(t testing.TB, s running, from int64) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("testserver: the server logged since the test began:\n%s", s.logTail(from))
		}
	})
}

// mine ends a test that would do to a shared server what only its own may suffer.
func mine(t testing.TB, o options) {
	t.Helper()
	if !o.dedicated {
		t.Fatal("testserver: the server is shared with other tests: ask for Dedicated()")
	}
}
