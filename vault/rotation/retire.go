package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
)

// minimum is a lower bound on the versions of a key that can be raised once nothing needs the versions
// below.
type minimum struct {
	now, next func(keys.Versions) int
	raise     func(ctx context.Context, id keys.KeyID, oldest int) error
}

func (r *run) retire() error {
	return r.raise(minimum{
		now:   func(v keys.Versions) int { return v.MinDecryption },
		next:  func(v keys.Versions) int { return v.Latest },
		raise: r.keyring.Retire,
	})
}

func (r *run) trim() error {
	return r.raise(minimum{
		now:   func(v keys.Versions) int { return v.MinAvailable },
		next:  func(v keys.Versions) int { return v.MinDecryption },
		raise: r.keyring.Trim,
	})
}

func (r *run) raise(m minimum) error {
	if err := r.checkStore(); err != nil {
		return err
	}
	if err := r.readClock(); err != nil {
		return err
	}
	return r.eachPatient(func(p listed) error { return r.raisePatient(m, p) })
}

// readClock notes the keyring's clock before the scope is listed. The keyring reports it with the versions of a key, so
// the first patient whose key it has is looked for.
func (r *run) readClock() error {
	var last keys.KeyID
	for item, err := range r.objects.Walk(r.ctx, r.scope) {
		if err != nil {
			return err
		}
		id := item.ID.KeyID()
		if item.Envelope == nil || id == last {
			continue
		}
		last = id
		if v, err := r.versions(r.ctx, id); err == nil {
			if r.began = v.Now; v.Now.IsZero() {
				r.began = time.Now()
			}
			return nil
		}
	}
	return nil // nobody has a key
}

// checkStore returns an error unless the keyring serves the store and prefix of this run.
func (r *run) checkStore() error {
	store, err := r.objects.StoreID(r.ctx)
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: nothing was ever written here", keys.ErrForeignStore)
	}
	if err != nil {
		return err
	}
	return r.keyring.CheckStore(r.ctx, store)
}

// raisePatient raises the minimum of one patient. The order makes it safe: the keyring's clock was read before the store
// was listed. If the newest version was old enough then for every writer to use it, the listing has every envelope that
// was wrapped under an older version. This host's clock is no substitute: it stops while the host is suspended.
func (r *run) raisePatient(m minimum, p listed) error {
	id := p.id
	v, err := r.versions(r.ctx, id)
	if err != nil {
		return err
	}
	r.record(func(report *Report) { report.Keys.Add(v.Rotated) })
	now, next := m.now(v), m.next(v)
	if now >= next {
		r.patientDone(now, now)
		return nil
	}
	if v.Rotated.Unix() <= 0 {
		r.unresolved(id, now, KindGrace, "the keyring does not report when the newest version was made")
		return nil
	}
	if ready := v.Rotated.Add(r.options.Grace); r.began.Before(ready) {
		r.unresolved(id, now, KindGrace, "when this run began; it ends at "+ready.UTC().Format(time.RFC3339)+" by the keyring's clock")
		return nil
	}
	found, err := r.scan(p, v, next, true)
	if err != nil {
		return err
	}
	if kind, detail := found.obstacle(); kind != "" {
		r.unresolved(id, now, kind, detail)
		return nil
	}
	if !r.options.DryRun {
		err := r.change(r.ctx, r.finish, func(ctx context.Context) error { return m.raise(ctx, id, next) })
		if err != nil {
			return err
		}
	}
	r.patientDone(now, next)
	return nil
}

// unresolved records a patient whose minimum stays as it is.
func (r *run) unresolved(id keys.KeyID, minimum int, kind job.Kind, detail string) {
	r.record(func(report *Report) {
		report.Before[minimum]++
		report.After[minimum]++
		report.Patients.Unresolved++
		report.find(id, keys.RecordingID{}, kind, detail)
	})
}

// scan is what forbids a change of the versions of a patient's key.
type scan struct {
	run      *run
	id       keys.KeyID
	versions keys.Versions
	oldest   int  // the version that all envelopes must have
	prove    bool // every wrapped key, and not only those with unknown versions

	// Guarded by the report's mutex.
	unknown, unsupported, damaged, unread, older, unproved int // envelopes

	pending []stored // read, and not proved yet
	failed  error    // the keyring's, in proving
}

// obstacle returns the kind and the detail of the worst of what was found, or nothing.
func (s *scan) obstacle() (job.Kind, string) {
	switch {
	case s.unknown > 0:
		return KindUnknownVersion, fmt.Sprintf("%d envelopes name versions above %d, which the key does not have: was the keyring restored from "+
			"before a rotation, or were labels edited? Restore a newer backup of the keyring, or these envelopes, before anything else",
			s.unknown, s.versions.Latest)
	case s.damaged+s.unread > 0:
		return KindUnreadable, fmt.Sprintf("%d envelopes", s.damaged+s.unread)
	case s.unsupported > 0:
		return KindUnsupported, fmt.Sprintf("%d recordings are of a version or kind of keyring that this release does not know", s.unsupported)
	case s.unproved > 0:
		return KindUnproved, fmt.Sprintf("the keyring cannot re-wrap the keys of %d envelopes: was it restored from a backup, or were "+
			"wrapped keys edited? The older versions may be needed to recover them", s.unproved)
	case s.older > 0:
		return KindOlder, fmt.Sprintf("%d envelopes at versions below %d: run rewrap", s.older, s.oldest)
	}
	return "", ""
}

// scan reads all envelopes of a patient and finds what forbids a change of the key's versions. The version in a wrapped
// key's label is not authenticated, so with prove set the keyring re-wraps every wrapped key, and the results are
// discarded. Without it the keyring re-wraps those with versions above the newest, which fails unless the key was
// rotated since versions was read. scan fails unless it has seen all.
func (r *run) scan(p listed, versions keys.Versions, oldest int, prove bool) (*scan, error) {
	s := &scan{run: r, id: p.id, versions: versions, oldest: oldest, prove: prove}
	var reading sync.WaitGroup
	defer reading.Wait()
	for id, err := range r.recordingsOf(p) {
		if err != nil {
			r.watchStorage(&r.listingsFailed, err)
			return nil, ended(r.ctx, err)
		}
		if s.failure() != nil || !enter(r.ctx, r.inFlight) {
			break
		}
		reading.Go(func() {
			defer leave(r.inFlight)
			s.examine(id)
			s.proveNow(s.take(batchSize))
		})
	}
	r.watchStorage(&r.listingsFailed, nil)
	reading.Wait()
	s.proveNow(s.take(1))
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", errInterrupted, r.ctx.Err())
	}
	return s, s.failure()
}

func (s *scan) failure() (err error) {
	s.run.record(func(*Report) { err = s.failed })
	return err
}

// examine reads one envelope and records what it needs, or that it is to be proved.
func (s *scan) examine(id keys.RecordingID) {
	e, err := s.run.read(s.run.ctx, id)
	if errors.Is(err, errInterrupted) {
		return // and so is the scan
	}
	s.run.record(func(report *Report) {
		report.Envelopes.Seen++
		switch {
		case err != nil:
			s.count(report, id, outcomeOf(err), err)
		case s.prove || e.newest() > s.versions.Latest:
			s.pending = append(s.pending, e)
		default:
			s.count(report, id, s.byLabel(e), nil)
		}
	})
}

// byLabel returns the outcome of an envelope with good wrapped keys.
func (s *scan) byLabel(e stored) outcome {
	if e.version < s.oldest {
		return older
	}
	return current
}

// count records the outcome of one envelope. The caller holds the report's mutex.
func (s *scan) count(report *Report, id keys.RecordingID, o outcome, err error) {
	report.Envelopes.count(o)
	switch {
	case o == older:
		s.older++
	case o == unsupported:
		s.unsupported++
	case o == current, o == deleted:
	case errors.Is(err, errUnknownVersion):
		s.unknown++
	case errors.Is(err, errUnproved):
		s.unproved++
	case o == damaged:
		s.damaged++
	default:
		s.unread++
	}
	if o == damaged || o == failed {
		report.find(s.id, id, kindOf(err), err.Error())
	}
}

// take takes a batch of what is to be proved, if there is that much.
func (s *scan) take(least int) (batch []stored) {
	s.run.record(func(*Report) {
		if len(s.pending) >= least && s.failed == nil {
			batch = s.pending[:min(len(s.pending), batchSize)]
			s.pending = slices.Clone(s.pending[len(batch):])
		}
	})
	return batch
}

// proveNow has the keyring re-wrap the wrapped keys of a batch, and records the outcomes.
func (s *scan) proveNow(batch []stored) {
	if len(batch) == 0 {
		return
	}
	var wraps []keys.RewrapItem // two for each envelope
	for _, e := range batch {
		wraps = append(wraps, e.Wraps()...)
	}
	results, err := s.run.rewrapKeys(s.run.ctx, s.id, wraps)
	s.run.record(func(report *Report) {
		if err != nil {
			s.failed = err
			return
		}
		for i, e := range batch {
			o, err := s.proved(e, results[2*i:2*i+2])
			s.count(report, e.ID, o, err)
		}
	})
}

// proved returns the outcome of an envelope by the keyring's answers for its two wrapped keys.
func (s *scan) proved(e stored, results []keys.RewrapResult) (outcome, error) {
	err := refusal(results)
	switch {
	case err == nil:
		return s.byLabel(e), nil
	case errors.Is(err, keys.ErrUnsupported):
		return unsupported, err
	case e.newest() > s.versions.Latest:
		return failed, fmt.Errorf("%w: it is wrapped under version %d, and the newest is %d", errUnknownVersion, e.newest(), s.versions.Latest)
	case e.version < s.oldest && errors.Is(err, keys.ErrRetired):
		return older, nil
	}
	return outcomeOf(err), fmt.Errorf("%w: %w", errUnproved, err)
}
