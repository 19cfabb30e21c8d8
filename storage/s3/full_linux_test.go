package s3_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/namespace"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/storage"
)

func TestFullServerIsErrFull(t *testing.T) {
	if !namespace.Enter(t) {
		return
	}
	t.Setenv("TMPDIR", namespace.Mount(t, "size=128m"))
	server := testserver.MinIO(t, testserver.Dedicated())
	store := open(t, server, server.Bucket())
	content := noise(1000)
	_, err := store.Put(t.Context(), "old", bytes.NewReader(content), -1, storage.Condition{})
	require.NoError(t, err)

	// Small steps let MinIO notice in time that its disk is full. One large write can fail in other ways.
	step := make([]byte, 1<<20)
	for i := 0; err == nil && i < 256; i++ {
		_, err = store.Put(t.Context(), fmt.Sprintf("fill/%d", i), bytes.NewReader(step), -1, storage.Condition{})
	}
	require.ErrorIs(t, err, storage.ErrFull)
	for _, name := range []string{"old", "new"} {
		for _, size := range []int64{1 << 20, partSize, 3 * partSize} {
			_, err := store.Put(t.Context(), name, bytes.NewReader(make([]byte, size)), size, storage.Condition{})
			assert.ErrorIs(t, err, storage.ErrFull, "%s with %d bytes", name, size)
		}
	}
	assert.Empty(t, store.Leftovers(t))
	assert.True(t, bytes.Equal(content, read(t, store, "old")))
	_, err = store.Stat(t.Context(), "new")
	assert.ErrorIs(t, err, storage.ErrNotFound)
}
