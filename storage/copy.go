package storage

import "context"

// Copier copies objects inside the store: the data does not pass through the caller. A [Store] that can do so
// implements Copier as well; storage/s3 and storage/dir do.
type Copier interface {
	// Copy stores the contents of the object from under the name to as well. It never replaces an object:
	// of several Copies and Puts with [IfAbsent] to one name, at whatever time, one succeeds. The copy has
	// the source's contents at one moment during the call, or Copy fails: a concurrent Put may replace the
	// source, and a concurrent Delete remove it. Afterwards, the two objects are independent.
	//
	// The new object appears whole or not at all. On any error, no part of it remains. The exceptions are
	// [ErrUnavailable], as for [Store.Put], and a server that is still copying for some time after the context
	// has ended: it may leave an unfinished upload. Memory is bounded for any size. The Info is the new object's;
	// its Modified may be zero.
	//
	// Errors: [ErrNotFound] if the source does not exist, [ErrExists] if the target does (either of them
	// if both are true), [ErrChanged] if the source was replaced during the copy, [ErrFull],
	// [ErrTooLarge], and those that any method of Store may return.
	Copy(ctx context.Context, from, to string) (Info, error)
}
