package rotation

import (
	"errors"
	"fmt"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// maxAttempts is how often the replacement of one envelope is attempted, if others change it or the store does not
// answer.
const maxAttempts = 4

// rewrap moves every envelope in the scope to the newest version.
func (r *run) rewrap() error {
	return r.inBatches(func(p *patient, batch []*item) {
		r.eachItem(r.rewrapBatch(p, batch), r.rewriteItem)
	})
}

// rewrapBatch has the wrapped keys of a batch rewrapped, in one call or none. It returns the items to write, and
// settles the others.
func (r *run) rewrapBatch(p *patient, batch []*item) (changed []*item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sent []*item
	var wraps []keys.RewrapItem // two for each item
	for _, it := range batch {
		switch {
		case it.err != nil:
			r.settleError(it, it.err)
		case it.stored.at(p.keyring, p.newest):
			r.settle(it, current, nil)
		default:
			sent = append(sent, it)
			wraps = append(wraps, it.stored.Wraps()...)
		}
	}
	if len(sent) == 0 {
		return nil
	}
	err := p.keyless
	var results []keys.RewrapResult
	if err == nil {
		results, err = r.rewrapKeys(r.ctx, p.id, wraps)
	}
	if err != nil {
		p.failed(err)
		for _, it := range sent {
			r.settleError(it, err)
		}
		return nil
	}
	for i, it := range sent {
		next, err := rewrappedEnvelope(it.stored, results[2*i:2*i+2])
		switch {
		case err != nil:
			r.settleError(it, err)
		case next.Version() == it.stored.version:
			p.answered(next)
			r.settle(it, current, nil)
		default:
			p.answered(next)
			it.next = next
			changed = append(changed, it)
		}
	}
	return changed
}

// refusal returns why the keyring did not rewrap the two keys of an envelope, or nil. That one is unsupported counts
// most, because it is not known then what the envelope needs.
func refusal(results []keys.RewrapResult) (err error) {
	for i, result := range results {
		if errors.Is(result.Err, keys.ErrUnsupported) {
			return result.Err
		}
		if err == nil && result.Err != nil {
			err = fmt.Errorf("%s: %w", [...]string{"wrapped key", "wrapped metadata key"}[i], result.Err)
		}
	}
	return err
}

// rewrappedEnvelope returns an envelope with the keyring's answers for its two wrapped keys.
func rewrappedEnvelope(old stored, results []keys.RewrapResult) (envelope.Envelope, error) {
	if err := refusal(results); err != nil {
		return envelope.Envelope{}, err
	}
	next := old.WithWraps(results[0].Wrapped, results[1].Wrapped)
	if version := next.Version(); version < old.version {
		return envelope.Envelope{}, fmt.Errorf("%w: it answered with version %d for one of version %d", keys.ErrUnavailable, version, old.version)
	}
	return next, nil
}

// rewriteItem replaces one envelope, unless the run ends before the write may begin.
func (r *run) rewriteItem(it *item) {
	if r.options.DryRun {
		r.settle(it, rewrapped, nil)
		return
	}
	end, err := r.begin(r.ctx, r.storageTurns, &r.writes)
	if err != nil {
		return
	}
	outcome, err := r.rewrite(it, end)
	r.settle(it, outcome, err)
}

// rewrite replaces one envelope by one that has the new wrapped keys and is the same otherwise. After an error it
// reads again, which shows whether a write whose answer was lost was carried out, and who won a race. The first write
// has begun, and calls end.
func (r *run) rewrite(it *item, end func()) (outcome, error) {
	for attempt := 1; ; attempt++ {
		writeErr := r.replace(r.finish, it.stored, it.next)
		end()
		switch {
		case writeErr == nil:
			return rewrapped, nil
		case !errors.Is(writeErr, storage.ErrChanged) && !errors.Is(writeErr, storage.ErrUnavailable):
			return failed, writeErr
		}
		found, err := r.read(r.finish, it.id)
		if err != nil {
			return outcomeOf(err), err
		}
		switch {
		case found.Equal(it.next):
			return rewrapped, nil
		case found.version >= it.next.Version():
			return superseded, nil
		case attempt == maxAttempts && errors.Is(writeErr, storage.ErrChanged):
			return failed, fmt.Errorf("%w: %d times", errContended, attempt)
		case attempt == maxAttempts:
			return failed, writeErr
		case !found.Equal(it.stored.Envelope):
			if it.next, err = r.rewrapOne(found); err != nil {
				return outcomeOf(err), err
			}
		}
		it.stored = found
		if end, err = r.begin(r.finish, r.storageTurns, &r.writes); err != nil {
			return failed, ended(r.finish, err)
		}
	}
}

// rewrapOne has the wrapped keys of a single envelope rewrapped.
func (r *run) rewrapOne(old stored) (envelope.Envelope, error) {
	results, err := r.rewrapKeys(r.finish, old.ID.KeyID(), old.Wraps())
	if err != nil {
		return envelope.Envelope{}, err
	}
	return rewrappedEnvelope(old, results)
}
