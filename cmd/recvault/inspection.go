package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// inspectedField says what a field of the envelope, or a property of an object, shows.
type inspectedField struct {
	Name        string `json:"name"`
	Shows       string `json:"shows"`
	DoesNotShow string `json:"does_not_show"`
}

var inspectedFields = []inspectedField{
	{"version", "which rules the envelope follows", "whether it is the true one: it is not authenticated, so a flipped bit can make damage look unsupported"},
	{
		"id", "which patient's key and which recording key belong here: its second half is computed from the metadata key",
		"anything until the key was unwrapped and compared (step 10)",
	},
	{
		"wrapped_key", "by its label, which kind of keyring and which version of the envelope key wrapped the recording key",
		"that the label is true (only unwrapping, or a proof by re-wrapping, shows that), nor what was wrapped",
	},
	{
		"wrapped_metadata_key", "the same for the key that opens the description and never the media",
		"that it is the key of this recording: a malicious writer can make a recording that opens and cannot be described, or the reverse",
	},
	{"commitment", "once it was compared, that this envelope opens under one key only", "anything to somebody without the key"},
	{"metadata", "by its size, only how long the description is, in steps of 256 bytes", "title, times and attributes, which are encrypted"},
	{"written", "when the store got this envelope, by the store's clock: a rewrap or a correction writes it again", "when the recording was made"},
	{
		"media", "by its size, exactly how long the plaintext is, if nobody changed the object",
		"that the size is right: the right one is sealed in the metadata (step 15)",
	},
}

var inspectionLimits = []string{
	"That this is the newest envelope: whoever can write to the bucket can put an older one of the same recording back. Compare the revision with one that was noted.",
	"Who wrote it: a wrapped key needs a writer's right at the keyring, and whoever once unwrapped the recording key can replace the content under this ID.",
	"That the content is true: what was recorded, its title and its times are what the application gave.",
	"That no other patient has a copy, which shares its keys, and that no older copy of these objects is elsewhere.",
	"That the recording will open tomorrow: a key version can be retired or destroyed, and a patient erased.",
}

// The outcomes of a check.
const (
	checkPassed  = "passed"
	checkFailed  = "failed"
	checkNotMade = "not made"
)

// inspectedCheck is one check of docs/format.md, section 9, and its outcome.
type inspectedCheck struct {
	Step    int    `json:"step"`
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Class   string `json:"class,omitempty"`  // of a failure, in the words of docs/format.md
	Detail  string `json:"detail,omitempty"` // why it failed or was not made, or how much was checked
	Shows   string `json:"shows,omitempty"`  // if it passed
}

// The checks, in order.
const (
	ofID = iota
	ofGrant
	ofEnvelope
	ofStart
	ofVersion
	ofForm
	ofPlace
	ofToken
	ofKeyring
	ofRecordingKey
	ofMetadataKey
	ofBothKeys
	ofRec
	ofCommitment
	ofSeal
	ofRules
	ofSealedSize
	ofMedia
	ofMediaSize
	ofHeader
	ofSegments
)

var allChecks = []inspectedCheck{
	ofID:           {Step: 1, Name: "the ID has its form", Shows: "that a recording can have this ID"},
	ofGrant:        {Step: 2, Name: "there is a grant", Shows: "nothing yet: the keyring decides what the grant may do"},
	ofEnvelope:     {Step: 3, Name: "the envelope exists", Shows: "that there is an object at its place, which anybody with a right to the bucket can have put there (again)"},
	ofStart:        {Step: 4, Name: "the envelope is at most 64 KiB and starts with a version", Shows: "that it can be an envelope of some version"},
	ofVersion:      {Step: 5, Name: "the version is known", Shows: "that this release knows its rules"},
	ofForm:         {Step: 6, Name: "the envelope is canonical", Shows: "that nothing is hidden between its fields, and that every reader reads the same"},
	ofPlace:        {Step: 6, Name: "the envelope has this recording's ID", Shows: "that envelopes were not mixed up by accident; against a forger see step 10"},
	ofToken:        {Step: 7, Name: "the grant's token has its form", Shows: "that it can be sent to the keyring"},
	ofKeyring:      {Step: 8, Name: "the keyring of both wrapped keys is known", Shows: "that this deployment's kind of keyring wrapped them, by their labels"},
	ofRecordingKey: {Step: 9, Name: "the keyring unwraps the recording key", Shows: "that the patient's envelope key wrapped it for this recording, and that the grant may open it"},
	ofMetadataKey:  {Step: 9, Name: "the keyring unwraps the metadata key", Shows: "that the patient's envelope key wrapped it for this recording, and that the grant may describe it"},
	ofBothKeys:     {Step: 9, Name: "the metadata key is that of the recording key", Shows: "that opening and describing show the same recording"},
	ofRec:          {Step: 10, Name: "the ID is that of the key", Shows: "that this is the one key that the ID names: another takes 2^128 work"},
	ofCommitment:   {Step: 10, Name: "the commitment is that of the key and the patient", Shows: "that the envelope does not open to anything else under another key"},
	ofSeal:         {Step: 11, Name: "the metadata authenticates", Shows: "that somebody with the metadata key wrote it, for this patient and recording"},
	ofRules:        {Step: 12, Name: "the metadata keeps the rules of the format", Shows: "that every reader understands it in the same way"},
	ofSealedSize:   {Step: 13, Name: "the sealed size is one that media can have", Shows: "how long the plaintext is"},
	ofMedia:        {Step: 14, Name: "the media exists", Shows: "that there is something to open"},
	ofMediaSize:    {Step: 15, Name: "the media has the sealed size", Shows: "that it is neither shorter nor longer than what was sealed"},
	ofHeader:       {Step: 16, Name: "the media's header is the sealed one", Shows: "that the media begins with the salt and nonce prefix that were sealed"},
	ofSegments:     {Step: 17, Name: "the segments authenticate", Shows: "that each byte of the segments named was encrypted under the recording key, at its place"},
}

// inspection is one run of inspect.
type inspection struct {
	keyring keys.Unwrapper // nil without a grant
	grant   keys.Grant
	all     bool // segments

	objects *objects.Objects // nil for an envelope in a file
	id      keys.RecordingID // that was asked for; zero for a file
	text    []byte           // of the envelope
	stored  *storage.Info    // nil for a file
	media   *storage.Info    // nil if it is missing, or for a file

	progress *progress // nil unless all segments are read

	version  int               // 0 if it cannot be read
	envelope envelope.Envelope // as far as it can be read
	metadata *envelope.Metadata
	checks   []*inspectedCheck
	err      error // of the first check that failed
}

func (i *inspection) passed(check int, format string, args ...any) {
	c := i.checks[check]
	c.Outcome, c.Detail, c.Shows = checkPassed, fmt.Sprintf(format, args...), allChecks[check].Shows
}

func (i *inspection) notMade(check int, format string, args ...any) {
	i.checks[check].Detail = fmt.Sprintf(format, args...)
}

// failed records a failure. The first one is the error that the command ends with.
func (i *inspection) failed(check int, err error) {
	c := i.checks[check]
	c.Outcome, c.Class, c.Detail = checkFailed, i.class(err), oneLine(err)
	if i.err == nil {
		i.err = err
	}
}

// class returns the class of an error, in the words of docs/format.md.
func (i *inspection) class(err error) string {
	is := func(errs ...error) bool {
		for _, target := range errs {
			if errors.Is(err, target) {
				return true
			}
		}
		return false
	}
	switch {
	case is(envelope.ErrUnsupported, keys.ErrUnsupported):
		return "unsupported"
	case is(vault.ErrDamaged, envelope.ErrMalformed, envelope.ErrMetadata, envelope.ErrWrongKey, objects.ErrMisplaced, segment.ErrDamaged, keys.ErrIntegrity):
		return "damaged"
	case is(keys.ErrInvalidGrant):
		return "invalid-grant"
	case is(keys.ErrDenied) && i.grant.KeyID() != i.envelope.ID.KeyID():
		return "wrong-patient"
	case is(keys.ErrDenied):
		return "denied"
	case is(keys.ErrRetired):
		return "retired"
	case is(keys.ErrErased):
		return "erased"
	case is(keys.ErrNotEnrolled):
		return "not-enrolled"
	case is(vault.ErrNotFound, storage.ErrNotFound):
		return "not-found"
	}
	return "unavailable"
}

// damagedf is an error about the recording's objects.
func damagedf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{vault.ErrDamaged}, args...)...)
}

// run makes the checks in order, and returns the error of the first one that failed. Those after a failure that stops a
// reader say so.
func (i *inspection) run(ctx context.Context) error {
	for n := range allChecks {
		check := allChecks[n]
		check.Outcome, check.Shows = checkNotMade, ""
		i.checks = append(i.checks, &check)
	}
	i.walk(ctx)
	why := "it needs a grant"
	for _, check := range i.checks {
		switch {
		case check.Outcome == checkFailed:
			why = fmt.Sprintf("a reader stops at step %d", check.Step)
		case check.Outcome == checkNotMade && check.Detail == "":
			check.Detail = why
		}
	}
	return i.err
}

func (i *inspection) walk(ctx context.Context) {
	if i.objects != nil {
		i.passed(ofID, "")
		i.passed(ofEnvelope, "%s", i.objects.EnvelopeName(i.id))
	} else {
		for _, check := range []int{ofID, ofEnvelope, ofPlace, ofMedia, ofMediaSize, ofHeader, ofSegments} {
			i.notMade(check, "the envelope is not from the store")
		}
	}
	if i.keyring != nil {
		i.passed(ofGrant, "accessor %s", i.grant.Accessor())
	} else {
		i.notMade(ofGrant, "none was given")
	}
	if !i.parse() {
		return
	}
	if i.keyring == nil {
		i.mediaWithoutKey(ctx)
		return
	}
	recordingKey, metadataKey, ok := i.unwrap(ctx)
	defer recordingKey.wipe()
	defer metadataKey.wipe()
	if !ok || !i.unseal(&recordingKey, metadataKey) || i.objects == nil || !i.mediaObject(ctx) {
		return
	}
	if recordingKey.key == nil {
		i.notMade(ofSegments, "it needs the recording key, which was not unwrapped")
		return
	}
	i.segments(ctx, recordingKey.key)
}

// parse makes the checks of the envelope's form, and reports whether a reader goes on.
func (i *inspection) parse() bool {
	version, err := envelope.VersionOf(i.text)
	if err == nil {
		_, _ = fmt.Sscan(version, &i.version) // at most nine digits
	}
	parsed, parseErr := envelope.Parse(i.text)
	switch {
	case len(i.text) > envelope.MaxSize:
		i.failed(ofStart, parseErr)
	case err != nil:
		i.envelope = readable(i.text)
		i.failed(ofStart, err)
	case errors.Is(parseErr, envelope.ErrUnsupported):
		i.passed(ofStart, "%d bytes", len(i.text))
		i.failed(ofVersion, parseErr)
	case parseErr != nil:
		i.envelope = readable(i.text)
		i.passed(ofStart, "%d bytes", len(i.text))
		i.passed(ofVersion, "%s", version)
		i.failed(ofForm, parseErr)
	default:
		i.envelope = parsed
		i.passed(ofStart, "%d bytes", len(i.text))
		i.passed(ofVersion, "%s", version)
		i.passed(ofForm, "")
		if i.objects == nil {
			return true
		}
		if parsed.ID != i.id {
			i.failed(ofPlace, fmt.Errorf("%w: %s", objects.ErrMisplaced, parsed.ID))
			return false
		}
		i.passed(ofPlace, "")
		return true
	}
	return false
}

// mediaWithoutKey looks for what is certainly wrong with the media: without the sealed metadata, nothing is certainly
// right but that it exists.
func (i *inspection) mediaWithoutKey(ctx context.Context) {
	switch {
	case i.objects == nil:
		return
	case i.media == nil:
		i.failed(ofMedia, damagedf("its media is missing"))
		return
	}
	i.passed(ofMedia, "%s", i.objects.MediaName(i.id))
	if _, err := segment.PlaintextSize(i.media.Size); err != nil {
		i.failed(ofMediaSize, err)
		return
	}
	i.notMade(ofMediaSize, "it needs a grant; media can have this size")
	header, ok := i.readHeader(ctx)
	switch {
	case !ok:
	case header[0] != segment.HeaderSize:
		i.failed(ofHeader, damagedf("its media does not begin with a header"))
	default:
		i.notMade(ofHeader, "it needs a grant; the media begins with a header")
	}
}

// readHeader reads the media's header. It records an error as one of step 16.
func (i *inspection) readHeader(ctx context.Context) (segment.Header, bool) {
	text, _, err := i.objects.ReadMedia(ctx, i.id, 0, segment.HeaderSize)
	if err == nil && len(text) < segment.HeaderSize {
		err = damagedf("its media ends in the header")
	}
	if err != nil {
		i.failed(ofHeader, err)
		return segment.Header{}, false
	}
	return segment.Header(text), true
}

// unwrapped is a key, if the keyring unwrapped it.
type unwrapped struct{ key *keys.Key }

func (u unwrapped) wipe() {
	if u.key != nil {
		u.key.Wipe()
	}
}

// unwrap has the keyring unwrap both keys, and reports whether it unwrapped one.
func (i *inspection) unwrap(ctx context.Context) (recordingKey, metadataKey unwrapped, ok bool) {
	known, tokenSound := true, true
	ask := func(check int, item keys.RewrapItem) unwrapped {
		key, err := i.keyring.Unwrap(ctx, i.grant, item.Binding, item.Wrapped)
		switch {
		case errors.Is(err, keys.ErrUnsupported):
			if known {
				i.failed(ofKeyring, err)
			}
			known = false
			i.notMade(check, "the keyring does not know it (step 8)")
		case errors.Is(err, keys.ErrInvalidGrant) && !errors.Is(err, keys.ErrDenied):
			if tokenSound {
				i.failed(ofToken, err)
			}
			tokenSound = false
		case err != nil:
			i.failed(check, err)
		default:
			i.passed(check, "%s", label(item.Wrapped))
		}
		return unwrapped{key}
	}
	wraps := i.envelope.Wraps()
	if i.grant.Details().DescribeOnly {
		i.notMade(ofRecordingKey, "the grant can only describe; the keyring was not asked, because it would record a refusal")
	} else {
		recordingKey = ask(ofRecordingKey, wraps[0])
	}
	metadataKey = ask(ofMetadataKey, wraps[1])
	if tokenSound {
		i.passed(ofToken, "")
	}
	switch asked, other := label(wraps[1].Wrapped), label(wraps[0].Wrapped); {
	case !known || !tokenSound:
	case i.grant.Details().DescribeOnly && keyringOf(wraps[0].Wrapped) != keyringOf(wraps[1].Wrapped):
		i.notMade(ofKeyring, "known is that of the metadata key (%s); about that of the recording key (%s), the keyring was not asked", asked, other)
	default:
		i.passed(ofKeyring, "%s; %s", other, asked)
	}
	if recordingKey.key == nil || metadataKey.key == nil {
		i.notMade(ofBothKeys, "it needs both keys")
		return recordingKey, metadataKey, recordingKey.key != nil || metadataKey.key != nil
	}
	derived := envelope.MetadataKey(recordingKey.key)
	defer derived.Wipe()
	if subtle.ConstantTimeCompare(derived.Bytes(), metadataKey.key.Bytes()) == 1 {
		i.passed(ofBothKeys, "")
	} else {
		i.failed(ofBothKeys, damagedf("the two wrapped keys are of two recordings"))
	}
	return recordingKey, metadataKey, true
}

func keyringOf(wrapped keys.WrappedKey) string {
	keyring, _, _, _ := wrapped.Parse() // an envelope's parse
	return keyring
}

// label returns the part of a wrapped key before the ciphertext.
func label(wrapped keys.WrappedKey) string {
	keyring, version, _, _ := wrapped.Parse() // an envelope's parse
	return fmt.Sprintf("%s, version %d", keyring, version)
}

// unseal makes the checks of steps 10 to 13, with the metadata key of the recording key, or with the other one if only that
// is the ID's. It reports whether a reader goes on. A recording key that is not the ID's is dropped.
func (i *inspection) unseal(recordingKey *unwrapped, metadataKey unwrapped) bool {
	e := i.envelope
	var sealer *envelope.Sealer
	if recordingKey.key != nil {
		key := envelope.MetadataKey(recordingKey.key)
		defer key.Wipe()
		sealer = envelope.NewSealer(e.ID.KeyID(), key)
		defer sealer.Wipe()
	}
	if metadataKey.key != nil && (sealer == nil || sealer.ID() != e.ID) {
		other := envelope.NewSealer(e.ID.KeyID(), metadataKey.key)
		defer other.Wipe()
		if sealer == nil || other.ID() == e.ID {
			sealer = other
			recordingKey.wipe()
			recordingKey.key = nil
		}
	}
	if sealer.ID() != e.ID {
		i.failed(ofRec, damagedf("the key is that of the recording %s", sealer.ID()))
		return false
	}
	i.passed(ofRec, "")
	metadata, err := sealer.Open(e)
	if errors.Is(err, envelope.ErrWrongKey) {
		i.failed(ofCommitment, damagedf("the commitment is that of another key or patient"))
		return false
	}
	i.passed(ofCommitment, "")
	if errors.Is(err, envelope.ErrUnauthentic) {
		i.failed(ofSeal, err)
		return false
	}
	i.passed(ofSeal, "")
	if err != nil {
		i.failed(ofRules, err)
		return false
	}
	i.passed(ofRules, "")
	i.metadata = &metadata
	size, err := segment.PlaintextSize(metadata.MediaSize)
	if err != nil {
		i.failed(ofSealedSize, err)
		return false
	}
	i.passed(ofSealedSize, "%d bytes of plaintext in %d segments", size, segment.Count(size))
	return true
}

// mediaObject makes the checks of steps 14 to 16, and reports whether a reader goes on.
func (i *inspection) mediaObject(ctx context.Context) bool {
	if i.media == nil {
		i.failed(ofMedia, damagedf("its media is missing"))
		return false
	}
	i.passed(ofMedia, "%s", i.objects.MediaName(i.id))
	if i.media.Size != i.metadata.MediaSize {
		i.failed(ofMediaSize, damagedf("its media has %d bytes, not %d", i.media.Size, i.metadata.MediaSize))
		return false
	}
	i.passed(ofMediaSize, "%d bytes", i.media.Size)
	header, ok := i.readHeader(ctx)
	switch {
	case !ok:
		return false
	case header != i.metadata.MediaHeader || header[0] != segment.HeaderSize:
		i.failed(ofHeader, damagedf("its media has another header"))
		return false
	}
	i.passed(ofHeader, "")
	return true
}

// segments authenticates the first and the last segment, or all of them.
func (i *inspection) segments(ctx context.Context, recordingKey *keys.Key) {
	size, _ := segment.PlaintextSize(i.metadata.MediaSize) // step 13
	count := segment.Count(size)
	read, err := i.readSegments(ctx, recordingKey, size)
	switch {
	case err != nil:
		i.failed(ofSegments, err)
	case read < count:
		i.passed(ofSegments, "the first and the last of %d; --all-segments reads the others", count)
	default:
		i.passed(ofSegments, "all %d", count)
	}
}

// readSegments returns how many segments it authenticated.
func (i *inspection) readSegments(ctx context.Context, recordingKey *keys.Key, size int64) (int64, error) {
	start, length := segment.Span(0)
	first, _, err := i.objects.ReadMedia(ctx, i.id, start, length)
	if err != nil {
		return 0, err
	}
	mediaKey := envelope.MediaKey(recordingKey)
	defer clear(mediaKey)
	decrypter, err := segment.NewDecrypter(mediaKey, envelope.MediaAssociatedData(i.id), i.metadata.MediaHeader, size)
	if err != nil {
		return 0, err
	}
	reader, err := segment.NewReader(ctx, decrypter, func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		object, err := i.objects.GetMedia(ctx, i.id, offset, length)
		if err != nil {
			return nil, err
		}
		return object, nil
	}, start, first)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	count := segment.Count(size)
	switch {
	case i.all:
		_, err = reader.WriteTo(i.progress.writer(io.Discard, size))
		return count, err
	case count > 1:
		_, err = reader.ReadAt(make([]byte, 1), size-1)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return min(count, 2), err
	}
	return count, nil
}
