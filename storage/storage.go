// Package storage defines [Store], the interface through which recvault uses an object store: whole
// objects, written once or replaced under a condition, read by range, listed in order.
//
// Two stores implement it, and [UploadLister] as well: [github.com/recvault/recvault/storage/s3] on any
// S3 server, and [github.com/recvault/recvault/storage/dir] in a local directory. A store is correct if
// it passes the conformance suite in [github.com/recvault/recvault/storage/storagetest].
//
// A store is not trusted: it holds ciphertext, and its readers authenticate what it returns. Keys and
// patients are unknown at this level.
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
// A name must pass [ValidateName], and no name may be the parent of another ("a" and "a/b").
//
// Any method may return [ErrUnavailable] (after a bounded number of retries, where the data can be sent
// again), [ErrDenied], [ErrNoBucket], [ErrInvalidName], or the context's error.
type Store interface {
	// Put stores everything that r yields under name. The object appears whole or not at all: on any
	// error, including r's own, the previous object is unchanged, and no partial upload or temporary
	// file remains. The exception is [ErrUnavailable]: as the store did not answer, the object may
	// have appeared, or an unseen part of it may remain. Memory is bounded for any size. The Info's
	// Modified may be zero.
	//
	// size is the exact number of bytes that r will yield, or -1 if it is unknown. If r yields
	// another number, the error is [ErrSize] and nothing is stored.
	//
	// Errors: [ErrExists] or [ErrChanged] if the condition fails, [ErrFull], ErrSize, [ErrTooLarge],
	// r's own (wrapped).
	Put(ctx context.Context, name string, r io.Reader, size int64, condition Condition) (Info, error)

	// Get opens the bytes [offset, offset+length) of an object; length -1 means to the end. A range
	// that reaches past the end is cut there, and one that starts at or past the end is empty. The
	// caller must close the Object, which stops the transfer. The context also applies to its reads.
	//
	// Errors: [ErrNotFound], [ErrInvalidRange] for a negative offset or a length below -1.
	Get(ctx context.Context, name string, offset, length int64) (*Object, error)

	// Stat describes an object. Errors: [ErrNotFound].
	Stat(ctx context.Context, name string) (Info, error)

	// List yields the objects whose names start with prefix, which may be empty or end anywhere, in
	// the byte order of their names. It stops after the first error. Objects that are written or
	// deleted during the listing may or may not be yielded; all others are yielded exactly once.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object. It returns nil if the object does not exist.
	Delete(ctx context.Context, name string) error
}

// Info describes a stored object.
type Info struct {
	Name     string
	Size     int64     // in bytes
	ETag     string    // changes whenever the contents do; compared, never interpreted
	Modified time.Time // when it was written, by the store's clock
}

// Object is the body of an object or of a range of it, with the Info of the whole object.
type Object struct {
	io.ReadCloser
	Info Info
}

// Condition decides whether a Put takes effect. The zero Condition always holds.
type Condition struct {
	ifAbsent bool
	ifMatch  string
}

// IfAbsent holds if the object does not exist (HTTP's If-None-Match: *): the Put may create an object,
// never replace one. Otherwise the Put fails with [ErrExists].
func IfAbsent() Condition { return Condition{ifAbsent: true} }

// IfMatch holds if the object exists with this [Info.ETag] (HTTP's If-Match). Otherwise the Put fails
// with [ErrChanged]. IfMatch panics on an empty ETag.
func IfMatch(etag string) Condition {
	if etag == "" {
		panic("storage: IfMatch with an empty ETag")
	}
	return Condition{ifMatch: etag}
}

// IsIfAbsent reports whether the condition was made by [IfAbsent]. Stores call it.
func (c Condition) IsIfAbsent() bool { return c.ifAbsent }

// ETag returns the argument of [IfMatch], or "" for another condition. Stores call it.
func (c Condition) ETag() string { return c.ifMatch }

// The errors that stores return, wrapped: test for them with errors.Is.
var (
	ErrNotFound     = errors.New("object does not exist")
	ErrExists       = errors.New("object already exists")
	ErrChanged      = errors.New("object has been changed or deleted")
	ErrInvalidName  = errors.New("invalid object name")
	ErrInvalidRange = errors.New("invalid range")
	ErrSize         = errors.New("data size differs from the announced size")
	ErrTooLarge     = errors.New("object is too large for the store")
	ErrFull         = errors.New("storage is full")
	ErrInUse        = errors.New("upload is in progress")
	ErrDenied       = errors.New("storage denied access")
	ErrNoBucket     = errors.New("bucket or directory does not exist")
	ErrUnavailable  = errors.New("storage is unavailable")
)

// MaxNameLen is the maximum length of an object's name, in bytes. It is S3's own limit.
const MaxNameLen = 1024

// ValidateName returns [ErrInvalidName] unless the name consists of segments joined by "/" and has at
// most [MaxNameLen] bytes. A segment has 1 to 255 of the characters A-Z, a-z, 0-9, ".", "_" and "-", and
// is neither "." nor "..". Such a name means the same on every S3 server, and on every case-sensitive file
// system.
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

// ValidatePrefix returns [ErrInvalidName] if no valid name can start with the prefix.
func ValidatePrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	// A prefix may end anywhere in a name. One more character completes a last segment that is empty,
	// "." or "..".
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
