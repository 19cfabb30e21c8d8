package main

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testserver"
)

// wantStory matches the points that the output must make, in order.
var wantStory = regexp.MustCompile(`(?s)Two patients.*` +
	`PLAYED +"Bob's consultation", video/webm, 40s.*` +
	`REFUSED +open recording [^\n]*permission denied[^\n]*\n +ALERT +wrong-patient: bob@portal.*` +
	`PLAYED +"Alice's consultation".*` +
	`CAUGHT +recording is damaged: [^\n]*segment 5 of 12.*ALERT +damaged: alice@portal.*` +
	`An ID is not a key\..*go run \./examples/portal.*make dev`)

func TestStoryOnTheEmbeddedDefault(t *testing.T) {
	t.Setenv("VAULT_ADDR", "")
	t.Setenv("AWS_ENDPOINT_URL", "")
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	assert.Regexp(t, wantStory, out.String())
	assert.LessOrEqual(t, bytes.Count(out.Bytes(), []byte("\n")), 24, "one screen")
	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestSameStoryOnRealServers(t *testing.T) {
	vault, s3 := testserver.Vault(t), testserver.MinIO(t)
	t.Setenv("VAULT_ADDR", vault.Address())
	t.Setenv("VAULT_TOKEN", vault.RootToken())
	t.Setenv("AWS_ENDPOINT_URL", "http://"+s3.Endpoint())
	t.Setenv("AWS_REGION", s3.Region())
	t.Setenv("AWS_ACCESS_KEY_ID", s3.AccessKey())
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3.SecretKey())
	t.Setenv("RECVAULT_BUCKET", s3.Bucket())
	for range 2 { // the engine and bucket of the first run do not disturb the second
		var out bytes.Buffer
		require.NoError(t, run(t.Context(), &out))
		assert.Regexp(t, wantStory, out.String())
		assert.Contains(t, out.String(), "is decided by Vault, not by the application")
	}
	for object := range s3.Client().ListObjects(t.Context(), s3.Bucket(), minio.ListObjectsOptions{Recursive: true}) {
		assert.Fail(t, "left in the bucket", object.Key)
	}
}
