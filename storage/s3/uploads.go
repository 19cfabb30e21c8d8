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

// Uploads implements [storage.UploadLister]. It asks for all incomplete uploads in the bucket, 1,000 at a
// time, and picks those with the prefix. Whether an upload is still under way S3 does not tell. Those to
// names that [storage.ValidateName] refuses are other clients', and passed over.
//
// Amazon S3 knows them all. MinIO (as of 2026-02) cannot list by prefix: it lists either those to one
// object, or those in the bucket which the server that is asked remembers. That is what is asked for; it
// leaves out uploads that were begun through another server of a cluster, or before the server was
// restarted, and may name some that another server has completed. What MinIO does not list it removes
// by itself, 24 hours after the upload began (its setting api stale_uploads_expiry), be it alive or not:
// on MinIO, no upload may last longer than that.
func (s *Store) Uploads(ctx context.Context, prefix string) iter.Seq2[storage.Upload, error] {
	return func(yield func(storage.Upload, error) bool) {
		fail := func(err error) { yield(storage.Upload{}, fmt.Errorf("list uploads: %w", err)) }
		if err := storage.ValidatePrefix(prefix); err != nil {
			fail(err)
			return
		}
		var page minio.ListMultipartUploadsResult
		for more := true; more; more = page.IsTruncated {
			var err error
			page, err = s.core.ListMultipartUploads(ctx, s.bucket, "", page.NextKeyMarker, page.NextUploadIDMarker, "", 1000)
			if err != nil {
				fail(classify(ctx, err))
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

// AbortUpload implements [storage.UploadLister].
func (s *Store) AbortUpload(ctx context.Context, upload storage.Upload) error {
	if err := storage.ValidateName(upload.Name); err != nil {
		return fmt.Errorf("abort upload: %w", err)
	}
	if upload.ID == "" { // without which the request is one to delete the object
		return fmt.Errorf("abort upload of %s: %w: it has no ID", upload.Name, storage.ErrInvalidName)
	}
	err := s.core.AbortMultipartUpload(ctx, s.bucket, upload.Name, upload.ID)
	if err != nil && !hasCode(err, minio.NoSuchUpload) {
		return fmt.Errorf("abort upload of %s: %w", upload.Name, classify(ctx, err))
	}
	return nil
}
