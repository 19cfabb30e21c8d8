package s3

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/recvault/recvault/storage"
)

// copyPartSize is the size of the parts of a copy. It is small enough for a server to copy a part within
// the request timeout. S3's limit is 5 GiB.
const copyPartSize = 64 << 20

var _ storage.Copier = (*Store)(nil)

var errNotCopied = fmt.Errorf("%w: the server failed to copy a part", storage.ErrUnavailable)

// Copy implements [storage.Copier]. The server copies the data in parts of 64 MiB, four at a time, and joins them
// if the target does not exist; beyond 625 GiB, the parts are larger. S3's CopyObject is not used: MinIO (as of
// 2026-02) and other servers ignore its condition, so that it could replace an object.
//
// The server alone is responsible for the copy's integrity: MinIO (as of 2026-02) cannot copy parts into an upload
// with checksums, so none are compared.
//
// After the context has ended, Copy may take a few more seconds, as [Store.Put] does. A part that the server is
// still copying after that may remain in an incomplete upload. [RequestTimeout] applies to each part.
func (s *Store) Copy(ctx context.Context, from, to string) (storage.Info, error) {
	for _, name := range []string{from, to} {
		if err := storage.ValidateName(name); err != nil {
			return storage.Info{}, fmt.Errorf("copy: %w", err)
		}
	}
	info, err := s.copy(ctx, from, to)
	if err != nil {
		return storage.Info{}, fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return info, nil
}

func (s *Store) copy(ctx context.Context, from, to string) (storage.Info, error) {
	found, err := s.boundedStat(ctx, from)
	if err != nil {
		return storage.Info{}, err
	}
	if _, err := s.boundedStat(ctx, to); err == nil { // the decisive check is made by the server, when it joins the parts
		return storage.Info{}, storage.ErrExists
	}
	p := &put{
		store:     s,
		name:      to,
		condition: storage.IfAbsent(),
		unchecked: true,
		id:        rand.Text(),
		source:    &source{size: found.Size, read: found.Size},
		partSize:  max(s.copyPartSize, s.partSize(found.Size)),
	}
	switch {
	case found.Size > maxSize:
		return storage.Info{}, fmt.Errorf("%w: %d bytes", storage.ErrTooLarge, found.Size)
	case found.Size == 0:
		return p.sendWhole(ctx, nil) // a part of a copy cannot be empty
	}
	return p.sendParts(ctx, func(uploadID string) ([]minio.ObjectPart, error) {
		return p.copyParts(ctx, uploadID, from, found)
	})
}

// copyParts copies all parts of an object and returns them in order. It returns when all its requests have ended.
func (p *put) copyParts(ctx context.Context, uploadID, from string, found storage.Info) ([]minio.ObjectPart, error) {
	parts := make([]minio.ObjectPart, (found.Size+p.partSize-1)/p.partSize)
	group, copying := errgroup.WithContext(ctx)
	group.SetLimit(maxConcurrent)
	for i := range parts {
		offset := int64(i) * p.partSize
		length := min(p.partSize, found.Size-offset)
		group.Go(func() (err error) {
			parts[i], err = p.copyPart(copying, uploadID, i+1, from, found, offset, length)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return parts, nil
}

// copyPart copies one part. If the context ends, it still waits for the answer for the grace period: a part that
// is copied after the upload has been aborted might remain.
func (p *put) copyPart(
	ctx context.Context, uploadID string, number int, from string, found storage.Info, offset, length int64,
) (minio.ObjectPart, error) {
	if err := ctx.Err(); err != nil {
		return minio.ObjectPart{}, err
	}
	extended, cancel := withGrace(ctx)
	defer cancel()
	extended, watch := p.store.watchSlow(extended)
	defer watch.stop()
	if length == found.Size {
		length = -1 // the whole object: Amazon S3 copies ranges only of objects of more than 5 MiB
	}
	headers := map[string]string{"X-Amz-Copy-Source-If-Match": `"` + found.ETag + `"`}
	bucket := p.store.bucket
	copied, err := p.store.core.CopyObjectPart(extended, bucket, from, bucket, p.name, uploadID, number, offset, length, headers)
	switch {
	case hasCode(err, minio.PreconditionFailed):
		return minio.ObjectPart{}, storage.ErrChanged
	case err != nil:
		return minio.ObjectPart{}, p.store.classify(ctx, timeoutOr(extended, err))
	case copied.ETag == "": // Amazon S3 may report an error after it has begun a successful answer
		return minio.ObjectPart{}, errNotCopied
	}
	return minio.ObjectPart{PartNumber: number, ETag: copied.ETag}, nil
}
