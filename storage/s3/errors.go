package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/storage"
)

// errUnchecked refuses a server that stores data without having compared its checksum.
var errUnchecked = fmt.Errorf("%w: the server did not confirm the CRC64NVME checksum, so use SignedPayload with it", storage.ErrUnavailable)

// damagedCodes are the answers to data that is not what its checksum says.
var damagedCodes = []string{"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}

// classify wraps an error of a request in the one of package storage that tells its cause. Of what the
// server wrote it keeps code and status: its text can repeat headers of the request. Errors that have
// their meaning already pass, and so does the end of the context.
func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return ctx.Err()
	}
	var answer minio.ErrorResponse
	switch {
	case errors.Is(err, storage.ErrNoBucket), errors.Is(err, storage.ErrUnavailable):
		return err
	case errors.As(err, &answer):
		return fmt.Errorf("%w: %s", meaning(answer), quote(answer))
	default:
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
}

// classify does so for a Put, where some answers mean that the condition does not hold.
func (p *put) classify(ctx context.Context, err error) error {
	failed := hasCode(err, minio.PreconditionFailed, "ConditionalRequestConflict", minio.Conflict)
	switch {
	case p.condition.IsIfAbsent() && failed:
		return storage.ErrExists
	case p.condition.ETag() != "" && (failed || hasCode(err, minio.NoSuchKey)):
		return storage.ErrChanged
	default:
		return classify(ctx, err)
	}
}

// isUncertain tells whether a write that ended with this error may have taken effect.
func isUncertain(err error) bool {
	for _, certain := range []error{storage.ErrDenied, storage.ErrNoBucket, storage.ErrInvalidName, storage.ErrTooLarge, storage.ErrFull} {
		if errors.Is(err, certain) {
			return false
		}
	}
	return true
}

// meaning translates a server's answer, by its code where S3 or MinIO define one, otherwise by its HTTP
// status.
func meaning(answer minio.ErrorResponse) error {
	switch answer.Code {
	case minio.NoSuchKey:
		return storage.ErrNotFound
	case minio.NoSuchBucket, minio.InvalidBucketName:
		return storage.ErrNoBucket
	case "InvalidToken", "ExpiredToken", minio.AuthorizationHeaderMalformed:
		return storage.ErrDenied
	case minio.EntityTooLarge:
		return storage.ErrTooLarge
	case "QuotaExceeded", "XMinioAdminBucketQuotaExceeded":
		return storage.ErrFull
	case minio.InternalError: // MinIO's, when the disk is full before it was expected to be
		if strings.Contains(answer.Message, "no space left on device") {
			return storage.ErrFull
		}
	case "KeyTooLongError", minio.XMinioInvalidObjectName, "XMinioObjectExistsAsDirectory":
		return storage.ErrInvalidName
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return storage.ErrDenied
	case http.StatusInsufficientStorage:
		return storage.ErrFull
	}
	return storage.ErrUnavailable
}

// quote names a server's answer, without what does not look like a code.
func quote(answer minio.ErrorResponse) string {
	code := answer.Code
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == ' '
	}
	if len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool { return !plain(r) }) {
		code = "unknown error"
	}
	return fmt.Sprintf("%s (HTTP status %d)", code, answer.StatusCode)
}

// hasCode tells whether err is a server's answer with one of the codes.
func hasCode(err error, codes ...string) bool {
	var answer minio.ErrorResponse
	return errors.As(err, &answer) && slices.Contains(codes, answer.Code)
}
