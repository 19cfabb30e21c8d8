package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(signalContext(), os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// signalContext returns a context that ends with the first SIGINT, SIGTERM or SIGHUP, so that work that has begun
// is finished and reported. The second signal ends the process, because it is no longer caught.
func signalContext() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	signal.Ignore(syscall.SIGPIPE) // so that what was done is reported even when standard output is closed
	go func() {
		received := <-signals
		signal.Stop(signals)
		cancel(interruption{received})
	}()
	return ctx
}
