package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/lifecycle"
)

// Settings describe in words how a bucket keeps old and deleted objects. A setting that the server does not have, or
// that the credentials may not read, begins with "unknown".
type Settings struct {
	Versioning string // "enabled", "suspended" or "off"
	Lifecycle  string // what the rules remove, and after how many days
	ObjectLock string // "enabled", with its default retention, or "off"
}

// Settings reads the bucket's settings. It needs s3:GetBucketVersioning, s3:GetLifecycleConfiguration and
// s3:GetBucketObjectLockConfiguration.
func (s *Store) Settings(ctx context.Context) Settings {
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	unknown := func(err error) string {
		if answer, ok := errors.AsType[minio.ErrorResponse](err); ok {
			return "unknown: the server answered " + summary(answer)
		}
		return "unknown: " + classify(ctx, err).Error()
	}
	var settings Settings

	versioning, err := s.core.GetBucketVersioning(ctx, s.bucket)
	switch {
	case err != nil:
		settings.Versioning = unknown(err)
	case versioning.Status == "":
		settings.Versioning = "off"
	default:
		settings.Versioning = strings.ToLower(versioning.Status)
	}

	watch.restart()
	rules, err := s.core.GetBucketLifecycle(ctx, s.bucket)
	switch {
	case hasCode(err, "NoSuchLifecycleConfiguration"):
		settings.Lifecycle = "no rules"
	case err != nil:
		settings.Lifecycle = unknown(err)
	default:
		settings.Lifecycle = describeRules(rules.Rules)
	}

	watch.restart()
	lock, mode, validity, unit, err := s.core.GetObjectLockConfig(ctx, s.bucket)
	switch {
	case hasCode(err, "ObjectLockConfigurationNotFoundError"):
		settings.ObjectLock = "off"
	case err != nil:
		settings.ObjectLock = unknown(err)
	case mode != nil && validity != nil && unit != nil:
		settings.ObjectLock = fmt.Sprintf("%s, %s for %d %s", strings.ToLower(lock), *mode, *validity, strings.ToLower(string(*unit)))
	default:
		settings.ObjectLock = strings.ToLower(lock) + ", no default retention"
	}
	return settings
}

// describeRules describes the rules that are enabled.
func describeRules(rules []lifecycle.Rule) string {
	var texts []string
	add := func(what string, days lifecycle.ExpirationDays) {
		if days > 0 {
			texts = append(texts, fmt.Sprintf("%s after %d days", what, days))
		}
	}
	for _, rule := range rules {
		if rule.Status == "Enabled" {
			add("removes objects", rule.Expiration.Days)
			add("removes noncurrent versions", rule.NoncurrentVersionExpiration.NoncurrentDays)
			add("aborts uploads", rule.AbortIncompleteMultipartUpload.DaysAfterInitiation)
		}
	}
	if len(texts) == 0 {
		return "no rules that remove anything"
	}
	return strings.Join(texts, ", ")
}

// CheckChecksums puts an object of a few bytes with the checksum of other data, as if it had been damaged on the way,
// and returns nil if the server refuses it. Otherwise it removes the object and returns an error. The name must be
// free.
func (s *Store) CheckChecksums(ctx context.Context, name string) error {
	ctx, watch := s.watch(ctx)
	defer watch.stop()
	p := &put{store: s, name: name, id: rand.Text()}
	sent, damaged := []byte("sent"), []byte("damaged")
	options := p.options()
	options.DisableContentSha256 = true
	if s.signed {
		options.UserMetadata[minio.ChecksumSHA256.Key()] = minio.ChecksumSHA256.EncodeToString(sent)
	} else {
		options.UserMetadata[checksum.Key()] = checksum.EncodeToString(sent)
	}
	_, err := s.core.PutObject(ctx, s.bucket, name, bytes.NewReader(damaged), int64(len(damaged)), "", p.sha256Hex(sent), options)
	switch {
	case err == nil:
		_ = s.Delete(ctx, name)
		return errors.New("the server stored data that differs from its checksum")
	case minio.ToErrorResponse(err).StatusCode == 400:
		return nil
	default:
		return fmt.Errorf("check checksums: %w", classify(ctx, err))
	}
}
