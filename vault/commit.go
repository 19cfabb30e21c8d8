package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// cleanupTimeout bounds what an upload does after an error: removing its media, or reading its envelope back.
const cleanupTimeout = 5 * time.Second

// UncertainError reports that the store did not answer the commit of a recording, so the recording may or may
// not exist. If it exists, it is whole: Open and Stat find it, and Delete removes it. The store may still carry
// out the commit later, even after a Delete. If the recording does not exist, a sweep removes its media.
type UncertainError struct {
	ID  ID    // of the recording
	Err error // of the commit
}

func (e *UncertainError) Error() string {
	return fmt.Sprintf("recording %s may or may not have been committed: %v", e.ID, e.Err)
}

func (e *UncertainError) Unwrap() error { return e.Err }

// commit writes the envelope. From then on the recording exists.
//
// A retirement of key versions relies on a bound: no envelope appears later after its wrap than the freshness
// window and the commit timeout together. A machine that was suspended during the commit breaks the bound, and
// no timer fires in time. So commit checks the wrap's age again after the write, and replaces an envelope that
// appeared too late by one with a fresh wrap.
func (u *upload) commit(ctx context.Context) error {
	// The timeout starts before the check of the wrap's age, so nothing in between extends the bound.
	deadline := time.Now().Add(u.vault.commitTimeout)
	if u.age() > u.vault.freshness {
		wrapCtx, cancel := context.WithDeadline(ctx, deadline)
		defer cancel()
		err := u.wrap(wrapCtx)
		if err != nil && wrapCtx.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: wrapping took longer than the commit timeout: %w", keys.ErrUnavailable, err)
		}
		if err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on a cancellation has no effect, because the outcome must be known.
	ctx = context.WithoutCancel(ctx)
	writeCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := u.create(writeCtx); err != nil {
		return err
	}
	if err := u.freshen(ctx); err != nil {
		return err
	}
	if u.elapsed(u.started) > mediaCheckAfter {
		return u.checkMedia(ctx)
	}
	return nil
}

// mediaCheckAfter is how long after the beginning of an upload its commit is followed by a look for the media. It is less
// than the age at which any sweep removes media.
const mediaCheckAfter = 30 * time.Minute

// checkMedia removes an envelope whose media is gone: a machine that was suspended before its commit for longer than a
// sweep waits has lost the media to the sweep, and another machine may have copied it.
func (u *upload) checkMedia(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.vault.commitTimeout)
	defer cancel()
	found, err := u.vault.objects.Find(ctx, u.id)
	if err != nil {
		return &UncertainError{u.id, err}
	}
	if found.Media != nil {
		return nil
	}
	if err := u.vault.objects.Remove(ctx, u.id); err != nil {
		return &UncertainError{u.id, err}
	}
	return fmt.Errorf("%w: its media was removed before it was committed", ErrAborted)
}

// age returns how old the wraps are.
func (u *upload) age() time.Duration { return u.elapsed(u.wraps.madeAt) }

// elapsed returns the time since t, by the monotonic clock or the wall clock, whichever gives more. The
// monotonic clock stands still while a machine is suspended, and the wall clock can be set back.
func (u *upload) elapsed(t time.Time) time.Duration {
	now := u.vault.now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}

// freshen replaces an envelope that was written too late by one with fresh wraps.
func (u *upload) freshen(ctx context.Context) error {
	for u.age() > u.vault.freshness+u.vault.commitTimeout {
		if err := u.renew(ctx); err != nil {
			return &UncertainError{u.id, err}
		}
	}
	return nil
}

// renew replaces the envelope by one with fresh wraps, unless a rotator has replaced it already. The metadata stays as it
// is, because it may have been corrected since.
func (u *upload) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.vault.commitTimeout)
	defer cancel()
	stored, err := u.vault.objects.Envelope(ctx, u.id)
	if err != nil {
		return err
	}
	if err := u.wrap(ctx); err != nil {
		return err
	}
	next := stored.WithWraps(u.wraps.key, u.wraps.metadataKey)
	if err = u.vault.objects.Replace(ctx, stored, next); err != nil {
		err = u.vault.resolve(ctx, u.id, &stored.Envelope, next, err)
	}
	if errors.Is(err, storage.ErrChanged) {
		return nil
	}
	return err
}

// create seals the envelope and stores it. After an error it finds out whether the envelope was stored.
func (u *upload) create(ctx context.Context) error {
	metadata := u.metadata
	if metadata.CreatedAt.IsZero() {
		metadata.CreatedAt = u.vault.now().UTC()
	}
	sealed, err := u.secrets.sealer.Seal(u.wraps.key, u.wraps.metadataKey, metadata)
	if err != nil {
		return err
	}
	if err := u.vault.objects.Create(ctx, sealed); err != nil {
		return u.vault.resolve(ctx, u.id, nil, sealed, err)
	}
	return nil
}

// resolve reads the envelope back after a write that returned an error. It returns nil if the envelope was
// stored, the cause if it was not, and an [UncertainError] if that cannot be known. An error can follow a
// successful write: the first answer was lost, and the error answers the request that the client repeated.
//
// before is the envelope that was to be replaced, or nil for a new recording. If it is there still, nothing was stored.
func (v *Vault) resolve(ctx context.Context, id ID, before *envelope.Envelope, written envelope.Envelope, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	stored, err := v.objects.Envelope(ctx, id)
	unanswered := errors.Is(cause, storage.ErrUnavailable) || errors.Is(cause, context.DeadlineExceeded)
	switch {
	case err == nil && stored.Equal(written):
		return nil
	case err == nil && before != nil && stored.Equal(*before) && !unanswered,
		errors.Is(err, storage.ErrNotFound) && !unanswered, errors.Is(cause, storage.ErrChanged):
		return cause
	}
	return &UncertainError{id, cause}
}
