package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/events"
)

// OpenOption configures one [Vault.Open].
type OpenOption func(*openOptions)

type openOptions struct{ offset int64 }

// WithOffset sets the offset at which the caller will read first. Open then fetches and checks the segment at
// that offset in place of the first segment. The position of the Recording is still 0. A negative offset counts
// as 0. If the offset is past the end, Open fetches no segment.
func WithOffset(offset int64) OpenOption {
	return func(o *openOptions) { o.offset = min(max(offset, 0), segment.MaxPlaintext) } // far from an overflow
}

// Open opens a recording with a grant. It reads the envelope and unwraps the recording key with the grant's own
// right. Before it returns, it checks the media's size and one segment: the first, or the one at [WithOffset].
// It fetches that segment while the keyring unwraps the key. The unwrapped key is cached: see [WithKeyCache].
// The context governs the Recording until it is closed. The package comment says, under Time, how long Open waits for a
// store or a Vault that has fallen silent, if the context has no deadline.
//
// Open presents a grant for another patient to the keyring too. The keyring refuses it and puts the attempt on
// record. What was delivered, refusals and damage are events: see [WithEvents].
//
// Errors: [keys.ErrDenied] when the grant is for another patient, and together with
// [keys.ErrInvalidGrant] when it has ended; [ErrNotFound], [ErrDamaged], [ErrUnsupported];
// [keys.ErrInvalidRecordingID], [keys.ErrNotEnrolled], [keys.ErrErased], [keys.ErrRetired],
// [keys.ErrUnavailable]; [storage.ErrUnavailable], [storage.ErrDenied], [storage.ErrNoBucket].
func (v *Vault) Open(ctx context.Context, grant keys.Grant, id ID, options ...OpenOption) (*Recording, error) {
	var o openOptions
	for _, option := range options {
		option(&o)
	}
	began, a := v.now(), v.access(grant, id)
	recording, err := v.open(ctx, a, o)
	if err != nil {
		return nil, fmt.Errorf("open recording %s: %w", id, a.failed(err))
	}
	recording.delivery = &delivery{access: a, event: events.Event{Began: began}}
	recording.reader.Watch(recording.delivery.delivered)
	return recording, nil
}

// open opens a recording without an event for what is delivered.
func (v *Vault) open(ctx context.Context, a *access, o openOptions) (*Recording, error) {
	id := a.id
	sealed, err := v.envelope(ctx, a)
	if err != nil {
		return nil, err
	}
	// Fetch the segment while the keyring unwraps the key. Ciphertext is harmless if the keyring refuses.
	fetchCtx, stopFetch := context.WithCancel(ctx)
	defer stopFetch()
	fetched := make(chan part, 1)
	go func() { fetched <- v.fetchPart(fetchCtx, id, o.offset) }()
	opened, metadata, err := v.unseal(ctx, a, sealed)
	if err != nil {
		stopFetch()
		<-fetched
		return nil, err
	}
	defer opened.wipe()
	first := <-fetched
	if first.err != nil {
		return nil, v.mediaError(ctx, id, first.err)
	}
	if err := first.check(metadata); err != nil {
		return nil, err
	}
	info, err := newInfo(id, metadata)
	if err != nil {
		return nil, err
	}
	mediaKey := envelope.MediaKey(opened.recordingKey)
	defer clear(mediaKey)
	decrypter, err := segment.NewDecrypter(mediaKey, envelope.MediaAssociatedData(id), metadata.MediaHeader, info.Size)
	if err != nil {
		return nil, readError(err)
	}
	reader, err := segment.NewReader(ctx, decrypter, v.mediaSource(id, metadata.MediaSize), first.start, first.ciphertext)
	if err != nil {
		return nil, readError(err)
	}
	reportDamage := sync.OnceFunc(func() { _ = a.failed(ErrDamaged) })
	return &Recording{reader: reader, info: info, stored: sealed, sealed: metadata, reportDamage: reportDamage}, nil
}

// Stat describes a recording. It unwraps the metadata key alone, with which the recording cannot be played: the
// audit log of the keyring shows a description, and a grant that can only describe is enough. It returns the same
// errors as [Vault.Open], but does not read the media.
func (v *Vault) Stat(ctx context.Context, grant keys.Grant, id ID) (Info, error) {
	a := v.access(grant, id)
	info, err := v.stat(ctx, a)
	if err != nil {
		return Info{}, fmt.Errorf("stat recording %s: %w", id, a.failed(err))
	}
	v.emit(a.event(events.Described))
	return info, nil
}

func (v *Vault) stat(ctx context.Context, a *access) (Info, error) {
	stored, err := v.envelope(ctx, a)
	if err != nil {
		return Info{}, err
	}
	sealer, metadata, err := v.describe(ctx, a, stored)
	if err != nil {
		return Info{}, err
	}
	sealer.Wipe()
	return newInfo(a.id, metadata)
}

// envelope reads and parses a recording's envelope.
func (v *Vault) envelope(ctx context.Context, a *access) (objects.Stored, error) {
	grant, id := a.grant, a.id
	if grant.IsZero() {
		return objects.Stored{}, fmt.Errorf("%w: it is the zero grant", keys.ErrInvalidGrant)
	}
	if id.IsZero() {
		return objects.Stored{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	stored, err := v.objects.Envelope(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		err = ErrNotFound
	case errors.Is(err, envelope.ErrUnsupported):
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	case objects.Damaged(err):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	default:
		return stored, err
	}
	return objects.Stored{}, ofOthers(grant, id, err)
}

// ofOthers turns an error that leaves the keyring nothing to decide into [keys.ErrDenied] if the grant names another
// patient: a scan for IDs must not pass unnoticed.
func ofOthers(grant keys.Grant, id ID, err error) error {
	if grant.KeyID() == id.KeyID() {
		return err
	}
	return fmt.Errorf("%w: the grant is for another patient, and the recording does not open: %v", keys.ErrDenied, err)
}

// unseal unwraps the recording key, from the cache or with the grant, and opens the metadata. The caller wipes the
// secrets.
func (v *Vault) unseal(ctx context.Context, a *access, e objects.Stored) (secrets, envelope.Metadata, error) {
	key, err := v.unwrap(ctx, a, e.ID.Binding(), e.WrappedKey)
	if err != nil {
		return secrets{}, envelope.Metadata{}, err
	}
	s := newSecrets(e.ID.KeyID(), key)
	metadata, err := s.sealer.Open(e.Envelope)
	if err != nil {
		s.wipe()
		return secrets{}, envelope.Metadata{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return s, metadata, nil
}

// describe unwraps the metadata key alone, from the cache or with the grant, and opens the metadata. The caller wipes
// the sealer.
func (v *Vault) describe(ctx context.Context, a *access, e objects.Stored) (*envelope.Sealer, envelope.Metadata, error) {
	key, err := v.unwrap(ctx, a, e.ID.MetadataBinding(), e.WrappedMetadataKey)
	if err != nil {
		return nil, envelope.Metadata{}, err
	}
	defer key.Wipe()
	sealer := envelope.NewSealer(e.ID.KeyID(), key)
	metadata, err := sealer.Open(e.Envelope)
	if err != nil {
		sealer.Wipe()
		return nil, envelope.Metadata{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return sealer, metadata, nil
}

// unwrap unwraps one key, from the cache or with the grant. The caller wipes it.
func (v *Vault) unwrap(ctx context.Context, a *access, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	key, err := v.keyCache.unwrap(ctx, a.grant, binding, wrapped, func(ctx context.Context) (*keys.Key, error) {
		a.unwraps.Add(1)
		return v.keyring.Unwrap(ctx, a.grant, binding, wrapped)
	})
	switch {
	case errors.Is(err, keys.ErrUnsupported):
		return nil, ofOthers(a.grant, binding.RecordingID(), fmt.Errorf("%w: %w", ErrUnsupported, err))
	case errors.Is(err, keys.ErrIntegrity):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return key, err
}

// part is one segment of a recording's media.
type part struct {
	start      int64 // where it starts in the media
	ciphertext []byte
	mediaSize  int64 // of all of the media
	err        error
}

// fetchPart fetches the segment that holds the plaintext byte at offset.
func (v *Vault) fetchPart(ctx context.Context, id ID, offset int64) part {
	start, length := segment.Span(offset)
	ciphertext, info, err := v.objects.ReadMedia(ctx, id, start, length)
	return part{start, ciphertext, info.Size, err}
}

// check returns [ErrDamaged] unless the media has the sealed size and, where the part has it, the sealed header.
func (p part) check(metadata envelope.Metadata) error {
	if p.mediaSize != metadata.MediaSize {
		return sizeError(p.mediaSize, metadata.MediaSize)
	}
	if p.start == 0 && !bytes.HasPrefix(p.ciphertext, metadata.MediaHeader[:]) {
		return fmt.Errorf("%w: its media has another header", ErrDamaged)
	}
	return nil
}

// mediaSource returns a source that reads a recording's media, and fails if its size is not the sealed one.
func (v *Vault) mediaSource(id ID, size int64) segment.Source {
	return func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		object, err := v.objects.GetMedia(ctx, id, offset, length)
		if err != nil {
			return nil, v.mediaError(ctx, id, err)
		}
		if object.Info.Size != size {
			_ = object.Close()
			return nil, sizeError(object.Info.Size, size)
		}
		return object, nil
	}
}

func sizeError(got, sealed int64) error {
	return fmt.Errorf("%w: its media has %d bytes, not %d", ErrDamaged, got, sealed)
}

// mediaError turns [storage.ErrNotFound] for the media into [ErrNotFound] if the recording was deleted, and into
// [ErrDamaged] if its envelope still exists.
func (v *Vault) mediaError(ctx context.Context, id ID, err error) error {
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	switch found, err := v.objects.FindEnvelope(ctx, id); {
	case err != nil:
		return err
	case found == nil:
		return ErrNotFound
	}
	return fmt.Errorf("%w: its media is missing", ErrDamaged)
}

func newInfo(id ID, metadata envelope.Metadata) (Info, error) {
	size, err := segment.PlaintextSize(metadata.MediaSize)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return Info{
		ID: id,
		Metadata: Metadata{
			ContentType: metadata.ContentType,
			Title:       metadata.Title,
			RecordedAt:  metadata.RecordedAt,
			Duration:    metadata.Duration,
			Attributes:  metadata.Attributes,
			Truncated:   metadata.Truncated,
		},
		Size:      size,
		CreatedAt: metadata.CreatedAt,
		Revision:  metadata.Revision,
	}, nil
}
