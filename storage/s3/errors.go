package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/storage"
)

// errUnchecked means that the server stored data without comparing its checksum.
var errUnchecked = fmt.Errorf("%w: the server did not confirm the CRC64NVME checksum: use SignedPayload", storage.ErrUnavailable)

// errDisorder means that a listing repeats a name or is not in order.
var errDisorder = fmt.Errorf("%w: the server's listing is not in the order of names", storage.ErrUnavailable)

// errNoServer means that a server answers a write with 404, and does not say that the bucket is missing.
var errNoServer = errors.New("the server answered 404 to a write: the endpoint is no S3 server, or a proxy does not know it")

// damagedCodes are the server's error codes for data that does not match its checksum.
var damagedCodes = []string{"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}

// classify wraps a request's error in the error of package storage that names its cause. It keeps the code
// and the status of the server's answer, but not the text, which can repeat headers of the request. It
// returns the context's error, and errors of package storage, unchanged. If a watch has ended the context, it
// returns the watch's error.
func classify(ctx context.Context, err error) error {
	err = timeoutOr(ctx, err)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return ctx.Err()
	}
	answer, answered := errors.AsType[minio.ErrorResponse](err)
	switch {
	case errors.Is(err, storage.ErrNoBucket), errors.Is(err, storage.ErrUnavailable):
		return err
	case answered:
		return fmt.Errorf("%w: %s", cause(answer), summary(answer))
	default:
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, printable{err})
	}
}

// classify is like the function classify, and names the bucket if there is no such bucket.
func (s *Store) classify(ctx context.Context, err error) error {
	if err = classify(ctx, err); errors.Is(err, storage.ErrNoBucket) {
		return fmt.Errorf("bucket %q: %w", s.bucket, err)
	}
	return err
}

// maxErrorText is the number of bytes of a foreign error's text that are kept.
const maxErrorText = 300

// printable is an error whose text may repeat what a server sent. Its own text escapes the characters that are
// not printable, such as control characters and marks that change the direction of text, and is cut.
type printable struct{ err error }

func (p printable) Error() string {
	var text strings.Builder
	for _, r := range p.err.Error() {
		if text.Len() >= maxErrorText {
			text.WriteString("...")
			break
		}
		if unicode.IsPrint(r) {
			text.WriteRune(r)
		} else {
			text.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
	}
	return text.String()
}

func (p printable) Unwrap() error { return p.err }

// classify is like the function classify, but recognises the answers to a Put whose condition fails. A Put looks
// for no object, so a server that does not find one is no S3 server: it is unavailable.
func (p *put) classify(ctx context.Context, err error) error {
	failed := hasCode(err, minio.PreconditionFailed, "ConditionalRequestConflict", minio.Conflict)
	switch {
	case p.condition.IsIfAbsent() && failed:
		return storage.ErrExists
	case p.condition.ETag() != "" && (failed || hasCode(err, minio.NoSuchKey)):
		return storage.ErrChanged
	}
	err = p.store.classify(ctx, err)
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %w", storage.ErrUnavailable, errNoServer)
	}
	return err
}

// isUncertain reports whether a write that ended with this error may have taken effect.
func isUncertain(err error) bool {
	certain := []error{storage.ErrDenied, storage.ErrNoBucket, storage.ErrInvalidName, storage.ErrTooLarge, storage.ErrFull}
	return !slices.ContainsFunc(certain, func(refused error) bool { return errors.Is(err, refused) })
}

// cause returns the error of package storage for a server's answer: by its code where S3 or MinIO define
// one, otherwise by its HTTP status.
func cause(answer minio.ErrorResponse) error {
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
	case minio.InternalError: // MinIO's code if it runs out of space during a write
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

// summary returns the code and the status of a server's answer. It replaces a code that contains other
// characters than letters, digits and spaces.
func summary(answer minio.ErrorResponse) string {
	code := answer.Code
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == ' '
	}
	if len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool { return !plain(r) }) {
		code = "unknown error"
	}
	return fmt.Sprintf("%s (HTTP status %d)", code, answer.StatusCode)
}

// hasCode reports whether err is a server's answer with one of the codes.
func hasCode(err error, codes ...string) bool {
	answer, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && slices.Contains(codes, answer.Code)
}
