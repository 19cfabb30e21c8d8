// Command build builds the missing servers that tests start, and prints the paths of all of them:
//
//	go run ./internal/testserver/build
//	go run ./internal/testserver/build -clean    # removes the built servers
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/recvault/recvault/internal/testserver/binary"
)

func main() {
	clean := flag.Bool("clean", false, "remove the built servers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	action := run
	if *clean {
		action = func(context.Context) error { return binary.Clean() }
	}
	if err := action(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	for _, program := range []binary.Program{binary.Vault, binary.MinIO, binary.VersityGW} {
		path, err := program.Obtain(ctx, func() {
			fmt.Fprintf(os.Stderr, "building %s: this takes a few minutes, once\n", program)
		})
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}
