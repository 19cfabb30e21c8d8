package upkeep

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/scope"
)

const (
	// DefaultOlderThan is the age from which on [Sweep] takes media without an envelope for garbage.
	DefaultOlderThan = 24 * time.Hour
	// MinOlderThan is the least that can be asked for. It covers clocks that differ by minutes, and no
	// upload that takes longer.
	MinOlderThan = time.Hour
)

// SweepOptions say what a sweep may remove.
type SweepOptions struct {
	// Prefix is that of the vault: see vault.WithPrefix.
	Prefix string

	// Scope says whose recordings are looked at. Required.
	Scope scope.Scope

	// OlderThan is how old media without an envelope, and an unfinished upload, must be to be garbage. It
	// must exceed, by as much as this host's clock may be ahead of the store's, the longest time from the
	// first byte of a recording to its commit. For a live capture, that is as long as the capture lasts.
	// Default [DefaultOlderThan], at least [MinOlderThan].
	OlderThan time.Duration

	// Remove has the sweep remove what it finds. Without it, it only tells what it would remove.
	Remove bool

	// Concurrency is how many recordings are worked on at a time. Default [DefaultConcurrency], at most
	// [MaxConcurrency].
	Concurrency int

	// Progress, if not nil, is told how far the sweep has come, every 100 ms and at the end. It is never
	// called concurrently.
	Progress func(Progress)
}

// SweepReport tells what a sweep has found, and removed unless DryRun is set.
type SweepReport struct {
	Scope    string    `json:"scope"`
	DryRun   bool      `json:"dry_run"`
	Before   time.Time `json:"before"` // what was written before is old enough
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	Recordings   int64 `json:"recordings"`    // with envelope and media
	Orphans      Tally `json:"orphans"`       // removed, or to be
	Held         Tally `json:"held_orphans"`  // of patients on hold: kept
	Young        Tally `json:"young_media"`   // without an envelope yet, and not old enough: kept
	Uploads      int64 `json:"uploads"`       // unfinished: removed, or to be
	HeldUploads  int64 `json:"held_uploads"`  // unfinished, of patients on hold: kept
	YoungUploads int64 `json:"young_uploads"` // unfinished and not old enough, or under way: kept

	// UploadsListed tells whether the store could be asked for its unfinished uploads. What it may not
	// know, its driver's comment tells.
	UploadsListed bool `json:"uploads_listed"`

	Findings Findings `json:"findings"`
}

// Tally counts objects and their bytes.
type Tally struct {
	Count int64 `json:"count"`
	Bytes int64 `json:"bytes"`
}

func (t *Tally) add(size int64) {
	t.Count++
	t.Bytes += size
}

// Complete tells whether all that was garbage could be told to be, and be removed, and nothing was seen
// that a person should look at: strays or envelopes without media. Of a sweep that returned no error, it
// decides whether there is anything to see to.
func (r SweepReport) Complete() bool {
	c := r.Findings.Counts
	return c[KindUnchecked] == 0 && c[KindStray] == 0 && c[KindMissingMedia] == 0
}

// Sweep finds media that no envelope names and uploads that were never finished, and removes those that
// are older than any upload may last.
//
// Media is written first and its envelope last, so media without an envelope is either on its way or
// garbage, and only age tells which. Age is counted from the time that the store gives: for media, on
// Amazon S3 that is when its upload began and on MinIO when it ended; for an unfinished upload when it began, or was
// last written to. So OlderThan is safe on each if it is longer than all of an upload takes. Just before
// removing media, the sweep looks again that no envelope has appeared.
//
// What is garbage cannot be opened by anybody: the recording's key was in the envelope. But if envelopes
// were lost, by somebody's mistake, their media looks the same, and a backup that has the envelopes needs
// it. Look at a dry run first. More orphans than writers failed are a reason not to go on. Media and unfinished
// uploads of a patient on hold are kept in any case. Holds lie at the root of the store, under "holds/": the
// credentials must let them be read there, whatever the prefix.
//
// A store in one directory cannot name what its unfinished uploads were to be, and knows for certain that
// nobody is writing them; a sweep of any scope removes all of them, whoever is on hold.
//
// Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for a prefix; with a report, those of
// [storage.Store] for List, and the context's.
func Sweep(ctx context.Context, store storage.Store, options SweepOptions) (SweepReport, error) {
	if options.OlderThan == 0 {
		options.OlderThan = DefaultOlderThan
	}
	if options.OlderThan < MinOlderThan {
		return SweepReport{}, fmt.Errorf("sweep: %w: an age of %v, less than %v", ErrInvalidOptions, options.OlderThan, MinOlderThan)
	}
	return sweep(ctx, store, options)
}

// sweep is Sweep for any age.
func sweep(ctx context.Context, store storage.Store, options SweepOptions) (SweepReport, error) {
	l, err := prepare(store, options.Prefix, options.Scope, &options.Concurrency)
	if err != nil {
		return SweepReport{}, fmt.Errorf("sweep: %w", err)
	}
	now := time.Now()
	s := &sweeper{
		store: store, layout: l, options: options,
		report: SweepReport{
			Scope: options.Scope.String(), DryRun: !options.Remove, Before: now.Add(-options.OlderThan).UTC(), Started: now.UTC(),
			Findings: Findings{Counts: map[Kind]int64{}, Listed: []Finding{}},
		},
	}
	end := watch(now, options.Progress, s.progress)
	err = each(ctx, l.Walk(ctx, store, options.Scope), options.Concurrency, func(item layout.Item) { s.item(ctx, item) })
	if err == nil {
		err = s.uploads(ctx)
	}
	end()
	s.report.Findings.sort()
	s.report.Finished = time.Now().UTC()
	if err != nil {
		err = fmt.Errorf("sweep: %w", err)
	}
	return s.report, err
}

// sweeper is one sweep.
type sweeper struct {
	store   storage.Store
	layout  layout.Layout
	options SweepOptions

	mu     sync.Mutex
	report SweepReport
	done   int64 // recordings, with an envelope or without
}

func (s *sweeper) progress() Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	var findings int64
	for _, n := range s.report.Findings.Counts {
		findings += n
	}
	return Progress{Recordings: s.done, Bytes: s.report.Orphans.Bytes, Findings: findings}
}

// record changes the report.
func (s *sweeper) record(change func(*SweepReport)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.report)
}

func (s *sweeper) find(finding Finding) {
	s.record(func(r *SweepReport) { r.Findings.add(finding) })
}

// fail records what could not be done, unless that is because the sweep was told to stop.
func (s *sweeper) fail(ctx context.Context, finding Finding, err error) {
	if ctx.Err() != nil {
		return
	}
	finding.Kind, finding.Detail = KindUnchecked, err.Error()
	s.find(finding)
}

// old tells whether something is old enough. A store that does not tell when it was written keeps it.
func (s *sweeper) old(written time.Time) bool {
	return !written.IsZero() && written.Before(s.report.Before)
}

func (s *sweeper) item(ctx context.Context, item layout.Item) {
	switch {
	case item.Stray != nil:
		s.find(about(KindStray, keys.RecordingID{}, *item.Stray, ""))
		return
	case item.Media == nil:
		s.withoutMedia(ctx, item)
	case item.Envelope == nil:
		s.orphan(ctx, item.ID, *item.Media)
	default:
		s.record(func(r *SweepReport) { r.Recordings++ })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
}

// withoutMedia looks again whether an envelope has no media: it may have been deleted during the listing.
func (s *sweeper) withoutMedia(ctx context.Context, item layout.Item) {
	finding := about(KindMissingMedia, item.ID, *item.Envelope, "")
	media, err := layout.Find(ctx, s.store, s.layout.Media(item.ID))
	envelope := item.Envelope
	if err == nil {
		envelope, err = layout.Find(ctx, s.store, s.layout.Envelope(item.ID))
	}
	switch {
	case err != nil:
		s.fail(ctx, finding, err)
	case media != nil && envelope != nil:
		s.record(func(r *SweepReport) { r.Recordings++ })
	case envelope != nil:
		s.find(finding)
	}
}

// orphan deals with media whose envelope was not listed.
func (s *sweeper) orphan(ctx context.Context, id keys.RecordingID, media storage.Info) {
	if !s.old(media.Modified) {
		s.record(func(r *SweepReport) { r.Young.add(media.Size) })
		return
	}
	finding := about(KindOrphan, id, media, "")
	hold, err := layout.Held(ctx, s.store, id.KeyID())
	var envelope *storage.Info
	if err == nil {
		envelope, err = layout.Find(ctx, s.store, s.layout.Envelope(id)) // last, just before the removal
	}
	switch {
	case err != nil:
		s.fail(ctx, finding, err)
		return
	case envelope != nil:
		s.record(func(r *SweepReport) { r.Recordings++ })
		return
	case hold != nil:
		finding.Kind = KindHeld
		s.record(func(r *SweepReport) {
			r.Held.add(media.Size)
			r.Findings.add(finding)
		})
		return
	}
	if s.options.Remove {
		if err := s.store.Delete(ctx, media.Name); err != nil {
			s.fail(ctx, finding, err)
			return
		}
	}
	s.record(func(r *SweepReport) {
		r.Orphans.add(media.Size)
		r.Findings.add(finding)
	})
}

// uploads deals with unfinished uploads, of which there are few.
func (s *sweeper) uploads(ctx context.Context) error {
	lister, ok := s.store.(storage.UploadLister)
	if !ok {
		return nil
	}
	for upload, err := range lister.Uploads(ctx, s.layout.Root()) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// The credentials may lack a right that nothing else needs: the media has been dealt with.
			s.fail(ctx, Finding{}, err)
			return nil
		}
		s.upload(ctx, lister, upload)
	}
	s.record(func(r *SweepReport) { r.UploadsListed = true })
	return ctx.Err()
}

func (s *sweeper) upload(ctx context.Context, lister storage.UploadLister, upload storage.Upload) {
	id, known := s.mediaOf(upload.Name)
	if upload.Name != "" && !(known && s.options.Scope.Contains(id.KeyID())) {
		return
	}
	finding := Finding{Kind: KindUpload, ID: id, Object: upload.Name, Upload: upload.ID, Since: upload.Started.UTC()}
	young := !s.old(upload.Started)
	if !young && known {
		hold, err := layout.Held(ctx, s.store, id.KeyID())
		if err != nil {
			s.fail(ctx, finding, err)
			return
		}
		if hold != nil {
			finding.Kind = KindHeldUpload
			s.record(func(r *SweepReport) {
				r.HeldUploads++
				r.Findings.add(finding)
			})
			return
		}
	}
	if !young && s.options.Remove {
		err := lister.AbortUpload(ctx, upload)
		young = errors.Is(err, storage.ErrInUse)
		if err != nil && !young {
			s.fail(ctx, finding, err)
			return
		}
	}
	if young {
		s.record(func(r *SweepReport) { r.YoungUploads++ })
		return
	}
	s.record(func(r *SweepReport) {
		r.Uploads++
		r.Findings.add(finding)
	})
}

// mediaOf returns the recording whose media has this name, if one can have it.
func (s *sweeper) mediaOf(name string) (keys.RecordingID, bool) {
	rest := strings.TrimPrefix(name, s.layout.Root())
	keyID, rest, _ := strings.Cut(rest, "/")
	rec, _, _ := strings.Cut(rest, "/")
	id, err := keys.ParseRecordingID(keyID + "." + rec)
	if err != nil || s.layout.Media(id) != name {
		return keys.RecordingID{}, false
	}
	return id, true
}
