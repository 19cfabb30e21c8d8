// Package s3 keeps objects in a bucket of Amazon S3, MinIO or another S3 server.
//
// Every upload is checked end to end: each request carries a CRC64NVME of its data in a signed header,
// which the server compares before it stores anything, and the whole object's checksum is compared
// once more when the parts of a large one are joined. A server that does not answer with the checksum that
// it compared is refused, though data of up to 16 MiB may have been stored by then: Amazon S3 has known
// CRC64NVME since December 2024 and MinIO since 2025. [SignedPayload] works with any.
//
// Conditions need a server that honours If-None-Match and If-Match on PutObject and on
// CompleteMultipartUpload: Amazon S3 since November 2024, MinIO, and not every other one. The
// conformance suite in storage/storagetest tells.
//
// On S3, an ETag is made of the contents: writing the same bytes again may keep it.
//
// The credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on the
// objects, and s3:ListBucket on the bucket, without which a missing object is reported as
// [storage.ErrDenied]. An upload whose client died, or could not reach the server any more, stays as an
// incomplete one: give the bucket a lifecycle rule with AbortIncompleteMultipartUpload. MinIO removes
// them after a day by itself. [Store.Uploads] lists them, and needs s3:ListBucketMultipartUploads.
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

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/recvault/recvault/storage"
)

// Store keeps objects in a bucket. It implements [storage.Store].
type Store struct {
	core     minio.Core
	bucket   string
	signed   bool      // see SignedPayload
	maxParts int64     // of one upload; fewer in tests
	buffers  sync.Pool // of *[minPartSize]byte
}

var _ storage.Store = (*Store)(nil)

// Option changes what most callers leave alone.
type Option func(*Store)

// SignedPayload signs the SHA-256 of all data with its request, in place of sending a CRC64NVME. Every S3
// server checks it, so this is for those that know no CRC64NVME. It takes more processor time.
func SignedPayload() Option {
	return func(s *Store) { s.signed = true }
}

// New returns the store in a bucket that exists. It sends nothing: a bucket that is missing after all is
// reported by the first request, with [storage.ErrNoBucket].
//
// Failed requests are sent again as often as the client was configured to; minio-go's default is ten
// times, which can take ten seconds. [NewClient] makes one that gives up sooner.
func New(client *minio.Client, bucket string, options ...Option) (*Store, error) {
	if client == nil {
		return nil, errors.New("s3: no client")
	}
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	s := &Store{core: minio.Core{Client: client}, bucket: bucket, maxParts: maxParts}
	s.buffers.New = func() any { return new([minPartSize]byte) }
	for _, option := range options {
		option(s)
	}
	return s, nil
}

// Get implements [storage.Store]. The body is the response's: it is not retried once it flows, and how
// long a silent server is waited for is up to the context.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if err := storage.ValidateName(name); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	if offset < 0 || length < -1 {
		return nil, fmt.Errorf("get %s: %w: offset %d, length %d", name, storage.ErrInvalidRange, offset, length)
	}
	object, err := s.get(ctx, name, offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, classify(ctx, err))
	}
	return object, nil
}

func (s *Store) get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if length == 0 {
		return s.getNothing(ctx, name) // HTTP has no empty ranges
	}
	var options minio.GetObjectOptions
	ranged := offset > 0 || length > 0
	if ranged {
		options.Set("Range", rangeHeader(offset, length))
	}
	response, stat, header, err := s.core.GetObject(ctx, s.bucket, name, options)
	if hasCode(err, "InvalidRange") {
		return s.getNothing(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	info := describe(name, stat)
	if ranged {
		info.Size, err = totalSize(header, offset)
		if err != nil {
			response.Close()
			return nil, err
		}
	}
	return &storage.Object{ReadCloser: &body{ctx: ctx, name: name, response: response}, Info: info}, nil
}

// getNothing returns an object's empty range.
func (s *Store) getNothing(ctx context.Context, name string) (*storage.Object, error) {
	info, err := s.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	return &storage.Object{ReadCloser: http.NoBody, Info: info}, nil
}

// rangeHeader writes a range as RFC 9110, section 14.2, has it: both ends count. Servers cut what reaches
// past the end.
func rangeHeader(offset, length int64) string {
	from := "bytes=" + strconv.FormatInt(offset, 10) + "-"
	last := offset + length - 1
	if length < 0 || last < offset { // to the end, or farther than an object can be long
		return from
	}
	return from + strconv.FormatInt(last, 10)
}

// totalSize returns the size of the whole object, after "/" in "bytes 0-9/1234" (RFC 9110, section
// 14.4), and refuses the answer of a server that sent another range.
func totalSize(header http.Header, offset int64) (int64, error) {
	content, ok := strings.CutPrefix(header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-")
	_, total, found := strings.Cut(content, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if !ok || !found || err != nil || size < 0 {
		return 0, errors.New("the server did not send the range that was asked for")
	}
	return size, nil
}

// body is a response's body whose errors tell their cause.
type body struct {
	ctx      context.Context
	name     string
	response io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.response.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read %s: %w", b.name, classify(b.ctx, err))
	}
	return n, err
}

func (b *body) Close() error {
	return b.response.Close()
}

// Stat implements [storage.Store].
func (s *Store) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := storage.ValidateName(name); err != nil {
		return storage.Info{}, fmt.Errorf("stat: %w", err)
	}
	info, err := s.stat(ctx, name)
	if err != nil {
		return storage.Info{}, fmt.Errorf("stat %s: %w", name, classify(ctx, err))
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, name string) (storage.Info, error) {
	stat, err := s.core.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
	if hasCode(err, minio.NoSuchKey) {
		// The answer to a HEAD has no body to tell a missing object from a missing bucket.
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

// List implements [storage.Store]. It asks for 1,000 objects at a time, when the last thousand was
// used up. What other clients put into the bucket under names that [storage.ValidateName] refuses is
// passed over.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		fail := func(err error) { yield(storage.Info{}, fmt.Errorf("list: %w", err)) }
		if err := storage.ValidatePrefix(prefix); err != nil {
			fail(err)
			return
		}
		owners := false
		options := minio.ListObjectsOptions{Prefix: askable(prefix), Recursive: true, FetchOwner: &owners}
		for object := range s.core.ListObjectsIter(ctx, s.bucket, options) {
			switch {
			case object.Err != nil:
				fail(classify(ctx, object.Err))
				return
			case ctx.Err() != nil:
				fail(ctx.Err())
				return
			case !strings.HasPrefix(object.Key, prefix) || storage.ValidateName(object.Key) != nil:
				continue
			case !yield(describe(object.Key, object), nil):
				return
			}
		}
		if err := ctx.Err(); err != nil { // at which the iterator just ends
			fail(err)
		}
	}
}

// askable returns a prefix without a last segment of one or two dots, which MinIO takes for a way out of
// the bucket. Names that start with the segment are picked from the answer.
func askable(prefix string) string {
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
	err := s.core.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
	if err != nil && !hasCode(err, minio.NoSuchKey) {
		return fmt.Errorf("delete %s: %w", name, classify(ctx, err))
	}
	return nil
}

func describe(name string, object minio.ObjectInfo) storage.Info {
	return storage.Info{Name: name, Size: object.Size, ETag: object.ETag, Modified: object.LastModified}
}
