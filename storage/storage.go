// Package storage names what recvault asks of an object store: whole objects, written once or
// replaced under a condition, read by range, listed in order.
//
// Two stores implement it, and [UploadLister] beside it: [github.com/recvault/recvault/storage/s3] on any S3 server, and
// [github.com/recvault/recvault/storage/dir] in a local directory. The conformance suite in
// storage/storagetest is what makes a store right.
//
// A store is not trusted: what it holds is ciphertext, and what it returns is authenticated by its
// readers. Nothing here knows of keys or patients.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// Store keeps objects under names. It is safe for concurrent use, also by several processes.
//
// Any method may return [ErrUnavailable], after bounded retries where the data can be sent again,
// [ErrDenied], [ErrNoBucket], [ErrInvalidName], or the context's error. A name must pass
// [ValidateName]; no name may be the parent of another ("a" and "a/b").
type Store interface {
	// Put stores all that r yields under name. The object appears whole or not at all: on any
	// error, r's own included, what was there before is untouched and no partial upload or
	// temporary file is left behind; but after [ErrUnavailable] the object may have appeared, or part
	// of it may remain unseen, because a store that does not answer cannot be asked. Memory is
	// bounded whatever the size. The Info's Modified may be zero.
	//
	// size is the exact number of bytes that r will yield, or -1 if it is not known. If r yields
	// another number, the error is [ErrSize] and nothing is stored.
	//
	// Errors: [ErrExists] and [ErrChanged] by condition, [ErrFull], ErrSize, [ErrTooLarge], r's own
	// (wrapped).
	Put(ctx context.Context, name string, r io.Reader, size int64, condition Condition) (Info, error)

	// Get opens the bytes [offset, offset+length) of an object; length -1 means to the end. A range
	// that reaches past the end is cut there, and one that starts at or past the end is empty. The
	// caller must close the Object, which stops the transfer. The context governs reading too.
	//
	// Errors: [ErrNotFound], [ErrInvalidRange] for a negative offset or a length below -1.
	Get(ctx context.Context, name string, offset, length int64) (*Object, error)

	// Stat describes an object. Errors: [ErrNotFound].
	Stat(ctx context.Context, name string) (Info, error)

	// List yields the objects whose names start with prefix, which may be empty or end anywhere, in
	// the byte order of their names. It stops after the first error. Objects that are written or
	// deleted meanwhile may or may not be seen; all others are seen exactly once.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object. Deleting what does not exist is not an error.
	Delete(ctx context.Context, name string) error
}

// Info describes a stored object.
type Info struct {
	Name     string
	Size     int64     // in bytes
	ETag     string    // changes whenever the contents do; compared, never interpreted
	Modified time.Time // when it was written, by the store's clock
}

// Object is the body of an object, or of a range of it, and the description of the whole.
type Object struct {
	io.ReadCloser
	Info Info
}

// Condition says when a Put may take effect. The zero Condition is always.
type Condition struct {
	ifAbsent bool
	ifMatch  string
}

// IfAbsent lets a Put create an object and never replace one (HTTP's If-None-Match: *). Otherwise
// the Put fails with [ErrExists].
func IfAbsent() Condition { return Condition{ifAbsent: true} }

// IfMatch lets a Put replace the object with this [Info.ETag] and no other (HTTP's If-Match).
// Otherwise, or if there is none, the Put fails with [ErrChanged]. It panics on an empty ETag.
func IfMatch(etag string) Condition {
	if etag == "" {
		panic("storage: IfMatch with an empty ETag")
	}
	return Condition{ifMatch: etag}
}

// IsIfAbsent tells whether the condition was made by [IfAbsent]. Stores call it.
func (c Condition) IsIfAbsent() bool { return c.ifAbsent }

// ETag returns what [IfMatch] was given, or "". Stores call it.
func (c Condition) ETag() string { return c.ifMatch }

// Test for these with errors.Is.
var (
	ErrNotFound     = errors.New("object does not exist")
	ErrExists       = errors.New("object exists already")
	ErrChanged      = errors.New("object was changed or deleted meanwhile")
	ErrInvalidName  = errors.New("invalid object name")
	ErrInvalidRange = errors.New("invalid range")
	ErrSize         = errors.New("the data has not the size that was announced")
	ErrTooLarge     = errors.New("object is larger than the store can hold")
	ErrFull         = errors.New("storage is full")
	ErrInUse        = errors.New("upload is under way")
	ErrDenied       = errors.New("storage refused access")
	ErrNoBucket     = errors.New("bucket or directory does not exist")
	ErrUnavailable  = errors.New("storage is unavailable")
)

// MaxNameLen is the length, in bytes, that an object's name may have: S3's own limit.
const MaxNameLen = 1024

// ValidateName returns [ErrInvalidName] unless the name consists of segments of 1 to 255 of the
// characters A-Z, a-z, 0-9, ".", "_" and "-", joined by "/", none of them "." or "..", and has at most
// [MaxNameLen] bytes in all. Such names mean the same to every S3 server, and to every file system that
// tells case apart.
func ValidateName(name string) error {
	if len(name) > MaxNameLen {
		return fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalidName, len(name), MaxNameLen)
	}
	for segment := range strings.SplitSeq(name, "/") {
		switch {
		case segment == "" || segment == "." || segment == "..":
			return fmt.Errorf("%w: it has an empty, \".\" or \"..\" segment", ErrInvalidName)
		case len(segment) > 255:
			return fmt.Errorf("%w: it has a segment of %d bytes, more than 255", ErrInvalidName, len(segment))
		}
	}
	return validateChars(name)
}

// ValidatePrefix returns [ErrInvalidName] for a prefix with which no valid name can start.
func ValidatePrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	// A prefix ends anywhere in a name: what may follow makes its last segment whole.
	return ValidateName(prefix + "x")
}

func validateChars(name string) error {
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-', c == '/':
		default:
			return fmt.Errorf("%w: it has a character that is not A-Z, a-z, 0-9, \".\", \"_\", \"-\" or \"/\"", ErrInvalidName)
		}
	}
	return nil
}
