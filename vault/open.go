package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// Recording is an open recording. It implements io.ReadSeekCloser, io.ReaderAt and io.WriterTo, so it
// can be handed to http.ServeContent. ReadAt is safe for concurrent use, also beside one user of the
// other methods.
//
// Every byte was authenticated before it is handed out. Read, Seek and WriteTo share a position, and
// end with their first error; damage ends ReadAt as well. The context that Open was given governs
// all of it. What fails after Open is [ErrDamaged], [ErrNotFound] if the recording was deleted meanwhile, an error
// of package storage, the context's error, or [ErrClosed].
type Recording struct {
	reader *segment.Reader
	info   Info
	cancel context.CancelFunc
}

// Open opens a recording with a grant. It reads the envelope, has the recording key unwrapped with
// the grant's own right, and checks the media's size and first segment before it returns.
//
// A grant for another patient is presented all the same: that it is refused, and on record, is up to
// the keyring. The context governs the Recording until it is closed.
//
// Errors: [keys.ErrDenied] when the grant is for another patient, and together with
// [keys.ErrInvalidGrant] when it has ended; [ErrNotFound], [ErrDamaged];
// [keys.ErrInvalidRecordingID], [keys.ErrNotEnrolled], [keys.ErrErased], [keys.ErrUnavailable];
// [storage.ErrUnavailable], [storage.ErrDenied], [storage.ErrNoBucket].
func (v *Vault) Open(ctx context.Context, grant keys.Grant, id ID) (*Recording, error) {
	ctx, cancel := context.WithCancel(ctx)
	recording, err := v.open(ctx, grant, id)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open recording %s: %w", id, err)
	}
	recording.cancel = cancel
	return recording, nil
}

func (v *Vault) open(ctx context.Context, grant keys.Grant, id ID) (*Recording, error) {
	sealed, err := v.envelope(ctx, grant, id)
	if err != nil {
		return nil, err
	}
	// The beginning of the media is needed in any case, and is harmless without the key: fetch it
	// while the keyring is asked.
	type beginning struct {
		ciphertext []byte
		size       int64
		err        error
	}
	fetch, stopFetching := context.WithCancel(ctx)
	defer stopFetching()
	fetched := make(chan beginning, 1)
	go func() {
		var b beginning
		b.ciphertext, b.size, b.err = v.firstSegment(fetch, id)
		fetched <- b
	}()
	metadata, subkeys, err := v.unseal(ctx, grant, sealed)
	if err != nil {
		stopFetching()
		<-fetched
		return nil, err
	}
	defer subkeys.Wipe()
	first := <-fetched
	if first.err != nil {
		return nil, v.mediaError(ctx, id, first.err)
	}
	if first.size != metadata.MediaSize {
		return nil, fmt.Errorf("%w: its media has %d bytes, not %d", ErrDamaged, first.size, metadata.MediaSize)
	}
	if !bytes.HasPrefix(first.ciphertext, metadata.MediaHeader) {
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
	reader, err := segment.NewReader(ctx, decrypter, v.mediaSource(id, metadata.MediaSize), first.ciphertext)
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
		return Info{}, fmt.Errorf("stat recording %s: %w", id, err)
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
	text, err := v.readEnvelope(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return envelope.Envelope{}, ErrNotFound
	}
	if err != nil {
		return envelope.Envelope{}, err
	}
	parsed, err := envelope.Parse(text)
	if err != nil {
		return envelope.Envelope{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if parsed.ID != id {
		return envelope.Envelope{}, fmt.Errorf("%w: its envelope is that of another recording", ErrDamaged)
	}
	return parsed, nil
}

// readEnvelope returns the stored text of an envelope, with the errors of the store. Of a text that is
// too long for an envelope it returns the beginning, which is too long as well.
func (v *Vault) readEnvelope(ctx context.Context, id ID) ([]byte, error) {
	object, err := v.store.Get(ctx, v.objectName(id, envelopePart), 0, envelope.MaxSize+1)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(object)
}

// unseal has the recording key unwrapped and opens the metadata with it.
func (v *Vault) unseal(ctx context.Context, grant keys.Grant, sealed envelope.Envelope) (envelope.Metadata, *envelope.Keys, error) {
	binding := sealed.ID.Binding()
	key, err := v.keyring.Unwrap(ctx, grant, binding, sealed.Wrapped)
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

// firstSegment fetches the header and first segment of a recording's media, and the size of all of it.
func (v *Vault) firstSegment(ctx context.Context, id ID) (ciphertext []byte, size int64, err error) {
	object, err := v.store.Get(ctx, v.objectName(id, mediaPart), 0, segment.Size)
	if err != nil {
		return nil, 0, err
	}
	defer object.Close()
	ciphertext, err = io.ReadAll(object)
	return ciphertext, object.Info.Size, err
}

// mediaSource reads a recording's media, as long as it has the size that was sealed.
func (v *Vault) mediaSource(id ID, size int64) segment.Source {
	name := v.objectName(id, mediaPart)
	return func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		object, err := v.store.Get(ctx, name, offset, length)
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
	if _, err := v.store.Stat(ctx, v.objectName(id, envelopePart)); errors.Is(err, storage.ErrNotFound) {
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

// readError turns the errors of package segment into those of this one.
func readError(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
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

// Read implements io.Reader.
func (r *Recording) Read(p []byte) (int, error) {
	n, err := r.reader.Read(p)
	return n, readError(err)
}

// ReadAt implements io.ReaderAt. It makes one request for the segments of 64 KiB that it needs.
func (r *Recording) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.reader.ReadAt(p, offset)
	return n, readError(err)
}

// Seek implements io.Seeker. It makes no request.
func (r *Recording) Seek(offset int64, whence int) (int64, error) {
	position, err := r.reader.Seek(offset, whence)
	return position, readError(err)
}

// WriteTo implements io.WriterTo: it writes from the current position to the end, in pieces of up to
// 64 KiB.
func (r *Recording) WriteTo(w io.Writer) (int64, error) {
	n, err := r.reader.WriteTo(w)
	return n, readError(err)
}

// Close ends the recording and stops its network traffic. Closing twice is not an error.
func (r *Recording) Close() error {
	r.cancel()
	return r.reader.Close()
}
