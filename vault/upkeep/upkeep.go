// Package upkeep keeps a store of recordings clean and shows that it is sound.
//
// [Sweep] removes what writers left that never came to commit: media without an envelope, and unfinished
// uploads. [Verify] reads what is there and reports what is damaged, without any key or, with grants, down to
// every byte. Neither ever removes or changes an envelope, a hold, or an object whose name it does not know.
//
// Both are jobs as package vault/job describes them. They work through the patients in a [scope.Scope] in the
// order of the store's listing, several recordings at a time. Their memory does not grow with the number of
// recordings.
package upkeep

import (
	"errors"
	"fmt"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// ErrInvalidOptions: the options are out of bounds.
var ErrInvalidOptions = errors.New("invalid upkeep options")

const (
	// DefaultConcurrency is how many recordings are worked on at a time.
	DefaultConcurrency = 8
	// MaxConcurrency is the greatest concurrency.
	MaxConcurrency = 256
)

// What Sweep finds.
const (
	// KindOrphan: media without an envelope, older than any upload may last. It was removed, or would be.
	KindOrphan job.Kind = "orphan"
	// KindHeld: an orphan of a patient who is on hold. It stays.
	KindHeld job.Kind = "held_orphan"
	// KindUpload: an unfinished upload, older than any upload may last. It was removed, or would be.
	KindUpload job.Kind = "unfinished_upload"
	// KindHeldUpload: an unfinished upload of a patient who is on hold. It stays.
	KindHeldUpload job.Kind = "held_upload"
)

// What Sweep and Verify find. All of it stays as it is.
const (
	// KindStray: an object among the recordings that does not have the name of a recording's object.
	KindStray job.Kind = "stray"
	// KindMissingMedia: an envelope whose media is not there. The recording is lost unless a backup
	// has its media.
	KindMissingMedia job.Kind = "missing_media"
	// KindUnchecked: something could not be checked, or could not be removed, because a request failed or was refused.
	KindUnchecked job.Kind = "unchecked"
)

// What Verify finds.
const (
	// KindMalformedEnvelope: the envelope cannot be parsed.
	KindMalformedEnvelope job.Kind = "malformed_envelope"
	// KindUnsupported: the envelope is of another version of the format, or another kind of keyring wrapped its keys. It
	// is not damaged.
	KindUnsupported job.Kind = "unsupported"
	// KindMisplaced: the envelope is that of another recording.
	KindMisplaced job.Kind = "misplaced_envelope"
	// KindMalformedMedia: the media's size, or its header, is one that no media has.
	KindMalformedMedia job.Kind = "malformed_media"
	// KindRetired: a key of the recording is wrapped under a version of the envelope key that was retired.
	KindRetired job.Kind = "retired_version"
	// KindUnknownVersion: a key of the recording is wrapped under a version that does not exist yet, as after a
	// keyring was restored from a backup.
	KindUnknownVersion job.Kind = "unknown_version"
	// KindErased: the patient's envelope key was destroyed, and the recording is still there.
	KindErased job.Kind = "erased"
	// KindNotEnrolled: the patient has no envelope key.
	KindNotEnrolled job.Kind = "not_enrolled"
	// KindUnauthentic: the envelope or the media is not what was written. Reading with a grant shows this. Of the
	// wrapped keys, a keyring that may re-wrap them shows it too.
	KindUnauthentic job.Kind = "unauthentic"
)

// Tally counts objects and their bytes.
type Tally struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
}

func (t *Tally) add(size int64) {
	t.Count++
	t.Bytes += size
}

// prepare checks the arguments of both jobs, and sets a concurrency of 0 to the default.
func prepare(store storage.Store, s scope.Scope, prefix string, concurrency *int) (*objects.Objects, error) {
	switch {
	case store == nil:
		return nil, fmt.Errorf("%w: there is no store", ErrInvalidOptions)
	case len(s.Prefixes()) == 0:
		return nil, fmt.Errorf("%w: the scope has no patient", ErrInvalidOptions)
	case *concurrency < 0 || *concurrency > MaxConcurrency:
		return nil, fmt.Errorf("%w: a concurrency of %d, want 1 to %d", ErrInvalidOptions, *concurrency, MaxConcurrency)
	case *concurrency == 0:
		*concurrency = DefaultConcurrency
	}
	return objects.New(store, prefix)
}
