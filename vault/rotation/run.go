package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/internal/progress"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/scope"
)

// run is one call of a verb.
type run struct {
	*access
	*tally
	options Options
	scope   scope.Scope

	ctx    context.Context // ends with the caller's, or when the run gives up
	finish context.Context // outlives ctx by finishTime, for changes that were begun

	// For the verbs that read in batches.
	turns          turns
	slots          chan struct{}  // one for each envelope in flight
	patientSettled func(*patient) // if not nil, told of each patient, under the tally's mutex
}

// run carries out a verb, with everything that all of them share around it.
func (r *Rotation) run(ctx context.Context, verb string, s scope.Scope, work func(*run) error) (Report, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	finish, cancel := linger(ctx)
	defer cancel()
	w := &run{
		access: &access{
			keyring: r.keyring, store: r.store, layout: r.layout,
			keyringRate: newLimiter(r.options.KeyringRate), storageRate: newLimiter(r.options.StorageRate),
			giveUp: func(err error) { giveUp(err) },
		},
		tally:   newTally(verb, s.String(), r.options.DryRun),
		options: r.options, scope: s, ctx: ctx, finish: finish,
	}
	stopTelling := w.tellProgress()
	err := work(w)
	if ctx.Err() != nil {
		err = context.Cause(ctx) // whatever it made others say
	}
	stopTelling()
	report := w.result(w.requests())
	if err != nil {
		return report, fmt.Errorf("rotation: %s: %w", verb, err)
	}
	return report, nil
}

// linger returns a context that outlives ctx by finishTime.
func linger(ctx context.Context) (context.Context, context.CancelFunc) {
	lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(finishTime, cancel) })
	return lingering, func() {
		stop()
		cancel()
	}
}

// tellProgress calls Options.Progress now and then, and for the last time when the returned function is
// called.
func (r *run) tellProgress() (stop func()) {
	if r.options.Progress == nil {
		return func() {}
	}
	return progress.Tell(func(final bool) {
		p := r.progress()
		p.Final = final
		r.options.Progress(p)
	})
}

// walk calls visit for every recording in the scope, patient by patient, until the run ends. It returns
// nil only if visit has had the chance to take all.
func (r *run) walk(visit func(layout.Item)) error {
	var patient keys.KeyID
	for item, err := range r.layout.Walk(r.ctx, r.store, r.scope) {
		if err != nil {
			return err
		}
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
		if item.Envelope == nil {
			continue
		}
		if item.ID.KeyID() != patient {
			patient = item.ID.KeyID()
			r.listed(r.scope.Before(patient))
			r.record(func(report *Report) { report.Patients.Seen++ })
		}
		visit(item)
	}
	if r.ctx.Err() != nil {
		return r.ctx.Err() // visit may have passed over the last
	}
	r.listed(1)
	return nil
}

// eachPatient calls work for every patient in the scope, for several at a time. An error is the
// patient's own: it is recorded and ends nothing.
func (r *run) eachPatient(work func(keys.KeyID) error) error {
	patients := make(chan keys.KeyID)
	var workers sync.WaitGroup
	for range r.options.Concurrency {
		workers.Go(func() {
			for id := range patients {
				if err := work(id); err != nil {
					r.patientFailed(id, err)
				}
			}
		})
	}
	var last keys.KeyID
	err := r.walk(func(item layout.Item) {
		if item.ID.KeyID() == last {
			return
		}
		last = item.ID.KeyID()
		select {
		case patients <- last:
		case <-r.ctx.Done():
		}
	})
	close(patients)
	workers.Wait()
	return err
}

// patientFailed records why a patient's key was not changed. One that the end of the run kept from being
// looked at is not finished with.
func (r *run) patientFailed(id keys.KeyID, err error) {
	r.record(func(report *Report) {
		switch {
		case errors.Is(err, keys.ErrErased):
			report.Patients.Erased++
		case errors.Is(err, keys.ErrNotEnrolled):
			report.Patients.NotEnrolled++
			report.leave(Left{KeyID: id, Reason: reasonOf(err), Detail: err.Error()})
		case errors.Is(err, errInterrupted) && r.finish.Err() == nil:
		default:
			report.Patients.Failed++
			report.leave(Left{KeyID: id, Reason: reasonOf(err), Detail: err.Error()})
		}
	})
}
