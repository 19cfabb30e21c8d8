// Package s3 keeps objects in a bucket of Amazon S3, MinIO or another S3 server.
//
// Checksums: every upload is checked end to end. Each request carries the CRC64NVME of its data in a
// signed header, and the server compares it before it stores anything. When the parts of a large object
// are joined, the server compares the checksum of the whole object as well. [Store.Put] fails if the
// server does not confirm the checksum; an object of up to 16 MiB may have been stored by then. Amazon S3
// supports CRC64NVME since December 2024, MinIO since 2025. [SignedPayload] works with any server.
//
// Conditions need a server that honours If-None-Match and If-Match on PutObject and on
// CompleteMultipartUpload: Amazon S3 since November 2024, MinIO, and some others. The conformance suite
// in storage/storagetest shows whether a server does.
//
// ETags: S3 derives them from the contents, so writing the same bytes again may keep the ETag.
//
// Permissions: the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and
// s3:AbortMultipartUpload on the objects, and s3:ListBucket on the bucket. Without s3:ListBucket, a
// missing object is reported as [storage.ErrDenied]. [Store.Uploads] needs s3:ListBucketMultipartUploads. With
// s3:ListMultipartUploadParts on the objects, a Put or Copy that fails checks that the server keeps no part of it.
//
// Incomplete uploads remain when a client dies or loses its connection. On Amazon S3, give the bucket a
// lifecycle rule with AbortIncompleteMultipartUpload. MinIO removes incomplete uploads after a day.
// [Store.Uploads] lists them.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/recvault/recvault/storage"
)

// Store keeps objects in a bucket. It implements [storage.Store].
type Store struct {
	core    minio.Core
	bucket  string
	signed  bool      // set by SignedPayload
	buffers sync.Pool // of *[minPartSize]byte

	// Smaller in tests.
	maxParts     int64 // of one upload
	copyPartSize int64

	requestTimeout time.Duration
	idleTimeout    time.Duration
}

var _ storage.Store = (*Store)(nil)

// Option changes a default of [New] that suits most callers.
type Option func(*Store)

// SignedPayload signs the SHA-256 of the data with each request, instead of sending a CRC64NVME. It is for
// servers without CRC64NVME, as every S3 server checks the SHA-256. It takes more processor time.
func SignedPayload() Option {
	return func(s *Store) { s.signed = true }
}

// New returns the store in an existing bucket. It sends no request: if the bucket does not exist, the first
// operation returns [storage.ErrNoBucket].
//
// The client's configuration decides how often failed requests are sent again: see [Config.MaxRetries]. minio-go's own
// default is nine times, which takes about 4 seconds. A client of [NewClient] also limits the server's answers.
func New(client *minio.Client, bucket string, options ...Option) (*Store, error) {
	if client == nil {
		return nil, errors.New("s3: no client")
	}
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	s := &Store{
		core:           minio.Core{Client: client},
		bucket:         bucket,
		maxParts:       maxParts,
		copyPartSize:   copyPartSize,
		requestTimeout: requestTimeout,
		idleTimeout:    idleTimeout,
	}
	s.buffers.New = func() any { return new([minPartSize]byte) }
	for _, option := range options {
		option(s)
	}
	if s.requestTimeout <= 0 || s.idleTimeout <= 0 {
		return nil, errors.New("s3: a timeout is not positive")
	}
	return s, nil
}

// Get implements [storage.Store]. A body that breaks off is not requested again. [RequestTimeout] limits the
// wait for the server's answer, and [IdleTimeout] the wait for the body's data.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if err := storage.ValidateName(name); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	if offset < 0 || length < -1 {
		return nil, fmt.Errorf("get %s: %w: offset %d, length %d", name, storage.ErrInvalidRange, offset, length)
	}
	ctx, watch := s.watch(ctx)
	info, response, err := s.get(ctx, name, offset, length)
	if err != nil {
		watch.stop()
		return nil, fmt.Errorf("get %s: %w", name, s.classify(ctx, err))
	}
	watch.pause()
	return &storage.Object{ReadCloser: s.newBody(ctx, name, response, watch), Info: info}, nil
}

func (s *Store) get(ctx context.Context, name string, offset, length int64) (storage.Info, io.ReadCloser, error) {
	if length == 0 {
		return s.getEmpty(ctx, name) // HTTP has no empty ranges
	}
	var options minio.GetObjectOptions
	ranged := offset > 0 || length > 0
	if ranged {
		options.Set("Range", rangeHeader(offset, length))
	}
	response, stat, header, err := s.core.GetObject(ctx, s.bucket, name, options)
	if hasCode(err, "InvalidRange") { // the range starts at or past the end
		return s.getEmpty(ctx, name)
	}
	if err != nil {
		return storage.Info{}, nil, err
	}
	info := describe(name, stat)
	if ranged {
		info.Size, err = totalSize(header, offset)
		if err != nil {
			response.Close()
			return storage.Info{}, nil, err
		}
	}
	return info, response, nil
}

// getEmpty returns an empty range of an object.
func (s *Store) getEmpty(ctx context.Context, name string) (storage.Info, io.ReadCloser, error) {
	info, err := s.stat(ctx, name)
	return info, http.NoBody, err
}

// rangeHeader returns the Range header of RFC 9110, section 14.2, which includes both ends. Servers cut a
// range that reaches past the end.
func rangeHeader(offset, length int64) string {
	from := "bytes=" + strconv.FormatInt(offset, 10) + "-"
	last := offset + length - 1
	if length < 0 || last < offset { // to the end, or beyond the largest offset
		return from
	}
	return from + strconv.FormatInt(last, 10)
}

// totalSize returns the size of the whole object: the number after "/" in "bytes 0-9/1234" (RFC 9110,
// section 14.4). It returns an error if the server sent a range with another start.
func totalSize(header http.Header, offset int64) (int64, error) {
	content, ok := strings.CutPrefix(header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-")
	_, total, found := strings.Cut(content, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if !ok || !found || err != nil || size < 0 {
		return 0, errors.New("the server did not send the requested range")
	}
	return size, nil
}

// body is a response's body that returns the errors of package storage. It ends if fewer than minProgress bytes
// arrive within the idle timeout, counting only time inside Read.
type body struct {
	ctx      context.Context
	name     string
	response io.ReadCloser
	stop     func()

	idle     *time.Timer // ends the context with errIdle
	timeout  time.Duration
	left     time.Duration // of timeout
	received int           // since left was the whole timeout
}

func (s *Store) newBody(ctx context.Context, name string, response io.ReadCloser, watch *watch) *body {
	idle := time.AfterFunc(s.idleTimeout, func() { watch.cancel(errIdle) })
	idle.Stop()
	return &body{ctx: ctx, name: name, response: response, stop: watch.stop, idle: idle, timeout: s.idleTimeout, left: s.idleTimeout}
}

func (b *body) Read(p []byte) (int, error) {
	begun := time.Now()
	b.idle.Reset(b.left)
	n, err := b.response.Read(p)
	b.idle.Stop()
	b.left -= time.Since(begun)
	b.received += n
	if b.received >= minProgress {
		b.received, b.left = 0, b.timeout
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read %s: %w", b.name, classify(b.ctx, err))
	}
	return n, err
}

func (b *body) Close() error {
	b.idle.Stop()
	b.stop()
	return b.response.Close()
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("stat: %w", err)
	}
	info, err := s.boundedStat(ctx, name)
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return info, nil
}

// boundedStat is stat within the request timeout. It returns the errors of package storage.
func (s *Store) boundedStat(ctx context.Context, name string) (storage.Info, error) {
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	info, err := s.stat(ctx, name)
	if err != nil {
		return storage.Info{}, s.classify(ctx, err)
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, name string) (storage.Info, error) {
	stat, err := s.core.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
	if hasCode(err, minio.NoSuchKey) {
		// The answer to a HEAD has no body: it does not show whether the object or the bucket is missing.
		exists, bucketErr := s.core.BucketExists(ctx, s.bucket)
		if bucketErr == nil && !exists {
			return storage.Info{}, storage.ErrNoBucket
		}
	}
	if err != nil {
		return storage.Info{}, err
	}
	return describe(name, stat), nil
}

// List implements [storage.Store]. It requests 1,000 objects at a time, each page when the previous one has
// been consumed. It skips objects of other clients whose names [storage.ValidateName] refuses. It returns
// [storage.ErrUnavailable] if a page is longer than 8 MiB, or if the names are not in order.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		fail := func(err error) { yield(storage.Info{}, fmt.Errorf("list: %w", err)) }
		if err := storage.ValidatePrefix(prefix); err != nil {
			fail(err)
			return
		}
		ctx, watch := s.watch(ctx) // for each page: it pauses while the caller has the object
		defer watch.stop()
		owners, last := false, ""
		options := minio.ListObjectsOptions{Prefix: listablePrefix(prefix), Recursive: true, FetchOwner: &owners}
		for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
			switch {
			case object.Err != nil:
				fail(s.classify(ctx, object.Err))
				return
			case ctx.Err() != nil:
				fail(s.classify(ctx, ctx.Err()))
				return
			case !strings.HasPrefix(object.Key, prefix) || storage.ValidateName(object.Key) != nil:
				watch.restart()
				continue
			case object.Key <= last: // a server that sends one page again and again
				fail(errDisorder)
				return
			}
			last = object.Key
			watch.pause()
			if !yield(describe(object.Key, object), nil) {
				return
			}
			watch.restart()
		}
		if err := ctx.Err(); err != nil { // the iterator ends without an error
			fail(s.classify(ctx, err))
		}
	}
}

// listablePrefix removes a last segment of "." or ".." from a prefix, because MinIO refuses it as a path
// that leaves the bucket. The caller filters the answer by the whole prefix.
func listablePrefix(prefix string) string {
	start := strings.LastIndexByte(prefix, '/') + 1
	if last := prefix[start:]; last == "." || last == ".." {
		return prefix[:start]
	}
	return prefix
}

// Delete implements [storage.Store].
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := storage.ValidateName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	err := s.core.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
	if err != nil && !hasCode(err, minio.NoSuchKey) {
		return fmt.Errorf("delete %s: %w", name, s.classify(ctx, err))
	}
	return nil
}

func describe(name string, object minio.ObjectInfo) storage.Info {
	return storage.Info{Name: name, Size: object.Size, ETag: object.ETag, Modified: object.LastModified}
}
