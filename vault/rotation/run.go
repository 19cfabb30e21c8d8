package rotation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// run is one call of a verb.
type run struct {
	*jobs.Run
	*requests
	options Options
	scope   scope.Scope
	report  Report

	ctx    context.Context // ends with the caller's, or when the run gives up
	finish context.Context // outlives ctx by finishTime, for changes that were begun

	began          time.Time      // by the keyring's clock, before anything was listed; for retire and trim
	inFlight       chan struct{}  // one for each envelope in memory
	patientSettled func(*patient) // for a plan; called alone
}

// run carries out a verb, with everything that all of them share around it.
func (r *Rotation) run(ctx context.Context, verb string, s scope.Scope, work func(*run) error) (Report, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	finish, cancel := linger(ctx)
	defer cancel()
	w := &run{options: r.options, scope: s, ctx: ctx, finish: finish, report: newReport(verb, s, r.options.DryRun)}
	w.inFlight = make(chan struct{}, max(minInFlight, 4*r.options.Concurrency))
	w.requests = &requests{
		keyring: r.keyring, keyringTurns: newTurns(r.options.KeyringRate), storageTurns: newTurns(r.options.StorageRate),
		giveUp: func(err error) { giveUp(err) },
	}
	w.reads.slots, w.writes.slots = make(chan struct{}, r.options.Concurrency), make(chan struct{}, r.options.Concurrency)
	w.calls.slots, w.lists.slots = w.reads.slots, w.reads.slots
	w.objects = r.objects.In(meteredStore{r.store, w.requests})
	w.Run = jobs.Start(&w.report.Report, s, r.options.Progress)
	err := work(w)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx) // and not what the other requests made of it
	case err == nil:
		err = w.failure()
	}
	w.End()
	w.report.Requests = w.requests.counts()
	if err != nil {
		return w.report, fmt.Errorf("rotation: %s: %w", verb, err)
	}
	return w.report, nil
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

// record changes the report.
func (r *run) record(change func(*Report)) {
	r.Record(func(*job.Progress) { change(&r.report) })
}

// recordings yields every recording in the scope that has an envelope, patient by patient. It yields an error, the
// last, unless all were listed.
func (r *run) recordings(yield func(objects.Item, error) bool) {
	var patient keys.KeyID
	for item, err := range r.Walk(r.ctx, r.objects) {
		if err == nil {
			err = r.ctx.Err()
		}
		if err != nil {
			yield(objects.Item{}, err)
			return
		}
		if item.Envelope == nil {
			continue
		}
		if id := item.ID.KeyID(); id != patient {
			patient = id
			r.record(func(report *Report) { report.Patients.Seen++ })
		}
		if !yield(item, nil) {
			return
		}
	}
}

// listed is a patient as the walk over the scope found them.
type listed struct {
	id         keys.KeyID
	recordings []keys.RecordingID // that have an envelope
	more       bool               // there are more than maxListed, and none is kept
}

// maxListed is how many recordings of a patient are kept. Those of a patient with more are listed again.
const maxListed = 1000

// patients yields every patient in the scope who has recordings, as recordings does.
func (r *run) patients(yield func(listed, error) bool) {
	var p listed
	for item, err := range r.recordings {
		if err != nil {
			yield(listed{}, err)
			return
		}
		if id := item.ID.KeyID(); id != p.id {
			if !p.id.IsZero() && !yield(p, nil) {
				return
			}
			p = listed{id: id}
		}
		if len(p.recordings) == maxListed {
			p.more, p.recordings = true, nil
		}
		if !p.more {
			p.recordings = append(p.recordings, item.ID)
		}
	}
	if !p.id.IsZero() {
		yield(p, nil)
	}
}

// recordingsOf yields a patient's recordings that have an envelope.
func (r *run) recordingsOf(p listed) iter.Seq2[keys.RecordingID, error] {
	return func(yield func(keys.RecordingID, error) bool) {
		for _, id := range p.recordings {
			if !yield(id, nil) {
				return
			}
		}
		if !p.more {
			return
		}
		for item, err := range r.objects.Walk(r.ctx, scope.Of(p.id)) {
			if err == nil && item.Envelope == nil {
				continue
			}
			if !yield(item.ID, err) || err != nil {
				return
			}
		}
	}
}

// eachPatient calls work for every patient in the scope, for several at a time. An error is the
// patient's own: it is recorded and does not end the run.
func (r *run) eachPatient(work func(listed) error) error {
	return objects.Each(r.ctx, r.patients, r.options.Concurrency, func(ctx context.Context, p listed) error {
		if ctx.Err() != nil {
			return ctx.Err() // it ended while the patient waited for a worker
		}
		if err := work(p); err != nil {
			r.patientFailed(p.id, err)
		}
		return nil
	})
}

// patientFailed records why a patient's key was not changed. A patient whom the end of the run kept from being
// checked counts as seen and nothing else.
func (r *run) patientFailed(id keys.KeyID, err error) {
	r.record(func(report *Report) {
		switch {
		case errors.Is(err, keys.ErrErased):
			report.Patients.Erased++
		case errors.Is(err, keys.ErrNotEnrolled):
			report.Patients.NotEnrolled++
			report.find(id, keys.RecordingID{}, kindOf(err), err.Error())
		case errors.Is(err, errInterrupted) && r.finish.Err() == nil:
		default:
			report.Patients.Failed++
			report.find(id, keys.RecordingID{}, kindOf(err), err.Error())
		}
	})
}
