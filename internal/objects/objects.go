// Package objects owns a recording's objects in a store. It names them, walks over them, and reads, creates,
// replaces and removes them. Packages vault, rotation, erasure and upkeep and the command reach recordings in a
// store through it, and turn its errors into their own.
//
//	<prefix>recordings/<KeyID>/<rec>/envelope    the recording's envelope
//	<prefix>recordings/<KeyID>/<rec>/media       its media
//	<prefix>store-id                             identifies the store and prefix
//	holds/<KeyID>                                a legal hold on the patient's recordings, unless it is empty
//
// A patient's recordings share a prefix. A recording's envelope comes just before its media in a listing.
// KeyIDs are uniform, so a listing can be cut into even shares.
//
// A KeyID belongs to one keyring, and destroying its key reaches recordings under every prefix. So a hold's name has
// no prefix: a job that runs under the wrong prefix still sees the hold.
package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/scope"
)

// MaxPrefix is the greatest length of a prefix in bytes.
const MaxPrefix = 512

const (
	mediaPart    = "media"
	envelopePart = "envelope"
)

// ErrMisplaced: the envelope is that of another recording.
var ErrMisplaced = errors.New("envelope is that of another recording")

// Damaged reports whether err is [envelope.ErrMalformed] or [ErrMisplaced]: the object in the envelope's place is not an
// envelope of this recording. An unsupported envelope is not damaged.
func Damaged(err error) bool {
	return errors.Is(err, envelope.ErrMalformed) || errors.Is(err, ErrMisplaced)
}

// Objects are the recordings' objects in one store, under one prefix. It is safe for concurrent use.
type Objects struct {
	store  storage.Store
	prefix string
}

// New returns the objects in a store whose names start with prefix. A prefix is empty, or ends in "/" and has at
// most [MaxPrefix] bytes. New returns [storage.ErrInvalidName] for any other.
func New(store storage.Store, prefix string) (*Objects, error) {
	if prefix != "" {
		name, ok := strings.CutSuffix(prefix, "/")
		if !ok || len(prefix) > MaxPrefix {
			return nil, fmt.Errorf("%w: a prefix must end in \"/\" and have at most %d bytes", storage.ErrInvalidName, MaxPrefix)
		}
		if err := storage.ValidateName(name); err != nil {
			return nil, err
		}
	}
	return &Objects{store, prefix}, nil
}

// In returns the same objects, reached through another store, such as one that counts or delays requests.
func (o *Objects) In(store storage.Store) *Objects { return &Objects{store, o.prefix} }

// Root returns what the names of all recordings' objects start with.
func (o *Objects) Root() string { return o.prefix + "recordings/" }

// Patient returns what the names of a patient's recordings' objects start with.
func (o *Objects) Patient(id keys.KeyID) string { return o.Root() + id.String() + "/" }

// EnvelopeName returns the name of a recording's envelope.
func (o *Objects) EnvelopeName(id keys.RecordingID) string { return o.name(id, envelopePart) }

// MediaName returns the name of a recording's media.
func (o *Objects) MediaName(id keys.RecordingID) string { return o.name(id, mediaPart) }

func (o *Objects) name(id keys.RecordingID, part string) string {
	return o.Patient(id.KeyID()) + id.Rec() + "/" + part
}

// parse is the inverse of name. It reports whether the name is that of an envelope or of media.
func (o *Objects) parse(name string) (id keys.RecordingID, part string, ok bool) {
	rest, ok := strings.CutPrefix(name, o.Root())
	if !ok {
		return id, "", false
	}
	keyID, rest, _ := strings.Cut(rest, "/")
	rec, part, _ := strings.Cut(rest, "/")
	if part != envelopePart && part != mediaPart {
		return id, "", false
	}
	id, err := keys.ParseRecordingID(keyID + "." + rec)
	return id, part, err == nil
}

// Stored is an envelope as it was read, and the description of its object.
type Stored struct {
	envelope.Envelope
	Info storage.Info // has an ETag
}

// EnvelopeText reads the text of a recording's envelope, as it is: no more than one byte beyond [envelope.MaxSize].
// Errors: [storage.ErrNotFound]; the others of [Read].
func (o *Objects) EnvelopeText(ctx context.Context, id keys.RecordingID) ([]byte, storage.Info, error) {
	return Read(ctx, o.store, o.EnvelopeName(id), 0, envelope.MaxSize+1)
}

// Envelope reads a recording's envelope.
//
// Errors: [storage.ErrNotFound]; [envelope.ErrUnsupported]; errors for which [Damaged] reports true;
// [storage.ErrUnavailable] if the store gives no ETag; the others of [Read]. With [ErrMisplaced] it returns the envelope that it found.
func (o *Objects) Envelope(ctx context.Context, id keys.RecordingID) (Stored, error) {
	text, info, err := o.EnvelopeText(ctx, id)
	if err != nil {
		return Stored{}, err
	}
	if info.ETag == "" {
		return Stored{}, fmt.Errorf("%w: it gives no ETag", storage.ErrUnavailable)
	}
	parsed, err := envelope.Parse(text)
	if err != nil {
		return Stored{}, err
	}
	found := Stored{parsed, info}
	if parsed.ID != id {
		return found, fmt.Errorf("%w: %s", ErrMisplaced, parsed.ID)
	}
	return found, nil
}

// Create writes the envelope of a new recording. The recording exists from then on. Errors: [storage.ErrExists]
// if the recording has an envelope; the others of [storage.Store] for Put.
func (o *Objects) Create(ctx context.Context, e envelope.Envelope) error {
	return o.write(ctx, e, storage.IfAbsent())
}

// Replace writes an envelope in the place of one that was read, unless that has changed. Errors:
// [storage.ErrChanged] if it has; the others of [storage.Store] for Put.
func (o *Objects) Replace(ctx context.Context, old Stored, next envelope.Envelope) error {
	return o.write(ctx, next, storage.IfMatch(old.Info.ETag))
}

func (o *Objects) write(ctx context.Context, e envelope.Envelope, condition storage.Condition) error {
	text := e.Encode()
	_, err := o.store.Put(ctx, o.EnvelopeName(e.ID), bytes.NewReader(text), int64(len(text)), condition)
	return err
}

// PutMedia stores a recording's media. size is -1 if it is not known. Errors: those of [storage.Store] for Put.
func (o *Objects) PutMedia(ctx context.Context, id keys.RecordingID, r io.Reader, size int64) error {
	_, err := o.store.Put(ctx, o.MediaName(id), r, size, storage.Condition{})
	return err
}

// CopyMedia gives one recording's media to another as well, as ciphertext, and never replaces media. A
// [storage.Copier] copies it inside the store; otherwise it passes through this process. Errors: those of
// [storage.Copier] for Copy.
func (o *Objects) CopyMedia(ctx context.Context, from, to keys.RecordingID) error {
	if copier, ok := o.store.(storage.Copier); ok {
		_, err := copier.Copy(ctx, o.MediaName(from), o.MediaName(to))
		return err
	}
	media, err := o.GetMedia(ctx, from, 0, -1)
	if err != nil {
		return err
	}
	defer media.Close()
	_, err = o.store.Put(ctx, o.MediaName(to), media, media.Info.Size, storage.IfAbsent())
	return err
}

// GetMedia opens a range of a recording's media, as the store's Get does.
func (o *Objects) GetMedia(ctx context.Context, id keys.RecordingID, offset, length int64) (*storage.Object, error) {
	return o.store.Get(ctx, o.MediaName(id), offset, length)
}

// ReadMedia is [Read] for a recording's media.
func (o *Objects) ReadMedia(ctx context.Context, id keys.RecordingID, offset, length int64) ([]byte, storage.Info, error) {
	return Read(ctx, o.store, o.MediaName(id), offset, length)
}

// DeleteMedia deletes a recording's media. Errors: those of [storage.Store] for Delete.
func (o *Objects) DeleteMedia(ctx context.Context, id keys.RecordingID) error {
	return o.store.Delete(ctx, o.MediaName(id))
}

// Remove deletes a recording's objects, the envelope first: without it the recording no longer exists, whatever
// happens next. Errors: those of [storage.Store] for Delete.
func (o *Objects) Remove(ctx context.Context, id keys.RecordingID) error {
	if err := o.store.Delete(ctx, o.EnvelopeName(id)); err != nil {
		return err
	}
	return o.DeleteMedia(ctx, id)
}

// Delete deletes an object that [Objects.Walk] has yielded. Errors: those of [storage.Store] for Delete.
func (o *Objects) Delete(ctx context.Context, object storage.Info) error {
	return o.store.Delete(ctx, object.Name)
}

// Item is what a store has of one recording, or an object that belongs to none.
type Item struct {
	ID       keys.RecordingID
	Envelope *storage.Info // nil if it is missing
	Media    *storage.Info // nil if it is missing
	Stray    *storage.Info // an object that belongs to no recording; the other fields are zero then
}

// Find describes the objects of one recording. It looks for the envelope last, because an envelope is written last
// and deleted first: if it finds an envelope and no media, the media is missing. Errors: those of [storage.Store]
// for Stat.
func (o *Objects) Find(ctx context.Context, id keys.RecordingID) (Item, error) {
	item := Item{ID: id}
	var err error
	if item.Media, err = find(ctx, o.store, o.MediaName(id)); err == nil {
		item.Envelope, err = o.FindEnvelope(ctx, id)
	}
	return item, err
}

// FindEnvelope describes a recording's envelope, or returns nil if there is none. Errors: those of
// [storage.Store] for Stat.
func (o *Objects) FindEnvelope(ctx context.Context, id keys.RecordingID) (*storage.Info, error) {
	return find(ctx, o.store, o.EnvelopeName(id))
}

// find describes an object, or returns nil if there is none.
func find(ctx context.Context, store storage.Store, name string) (*storage.Info, error) {
	info, err := store.Stat(ctx, name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &info, nil
}

// Walk yields what a store has in the scope: each recording once, in the order of their names, so that a patient's
// recordings follow one another. A scope of several prefixes, such as one of named patients, takes a listing for each: up
// to [Listings] run side by side, ahead of the caller. Walk stops after the first error. Errors: those of
// [storage.Store] for List.
func (o *Objects) Walk(ctx context.Context, s scope.Scope) iter.Seq2[Item, error] {
	prefixes := s.Prefixes()
	return func(yield func(Item, error) bool) {
		if len(prefixes) == 1 {
			o.walk(ctx, o.Root()+prefixes[0], yield)
			return
		}
		o.walkAll(ctx, prefixes, yield)
	}
}

const (
	// Listings is how many listings Walk runs side by side.
	Listings = 8
	// ahead is how many items of a listing are kept for the caller.
	ahead = 256
)

// walkAll is Walk for several prefixes.
func (o *Objects) walkAll(ctx context.Context, prefixes []string, yield func(Item, error) bool) {
	type found struct {
		item Item
		err  error
	}
	listing, stop := context.WithCancel(ctx)
	var group errgroup.Group
	defer func() {
		stop()
		_ = group.Wait() // no listing returns an error
	}()
	queue := make(chan chan found, Listings-1) // and one that the caller reads
	group.Go(func() error {
		defer close(queue)
		for _, prefix := range prefixes {
			items := make(chan found, ahead)
			select {
			case queue <- items:
			case <-listing.Done():
				return nil
			}
			group.Go(func() error {
				defer close(items)
				o.walk(listing, o.Root()+prefix, func(item Item, err error) bool {
					select {
					case items <- found{item, err}:
						return true
					case <-listing.Done():
						return false
					}
				})
				return nil
			})
		}
		return nil
	})
	for items := range queue {
		for next := range items {
			if !yield(next.item, next.err) || next.err != nil {
				return
			}
		}
	}
	if err := ctx.Err(); err != nil {
		yield(Item{}, err) // the listings may have ended without
	}
}

// walk is Walk for one prefix. It reports whether to go on.
func (o *Objects) walk(ctx context.Context, prefix string, yield func(Item, error) bool) bool {
	var pending Item
	flush := func() bool {
		item := pending
		pending = Item{}
		return item.ID.IsZero() || yield(item, nil)
	}
	for object, err := range o.store.List(ctx, prefix) {
		if err != nil {
			yield(Item{}, err)
			return false
		}
		id, part, ok := o.parse(object.Name)
		if !ok {
			// A stray may lie between a recording's envelope and its media.
			if !yield(Item{Stray: &object}, nil) {
				return false
			}
			continue
		}
		if id != pending.ID && !flush() {
			return false
		}
		pending.ID = id
		switch part {
		case envelopePart:
			pending.Envelope = &object
		case mediaPart:
			pending.Media = &object
		}
	}
	return flush()
}

// Upload is an unfinished upload.
type Upload struct {
	storage.Upload
	Recording keys.RecordingID // that the media is for; zero if the store has no name for it or it is not media
}

// Uploads yields the unfinished uploads under the prefix, if the store can list them: see
// [storage.UploadLister]. ok reports whether it can.
func (o *Objects) Uploads(ctx context.Context) (uploads iter.Seq2[Upload, error], ok bool) {
	lister, ok := o.store.(storage.UploadLister)
	if !ok {
		return nil, false
	}
	return func(yield func(Upload, error) bool) {
		for upload, err := range lister.Uploads(ctx, o.Root()) {
			id, part, ok := o.parse(upload.Name)
			if !ok || part != mediaPart {
				id = keys.RecordingID{}
			}
			if !yield(Upload{upload, id}, err) {
				return
			}
		}
	}, true
}

// AbortUpload removes an upload that [Objects.Uploads] has yielded. Errors: those of [storage.UploadLister].
func (o *Objects) AbortUpload(ctx context.Context, upload Upload) error {
	return o.store.(storage.UploadLister).AbortUpload(ctx, upload.Upload)
}
