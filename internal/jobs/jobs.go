// Package jobs keeps the books of a job over many patients while it runs: its report and its progress. The
// jobs of packages vault/rotation and vault/upkeep use it.
package jobs

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// interval is the time between two calls of notify.
const interval = 100 * time.Millisecond

// Run is a job that is running. It is safe for concurrent use.
type Run struct {
	scope    scope.Scope
	notify   func(job.Progress) // may be nil
	done     chan struct{}
	notifier sync.WaitGroup

	mu       sync.Mutex // guards the job's report too
	report   *job.Report
	progress job.Progress
}

// Start begins a job over the patients in a scope. report is the shared part of the job's report. notify, unless
// nil, is called every 100 ms and at the end, never concurrently. The caller calls [Run.End].
func Start(report *job.Report, s scope.Scope, notify func(job.Progress)) *Run {
	r := &Run{
		scope: s, notify: notify, done: make(chan struct{}),
		report: report, progress: job.Progress{Verb: report.Verb, Scope: report.Scope},
	}
	if notify != nil {
		r.notifier.Go(r.notifyRegularly)
	}
	return r
}

func (r *Run) notifyRegularly() {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.notify(r.snapshot(false))
		case <-r.done:
			r.notify(r.snapshot(true))
			return
		}
	}
}

func (r *Run) snapshot(final bool) job.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.progress
	p.Elapsed, p.Findings, p.Final = time.Since(r.report.Started), r.report.Findings.Total(), final
	return p
}

// Record calls change, which may change the job's report and its progress. It is never called concurrently.
func (r *Run) Record(change func(p *job.Progress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.progress)
}

// Find adds a finding to the report.
func (r *Run) Find(finding job.Finding) {
	r.Record(func(*job.Progress) { r.report.Findings.Add(finding) })
}

// Walk yields what the store has in the scope, as [objects.Objects.Walk] does, and counts it in the progress.
func (r *Run) Walk(ctx context.Context, o *objects.Objects) iter.Seq2[objects.Item, error] {
	return func(yield func(objects.Item, error) bool) {
		var patient keys.KeyID
		for item, err := range o.Walk(ctx, r.scope) {
			if err == nil && item.Stray == nil {
				r.Record(func(p *job.Progress) {
					if id := item.ID.KeyID(); id != patient {
						patient = id
						p.Patients++
						p.Fraction = r.scope.Before(id)
					}
					if item.Envelope != nil {
						p.Recordings++
					}
				})
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
		if ctx.Err() == nil {
			r.Record(func(p *job.Progress) { p.Fraction = 1 })
		}
	}
}

// End finishes the report, and returns after the last call of notify.
func (r *Run) End() {
	close(r.done)
	r.notifier.Wait()
	r.report.Finish()
}
