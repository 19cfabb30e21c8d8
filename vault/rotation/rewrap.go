package rotation

import (
	"errors"
	"fmt"

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
	var wrapped []keys.RewrapItem
	for _, it := range batch {
		switch {
		case it.err != nil:
			r.settleError(it, it.err)
		case it.stored.version == p.newest:
			r.settle(it, current, nil)
		default:
			sent = append(sent, it)
			wrapped = append(wrapped, keys.RewrapItem{Binding: it.id.Binding(), Wrapped: it.stored.Wrapped})
		}
	}
	if len(sent) == 0 {
		return nil
	}
	err := p.keyless
	var results []keys.RewrapResult
	if err == nil {
		results, err = r.requests.rewrap(r.ctx, p.id, wrapped)
	}
	if err != nil {
		p.failed(err)
		for _, it := range sent {
			r.settleError(it, err)
		}
		return nil
	}
	for i, it := range sent {
		version, err := newVersion(results[i], it.stored)
		switch {
		case err != nil:
			r.settleError(it, err)
		case version == it.stored.version:
			p.newest = max(p.newest, version)
			r.settle(it, current, nil)
		default:
			p.newest = max(p.newest, version)
			it.wrapped = results[i].Wrapped
			changed = append(changed, it)
		}
	}
	return changed
}

// newVersion returns the version of a rewrapped key.
func newVersion(result keys.RewrapResult, old stored) (int, error) {
	if result.Err != nil {
		return 0, result.Err
	}
	version, err := result.Wrapped.Version()
	if err != nil {
		return 0, fmt.Errorf("%w: it answered with no wrapped key", keys.ErrUnavailable)
	}
	if version < old.version {
		return 0, fmt.Errorf("%w: it answered with version %d for one of version %d", keys.ErrUnavailable, version, old.version)
	}
	return version, nil
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

// rewrite replaces one envelope by one that has the new wrapped key and is the same otherwise. After an error it
// reads again, which shows whether a write whose answer was lost was carried out, and who won a race. The first write
// has begun, and calls end.
func (r *run) rewrite(it *item, end func()) (outcome, error) {
	for attempt := 1; ; attempt++ {
		writeErr := r.replace(r.finish, it.stored, it.wrapped)
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
		version, _ := it.wrapped.Version()
		switch {
		case found.Wrapped == it.wrapped:
			return rewrapped, nil
		case found.version >= version:
			return superseded, nil
		case attempt == maxAttempts && errors.Is(writeErr, storage.ErrChanged):
			return failed, fmt.Errorf("%w: %d times", errContended, attempt)
		case attempt == maxAttempts:
			return failed, writeErr
		case found.Wrapped != it.stored.Wrapped:
			if it.wrapped, err = r.rewrapOne(it.id, found); err != nil {
				return outcomeOf(err), err
			}
		}
		it.stored = found
		if end, err = r.begin(r.finish, r.storageTurns, &r.writes); err != nil {
			return failed, ended(r.finish, err)
		}
	}
}

// rewrapOne has a single wrapped key rewrapped.
func (r *run) rewrapOne(id keys.RecordingID, old stored) (keys.WrappedKey, error) {
	results, err := r.requests.rewrap(r.finish, id.KeyID(), []keys.RewrapItem{{Binding: id.Binding(), Wrapped: old.Wrapped}})
	if err != nil {
		return "", err
	}
	_, err = newVersion(results[0], old)
	return results[0].Wrapped, err
}
