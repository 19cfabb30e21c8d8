package s3_test

import (
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/lifecycle"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage/s3"
)

func TestSettingsDescribeTheBucket(t *testing.T) {
	server := testserver.MinIO(t)
	store := open(t, server, server.Bucket())
	assert.Equal(t, s3.Settings{Versioning: "off", Lifecycle: "no rules", ObjectLock: "off"}, store.Settings(t.Context()))

	require.NoError(t, store.client.EnableVersioning(t.Context(), store.bucket))
	rules := lifecycle.NewConfiguration()
	rules.Rules = []lifecycle.Rule{
		{ID: "old", Status: "Enabled", NoncurrentVersionExpiration: lifecycle.NoncurrentVersionExpiration{NoncurrentDays: 30}},
		{ID: "disabled", Status: "Disabled", Expiration: lifecycle.Expiration{Days: 7}},
	}
	require.NoError(t, store.client.SetBucketLifecycle(t.Context(), store.bucket, rules))
	settings := store.Settings(t.Context())
	assert.Equal(t, "enabled", settings.Versioning)
	assert.Equal(t, "removes noncurrent versions after 30 days", settings.Lifecycle)

	locked := open(t, server, server.Bucket()+"-locked")
	require.NoError(t, locked.client.MakeBucket(t.Context(), locked.bucket, minio.MakeBucketOptions{ObjectLocking: true}))
	defer func() { assert.NoError(t, locked.client.RemoveBucket(t.Context(), locked.bucket)) }()
	assert.Equal(t, "enabled, no default retention", locked.Settings(t.Context()).ObjectLock)
	mode, validity, unit := minio.Governance, uint(3), minio.Days
	require.NoError(t, locked.client.SetBucketObjectLockConfig(t.Context(), locked.bucket, &mode, &validity, &unit))
	assert.Equal(t, "enabled, GOVERNANCE for 3 days", locked.Settings(t.Context()).ObjectLock)
}

func TestUnknownSettingsSayWhy(t *testing.T) {
	server := testserver.VersityGW(t)
	assert.Equal(t, "unknown: the server answered NotImplemented (HTTP status 501)",
		open(t, server, server.Bucket()).Settings(t.Context()).Lifecycle)
	missing := open(t, server, "no-such-bucket").Settings(t.Context())
	for _, setting := range []string{missing.Versioning, missing.Lifecycle, missing.ObjectLock} {
		assert.Contains(t, setting, "unknown: ")
	}
}
