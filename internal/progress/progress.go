// Package progress tells how far long work has come.
package progress

import (
	"sync"
	"time"
)

// interval is the time between two reports.
const interval = 100 * time.Millisecond

// Tell calls report now and then, never concurrently, until the function that it returns is called,
// which makes the last call, with final set, and returns after it.
func Tell(report func(final bool)) (end func()) {
	done := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report(false)
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		teller.Wait()
		report(true)
	}
}
