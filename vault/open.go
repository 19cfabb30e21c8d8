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
)

// Recording is an open recording. It implements io.ReadSeekCloser, io.ReaderAt and io.WriterTo, so it
// can be handed to http.ServeContent. It is safe for concurrent use: ReadAt calls run side by side, Read,
// Seek and WriteTo wait for each other, and Close may come at any time.
//
// Every byte was authenticated before it is handed out. Read, Seek and WriteTo share a position, and
// end with their first error; damage ends ReadAt as well. The context that Open was given governs
// all of it. What fails after Open is [ErrDamaged], [ErrNotFound] if the recording was deleted meanwhile, an error
// of package storage, the context's error, [ErrClosed], or, from WriteTo, the writer's own.
type Recording struct {
	reader *segment.Reader
	info   Info
	report func() // tells of damage, once
}

// OpenOption changes how one recording is opened.
type OpenOption func(*openOptions)

type openOptions struct{ at int64 }

// At tells at which offset reading will begin, so that what lies there is fetched and checked first and not
// the beginning. The position is still 0. A negative offset is 0; at one past the end nothing is fetched.
func At(offset int64) OpenOption {
	return func(o *openOptions) { o.at = max(offset, 0) }
}

// Open opens a recording with a grant. It reads the envelope, has the recording key unwrapped with
// the grant's own right, and checks the media's size and first segment, or that at [At], before it
// returns. While the keyring is asked, that segment is fetched. An unwrapped key is kept for a while: see [WithKeyCache].
//
// A grant for another patient is presented all the same: that it is refused, and on record, is up to
// the keyring. Refusals and damage are told as security events: see [WithEventHook]. The context governs the Recording until it is closed.
//
// Errors: [keys.ErrDenied] when the grant is for another patient, and together with
// [keys.ErrInvalidGrant] when it has ended; [ErrNotFound], [ErrDamaged];
// [keys.ErrInvalidRecordingID], [keys.ErrNotEnrolled], [keys.ErrErased], [keys.ErrUnavailable];
// [storage.ErrUnavailable], [storage.ErrDenied], [storage.ErrNoBucket].
func (v *Vault) Open(ctx context.Context, grant keys.Grant, id ID, options ...OpenOption) (*Recording, error) {
	var o openOptions
	for _, option := range options {
		option(&o)
	}
	recording, err := v.open(ctx, grant, id, o)
	if err != nil {
		return nil, fmt.Errorf("open recording %s: %w", id, v.report(grant, id, err))
	}
	recording.report = sync.OnceFunc(func() { _ = v.report(grant, id, ErrDamaged) })
	return recording, nil
}

func (v *Vault) open(ctx context.Context, grant keys.Grant, id ID, o openOptions) (*Recording, error) {
	sealed, err := v.envelope(ctx, grant, id)
	if err != nil {
		return nil, err
	}
	// Part of the media is needed in any case, and is harmless without the key: fetch it while the
	// keyring is asked.
	fetch, stopFetching := context.WithCancel(ctx)
	defer stopFetching()
	fetched := make(chan part, 1)
	go func() { fetched <- v.fetchPart(fetch, id, o.at) }()
	metadata, subkeys, err := v.unseal(ctx, grant, sealed)
	if err != nil {
		stopFetching()
		<-fetched
		return nil, err
	}
	defer subkeys.Wipe()
	begin := <-fetched
	if begin.err != nil {
		return nil, v.mediaError(ctx, id, begin.err)
	}
	if begin.size != metadata.MediaSize {
		return nil, fmt.Errorf("%w: its media has %d bytes, not %d", ErrDamaged, begin.size, metadata.MediaSize)
	}
	if begin.start == 0 && !bytes.HasPrefix(begin.ciphertext, metadata.MediaHeader) {
		return nil, fmt.Errorf("%w: its media has another header", ErrDamaged)
	}
	info, err := newInfo(id, metadata)
	if err != nil {
		return nil, err
	}
	decrypter, err := segment.NewDecrypter(subkeys.Media[:], id.Binding().Bytes(), segment.Header(metadata.MediaHeader), info.Size)
	if err != nil {
		return nil, readError(err)
	}
	reader, err := segment.NewReader(ctx, decrypter, v.mediaSource(id, metadata.MediaSize), begin.start, begin.ciphertext)
	if err != nil {
		return nil, readError(err)
	}
	return &Recording{reader: reader, info: info}, nil
}

// Stat describes a recording to whoever may open it. It uses the grant as [Vault.Open] does, and
// has its errors, but does not look at the media.
func (v *Vault) Stat(ctx context.Context, grant keys.Grant, id ID) (Info, error) {
	info, err := v.stat(ctx, grant, id)
	if err != nil {
		return Info{}, fmt.Errorf("stat recording %s: %w", id, v.report(grant, id, err))
	}
	return info, nil
}

func (v *Vault) stat(ctx context.Context, grant keys.Grant, id ID) (Info, error) {
	sealed, err := v.envelope(ctx, grant, id)
	if err != nil {
		return Info{}, err
	}
	metadata, subkeys, err := v.unseal(ctx, grant, sealed)
	if err != nil {
		return Info{}, err
	}
	subkeys.Wipe()
	return newInfo(id, metadata)
}

// envelope fetches the envelope of a recording and checks that it is one, for this recording.
func (v *Vault) envelope(ctx context.Context, grant keys.Grant, id ID) (envelope.Envelope, error) {
	if grant.IsZero() {
		return envelope.Envelope{}, fmt.Errorf("%w: it is the zero grant", keys.ErrInvalidGrant)
	}
	if id.IsZero() {
		return envelope.Envelope{}, fmt.Errorf("%w: it is the zero ID", keys.ErrInvalidRecordingID)
	}
	stored, err := v.objects.Envelope(ctx, id)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return envelope.Envelope{}, ErrNotFound
	case objects.Damaged(err):
		return envelope.Envelope{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return stored.Envelope, err
}

// unseal has the recording key unwrapped and opens the metadata with it.
func (v *Vault) unseal(ctx context.Context, grant keys.Grant, sealed envelope.Envelope) (envelope.Metadata, *envelope.Keys, error) {
	binding := sealed.ID.Binding()
	key, err := v.keyCache.unwrap(ctx, grant, sealed.ID, sealed.Wrapped, func(ctx context.Context) (*keys.RecordingKey, error) {
		return v.keyring.Unwrap(ctx, grant, binding, sealed.Wrapped)
	})
	if errors.Is(err, keys.ErrIntegrity) || errors.Is(err, keys.ErrInvalidWrappedKey) {
		return envelope.Metadata{}, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return envelope.Metadata{}, nil, err
	}
	defer key.Wipe()
	subkeys := envelope.DeriveKeys(key, binding)
	metadata, err := subkeys.Open(sealed)
	if err != nil {
		subkeys.Wipe()
		return envelope.Metadata{}, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return metadata, subkeys, nil
}

// part is some of a recording's ciphertext, and the size of all of it.
type part struct {
	start      int64
	ciphertext []byte
	size       int64
	err        error
}

// fetchPart fetches the segment that holds the plaintext byte at offset.
func (v *Vault) fetchPart(ctx context.Context, id ID, offset int64) part {
	start, length := segment.Span(offset)
	ciphertext, info, err := v.objects.ReadMedia(ctx, id, start, length)
	return part{start, ciphertext, info.Size, err}
}

// mediaSource reads a recording's media, as long as it has the size that was sealed.
func (v *Vault) mediaSource(id ID, size int64) segment.Source {
	return func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		object, err := v.objects.GetMedia(ctx, id, offset, length)
		if err != nil {
			return nil, v.mediaError(ctx, id, err)
		}
		if object.Info.Size != size {
			_ = object.Close()
			return nil, fmt.Errorf("%w: its media has %d bytes, not %d", ErrDamaged, object.Info.Size, size)
		}
		return object, nil
	}
}

// mediaError tells media that is missing from a recording that was deleted meanwhile.
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
		},
		Size:      size,
		CreatedAt: metadata.CreatedAt,
	}, nil
}

// checked turns the error of a read into one of this package, and tells of damage.
func (r *Recording) checked(err error) error {
	err = readError(err)
	if errors.Is(err, ErrDamaged) {
		r.report()
	}
	return err
}

// readError turns the errors of package segment into those of this one.
func readError(err error) error {
	var writer *segment.WriterError
	switch {
	case err == nil || err == io.EOF:
		return err
	case errors.As(err, &writer):
		return writer.Err
	case errors.Is(err, segment.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, segment.ErrClosed):
		return ErrClosed
	}
	return fmt.Errorf("read recording: %w", err)
}

// Info describes the recording.
func (r *Recording) Info() Info { return r.info }

// Size returns the size of the plaintext in bytes.
func (r *Recording) Size() int64 { return r.info.Size }

// Read implements io.Reader. Where decrypting is what takes the time, what follows is fetched and
// decrypted ahead, up to 1 MiB of it.
func (r *Recording) Read(p []byte) (int, error) {
	n, err := r.reader.Read(p)
	return n, r.checked(err)
}

// ReadAt implements io.ReaderAt. It makes one request for the segments of 64 KiB that it needs, and
// keeps up to 512 KiB of those that it read last.
func (r *Recording) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.reader.ReadAt(p, offset)
	return n, r.checked(err)
}

// Seek implements io.Seeker. It makes no request.
func (r *Recording) Seek(offset int64, whence int) (int64, error) {
	position, err := r.reader.Seek(offset, whence)
	return position, r.checked(err)
}

// WriteTo implements io.WriterTo: it writes from the current position to the end, in pieces of up to
// 64 KiB.
func (r *Recording) WriteTo(w io.Writer) (int64, error) {
	n, err := r.reader.WriteTo(w)
	return n, r.checked(err)
}

// Close ends the recording and stops its network traffic. Closing twice is not an error.
func (r *Recording) Close() error {
	return r.reader.Close()
}
