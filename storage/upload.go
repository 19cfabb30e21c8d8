package storage

import (
	"context"
	"iter"
	"time"
)

// UploadLister is what a [Store] implements as well if writers that were killed, or lost touch with the
// store, leave something behind that is no object yet takes room: an unfinished upload. Both stores do.
//
// Its methods may return what those of Store may.
type UploadLister interface {
	// Uploads yields the unfinished uploads to objects whose names start with prefix, in no particular
	// order, and those to objects that the store cannot name, whatever the prefix. Uploads that are still
	// under way are among them, unless the store can tell; so may some be that have just ended. A server
	// may not know them all: see the driver's comment. It stops after the first error.
	Uploads(ctx context.Context, prefix string) iter.Seq2[Upload, error]

	// AbortUpload removes an unfinished upload, for good, and no object. If its writer is alive after
	// all, that writer's Put fails. One that has ended already is not an error.
	//
	// Errors: [ErrInUse] where the store can tell that the upload is under way, which goes on then;
	// [ErrInvalidName] for an Upload that the store never yielded.
	AbortUpload(ctx context.Context, upload Upload) error
}

// Upload is an unfinished one.
type Upload struct {
	Name string // of the object that was to be, or "" if the store cannot tell
	ID   string // the store's own: tells the uploads to one name apart

	// Started is when it began, by the store's clock, or any later time up to that of its last write,
	// if that is all the store knows.
	Started time.Time
}
