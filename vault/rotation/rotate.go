package rotation

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/recvault/recvault/keys"
)

func (r *run) rotate() error {
	if r.options.DryRun {
		if err := r.mayRotate(); err != nil {
			return err
		}
	}
	return r.eachPatient(r.rotatePatient)
}

// mayRotate returns an error if the keyring refuses to rotate. It asks for the key of a made-up KeyID, which nobody has.
func (r *run) mayRotate() error {
	var mac [keys.KeyIDBytes]byte
	_, _ = rand.Read(mac[:]) // never fails
	err := r.change(r.ctx, r.ctx, func(ctx context.Context) error { return r.keyring.Rotate(ctx, keys.NewKeyID(mac[:])) })
	if errors.Is(err, keys.ErrNotEnrolled) {
		return nil
	}
	return err
}

func (r *run) rotatePatient(p listed) error {
	id := p.id
	before, err := r.versions(r.ctx, id)
	if err != nil {
		return err
	}
	rotated := before.Rotated
	defer func() { r.record(func(report *Report) { report.Keys.Add(rotated) }) }()
	// A keyring may keep no more than the second.
	if !r.options.OlderThan.IsZero() && !before.Rotated.Before(r.options.OlderThan.Truncate(time.Second)) {
		r.patientDone(before.Latest, before.Latest)
		return nil
	}
	// After a restore of the keyring from before a rotation, another rotation would make a second version of the same
	// number, and hide that the first is missing.
	found, err := r.scan(p, before, 0, false)
	if err != nil {
		return err
	}
	if kind, detail := found.obstacle(); found.unknown > 0 || found.unread > 0 {
		r.unresolved(id, before.Latest, kind, detail)
		return nil
	}
	if !r.options.DryRun {
		err := r.change(r.ctx, r.finish, func(ctx context.Context) error { return r.keyring.Rotate(ctx, id) })
		if err != nil {
			return err
		}
		rotated = time.Now() // nearly: the keyring's answer does not say
	}
	r.patientDone(before.Latest, before.Latest+1)
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
