// Package upkeep keeps a store of recordings clean and shows that it is sound.
//
// [Sweep] removes what writers leave that never came to commit: media without an envelope, and
// unfinished uploads. [Verify] reads what is there and tells what is damaged, without any key or, with
// grants, down to every byte. Neither ever removes or changes an envelope, a hold, or anything whose
// name it does not know.
//
// Both work through the patients in a [scope.Scope] in the order of the store's listing, several recordings at
// a time. Their memory does not grow with the number of recordings. What fails for one recording is
// reported and does not stop the rest; both return a report of what was done so far together with the
// error if the listing fails or the context ends. To resume, run them again.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/internal/progress"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/scope"
)

// ErrInvalidOptions: the options are out of bounds.
var ErrInvalidOptions = errors.New("invalid upkeep options")

const (
	// DefaultConcurrency is how many recordings are worked on at a time.
	DefaultConcurrency = 8
	// MaxConcurrency is how many there may be.
	MaxConcurrency = 256
)

// Kind says what a Finding is about.
type Kind string

// What Sweep finds.
const (
	// KindOrphan: media without an envelope, older than any upload may last. It was removed, or would
	// be.
	KindOrphan Kind = "orphan"
	// KindHeld: an orphan of a patient who is on hold. It stays.
	KindHeld Kind = "held_orphan"
	// KindUpload: an unfinished upload, older than any may last. It was removed, or would be.
	KindUpload Kind = "unfinished_upload"
	// KindHeldUpload: an unfinished upload of a patient who is on hold. It stays.
	KindHeldUpload Kind = "held_upload"
)

// What Sweep and Verify find. All of it stays as it is.
const (
	// KindStray: an object where only recordings should be, whose name is not one of a recording's
	// objects.
	KindStray Kind = "stray"
	// KindMissingMedia: an envelope whose media is not there. The recording is lost unless a backup
	// has its media.
	KindMissingMedia Kind = "missing_media"
	// KindUnchecked: something failed, or was refused, so that it could not be told what is the case, or
	// not be removed.
	KindUnchecked Kind = "unchecked"
)

// What Verify finds.
const (
	// KindMalformedEnvelope: the envelope cannot be parsed, or is of an unknown version of the format.
	KindMalformedEnvelope Kind = "malformed_envelope"
	// KindMisplaced: the envelope is that of another recording.
	KindMisplaced Kind = "misplaced_envelope"
	// KindMalformedMedia: the media has a size or a beginning that no media has.
	KindMalformedMedia Kind = "malformed_media"
	// KindRetired: the recording key is wrapped under a version of the envelope key that was retired.
	KindRetired Kind = "retired_version"
	// KindUnknownVersion: it is wrapped under one that does not exist yet, as after a keyring was
	// restored from a backup.
	KindUnknownVersion Kind = "unknown_version"
	// KindErased: the patient's envelope key was destroyed, and the recording is still there.
	KindErased Kind = "erased"
	// KindNotEnrolled: the patient has no envelope key.
	KindNotEnrolled Kind = "not_enrolled"
	// KindUnauthentic: read with a grant, the envelope or the media is not what was written.
	KindUnauthentic Kind = "unauthentic"
)

// Finding is one thing that was found. It names patients by their KeyIDs and holds no key.
type Finding struct {
	Kind   Kind             `json:"kind"`
	ID     keys.RecordingID `json:"id,omitzero"`      // of the recording; zero if it is about none
	Object string           `json:"object,omitempty"` // the name of the object that it is about
	Upload string           `json:"upload,omitempty"` // the store's ID of the upload that it is about
	Bytes  int64            `json:"bytes,omitempty"`  // that the object has
	Since  time.Time        `json:"since,omitzero"`   // when it was written or begun, by the store's clock, in UTC
	Detail string           `json:"detail,omitempty"`
}

// about makes a Finding about an object.
func about(kind Kind, id keys.RecordingID, object storage.Info, detail string) Finding {
	return Finding{Kind: kind, ID: id, Object: object.Name, Bytes: object.Size, Since: object.Modified.UTC(), Detail: detail}
}

// MaxListed is how many findings of each kind a report lists.
const MaxListed = 1000

// Findings are all that was found.
type Findings struct {
	// Counts tells how many there are of each kind.
	Counts map[Kind]int64 `json:"counts"`
	// Listed has the first [MaxListed] of each kind, in the order of their objects' names.
	Listed []Finding `json:"listed"`
}

func (f *Findings) add(finding Finding) {
	f.Counts[finding.Kind]++
	if f.Counts[finding.Kind] <= MaxListed {
		f.Listed = append(f.Listed, finding)
	}
}

// sort puts the findings into an order that does not depend on which worker was faster.
func (f *Findings) sort() {
	slices.SortStableFunc(f.Listed, func(a, b Finding) int {
		return strings.Compare(a.Object+"\x00"+a.Upload+"\x00"+string(a.Kind), b.Object+"\x00"+b.Upload+"\x00"+string(b.Kind))
	})
}

// Progress tells how far a run has come.
type Progress struct {
	Elapsed    time.Duration `json:"elapsed_ns"`
	Recordings int64         `json:"recordings"` // finished with
	Bytes      int64         `json:"bytes"`      // removed, or to be removed, by a sweep; authenticated by Verify
	Findings   int64         `json:"findings"`
	Final      bool          `json:"final"` // set in the last call for a run, whether or not it came to its end
}

// watch calls tell from time to time until the function that it returns is called, which makes the last
// call. tell may be nil.
func watch(begun time.Time, tell func(Progress), current func() Progress) (end func()) {
	if tell == nil {
		return func() {}
	}
	return progress.Tell(func(final bool) {
		p := current()
		p.Elapsed, p.Final = time.Since(begun), final
		tell(p)
	})
}

// prepare checks what both jobs are given.
func prepare(store storage.Store, prefix string, s scope.Scope, concurrency *int) (layout.Layout, error) {
	switch {
	case store == nil:
		return layout.Layout{}, fmt.Errorf("%w: there is no store", ErrInvalidOptions)
	case len(s.Prefixes()) == 0:
		return layout.Layout{}, fmt.Errorf("%w: the scope has no patient", ErrInvalidOptions)
	case *concurrency < 0 || *concurrency > MaxConcurrency:
		return layout.Layout{}, fmt.Errorf("%w: a concurrency of %d, want 1 to %d", ErrInvalidOptions, *concurrency, MaxConcurrency)
	case *concurrency == 0:
		*concurrency = DefaultConcurrency
	}
	return layout.New(prefix)
}

// each calls work for every item, so many at a time, until there are no more, one is an error, or the
// context ends. When it returns, nothing is under way any more.
func each[T any](ctx context.Context, items iter.Seq2[T, error], concurrency int, work func(T)) (err error) {
	jobs := make(chan T)
	var workers sync.WaitGroup
	for range concurrency {
		workers.Go(func() {
			for item := range jobs {
				work(item)
			}
		})
	}
	defer func() {
		close(jobs)
		workers.Wait()
		if err == nil {
			err = ctx.Err() // what was under way then was not finished
		}
	}()
	for item, err := range items {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case jobs <- item:
		}
	}
	return nil
}
