package rotation

import (
	"context"
	"time"

	"github.com/recvault/recvault/keys"
)

func (r *run) rotate() error {
	return r.eachPatient(r.rotatePatient)
}

func (r *run) rotatePatient(id keys.KeyID) error {
	before, err := r.versions(r.ctx, id)
	if err != nil {
		return err
	}
	after := before.Latest
	// A keyring may keep no more than the second.
	recent := !r.options.OlderThan.IsZero() && !before.Rotated.Before(r.options.OlderThan.Truncate(time.Second))
	if !recent {
		after++
	}
	if !recent && !r.options.DryRun {
		err := r.change(r.ctx, r.finish, func(ctx context.Context) error { return r.keyring.Rotate(ctx, id) })
		if err != nil {
			return err
		}
	}
	r.patientDone(before.Latest, after)
	return nil
}

// patientDone records a patient whose key needed no change, or was changed.
func (r *run) patientDone(before, after int) {
	r.record(func(report *Report) {
		report.Before[before]++
		report.After[after]++
		if before == after {
			report.Patients.Unchanged++
		} else {
			report.Patients.Changed++
		}
	})
}
