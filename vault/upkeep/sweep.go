package upkeep

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

const (
	// DefaultOlderThan is the age from which [Sweep] takes media without an envelope for garbage.
	DefaultOlderThan = 24 * time.Hour
	// MinOlderThan is the least age that can be asked for. It covers clocks that differ by minutes, but no
	// upload that takes longer.
	MinOlderThan = time.Hour
)

// SweepOptions say what a sweep may remove.
type SweepOptions struct {
	// Prefix is that of the vault: see vault.WithPrefix.
	Prefix string

	// OlderThan is how old media without an envelope, and an unfinished upload, must be to be garbage. It
	// must exceed the longest time from the first byte of a recording to its commit, by as much as this
	// host's clock may be ahead of the store's. For a live capture, that is as long as the capture lasts.
	// Default [DefaultOlderThan], at least [MinOlderThan].
	OlderThan time.Duration

	// DryRun has the sweep report what it would remove, and remove nothing.
	DryRun bool

	// Concurrency is how many recordings are worked on at a time. Default [DefaultConcurrency], at most
	// [MaxConcurrency].
	Concurrency int

	// Progress, if not nil, receives how far the sweep has come, every 100 ms and at the end. It is never
	// called concurrently.
	Progress func(job.Progress)
}

// SweepReport is what a sweep found and removed.
type SweepReport struct {
	job.Report
	Before time.Time `json:"before"` // what was written before is old enough

	Recordings   int64 `json:"recordings"`    // with envelope and media
	Orphans      Tally `json:"orphans"`       // removed, or to be
	Held         Tally `json:"held_orphans"`  // of patients on hold: kept
	Young        Tally `json:"young_media"`   // without an envelope yet, and not old enough: kept
	Uploads      int64 `json:"uploads"`       // unfinished: removed, or to be
	HeldUploads  int64 `json:"held_uploads"`  // unfinished, of patients on hold: kept
	YoungUploads int64 `json:"young_uploads"` // unfinished and not old enough, or under way: kept

	// UploadsListed reports whether the store could list its unfinished uploads. The comment of the store's
	// driver says which uploads it may not know.
	UploadsListed bool `json:"uploads_listed"`
}

// Complete reports whether nothing needs attention: all garbage was recognised and removed, and there are no
// strays and no envelopes without media. It is for a sweep that returned no error.
func (r SweepReport) Complete() bool {
	return r.Findings.Total(KindUnchecked, KindStray, KindMissingMedia) == 0
}

// Sweep finds media that no envelope names and uploads that were never finished, and removes those that
// are older than any upload may last.
//
// Media is written first and its envelope last. So media without an envelope is either on its way or
// garbage, and only its age says which. Age is counted from the time that the store gives: for media, on
// Amazon S3 that is when its upload began and on MinIO when it ended; for an unfinished upload, when it began
// or was last written to. So OlderThan is safe on both if it is longer than a whole upload takes. Just before it
// removes media, the sweep checks again that no envelope has appeared.
//
// Nobody can open garbage: the recording's key was in the envelope. But if envelopes were lost by mistake, their
// media looks the same, and restoring the envelopes from a backup needs it. So make a dry run first, and do not go
// on if it finds more orphans than there were failed writers. Media and unfinished uploads of a patient on
// hold are always kept. Holds lie at the root of the store, under "holds/": the credentials must let them be
// read there, whatever the prefix.
//
// A store in a directory does not know the names of its unfinished uploads, but knows for certain which ones no
// process is writing. A sweep of any scope removes all of these, even if patients are on hold.
//
// Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for a prefix; with a report, those of
// [storage.Store] for List, and the context's.
func Sweep(ctx context.Context, store storage.Store, s scope.Scope, options SweepOptions) (SweepReport, error) {
	if options.OlderThan == 0 {
		options.OlderThan = DefaultOlderThan
	}
	if options.OlderThan < MinOlderThan {
		return SweepReport{}, fmt.Errorf("sweep: %w: an age of %v, less than %v", ErrInvalidOptions, options.OlderThan, MinOlderThan)
	}
	return sweep(ctx, store, s, options)
}

// sweep is Sweep for any age.
func sweep(ctx context.Context, store storage.Store, s scope.Scope, options SweepOptions) (SweepReport, error) {
	o, err := prepare(store, s, options.Prefix, &options.Concurrency)
	if err != nil {
		return SweepReport{}, fmt.Errorf("sweep: %w", err)
	}
	w := &sweeper{objects: o, scope: s, options: options}
	w.report.Report = job.NewReport("sweep", s.String(), options.DryRun)
	w.report.Before = w.report.Started.Add(-options.OlderThan)
	w.Run = jobs.Start(&w.report.Report, s, options.Progress)
	err = objects.Each(ctx, w.Walk(ctx, o), options.Concurrency, w.item)
	if err == nil {
		err = w.uploads(ctx)
	}
	w.End()
	if err != nil {
		err = fmt.Errorf("sweep: %w", err)
	}
	return w.report, err
}

// sweeper is one sweep.
type sweeper struct {
	*jobs.Run
	objects *objects.Objects
	scope   scope.Scope
	options SweepOptions
	report  SweepReport
}

// record changes the report.
func (w *sweeper) record(change func(*SweepReport)) {
	w.Record(func(p *job.Progress) {
		change(&w.report)
		p.Bytes = w.report.Orphans.Bytes
	})
}

// fail records a finding that could not be dealt with, unless the reason is that the sweep was interrupted.
func (w *sweeper) fail(ctx context.Context, finding job.Finding, err error) {
	if ctx.Err() != nil {
		return
	}
	finding.Kind, finding.Detail = KindUnchecked, err.Error()
	w.Find(finding)
}

// old reports whether an object or upload is old enough to be removed. If the store gives no time for it, it is not.
func (w *sweeper) old(written time.Time) bool {
	return !written.IsZero() && written.Before(w.report.Before)
}

func (w *sweeper) item(ctx context.Context, item objects.Item) error {
	switch {
	case item.Stray != nil:
		w.Find(job.About(KindStray, keys.RecordingID{}, *item.Stray, ""))
		return nil
	case item.Media == nil:
		w.withoutMedia(ctx, item)
	case item.Envelope == nil:
		w.orphan(ctx, item.ID, *item.Media)
	default:
		w.record(func(r *SweepReport) { r.Recordings++ })
	}
	w.Record(func(p *job.Progress) { p.Done++ })
	return nil
}

// withoutMedia deals with an envelope whose media was not listed. It checks again, because the recording may have been
// deleted during the listing.
func (w *sweeper) withoutMedia(ctx context.Context, listed objects.Item) {
	finding := job.About(KindMissingMedia, listed.ID, *listed.Envelope, "")
	now, err := w.objects.Find(ctx, listed.ID)
	switch {
	case err != nil:
		w.fail(ctx, finding, err)
	case now.Media != nil && now.Envelope != nil:
		w.record(func(r *SweepReport) { r.Recordings++ })
	case now.Envelope != nil:
		w.Find(finding)
	}
}

// orphan deals with media whose envelope was not listed.
func (w *sweeper) orphan(ctx context.Context, id keys.RecordingID, media storage.Info) {
	if !w.old(media.Modified) {
		w.record(func(r *SweepReport) { r.Young.add(media.Size) })
		return
	}
	finding := job.About(KindOrphan, id, media, "")
	hold, err := w.objects.Held(ctx, id.KeyID())
	var envelope *storage.Info
	if err == nil {
		envelope, err = w.objects.FindEnvelope(ctx, id) // last, just before the removal
	}
	switch {
	case err != nil:
		w.fail(ctx, finding, err)
		return
	case envelope != nil:
		w.record(func(r *SweepReport) { r.Recordings++ })
		return
	case hold != nil:
		finding.Kind = KindHeld
		w.record(func(r *SweepReport) {
			r.Held.add(media.Size)
			r.Findings.Add(finding)
		})
		return
	}
	if !w.options.DryRun {
		if err := w.objects.Delete(ctx, media); err != nil {
			w.fail(ctx, finding, err)
			return
		}
	}
	w.record(func(r *SweepReport) {
		r.Orphans.add(media.Size)
		r.Findings.Add(finding)
	})
}

// uploads deals with unfinished uploads, of which there are few.
func (w *sweeper) uploads(ctx context.Context) error {
	uploads, ok := w.objects.Uploads(ctx)
	if !ok {
		return nil
	}
	for upload, err := range uploads {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// The credentials may lack a right that nothing else needs. The media has been dealt with.
			w.fail(ctx, job.Finding{}, err)
			return nil
		}
		w.upload(ctx, upload)
	}
	w.record(func(r *SweepReport) { r.UploadsListed = true })
	return ctx.Err()
}

func (w *sweeper) upload(ctx context.Context, upload objects.Upload) {
	known := !upload.Recording.IsZero()
	if upload.Name != "" && !(known && w.scope.Contains(upload.Recording.KeyID())) {
		return
	}
	finding := job.Finding{
		Kind: KindUpload, KeyID: upload.Recording.KeyID(), ID: upload.Recording,
		Object: upload.Name, Upload: upload.ID, Since: upload.Started.UTC(),
	}
	young := !w.old(upload.Started)
	if !young && known {
		hold, err := w.objects.Held(ctx, upload.Recording.KeyID())
		if err != nil {
			w.fail(ctx, finding, err)
			return
		}
		if hold != nil {
			finding.Kind = KindHeldUpload
			w.record(func(r *SweepReport) {
				r.HeldUploads++
				r.Findings.Add(finding)
			})
			return
		}
	}
	if !young && !w.options.DryRun {
		err := w.objects.AbortUpload(ctx, upload)
		young = errors.Is(err, storage.ErrInUse)
		if err != nil && !young {
			w.fail(ctx, finding, err)
			return
		}
	}
	if young {
		w.record(func(r *SweepReport) { r.YoungUploads++ })
		return
	}
	w.record(func(r *SweepReport) {
		r.Uploads++
		r.Findings.Add(finding)
	})
}
