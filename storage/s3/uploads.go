package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/storage"
)

var _ storage.UploadLister = (*Store)(nil)

// Uploads implements [storage.UploadLister]. It requests all incomplete uploads of the bucket, 1,000 at a
// time, and yields those with the prefix. S3 does not report whether an upload is in progress. Uploads skips
// names that [storage.ValidateName] refuses, as they belong to other clients.
//
// Amazon S3 lists all uploads. MinIO (as of 2026-02) cannot list by prefix. It lists either the uploads of
// one object, or the uploads of the bucket that the requested server remembers; Uploads requests the latter.
// A list of more than about 10,000 uploads, which MinIO sends at once, is too long: [storage.ErrUnavailable].
// That list lacks uploads that were started through another server of a cluster, or before a restart of the
// server. It may contain some that another server has completed. MinIO removes every upload 24 hours after
// its start (setting api stale_uploads_expiry), listed or not and even if it is in progress: on MinIO, no
// upload may last longer.
func (s *Store) Uploads(ctx context.Context, prefix string) iter.Seq2[storage.Upload, error] {
	return func(yield func(storage.Upload, error) bool) {
		fail := func(err error) { yield(storage.Upload{}, fmt.Errorf("list uploads: %w", err)) }
		if err := storage.ValidatePrefix(prefix); err != nil {
			fail(err)
			return
		}
		var page minio.ListMultipartUploadsResult
		for more := true; more; more = page.IsTruncated {
			key, id := page.NextKeyMarker, page.NextUploadIDMarker
			var err error
			page, err = s.uploadsAfter(ctx, key, id)
			if err != nil {
				fail(err)
				return
			}
			if page.IsTruncated && page.NextKeyMarker == key && page.NextUploadIDMarker == id {
				fail(errDisorder) // the server would send this page again and again
				return
			}
			for _, upload := range page.Uploads {
				if ctx.Err() != nil {
					fail(ctx.Err())
					return
				}
				if !strings.HasPrefix(upload.Key, prefix) || storage.ValidateName(upload.Key) != nil {
					continue
				}
				if !yield(storage.Upload{Name: upload.Key, ID: upload.UploadID, Started: upload.Initiated}, nil) {
					return
				}
			}
		}
	}
}

// uploadsAfter returns the page of uploads after a key and an upload ID.
func (s *Store) uploadsAfter(ctx context.Context, key, id string) (minio.ListMultipartUploadsResult, error) {
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	page, err := s.core.ListMultipartUploads(ctx, s.bucket, "", key, id, "", 1000)
	if err != nil {
		return page, s.classify(ctx, err)
	}
	return page, nil
}

// AbortUpload implements [storage.UploadLister].
func (s *Store) AbortUpload(ctx context.Context, upload storage.Upload) error {
	if err := storage.ValidateName(upload.Name); err != nil {
		return fmt.Errorf("abort upload: %w", err)
	}
	if upload.ID == "" { // without an ID, the request would delete the object
		return fmt.Errorf("abort upload of %s: %w: it has no ID", upload.Name, storage.ErrInvalidName)
	}
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	err := s.core.AbortMultipartUpload(ctx, s.bucket, upload.Name, upload.ID)
	if err != nil && !hasCode(err, minio.NoSuchUpload) {
		return fmt.Errorf("abort upload of %s: %w", upload.Name, s.classify(ctx, err))
	}
	return nil
}
