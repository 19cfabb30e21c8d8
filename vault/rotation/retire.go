package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
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
	return r.eachPatient(func(id keys.KeyID) error { return r.raisePatient(m, id) })
}

// raisePatient raises the minimum of one patient. The order makes it safe: it first reads what the newest
// version is and checks that it is old enough for every writer to use it, and only then lists the store. So the
// listing has every envelope that was wrapped under an older version.
func (r *run) raisePatient(m minimum, id keys.KeyID) error {
	v, err := r.versions(r.ctx, id)
	if err != nil {
		return err
	}
	now, next := m.now(v), m.next(v)
	if now >= next {
		r.patientDone(now, now)
		return nil
	}
	if v.Rotated.Unix() <= 0 {
		r.unresolved(id, now, KindGrace, "the keyring does not report when the newest version was made")
		return nil
	}
	if ready := v.Rotated.Add(r.options.Grace); time.Now().Before(ready) {
		r.unresolved(id, now, KindGrace, "until "+ready.UTC().Format(time.RFC3339))
		return nil
	}
	found, err := r.scan(id, next)
	if err != nil {
		return err
	}
	if found.unreadable > 0 {
		r.unresolved(id, now, KindUnreadable, fmt.Sprintf("%d envelopes", found.unreadable))
		return nil
	}
	if found.older > 0 {
		r.unresolved(id, now, KindOlder, fmt.Sprintf("%d envelopes at versions below %d: run rewrap", found.older, next))
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

// findings count the envelopes that forbid raising the minimum.
type findings struct{ older, unreadable int }

// scan lists a patient's recordings and reads all their envelopes. It fails unless it has seen all.
func (r *run) scan(id keys.KeyID, oldest int) (findings, error) {
	var found findings
	var reading sync.WaitGroup
	defer reading.Wait()
	for item, err := range r.objects.Walk(r.ctx, scope.Of(id)) {
		if err != nil {
			r.watchStorage(&r.listingsFailed, err)
			return findings{}, ended(r.ctx, err)
		}
		if item.Envelope == nil {
			continue
		}
		if !enter(r.ctx, r.inFlight) {
			break
		}
		reading.Go(func() {
			defer leave(r.inFlight)
			r.examine(item.ID, oldest, &found)
		})
	}
	r.watchStorage(&r.listingsFailed, nil)
	reading.Wait()
	if r.ctx.Err() != nil {
		return findings{}, fmt.Errorf("%w: %w", errInterrupted, r.ctx.Err())
	}
	return found, nil
}

// examine reads one envelope and records its version.
func (r *run) examine(id keys.RecordingID, oldest int, found *findings) {
	e, err := r.read(r.ctx, id)
	if errors.Is(err, errInterrupted) {
		return // and so is the scan
	}
	r.record(func(report *Report) {
		report.Envelopes.Seen++
		switch {
		case errors.Is(err, storage.ErrNotFound):
			report.Envelopes.Deleted++
		case err != nil:
			found.unreadable++
			report.Envelopes.count(outcomeOf(err))
			report.find(id.KeyID(), id, kindOf(err), err.Error())
		case e.version < oldest:
			found.older++
			report.Envelopes.Older++
		default:
			report.Envelopes.Current++
		}
	})
}
