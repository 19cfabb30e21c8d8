package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/recvault/recvault/vault/events"
)

// flushTimeout bounds how long the command waits for the file of events at its end.
const flushTimeout = 5 * time.Second

// stream returns the stream of events of this run: to the file of the setting, or to nowhere. The command reports what
// goes wrong as its own errors.
func (c *cli) stream() (*events.Stream, error) {
	if c.events != nil {
		return c.events, nil
	}
	path := c.setting(c.settings.eventsFile, "RECVAULT_EVENTS_FILE")
	if path == "" {
		c.events = events.New()
		return c.events, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the file of events (RECVAULT_EVENTS_FILE or --events-file): %w", err)
	}
	stream := events.New(events.JSON(file))
	c.events = stream
	c.closers = append(c.closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		return errors.Join(stream.Flush(ctx), file.Close())
	})
	return stream, nil
}
