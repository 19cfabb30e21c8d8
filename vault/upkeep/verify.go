package upkeep

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// KeyVersions is what [Verify] needs of a keyring. It shows whether the version under which a recording key is
// wrapped still unwraps. The auditor's role is enough.
type KeyVersions interface {
	// Versions is as in [keys.Rotator].
	Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error)
}

// VerifyOptions say how thoroughly recordings are verified.
type VerifyOptions struct {
	// Prefix is that of the vault: see vault.WithPrefix.
	Prefix string

	// Sample is the fraction of recordings, drawn at random, that are checked beyond the listing: greater than 0
	// and at most 1. Default 1, which is all of them.
	Sample float64

	// Seed picks the sample. The same seed picks the same recordings, whatever the shards and the order. With the
	// same seed, a greater sample includes a smaller one.
	Seed uint64

	// Vault, if not nil, is used to read the recordings in the sample to their end, if Grant has a grant for the
	// patient. It must have the same store and the same prefix.
	Vault *vault.Vault

	// Grant returns a grant for the patient's recordings, if there is one. It is called concurrently. Each recording
	// takes a use of the grant.
	Grant func(keys.KeyID) (keys.Grant, bool)

	// Concurrency is how many recordings are worked on at a time. Default [DefaultConcurrency], at most
	// [MaxConcurrency]. Each takes up to 2 MiB of memory while it is read.
	Concurrency int

	// Progress, if not nil, receives how far Verify has come, every 100 ms and at the end. It is never called
	// concurrently.
	Progress func(job.Progress)
}

// VerifyReport is what was checked and what is wrong.
type VerifyReport struct {
	job.Report
	Sample float64 `json:"sample"`
	Seed   uint64  `json:"seed"`

	Recordings  int64 `json:"recordings"`  // that have an envelope
	Checked     int64 `json:"checked"`     // of these, those in the sample: checked beyond the listing
	Read        int64 `json:"read"`        // of these, those read to the end with a grant
	BytesRead   int64 `json:"bytes_read"`  // of plaintext, all authenticated
	KeysAsked   bool  `json:"keys_asked"`  // whether key versions were checked: there was a keyring
	Uncommitted Tally `json:"uncommitted"` // media without an envelope: on its way, or garbage for Sweep
}

// Complete reports whether nothing needs attention: there are no findings. It is for a Verify that returned no
// error.
func (r VerifyReport) Complete() bool { return r.Findings.Total() == 0 }

// Verify reports what is damaged, and changes nothing. What looks damaged is checked once more before it is
// reported, since recordings may be deleted, and keys rotated, at the same time.
//
// For every recording in the scope it checks, by the listing alone, that envelope and media are there, and that
// media can have this size. It reports objects that belong to no recording.
//
// For each recording in the sample it checks that the envelope is in canonical form and belongs to this recording;
// that the media can be read and begins with a header; and, unless the keyring is nil, that the version of the
// patient's envelope key under which the recording key is wrapped still unwraps. None of this needs a key. It cannot
// find media that was cut, exchanged or altered, because the values that would show it are encrypted.
//
// With a vault and grants, it reads each recording in the sample to its end if there is a grant for the patient. That
// authenticates the envelope and every byte of the media. It reads as any reader does, so the vault also emits
// security events for refusals and damage.
//
// The keyring may be nil. Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for a prefix; with a report, those
// of [storage.Store] for List, and the context's. If a check fails because the store or the keyring fails or
// refuses, that is a finding, [KindUnchecked].
func Verify(ctx context.Context, keyring KeyVersions, store storage.Store, s scope.Scope, options VerifyOptions) (VerifyReport, error) {
	o, err := prepare(store, s, options.Prefix, &options.Concurrency)
	if err == nil {
		err = options.validate()
	}
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify: %w", err)
	}
	v := &verifier{keyring: keyring, objects: o, options: options}
	v.report = VerifyReport{
		Report: job.NewReport("verify", s.String(), false),
		Sample: options.Sample, Seed: options.Seed, KeysAsked: keyring != nil,
	}
	v.Run = jobs.Start(&v.report.Report, s, options.Progress)
	err = objects.Each(ctx, v.checks(ctx), options.Concurrency, v.item)
	v.End()
	if err != nil {
		err = fmt.Errorf("verify: %w", err)
	}
	return v.report, err
}

func (o *VerifyOptions) validate() error {
	if o.Sample == 0 {
		o.Sample = 1
	}
	if !(o.Sample > 0 && o.Sample <= 1) { // NaN is neither
		return fmt.Errorf("%w: a sample of %v, want a fraction over 0 and up to 1", ErrInvalidOptions, o.Sample)
	}
	if (o.Vault == nil) != (o.Grant == nil) {
		return fmt.Errorf("%w: reading needs both a vault and grants", ErrInvalidOptions)
	}
	return nil
}

// sampled reports whether a recording is in the sample.
func (o *VerifyOptions) sampled(id keys.RecordingID) bool {
	text := binary.BigEndian.AppendUint64([]byte("recvault sample\x00"), o.Seed)
	sum := sha256.Sum256(append(text, id.String()...))
	const bits = 53 // that a float64 holds exactly
	return float64(binary.BigEndian.Uint64(sum[:])>>(64-bits)) < o.Sample*(1<<bits)
}

// verifier is one Verify.
type verifier struct {
	*jobs.Run
	keyring KeyVersions
	objects *objects.Objects
	options VerifyOptions
	report  VerifyReport
}

// versions returns the versions of a patient's key.
type versions func(context.Context) (keys.Versions, error)

// check is an item of the listing, and the versions of its patient's key.
type check struct {
	objects.Item
	versions versions
}

// checks walks over the scope.
func (v *verifier) checks(ctx context.Context) iter.Seq2[check, error] {
	return func(yield func(check, error) bool) {
		var patient keys.KeyID
		var shared versions
		for item, err := range v.Walk(ctx, v.objects) {
			if keyID := item.ID.KeyID(); keyID != patient && item.Stray == nil {
				patient, shared = keyID, v.versionsOnce(keyID)
			}
			if !yield(check{item, shared}, err) {
				return
			}
		}
	}
}

func (v *verifier) versions(id keys.KeyID) versions {
	return func(ctx context.Context) (keys.Versions, error) { return v.keyring.Versions(ctx, id) }
}

// versionsOnce asks the keyring once for all recordings of a patient.
func (v *verifier) versionsOnce(id keys.KeyID) versions {
	var once sync.Once
	var answer keys.Versions
	var err error
	return func(ctx context.Context) (keys.Versions, error) {
		once.Do(func() { answer, err = v.versions(id)(ctx) })
		return answer, err
	}
}

func (v *verifier) item(ctx context.Context, c check) error {
	switch {
	case c.Stray != nil:
		v.Find(job.About(KindStray, keys.RecordingID{}, *c.Stray, ""))
		return nil
	case c.Envelope == nil:
		v.Record(func(*job.Progress) { v.report.Uncommitted.add(c.Media.Size) })
		return nil
	}
	result := v.check(ctx, c)
	if len(result.findings) > 0 && !result.settled {
		result = v.recheck(ctx, c.ID, result)
	}
	if ctx.Err() != nil || result.gone {
		return nil
	}
	v.Record(func(p *job.Progress) {
		p.Done++
		v.report.Recordings++
		if result.checked {
			v.report.Checked++
		}
		if result.read {
			v.report.Read++
		}
		for _, finding := range result.findings {
			v.report.Findings.Add(finding)
		}
	})
	return nil
}

// result is what is known of a recording.
type result struct {
	findings []job.Finding
	checked  bool // beyond the listing
	read     bool // to the end
	gone     bool // the recording no longer exists
	settled  bool // another check would show nothing else
}

// find adds a finding about one of the recording's objects.
func (r *result) find(kind job.Kind, id keys.RecordingID, object storage.Info, detail string) {
	r.findings = append(r.findings, job.About(kind, id, object, detail))
}

// recheck checks a recording again, as it is now.
func (v *verifier) recheck(ctx context.Context, id keys.RecordingID, first result) result {
	item, err := v.objects.Find(ctx, id)
	switch {
	case err != nil:
		return first
	case item.Envelope == nil:
		return result{gone: true}
	}
	return v.check(ctx, check{item, v.versions(id.KeyID())})
}

// check checks a recording that has an envelope.
func (v *verifier) check(ctx context.Context, c check) result {
	var r result
	sound := false
	if c.Media == nil {
		r.find(KindMissingMedia, c.ID, *c.Envelope, "")
	} else if _, err := segment.PlaintextSize(c.Media.Size); err != nil {
		r.find(KindMalformedMedia, c.ID, *c.Media, err.Error())
	} else {
		sound = true
	}
	if !v.options.sampled(c.ID) {
		return r
	}
	r.checked = true
	v.checkEnvelope(ctx, c, &r)
	if !sound {
		return r
	}
	if grant, ok := v.grant(c.ID); ok && len(r.findings) == 0 {
		v.readAll(ctx, grant, c, &r)
	} else {
		v.checkHeader(ctx, c, &r)
	}
	return r
}

// checkEnvelope checks an envelope as far as that needs no key.
func (v *verifier) checkEnvelope(ctx context.Context, c check, r *result) {
	stored, err := v.objects.Envelope(ctx, c.ID)
	switch {
	case errors.Is(err, objects.ErrMisplaced):
		r.find(KindMisplaced, c.ID, *c.Envelope, err.Error())
		return
	case objects.Damaged(err):
		r.find(KindMalformedEnvelope, c.ID, *c.Envelope, err.Error())
		return
	case err != nil:
		r.find(KindUnchecked, c.ID, *c.Envelope, err.Error())
		return
	case v.keyring == nil:
		return
	}
	version, err := stored.Wrapped.Version()
	var have keys.Versions
	if err == nil {
		have, err = c.versions(ctx)
	}
	switch {
	case errors.Is(err, keys.ErrErased):
		r.find(KindErased, c.ID, *c.Envelope, "")
	case errors.Is(err, keys.ErrNotEnrolled):
		r.find(KindNotEnrolled, c.ID, *c.Envelope, "")
	case err != nil:
		r.find(KindUnchecked, c.ID, *c.Envelope, err.Error())
	case version > have.Latest:
		r.find(KindUnknownVersion, c.ID, *c.Envelope, fmt.Sprintf("wrapped under version %d, and the newest is %d", version, have.Latest))
	case version < have.MinAvailable:
		r.find(KindRetired, c.ID, *c.Envelope, fmt.Sprintf("wrapped under version %d, and those before %d were destroyed", version, have.MinAvailable))
	case version < have.MinDecryption:
		r.find(KindRetired, c.ID, *c.Envelope, fmt.Sprintf("wrapped under version %d, and those before %d are retired", version, have.MinDecryption))
	}
}

// checkHeader checks that media can be read and begins with a header.
func (v *verifier) checkHeader(ctx context.Context, c check, r *result) {
	header, _, err := v.objects.ReadMedia(ctx, c.ID, 0, segment.HeaderSize)
	switch {
	case err != nil:
		r.find(KindUnchecked, c.ID, *c.Media, err.Error())
	case len(header) < segment.HeaderSize || header[0] != segment.HeaderSize:
		r.find(KindMalformedMedia, c.ID, *c.Media, "it does not begin with a header")
	}
}

// grant returns a grant for the recording, if there is one.
func (v *verifier) grant(id keys.RecordingID) (keys.Grant, bool) {
	if v.options.Vault == nil {
		return keys.Grant{}, false
	}
	return v.options.Grant(id.KeyID())
}

// readAll reads a recording to its end, which authenticates it.
func (v *verifier) readAll(ctx context.Context, grant keys.Grant, c check, r *result) {
	recording, err := v.options.Vault.Open(ctx, grant, c.ID)
	if err == nil {
		_, err = recording.WriteTo(bytesRead{v})
		err = errors.Join(err, recording.Close())
	}
	kind := KindUnchecked
	switch {
	case err == nil:
		r.read = true
		return
	case errors.Is(err, vault.ErrDamaged):
		kind = KindUnauthentic
	case errors.Is(err, keys.ErrRetired):
		kind = KindRetired
	case errors.Is(err, keys.ErrErased):
		kind = KindErased
	case errors.Is(err, keys.ErrNotEnrolled):
		kind = KindNotEnrolled
	}
	// The vault has emitted a security event for it. One is enough.
	r.settled = errors.Is(err, vault.ErrDamaged) || errors.Is(err, keys.ErrDenied)
	r.find(kind, c.ID, *c.Media, err.Error())
}

// bytesRead counts what is written to it.
type bytesRead struct{ v *verifier }

func (b bytesRead) Write(p []byte) (int, error) {
	b.v.Record(func(progress *job.Progress) {
		b.v.report.BytesRead += int64(len(p))
		progress.Bytes = b.v.report.BytesRead
	})
	return len(p), nil
}
