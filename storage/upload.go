package storage

import (
	"context"
	"iter"
	"time"
)

// UploadLister lists and removes unfinished uploads: data that takes up space but is not an object. A
// writer leaves one behind when it is killed or loses its connection. A [Store] with such uploads
// implements UploadLister as well; storage/s3 and storage/dir do.
//
// Its methods may return the errors that any method of Store may return.
type UploadLister interface {
	// Uploads yields the unfinished uploads of objects whose names start with prefix, in no particular
	// order. An upload without a Name is yielded for every prefix. Uploads in progress are included,
	// unless the store can recognise them; uploads that have just ended may be. A server may not know
	// all uploads: see the driver's comment. Uploads stops after the first error.
	Uploads(ctx context.Context, prefix string) iter.Seq2[Upload, error]

	// AbortUpload removes an unfinished upload for good. It removes no object. If the writer is still
	// alive, its Put fails. AbortUpload returns nil if the upload has already ended.
	//
	// Errors: [ErrInUse] if the store can recognise that the upload is in progress, which then
	// continues; [ErrInvalidName] for an Upload that the store never yielded.
	AbortUpload(ctx context.Context, upload Upload) error
}

// Upload describes an unfinished upload.
type Upload struct {
	Name string // of the object to be written, or "" if the store does not know it
	ID   string // assigned by the store; distinguishes the uploads of one name

	// Started is the time when the upload began, by the store's clock. If the store does not know it,
	// Started may be any later time up to the upload's last write.
	Started time.Time
}
