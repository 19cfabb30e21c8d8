package erasure

import (
	"context"
	"errors"
	"fmt"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// sample is a wrapped key from one of the patient's envelopes. The keyring can use it before the erasure and must
// refuse it afterwards.
type sample struct {
	id      keys.RecordingID // zero if there was none to take
	wrapped keys.WrappedKey

	rewrapped bool // before the erasure
	unwrapped bool
}

// maxSamples is how many envelopes are tried for one whose wrapped key works.
const maxSamples = 16

// takeSample takes a wrapped key from an envelope. It tries the wrapped key if the envelope key is not yet
// destroyed, because its failure proves something only if it worked before. It skips envelopes that are damaged or
// whose key version was retired.
func (e *Erasure) takeSample(ctx context.Context, found inventory) (sample, error) {
	for _, id := range found.recordings[:min(len(found.recordings), maxSamples)] {
		stored, err := e.objects.Envelope(ctx, id)
		if errors.Is(err, storage.ErrNotFound) || objects.Damaged(err) {
			continue
		}
		if err != nil {
			return sample{}, err
		}
		taken := sample{id: id, wrapped: stored.Wrapped}
		if found.begun {
			return taken, nil
		}
		works, err := e.try(ctx, &taken)
		if err != nil || works {
			return taken, err
		}
	}
	return sample{}, nil
}

// try reports whether a wrapped key can be re-wrapped. If there is a grant, it must also unwrap.
func (e *Erasure) try(ctx context.Context, s *sample) (works bool, err error) {
	err = e.rewrap(ctx, s)
	if errors.Is(err, keys.ErrIntegrity) || errors.Is(err, keys.ErrRetired) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.rewrapped = true
	if e.unwrapper == nil {
		return true, nil
	}
	if err := e.unwrap(ctx, s); err != nil {
		return false, err
	}
	s.unwrapped = true
	return true, nil
}

func (e *Erasure) rewrap(ctx context.Context, s *sample) error {
	results, err := e.keyring.Rewrap(ctx, s.id.KeyID(), []keys.RewrapItem{{Binding: s.id.Binding(), Wrapped: s.wrapped}})
	if err != nil {
		return err
	}
	return results[0].Err
}

func (e *Erasure) unwrap(ctx context.Context, s *sample) error {
	key, err := e.unwrapper.Unwrap(ctx, e.options.Grant, s.id.Binding(), s.wrapped)
	if err != nil {
		return err
	}
	key.Wipe()
	return nil
}

// prove tries the sample again after the erasure. It need not ask for the versions of the key: removePatient did,
// after the last object was deleted.
func (e *Erasure) prove(ctx context.Context, found inventory, s sample) ([]Evidence, error) {
	proof := []Evidence{{Attempt: "versions", Before: before(!found.begun), After: keys.ErrErased.Error()}}
	if s.id.IsZero() {
		return proof, nil
	}
	attempt := func(name string, worked bool, try func(context.Context, *sample) error) error {
		after, err := refusal(try(ctx, &s))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
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
