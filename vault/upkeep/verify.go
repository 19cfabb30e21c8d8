package upkeep

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/scope"
)

// KeyVersions is what [Verify] asks of a keyring: whether the version that wraps a recording's key is alive.
// The auditor's right to read is enough.
type KeyVersions interface {
	// Versions is as in [keys.Rotator].
	Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error)
}

// VerifyOptions say what is verified and how thoroughly.
type VerifyOptions struct {
	// Prefix is that of the vault: see vault.WithPrefix.
	Prefix string

	// Scope says whose recordings are looked at. Required.
	Scope scope.Scope

	// Sample is the fraction of recordings, drawn at random, that more is known of than the
	// listing tells: over 0 and up to 1. Default 1, which is all of them.
	Sample float64

	// Seed picks the sample. The same seed picks the same recordings, in whatever shards and order; a
	// sample of a greater fraction has those of a smaller one in it.
	Seed uint64

	// Vault, if not nil, has the recordings in the sample read to their end as far as Grant has a grant for
	// the patient. It must be over the same store, with the same prefix.
	Vault *vault.Vault

	// Grant returns a grant for the patient's recordings, if there is one. It may be called by several
	// goroutines at once. Each recording takes a use of the grant.
	Grant func(keys.KeyID) (keys.Grant, bool)

	// Concurrency is how many recordings are worked on at a time. Default [DefaultConcurrency], at most
	// [MaxConcurrency]. Each takes up to 2 MiB of memory while it is read.
	Concurrency int

	// Progress, if not nil, is told how far Verify has come, every 100 ms and at the end. It is never called
	// concurrently.
	Progress func(Progress)
}

// VerifyReport tells what was looked at and what is wrong.
type VerifyReport struct {
	Scope    string    `json:"scope"`
	Sample   float64   `json:"sample"`
	Seed     uint64    `json:"seed"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`

	Recordings  int64 `json:"recordings"`  // that have an envelope
	Checked     int64 `json:"checked"`     // of these, without keys and beyond the listing: the sample
	Read        int64 `json:"read"`        // of these, to the end, with a grant
	BytesRead   int64 `json:"bytes_read"`  // of plaintext, each authenticated
	KeysAsked   bool  `json:"keys_asked"`  // there was a keyring to ask for versions
	Uncommitted Tally `json:"uncommitted"` // media without an envelope: on its way, or garbage for Sweep

	Findings Findings `json:"findings"`
}

// OK tells whether nothing was found. Of a Verify that returned no error, it decides whether all is well.
func (r VerifyReport) OK() bool { return len(r.Findings.Counts) == 0 }

// Verify tells what is damaged, and changes nothing. What looks damaged is looked at once more before it is
// reported, since recordings may be deleted, and keys rotated, meanwhile.
//
// Of every recording in the scope it checks, by the listing alone, that envelope and media are there, and
// that the media has a size that media can have; and it reports objects that are none of a recording's.
//
// Of those in the sample it checks that the envelope is one in canonical form and that of this recording;
// that the media can be read and begins as media does; and, unless the keyring is nil, that the version of the
// patient's envelope key which wraps the recording key still unwraps. All that needs no key, and it cannot
// tell media that was cut, exchanged or altered: what would tell is sealed.
//
// With a vault and grants, each recording in the sample for whose patient there is a grant is read to its end
// instead, which authenticates the envelope and every byte of the media. It is read as any reader would,
// so refusals and damage are also told as the vault's security events.
//
// The keyring may be nil. Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for a prefix; with a
// report, those of [storage.Store] for List, and the context's. What cannot be checked because the store
// or the keyring fails or refuses is [KindUnchecked].
func Verify(ctx context.Context, keyring KeyVersions, store storage.Store, options VerifyOptions) (VerifyReport, error) {
	l, err := prepare(store, options.Prefix, options.Scope, &options.Concurrency)
	if err == nil {
		err = options.validate()
	}
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify: %w", err)
	}
	now := time.Now()
	v := &verifier{
		keyring: keyring, store: store, layout: l, options: options,
		report: VerifyReport{
			Scope: options.Scope.String(), Sample: options.Sample, Seed: options.Seed, Started: now.UTC(), KeysAsked: keyring != nil,
			Findings: Findings{Counts: map[Kind]int64{}, Listed: []Finding{}},
		},
	}
	end := watch(now, options.Progress, v.progress)
	err = each(ctx, v.jobs(ctx), options.Concurrency, func(j job) { v.item(ctx, j) })
	end()
	v.report.BytesRead = v.read.Load()
	v.report.Findings.sort()
	v.report.Finished = time.Now().UTC()
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

// sampled tells whether a recording is in the sample.
func (o *VerifyOptions) sampled(id keys.RecordingID) bool {
	text := binary.BigEndian.AppendUint64([]byte("recvault sample\x00"), o.Seed)
	sum := sha256.Sum256(append(text, id.String()...))
	const bits = 53 // that a float64 holds exactly
	return float64(binary.BigEndian.Uint64(sum[:])>>(64-bits)) < o.Sample*(1<<bits)
}

// verifier is one Verify.
type verifier struct {
	keyring KeyVersions
	store   storage.Store
	layout  layout.Layout
	options VerifyOptions
	read    atomic.Int64 // bytes

	mu     sync.Mutex
	report VerifyReport
	done   int64 // recordings
}

func (v *verifier) progress() Progress {
	v.mu.Lock()
	defer v.mu.Unlock()
	var findings int64
	for _, n := range v.report.Findings.Counts {
		findings += n
	}
	return Progress{Recordings: v.done, Bytes: v.read.Load(), Findings: findings}
}

// record changes the report.
func (v *verifier) record(change func(*VerifyReport)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.report)
}

// versions asks for the versions of a patient's key.
type versions func(context.Context) (keys.Versions, error)

// job is an item of the listing, with what is asked once for all recordings of its patient.
type job struct {
	layout.Item
	versions versions
}

// jobs walks over the scope.
func (v *verifier) jobs(ctx context.Context) iter.Seq2[job, error] {
	return func(yield func(job, error) bool) {
		var patient keys.KeyID
		var ask versions
		for item, err := range v.layout.Walk(ctx, v.store, v.options.Scope) {
			if keyID := item.ID.KeyID(); keyID != patient && item.Stray == nil {
				patient, ask = keyID, v.askOnce(keyID)
			}
			if !yield(job{item, ask}, err) {
				return
			}
		}
	}
}

// ask asks the keyring for the versions of a patient's key.
func (v *verifier) ask(id keys.KeyID) versions {
	return func(ctx context.Context) (keys.Versions, error) { return v.keyring.Versions(ctx, id) }
}

// askOnce is ask with an answer that is kept.
func (v *verifier) askOnce(id keys.KeyID) versions {
	var once sync.Once
	var answer keys.Versions
	var err error
	return func(ctx context.Context) (keys.Versions, error) {
		once.Do(func() { answer, err = v.ask(id)(ctx) })
		return answer, err
	}
}

func (v *verifier) item(ctx context.Context, j job) {
	switch {
	case j.Stray != nil:
		v.record(func(r *VerifyReport) { r.Findings.add(about(KindStray, keys.RecordingID{}, *j.Stray, "")) })
		return
	case j.Envelope == nil:
		v.record(func(r *VerifyReport) { r.Uncommitted.add(j.Media.Size) })
		return
	}
	result := v.look(ctx, j)
	if len(result.findings) > 0 && !result.settled {
		result = v.lookAgain(ctx, j.ID, result)
	}
	if ctx.Err() != nil || result.gone {
		return
	}
	v.record(func(r *VerifyReport) {
		r.Recordings++
		if result.checked {
			r.Checked++
		}
		if result.read {
			r.Read++
		}
		for _, finding := range result.findings {
			r.Findings.add(finding)
		}
		v.done++
	})
}

// result is what is known of a recording.
type result struct {
	findings []Finding
	checked  bool // beyond the listing
	read     bool // to the end
	gone     bool // there is no such recording any more
	settled  bool // another look would show nothing else
}

// find adds a finding about one of the recording's objects.
func (r *result) find(kind Kind, id keys.RecordingID, object storage.Info, detail string) {
	r.findings = append(r.findings, about(kind, id, object, detail))
}

// lookAgain looks at a recording afresh.
func (v *verifier) lookAgain(ctx context.Context, id keys.RecordingID, first result) result {
	item := layout.Item{ID: id}
	var err error
	if item.Media, err = layout.Find(ctx, v.store, v.layout.Media(id)); err == nil {
		item.Envelope, err = layout.Find(ctx, v.store, v.layout.Envelope(id)) // last: it goes first
	}
	switch {
	case err != nil:
		return first
	case item.Envelope == nil:
		return result{gone: true}
	}
	return v.look(ctx, job{item, v.ask(id.KeyID())})
}

// look checks a recording that has an envelope.
func (v *verifier) look(ctx context.Context, j job) result {
	var r result
	sound := false
	if j.Media == nil {
		r.find(KindMissingMedia, j.ID, *j.Envelope, "")
	} else if _, err := segment.PlaintextSize(j.Media.Size); err != nil {
		r.find(KindMalformedMedia, j.ID, *j.Media, err.Error())
	} else {
		sound = true
	}
	if !v.options.sampled(j.ID) {
		return r
	}
	r.checked = true
	v.lookAtEnvelope(ctx, j, &r)
	if !sound {
		return r
	}
	if grant, ok := v.grant(j.ID); ok && len(r.findings) == 0 {
		v.readAll(ctx, grant, j, &r)
	} else {
		v.lookAtHeader(ctx, j, &r)
	}
	return r
}

// lookAtEnvelope checks what can be told of an envelope without a key.
func (v *verifier) lookAtEnvelope(ctx context.Context, j job, r *result) {
	text, _, err := layout.Read(ctx, v.store, j.Envelope.Name, 0, envelope.MaxSize+1)
	if err != nil {
		r.find(KindUnchecked, j.ID, *j.Envelope, err.Error())
		return
	}
	sealed, err := envelope.Parse(text)
	switch {
	case err != nil:
		r.find(KindMalformedEnvelope, j.ID, *j.Envelope, err.Error())
		return
	case sealed.ID != j.ID:
		r.find(KindMisplaced, j.ID, *j.Envelope, "it is that of "+sealed.ID.String())
		return
	}
	if v.keyring == nil {
		return
	}
	version, err := sealed.Wrapped.Version()
	var have keys.Versions
	if err == nil {
		have, err = j.versions(ctx)
	}
	switch {
	case errors.Is(err, keys.ErrErased):
		r.find(KindErased, j.ID, *j.Envelope, "")
	case errors.Is(err, keys.ErrNotEnrolled):
		r.find(KindNotEnrolled, j.ID, *j.Envelope, "")
	case err != nil:
		r.find(KindUnchecked, j.ID, *j.Envelope, err.Error())
	case version > have.Latest:
		r.find(KindUnknownVersion, j.ID, *j.Envelope, fmt.Sprintf("wrapped under version %d, and the newest is %d", version, have.Latest))
	case version < have.MinAvailable:
		r.find(KindRetired, j.ID, *j.Envelope, fmt.Sprintf("wrapped under version %d, and those before %d were destroyed", version, have.MinAvailable))
	case version < have.MinDecryption:
		r.find(KindRetired, j.ID, *j.Envelope, fmt.Sprintf("wrapped under version %d, and those before %d are retired", version, have.MinDecryption))
	}
}

// lookAtHeader checks that media can be read and begins as media does.
func (v *verifier) lookAtHeader(ctx context.Context, j job, r *result) {
	header, _, err := layout.Read(ctx, v.store, j.Media.Name, 0, segment.HeaderSize)
	switch {
	case err != nil:
		r.find(KindUnchecked, j.ID, *j.Media, err.Error())
	case len(header) < segment.HeaderSize || header[0] != segment.HeaderSize:
		r.find(KindMalformedMedia, j.ID, *j.Media, "it does not begin with a header")
	}
}

// grant returns a grant for the recording, if there is one.
func (v *verifier) grant(id keys.RecordingID) (keys.Grant, bool) {
	if v.options.Vault == nil {
		return keys.Grant{}, false
	}
	return v.options.Grant(id.KeyID())
}

// readAll reads a recording to its end, and keeps nothing of it.
func (v *verifier) readAll(ctx context.Context, grant keys.Grant, j job, r *result) {
	recording, err := v.options.Vault.Open(ctx, grant, j.ID)
	if err == nil {
		_, err = recording.WriteTo(counter{&v.read})
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
	// The vault has told of it as a security event, and need not do so twice.
	r.settled = errors.Is(err, vault.ErrDamaged) || errors.Is(err, keys.ErrDenied)
	r.find(kind, j.ID, *j.Media, err.Error())
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}
