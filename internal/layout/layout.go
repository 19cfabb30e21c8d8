// Package layout knows how the objects of recordings are named in a store, walks over them and reads
// small parts of them.
//
//	<prefix>r1/<KeyID>/<rec>/envelope    the recording's envelope
//	<prefix>r1/<KeyID>/<rec>/media       its media
//	holds/<KeyID>                        a legal hold on the patient's recordings, if it is not empty
//
// A KeyID belongs to one keyring, and destroying its key reaches recordings under every prefix. So a hold has
// none: nobody overlooks it who works under another prefix than was meant.
//
// A patient's recordings share a prefix, a recording's envelope comes just before its media in a listing,
// and a KeyID is uniform, so listings can be cut evenly.
package layout

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/scope"
)

// MaxPrefix is how long, in bytes, a prefix of all names may be.
const MaxPrefix = 512

const (
	mediaPart    = "media"
	envelopePart = "envelope"
)

// Layout names objects. The zero Layout does so without a prefix.
type Layout struct{ prefix string }

// New makes a Layout whose names all start with prefix, which is empty or ends in "/". It returns
// [storage.ErrInvalidName] for any other.
func New(prefix string) (Layout, error) {
	if prefix == "" {
		return Layout{}, nil
	}
	name, ok := strings.CutSuffix(prefix, "/")
	if !ok || len(prefix) > MaxPrefix {
		return Layout{}, fmt.Errorf("%w: a prefix must end in \"/\" and have at most %d bytes", storage.ErrInvalidName, MaxPrefix)
	}
	return Layout{prefix}, storage.ValidateName(name)
}

// Root returns what the names of all recordings' objects start with.
func (l Layout) Root() string { return l.prefix + "r1/" }

// Patient returns what the names of a patient's recordings' objects start with.
func (l Layout) Patient(id keys.KeyID) string { return l.Root() + id.String() + "/" }

// Envelope returns the name of a recording's envelope.
func (l Layout) Envelope(id keys.RecordingID) string { return l.object(id, envelopePart) }

// Media returns the name of a recording's media.
func (l Layout) Media(id keys.RecordingID) string { return l.object(id, mediaPart) }

func (l Layout) object(id keys.RecordingID, part string) string {
	return l.Patient(id.KeyID()) + id.Rec() + "/" + part
}

// Hold returns the name of the object that says that a patient's recordings must be kept, whatever the
// prefix.
func Hold(id keys.KeyID) string { return "holds/" + id.String() }

// Held describes the hold that stands on a patient's recordings, or returns nil. An empty object is a hold
// that was cleared. Errors: those of [storage.Store] for Stat, with which it cannot be told.
func Held(ctx context.Context, store storage.Store, id keys.KeyID) (*storage.Info, error) {
	hold, err := Find(ctx, store, Hold(id))
	if err != nil || hold == nil || hold.Size == 0 {
		return nil, err
	}
	return hold, nil
}

// Find describes an object, or returns nil if there is none. Errors: the others of [storage.Store] for
// Stat.
func Find(ctx context.Context, store storage.Store, name string) (*storage.Info, error) {
	info, err := store.Stat(ctx, name)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &info, nil
}

// parse takes apart what object put together, and refuses anything else.
func (l Layout) parse(name string) (id keys.RecordingID, part string, ok bool) {
	rest, ok := strings.CutPrefix(name, l.Root())
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

// Item is what a store has of one recording, or an object that is of none.
type Item struct {
	ID       keys.RecordingID
	Envelope *storage.Info // nil if it is missing
	Media    *storage.Info // nil if it is missing
	Stray    *storage.Info // an object that belongs to no recording; the rest is zero then
}

// Walk yields what a store has in the scope, each recording once, a patient's one after another, in the order
// of the names. It stops after the first error, which is the store's own for List.
func (l Layout) Walk(ctx context.Context, store storage.Store, s scope.Scope) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for _, prefix := range s.Prefixes() {
			if !l.walk(ctx, store, l.Root()+prefix, yield) {
				return
			}
		}
	}
}

// walk is Walk for one prefix, and tells whether to go on.
func (l Layout) walk(ctx context.Context, store storage.Store, prefix string, yield func(Item, error) bool) bool {
	var pending Item
	flush := func() bool {
		item := pending
		pending = Item{}
		return item.ID.IsZero() || yield(item, nil)
	}
	for object, err := range store.List(ctx, prefix) {
		if err != nil {
			yield(Item{}, err)
			return false
		}
		id, part, ok := l.parse(object.Name)
		if !ok {
			// It may lie between a recording's envelope and its media.
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
