package rotation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
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
	readers := make(chan struct{}, r.options.Concurrency) // shared by the patients that are looked at
	return r.eachPatient(func(id keys.KeyID) error { return r.raisePatient(m, id, readers) })
}

// raisePatient raises the minimum of one patient. The order is what makes it safe: what the newest
// version is, and that it is old enough for everybody to use it, is found out first, and only then is
// the store listed. So the listing has every envelope that was wrapped under an older version.
func (r *run) raisePatient(m minimum, id keys.KeyID, readers chan struct{}) error {
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
		r.patientLeft(id, now, reasonGrace, "the keyring does not tell when the newest version was made")
		return nil
	}
	if ready := v.Rotated.Add(r.options.Grace); time.Now().Before(ready) {
		r.patientLeft(id, now, reasonGrace, "until "+ready.UTC().Format(time.RFC3339))
		return nil
	}
	found, err := r.scan(id, next, readers)
	if err != nil {
		return err
	}
	if found.unreadable > 0 {
		r.patientLeft(id, now, reasonUnreadable, fmt.Sprintf("%d envelopes", found.unreadable))
		return nil
	}
	if found.older > 0 {
		r.patientLeft(id, now, reasonOlder, fmt.Sprintf("%d envelopes at versions below %d: run rewrap", found.older, next))
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

// patientLeft records a patient whose minimum stays as it is.
func (r *run) patientLeft(id keys.KeyID, minimum int, reason, detail string) {
	r.record(func(report *Report) {
		report.Before[minimum]++
		report.After[minimum]++
		report.Patients.Left++
		report.leave(Left{KeyID: id, Reason: reason, Detail: detail})
	})
}

// findings are what a scan found that stands in the way.
type findings struct{ older, unreadable int }

// scan lists a patient's recordings and reads all their envelopes. It fails unless it has seen all.
func (r *run) scan(id keys.KeyID, oldest int, readers chan struct{}) (findings, error) {
	var found findings
	var reading sync.WaitGroup
	defer reading.Wait()
	for item, err := range r.layout.Walk(r.ctx, r.store, scope.Of(id)) {
		if err != nil {
			r.watchStorage(&r.listingsFailed, err)
			return findings{}, ended(r.ctx, err)
		}
		if item.Envelope == nil {
			continue
		}
		readers <- struct{}{}
		reading.Go(func() {
			defer func() { <-readers }()
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

// examine reads one envelope and records at which version it is.
func (r *run) examine(id keys.RecordingID, oldest int, found *findings) {
	e, err := r.read(r.ctx, id)
	if errors.Is(err, errInterrupted) {
		return // scan will find out
	}
	r.record(func(report *Report) {
		report.Envelopes.Seen++
		switch {
		case errors.Is(err, storage.ErrNotFound):
			report.Envelopes.Deleted++
		case err != nil:
			found.unreadable++
			report.Envelopes.count(outcomeOf(err))
			report.leave(Left{KeyID: id.KeyID(), ID: id, Reason: reasonOf(err), Detail: err.Error()})
		case e.version < oldest:
			found.older++
			report.Envelopes.Older++
		default:
			report.Envelopes.Current++
		}
	})
}
