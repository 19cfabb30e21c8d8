package rotation

import (
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
)

const (
	// proofSize is how many wrapped keys of a patient the keyring rewraps at a time: as many as keys/transit puts
	// into one request.
	proofSize = 256
	// batchSize is how many envelopes that is: each has two wrapped keys.
	batchSize = proofSize / 2
	// minInFlight is the least bound on the envelopes in memory: two batches, so that one is read while
	// the other is written. They have 64 KiB at most and 1 KiB as a rule.
	minInFlight = 2 * batchSize
)

// item is one envelope on its way through a run: listed, read, rewrapped, written, settled.
type item struct {
	patient *patient
	id      keys.RecordingID
	size    int64 // as listed, in bytes
	stored  stored
	err     error             // of reading it
	next    envelope.Envelope // to put in the place of the stored one
}

// patient is what a run must know of a patient while it handles the envelopes.
type patient struct {
	id keys.KeyID

	// mu is held while a batch is with the keyring, so that the next one profits from the answer.
	mu       sync.Mutex
	versions keys.Versions // for a plan, once the keyring was asked
	keyring  string        // that made the keyring's answers, as their labels name it
	newest   int           // the newest version that the keyring has answered with, or 0
	keyless  error         // ErrErased or ErrNotEnrolled, once the keyring has said so

	// Guarded by the report's mutex.
	pending  int // items, and one while the patient is being listed
	listed   int // items
	outcomes [outcomes]int
}

// answered remembers what the keyring rewraps to.
func (p *patient) answered(next envelope.Envelope) {
	p.keyring, _, _, _ = next.WrappedKey.Parse()
	p.newest = max(p.newest, next.Version())
}

// failed remembers that there is no key, which will not change for the patient's other batches.
func (p *patient) failed(err error) {
	if errors.Is(err, keys.ErrErased) || errors.Is(err, keys.ErrNotEnrolled) {
		p.keyless = err
	}
}

// inBatches reads the envelopes in the scope, and calls handle with up to batchSize of one patient, for several
// batches at a time. handle settles every item, unless the run ends.
func (r *run) inBatches(handle func(*patient, []*item)) error {
	var handling errgroup.Group
	handling.SetLimit(2 * r.options.Concurrency) // one half reads while the other writes
	err := r.list(func(p *patient, batch []*item) {
		handling.Go(func() error {
			r.eachItem(batch, func(it *item) { it.stored, it.err = r.read(r.ctx, it.id) })
			handle(p, batch)
			for range batch {
				leave(r.inFlight)
			}
			return nil
		})
	})
	_ = handling.Wait() // no batch returns an error
	return err
}

// list calls yield with batches of what the store lists in the scope. It takes a place in flight for each envelope.
func (r *run) list(yield func(*patient, []*item)) error {
	var p *patient
	var batch []*item
	flush := func() {
		if len(batch) > 0 {
			yield(p, batch)
			batch = nil
		}
	}
	endPatient := func() {
		flush()
		if p != nil {
			r.record(func(report *Report) { r.release(report, p) })
		}
	}
	for found, err := range r.recordings {
		if err != nil {
			flush()
			return err
		}
		if p == nil || p.id != found.ID.KeyID() {
			endPatient()
			p = &patient{id: found.ID.KeyID(), pending: 1}
		} else if len(batch) == batchSize {
			flush()
		}
		if !enter(r.ctx, r.inFlight) {
			flush()
			return r.ctx.Err()
		}
		batch = append(batch, &item{patient: p, id: found.ID, size: found.Envelope.Size})
		r.record(func(report *Report) {
			report.Envelopes.Seen++
			p.pending++
			p.listed++
		})
	}
	endPatient()
	return nil
}

// eachItem calls work for every item, for several at a time.
func (r *run) eachItem(items []*item, work func(*item)) {
	var group errgroup.Group
	group.SetLimit(r.options.Concurrency)
	for _, it := range items {
		group.Go(func() error {
			work(it)
			return nil
		})
	}
	_ = group.Wait() // work returns no error
}

// settle records what became of an envelope, and why if it needs attention.
func (r *run) settle(it *item, o outcome, err error) {
	r.Record(func(progress *job.Progress) {
		progress.Done++
		report := &r.report
		report.Envelopes.count(o)
		switch o {
		case rewrapped:
			report.Before[it.stored.version]++
			report.After[it.next.Version()]++
		case current:
			report.Before[it.stored.version]++
			report.After[it.stored.version]++
		case notEnrolled, damaged, failed:
			report.find(it.patient.id, it.id, kindOf(err), err.Error())
		}
		it.patient.outcomes[o]++
		r.release(report, it.patient)
	})
}

// settleError settles an envelope by an error. It drops one that the end of the run kept from being handled, whose
// patient is then not finished.
func (r *run) settleError(it *item, err error) {
	if !errors.Is(err, errInterrupted) {
		r.settle(it, outcomeOf(err), err)
	}
}

func outcomeOf(err error) outcome {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return deleted
	case errors.Is(err, keys.ErrErased):
		return erased
	case errors.Is(err, keys.ErrNotEnrolled):
		return notEnrolled
	case errors.Is(err, envelope.ErrUnsupported), errors.Is(err, keys.ErrUnsupported):
		return unsupported
	case errors.Is(err, errDamaged), errors.Is(err, keys.ErrIntegrity):
		return damaged
	}
	return failed
}

// release drops one reference to a patient. The last one counts the patient.
func (r *run) release(report *Report, p *patient) {
	if p.pending--; p.pending > 0 {
		return
	}
	switch count := &report.Patients; {
	case p.outcomes[erased] > 0:
		count.Erased++
	case p.outcomes[notEnrolled] > 0:
		count.NotEnrolled++
	case p.outcomes[failed] > 0:
		count.Failed++
	case p.outcomes[damaged] > 0:
		count.Unresolved++
	case p.outcomes[rewrapped]+p.outcomes[older] > 0:
		count.Changed++
	default:
		count.Unchanged++
	}
	if r.patientSettled != nil {
		r.patientSettled(p)
	}
}
