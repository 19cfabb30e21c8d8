// Command ingest stores recordings. It holds the writer's token, which cannot open what it stores.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/recvault/recvault/examples/service/internal/process"
	"github.com/recvault/recvault/vault"
)

func main() {
	recorderKey := flag.String("recorder-key", "recorder-key", "a `file` with the secret that recorders send")
	process.Run("ingest", "127.0.0.1:8082", "127.0.0.1:9082", time.Hour, func(ctx context.Context, p *process.Process) (err error) {
		key, err := os.ReadFile(*recorderKey)
		if err != nil {
			return fmt.Errorf("the recorders' key: %w", err)
		}
		if key = bytes.TrimSpace(key); len(key) < 20 {
			return errors.New("the recorders' key has less than 20 characters")
		}
		keyring, stop, err := p.RoleKeyring(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
		store, err := p.Store()
		if err != nil {
			return err
		}
		v, err := vault.New(keyring, store, vault.WithEvents(p.Events))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, v.Close()) }()
		r := &recorder{
			vault: v, key: key, log: p.Log,
			stored: prometheus.NewCounter(prometheus.CounterOpts{Name: "recordings_stored_total", Help: "Recordings that were stored."}),
			bytes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "recording_bytes_total", Help: "Bytes of recordings that arrived, whole or not."}),
		}
		p.Metrics.MustRegister(r.stored, r.bytes)
		return p.Serve(ctx, r.routes(), 0)
	})
}
