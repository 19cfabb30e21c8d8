package erasure

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// sample are the two wrapped keys of one of the patient's envelopes. The keyring can use them before the erasure and
// must refuse both afterwards.
type sample struct {
	id    keys.RecordingID // zero if there was none to take
	wraps []keys.RewrapItem

	rewrapped bool // before the erasure
	unwrapped bool
}

// maxSamples is how many envelopes are tried for one whose wrapped key works.
const maxSamples = 16

// takeSample takes the wrapped keys of an envelope. It tries them if the envelope key is not yet destroyed, because
// their failure proves something only if they worked before. It skips envelopes that are damaged or unsupported, or
// whose key version was retired.
func (e *Erasure) takeSample(ctx context.Context, found inventory) (sample, error) {
	for _, id := range found.recordings[:min(len(found.recordings), maxSamples)] {
		stored, err := e.objects.Envelope(ctx, id)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, envelope.ErrUnsupported) || objects.Damaged(err) {
			continue
		}
		if err != nil {
			return sample{}, err
		}
		taken := sample{id: id, wraps: stored.Wraps()}
		usable, err := e.try(ctx, &taken, found.begun)
		if err != nil || usable {
			return taken, err
		}
	}
	return sample{}, nil
}

// try reports whether the wrapped keys can serve as a sample. If the envelope key is not yet destroyed, both must
// re-wrap, and the recording key must unwrap if there is a grant.
func (e *Erasure) try(ctx context.Context, s *sample, destroyed bool) (usable bool, err error) {
	errs := e.rewrap(ctx, s)
	for _, err := range errs {
		if errors.Is(err, keys.ErrUnsupported) {
			return false, nil // the keyring would refuse it in any case
		}
	}
	if destroyed {
		return true, nil
	}
	for _, err := range errs {
		if errors.Is(err, keys.ErrIntegrity) || errors.Is(err, keys.ErrRetired) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	s.rewrapped = true
	if e.unwrapper == nil {
		return true, nil
	}
	if err := e.unwrap(ctx, s)[0]; err != nil {
		return false, err
	}
	s.unwrapped = true
	return true, nil
}

// rewrap has both wrapped keys re-wrapped, and returns what the keyring answered for each.
func (e *Erasure) rewrap(ctx context.Context, s *sample) []error {
	results, err := e.keyring.Rewrap(ctx, s.id.KeyID(), s.wraps)
	if err == nil && len(results) != len(s.wraps) {
		err = fmt.Errorf("%w: it answered for %d items of %d", keys.ErrUnavailable, len(results), len(s.wraps))
	}
	errs := make([]error, len(s.wraps))
	for i := range errs {
		if errs[i] = err; err == nil {
			errs[i] = results[i].Err
		}
	}
	return errs
}

// unwrap unwraps the recording key with the grant.
func (e *Erasure) unwrap(ctx context.Context, s *sample) []error {
	key, err := e.unwrapper.Unwrap(ctx, e.options.Grant, s.wraps[0].Binding, s.wraps[0].Wrapped)
	if err == nil {
		key.Wipe()
	}
	return []error{err}
}

// prove tries the sample again after the erasure. It need not ask for the versions of the key: removePatient did,
// after the last object was deleted. known says whether the key is known to have worked before.
func (e *Erasure) prove(ctx context.Context, known bool, s sample) ([]Evidence, error) {
	proof := []Evidence{{Attempt: "versions", Before: before(known), After: keys.ErrErased.Error()}}
	if s.id.IsZero() {
		return proof, nil
	}
	attempt := func(name string, worked bool, try func(context.Context, *sample) []error) error {
		var after string
		for _, answer := range try(ctx, &s) {
			var err error
			if after, err = refusal(answer); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		proof = append(proof, Evidence{Attempt: name, Recording: s.id, Before: before(worked), After: after})
		return nil
	}
	if err := attempt("rewrap", s.rewrapped, e.rewrap); err != nil {
		return nil, err
	}
	if e.unwrapper != nil {
		if err := attempt("unwrap", s.unwrapped, e.unwrap); err != nil {
			return nil, err
		}
	}
	return proof, nil
}

func before(worked bool) string {
	if worked {
		return "succeeded"
	}
	return ""
}

// refusal returns the text of err if an erasure causes such an error. It returns [ErrKeyWorks] for nil, and other
// errors as they are. If the patient was enrolled again, the new key refuses what the old key wrapped.
func refusal(err error) (string, error) {
	if err == nil {
		return "", ErrKeyWorks
	}
	for _, expected := range []error{keys.ErrErased, keys.ErrNotEnrolled, keys.ErrIntegrity} {
		if errors.Is(err, expected) {
			return expected.Error(), nil
		}
	}
	return "", err
}
