package upkeep

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/jobs"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/scope"
)

// KeyVersions is what [Verify] needs of a keyring. It shows whether the versions that the labels of the wrapped keys
// name still unwrap. The auditor's role is enough. A keyring that is a [Rewrapper] too, with the rotator's role,
// proves more.
type KeyVersions interface {
	// Versions is as in [keys.Rotator].
	Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error)
}

// Rewrapper is a keyring that can prove that it can use a wrapped key: it wraps it again. Anyone who can write to the
// store can change the version in a label, and a keyring that was restored from a backup may have a version of that
// number that is another key. If the keyring given to [Verify] is a Rewrapper, and does not answer [keys.ErrDenied], both
// wrapped keys of each recording in the sample are proved. Otherwise only the versions in their labels are compared.
type Rewrapper interface {
	// Rewrap is as in [keys.Rotator]. The results are not used.
	Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error)
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
	// takes two uses of the grant.
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
	Read        int64 `json:"read"`        // of these, those read to the end, and described, with a grant
	BytesRead   int64 `json:"bytes_read"`  // of plaintext, all authenticated
	KeysAsked   bool  `json:"keys_asked"`  // whether key versions were checked: there was a keyring
	Proved      int64 `json:"proved"`      // of Checked, those both of whose wrapped keys the keyring could use: it wrapped them again
	Compared    int64 `json:"compared"`    // of Checked, those of which only the versions in the labels of the wrapped keys were compared
	Unsupported int64 `json:"unsupported"` // of another version of the format, or another kind of keyring: not damaged
	Uncommitted Tally `json:"uncommitted"` // media without an envelope: on its way, or garbage for Sweep
}

// Complete reports whether nothing needs attention: there are no findings but recordings that are unsupported. It is for
// a Verify that returned no error.
func (r VerifyReport) Complete() bool { return r.Findings.Total() == r.Findings.Total(KindUnsupported) }

// Verify reports what is damaged, and changes nothing. What looks damaged is checked once more before it is
// reported, since recordings may be deleted, and keys rotated, at the same time.
//
// For every recording in the scope it checks, by the listing alone, that envelope and media are there, and that
// media can have this size. If it cannot, the recording is checked like those in the sample. Verify reports objects that
// belong to no recording.
//
// For each recording in the sample it checks that the envelope is in canonical form and belongs to this recording;
// that the media can be read and begins with a header; and, unless the keyring is nil, that both wrapped keys can be
// used. If the keyring is a [Rewrapper] with the right to re-wrap, it proves that by wrapping both again, and the results
// are thrown away. Otherwise Verify only compares the versions in their labels with those of the patient's envelope key,
// and cannot notice that a version was changed, or that a restored keyring has another key of that version.
// [VerifyReport.Proved] and [VerifyReport.Compared] count both. If the keyring refuses to re-wrap, it is not asked again.
//
// None of this needs a key. It cannot find media that was cut, exchanged or altered, because the values that would show
// it are encrypted. Nor can it find a wrapped key that is not the recording's: re-wrapping proves under which key and for
// which recording something was wrapped, and not what.
//
// With a vault and grants, it reads each recording in the sample to its end if there is a grant for the patient, and then
// describes it as [vault.Vault.Stat] does. That authenticates the envelope and every byte of the media, and proves that
// both wrapped keys belong to this recording. It reads as any reader does, so the vault also emits security events for
// refusals and damage.
//
// An unsupported envelope, of another version of the format or another kind of keyring, is not damaged. It is reported as
// [KindUnsupported], and [VerifyReport.Complete] does not count it. The version in an envelope and the label of a wrapped
// key are not authenticated, so damage can look so.
//
// The keyring may be nil. Errors: [ErrInvalidOptions], [storage.ErrInvalidName] for a prefix; with a report, those
// of [storage.Store] for List, and the context's. If a check fails because the store or the keyring fails or
// refuses, that is a finding, [KindUnchecked]. If that happens ten times in a row, or every time, to one kind of request,
// Verify ends with the error: [keys.ErrDenied], [keys.ErrUnauthenticated], [keys.ErrUnavailable], [storage.ErrDenied],
// [storage.ErrUnavailable] or [storage.ErrNoBucket]. A keyring that refuses to re-wrap, and a grant that is refused, end
// nothing.
func Verify(ctx context.Context, keyring KeyVersions, store storage.Store, s scope.Scope, options VerifyOptions) (VerifyReport, error) {
	o, err := prepare(store, s, options.Prefix, &options.Concurrency)
	if err == nil {
		err = options.validate()
	}
	if err != nil {
		return VerifyReport{}, fmt.Errorf("verify: %w", err)
	}
	v := &verifier{keyring: keyring, rewraps: newRewraps(keyring), objects: o, options: options}
	v.report = VerifyReport{
		Report: job.NewReport("verify", s.String(), false),
		Sample: options.Sample, Seed: options.Seed, KeysAsked: keyring != nil,
	}
	ctx, v.giveUp = context.WithCancelCause(ctx)
	defer v.giveUp(nil)
	v.Run = jobs.Start(&v.report.Report, s, options.Progress)
	err = objects.Each(ctx, v.checks(ctx), options.Concurrency, v.item)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil:
		err = v.failure()
	}
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
	rewraps *rewraps

	giveUp                                                                    context.CancelCauseFunc
	versionsFailed, rewrapsFailed, envelopesFailed, mediaFailed, grantsFailed jobs.Streak
}

// watch notes the outcome of a request, and ends the job if its kind keeps failing.
func (v *verifier) watch(kind *jobs.Streak, err error, failures ...error) {
	if kind.Failed(err, failures...) {
		v.giveUp(err)
	}
}

// failure returns why every request of a kind failed, or nil.
func (v *verifier) failure() error {
	for _, kind := range []*jobs.Streak{&v.versionsFailed, &v.rewrapsFailed, &v.envelopesFailed, &v.mediaFailed, &v.grantsFailed} {
		if err := kind.Err(); err != nil {
			return err
		}
	}
	return nil
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
	return func(ctx context.Context) (keys.Versions, error) {
		found, err := v.keyring.Versions(ctx, id)
		if err == nil {
			v.Record(func(*job.Progress) { v.report.Keys.Add(found.Rotated) })
		}
		v.watch(&v.versionsFailed, err, keys.ErrDenied, keys.ErrUnauthenticated, keys.ErrUnavailable)
		return found, err
	}
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
		if result.proved {
			v.report.Proved++
		}
		if result.compared {
			v.report.Compared++
		}
		if result.unsupported {
			v.report.Unsupported++
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

	proved      bool // the keyring can use both wrapped keys
	compared    bool // only the labels of the wrapped keys were compared
	unsupported bool

	otherVersion bool // of the format, so that nothing is known of its media
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
	var malformed error
	if c.Media == nil {
		r.find(KindMissingMedia, c.ID, *c.Envelope, "")
	} else {
		_, malformed = segment.PlaintextSize(c.Media.Size)
	}
	// Media of another version of the format may have any size, and only the envelope shows the version.
	if !v.options.sampled(c.ID) && malformed == nil {
		return r
	}
	r.checked = true
	v.checkEnvelope(ctx, c, &r)
	switch grant, ok := v.grant(c.ID); {
	case c.Media == nil || r.otherVersion:
	case malformed != nil:
		r.find(KindMalformedMedia, c.ID, *c.Media, malformed.Error())
	case ok && len(r.findings) == 0:
		v.readAll(ctx, grant, c, &r)
	default:
		v.checkHeader(ctx, c, &r)
	}
	return r
}

// checkEnvelope checks an envelope as far as that needs no key.
func (v *verifier) checkEnvelope(ctx context.Context, c check, r *result) {
	stored, err := v.objects.Envelope(ctx, c.ID)
	v.watch(&v.envelopesFailed, err, storage.ErrDenied, storage.ErrUnavailable, storage.ErrNoBucket)
	switch {
	case errors.Is(err, objects.ErrMisplaced):
		r.find(KindMisplaced, c.ID, *c.Envelope, err.Error())
	case objects.Damaged(err):
		r.find(KindMalformedEnvelope, c.ID, *c.Envelope, err.Error())
	case errors.Is(err, envelope.ErrUnsupported):
		r.unsupported, r.otherVersion = true, true
		r.find(KindUnsupported, c.ID, *c.Envelope, err.Error())
	case err != nil:
		r.find(KindUnchecked, c.ID, *c.Envelope, err.Error())
	case v.keyring != nil:
		v.checkWraps(ctx, c, stored.Envelope, r)
	}
}

// checkWraps checks whether the keyring can use both wrapped keys.
func (v *verifier) checkWraps(ctx context.Context, c check, e envelope.Envelope, r *result) {
	have, err := c.versions(ctx)
	var answers map[keys.Binding]error
	if err == nil {
		answers, r.compared, err = v.tryWraps(ctx, e)
	}
	switch {
	case errors.Is(err, keys.ErrErased):
		r.find(KindErased, c.ID, *c.Envelope, "")
		return
	case errors.Is(err, keys.ErrNotEnrolled):
		r.find(KindNotEnrolled, c.ID, *c.Envelope, "")
		return
	case err != nil:
		r.find(KindUnchecked, c.ID, *c.Envelope, err.Error())
		return
	}
	details := map[job.Kind][]string{}
	for i, name := range []string{"recording key", "metadata key"} { // as Wraps orders them
		item := e.Wraps()[i]
		if kind, detail := judge(item.Wrapped, have, answers[item.Binding]); kind != "" {
			details[kind] = append(details[kind], name+": "+detail)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(details)) {
		r.find(kind, c.ID, *c.Envelope, strings.Join(details[kind], "; "))
	}
	_, r.unsupported = details[KindUnsupported]
	r.proved = !r.compared && len(details) == 0
}

// judge returns what is wrong with a wrapped key. err is the keyring's answer to re-wrapping it. It is nil if the
// keyring was not asked.
func judge(wrapped keys.WrappedKey, have keys.Versions, err error) (kind job.Kind, detail string) {
	version, _ := wrapped.Version() // an envelope's parse
	switch {
	case errors.Is(err, keys.ErrUnsupported):
		return KindUnsupported, err.Error()
	case version > have.Latest:
		return KindUnknownVersion, fmt.Sprintf("wrapped under version %d, and the newest is %d", version, have.Latest)
	case version < have.MinAvailable:
		return KindRetired, fmt.Sprintf("wrapped under version %d, and those before %d were destroyed", version, have.MinAvailable)
	case version < have.MinDecryption:
		return KindRetired, fmt.Sprintf("wrapped under version %d, and those before %d are retired", version, have.MinDecryption)
	case errors.Is(err, keys.ErrRetired):
		return KindRetired, err.Error()
	case errors.Is(err, keys.ErrIntegrity):
		return KindUnauthentic, err.Error()
	case err != nil:
		return KindUnchecked, err.Error()
	}
	return "", ""
}

// tryWraps has the keyring re-wrap both wrapped keys, throws the results away, and returns the error for each binding. If
// the keyring may not or cannot re-wrap, compared is true: then only the labels are left to compare.
func (v *verifier) tryWraps(ctx context.Context, e envelope.Envelope) (answers map[keys.Binding]error, compared bool, err error) {
	kinds := map[string][]keys.RewrapItem{} // of one kind, unless somebody changed a label
	for _, item := range e.Wraps() {
		kind, _, _, _ := item.Wrapped.Parse() // an envelope's parse
		kinds[kind] = append(kinds[kind], item)
	}
	answers = map[keys.Binding]error{}
	for kind, items := range kinds {
		results, err := v.rewraps.ask(ctx, kind, e.ID.KeyID(), items)
		v.watch(&v.rewrapsFailed, err, keys.ErrUnauthenticated, keys.ErrUnavailable)
		switch {
		case errors.Is(err, keys.ErrDenied):
			compared = true
		case err != nil:
			return nil, false, err
		}
		for i, result := range results {
			answers[items[i].Binding] = result.Err
		}
	}
	return answers, compared, nil
}

// rewraps asks a keyring to re-wrap, and stops asking where it has no right to.
//
// A keyring recognises a wrapped key of another kind by its label, and needs no right for that. So what it answered is
// kept for each kind: the part of a label that names the keyring.
type rewraps struct {
	keyring Rewrapper // nil if the keyring cannot re-wrap

	mu      sync.Mutex // held by the request that finds out whether there is the right
	granted map[string]bool
}

// maxKinds bounds the memory for kinds. Whoever writes to the store can make up labels.
const maxKinds = 100

func newRewraps(keyring KeyVersions) *rewraps {
	rewrapper, _ := keyring.(Rewrapper)
	return &rewraps{keyring: rewrapper, granted: map[string]bool{}}
}

// ask has the keyring re-wrap keys of one kind, and returns a result for each. It returns [keys.ErrDenied], without
// another request, if the keyring has refused that kind before.
func (r *rewraps) ask(ctx context.Context, kind string, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	if r.keyring == nil {
		return nil, keys.ErrDenied
	}
	r.mu.Lock()
	granted, known := r.granted[kind]
	if known {
		r.mu.Unlock()
	} else {
		defer r.mu.Unlock() // others wait for the answer
	}
	if known && !granted {
		return nil, keys.ErrDenied
	}
	results, err := r.keyring.Rewrap(ctx, id, items)
	denied := errors.Is(err, keys.ErrDenied)
	if !known && (err == nil || denied) && len(r.granted) < maxKinds {
		r.granted[kind] = !denied
	}
	if err == nil && len(results) != len(items) {
		err = fmt.Errorf("%w: it answered for %d items of %d", keys.ErrUnavailable, len(results), len(items))
	}
	if err != nil {
		return nil, err
	}
	return results, nil
}

// checkHeader checks that media can be read and begins with a header.
func (v *verifier) checkHeader(ctx context.Context, c check, r *result) {
	header, _, err := v.objects.ReadMedia(ctx, c.ID, 0, segment.HeaderSize)
	v.watch(&v.mediaFailed, err, storage.ErrDenied, storage.ErrUnavailable, storage.ErrNoBucket)
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

// readAll reads a recording to its end and describes it, which authenticates all of it.
func (v *verifier) readAll(ctx context.Context, grant keys.Grant, c check, r *result) {
	object := *c.Media
	recording, err := v.options.Vault.Open(ctx, grant, c.ID)
	if err == nil {
		_, err = recording.WriteTo(bytesRead{v})
		err = errors.Join(err, recording.Close())
	}
	if err == nil {
		// Open does not use the wrapped metadata key.
		object = *c.Envelope
		_, err = v.options.Vault.Stat(ctx, grant, c.ID)
	}
	v.watch(&v.grantsFailed, err, keys.ErrUnavailable, storage.ErrDenied, storage.ErrUnavailable, storage.ErrNoBucket)
	kind := KindUnchecked
	switch {
	case err == nil:
		r.read = true
		return
	case errors.Is(err, vault.ErrUnsupported):
		r.unsupported, kind = true, KindUnsupported
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
	r.find(kind, c.ID, object, err.Error())
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
