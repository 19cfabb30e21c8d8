package rotation

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

const (
	// batchSize is how many wrapped keys of a patient the keyring is asked to rewrap at a time: as many
	// as keys/transit puts into one request.
	batchSize = 256
	// minInFlight is the least bound on the envelopes in memory: two batches, so that one is read while
	// the other is written. They have 64 KiB at most and 1 KiB as a rule.
	minInFlight = 2 * batchSize
)

// item is one envelope on its way through the stages.
type item struct {
	batch   *batch
	id      keys.RecordingID
	size    int64 // as listed, in bytes
	stored  stored
	err     error           // of reading it
	wrapped keys.WrappedKey // to put in the place of the stored one
}

// batch is up to batchSize envelopes of one patient.
type batch struct {
	patient *patient
	items   []*item
	unread  atomic.Int64 // items, and one while the batch is being filled
}

// patient is what must be known of a patient while some of the envelopes are in flight.
type patient struct {
	id keys.KeyID

	// mu is held while a batch is with the keyring, so that the next one profits from the answer.
	mu       sync.Mutex
	versions keys.Versions // for a plan, once the keyring was asked
	newest   int           // the newest version that the keyring has answered with, or 0
	keyless  error         // ErrErased or ErrNotEnrolled, once the keyring has said so

	// Guarded by the tally's mutex.
	unsettled int // items, and one while the patient is being listed
	listed    int // items
	outcomes  [outcomes]int
}

// failed remembers that there is no key, which will not change for the patient's other batches.
func (p *patient) failed(err error) {
	if errors.Is(err, keys.ErrErased) || errors.Is(err, keys.ErrNotEnrolled) {
		p.keyless = err
	}
}

// inBatches reads every envelope in the scope, and calls handle with each batch that has been read, of
// several at a time. handle, or whom it hands them on to, settles or drops every item.
func (r *run) inBatches(handle func(*batch)) error {
	r.slots = make(chan struct{}, r.inFlight())
	r.turns.mixed = r.options.KeyringRate > 0 || r.options.StorageRate > 0
	return r.turns.do(r.options.Concurrency, func() error { return r.fill(handle) })
}

// inFlight bounds the envelopes in memory.
func (r *run) inFlight() int { return max(minInFlight, 4*r.options.Concurrency) }

// part takes away one of those who keep the batch from being complete, and has it handled after the last.
func (r *run) part(b *batch, handle func(*batch)) {
	if b.unread.Add(-1) == 0 {
		r.turns.add(callTask, func() { handle(b) })
	}
}

// fill lists the envelopes into batches, and has each read.
func (r *run) fill(handle func(*batch)) error {
	var filling *batch
	flush := func(patientEnds bool) {
		if filling == nil {
			return
		}
		p := filling.patient
		r.part(filling, handle)
		filling = nil
		if patientEnds {
			r.record(func(report *Report) { r.partPatient(report, p) })
		}
	}
	err := r.walk(func(found layout.Item) {
		switch {
		case filling == nil || filling.patient.id != found.ID.KeyID():
			flush(true)
			filling = newBatch(&patient{id: found.ID.KeyID(), unsettled: 1})
		case len(filling.items) == batchSize:
			p := filling.patient
			flush(false)
			filling = newBatch(p)
		}
		select {
		case r.slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		it := &item{batch: filling, id: found.ID, size: found.Envelope.Size}
		filling.items = append(filling.items, it)
		filling.unread.Add(1)
		r.record(func(report *Report) {
			report.Envelopes.Seen++
			filling.patient.unsettled++
			filling.patient.listed++
		})
		r.turns.add(readTask, func() {
			it.stored, it.err = r.read(r.ctx, it.id)
			r.part(it.batch, handle)
		})
	})
	flush(err == nil)
	return err
}

func newBatch(p *patient) *batch {
	b := &batch{patient: p}
	b.unread.Store(1)
	return b
}

// settle records what became of an envelope, and why if that is not as it should be.
func (r *run) settle(it *item, o outcome, err error) {
	p := it.batch.patient
	r.record(func(report *Report) {
		report.Envelopes.count(o)
		switch o {
		case rewrapped:
			version, _ := it.wrapped.Version()
			report.Before[it.stored.version]++
			report.After[version]++
		case current:
			report.Before[it.stored.version]++
			report.After[it.stored.version]++
		case notEnrolled, damaged, failed:
			report.leave(Left{KeyID: p.id, ID: it.id, Reason: reasonOf(err), Detail: err.Error()})
		}
		p.outcomes[o]++
		r.partPatient(report, p)
	})
	<-r.slots
}

// drop lets go of an envelope that the end of the run kept from being looked at. Its patient is not
// finished with.
func (r *run) drop() { <-r.slots }

// settleError settles an envelope by an error, or drops it.
func (r *run) settleError(it *item, err error) {
	if errors.Is(err, errInterrupted) {
		r.drop()
		return
	}
	r.settle(it, outcomeOf(err), err)
}

func outcomeOf(err error) outcome {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return deleted
	case errors.Is(err, keys.ErrErased):
		return erased
	case errors.Is(err, keys.ErrNotEnrolled):
		return notEnrolled
	case errors.Is(err, errDamaged), errors.Is(err, keys.ErrIntegrity):
		return damaged
	}
	return failed
}

// partPatient takes away one of those who keep a patient from being finished with, and counts the patient
// after the last.
func (r *run) partPatient(report *Report, p *patient) {
	if p.unsettled--; p.unsettled > 0 {
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
		count.Left++
	case p.outcomes[rewrapped]+p.outcomes[older] > 0:
		count.Changed++
	default:
		count.Unchanged++
	}
	if r.patientSettled != nil {
		r.patientSettled(p)
	}
}
