package storagetest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/storage"
)

func testUploads(t *testing.T, open func(*testing.T) storage.Store) {
	for name, test := range map[string]func(*testing.T, storage.Store, storage.UploadLister){
		"lists only abandoned uploads":     testAbandoned,
		"aborts only the given upload":     testAbortUpload,
		"does not disturb a live writer":   testLiveUpload,
		"refuses invalid prefixes and IDs": testInvalidUpload,
		"stops when the context has ended": testUploadsContext,
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t)
			lister, ok := store.(storage.UploadLister)
			if !ok {
				t.Skip("the store does not implement storage.UploadLister")
			}
			test(t, store, lister)
		})
	}
}

// abandon leaves one unfinished upload for each name, and removes them when the test ends.
func abandon(t *testing.T, store storage.Store, names ...string) {
	t.Helper()
	abandoner, ok := store.(Abandoner)
	if !ok {
		t.Skip("the store does not implement storagetest.Abandoner")
	}
	for _, name := range names {
		abandoner.Abandon(t, name)
	}
	t.Cleanup(func() {
		lister := store.(storage.UploadLister)
		ctx := context.WithoutCancel(t.Context())
		for upload, err := range lister.Uploads(ctx, "") {
			require.NoError(t, err)
			assert.NoError(t, lister.AbortUpload(ctx, upload))
		}
	})
}

func uploads(t *testing.T, lister storage.UploadLister, prefix string) []storage.Upload {
	t.Helper()
	var found []storage.Upload
	for upload, err := range lister.Uploads(t.Context(), prefix) {
		require.NoError(t, err)
		assert.NotEmpty(t, upload.ID)
		found = append(found, upload)
	}
	return found
}

func testAbandoned(t *testing.T, store storage.Store, lister storage.UploadLister) {
	put(t, store, "a/done", data(1, 2*partSize), storage.Condition{})
	assert.Empty(t, uploads(t, lister, ""))
	all := []string{"a/b", "a/b", "a/c", "ab", "b/media"}
	begun := time.Now()
	abandon(t, store, all...)
	for _, prefix := range []string{"", "a", "a/", "a/b", "b/media", "b/mediax", "c"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			var want []string
			for _, name := range all {
				if strings.HasPrefix(name, prefix) {
					want = append(want, name)
				}
			}
			var named []string
			seen := map[string]bool{}
			for _, upload := range uploads(t, lister, prefix) {
				assert.False(t, seen[upload.ID], "yielded twice")
				seen[upload.ID] = true
				assert.WithinRange(t, upload.Started, begun.Add(-2*time.Second), time.Now().Add(2*time.Second), "clocks of one host")
				if upload.Name != "" {
					named = append(named, upload.Name)
				}
			}
			if len(named) == 0 && len(seen) > 0 {
				assert.Len(t, seen, len(all), "every prefix yields the uploads without a name")
				return
			}
			slices.Sort(named)
			assert.Equal(t, want, named)
		})
	}
	assert.Empty(t, names(t, store, "b"), "List yields no unfinished uploads")

	list := lister.Uploads(t.Context(), "")
	for range 2 { // a sequence can be used again
		for _, err := range list {
			require.NoError(t, err)
			break
		}
	}
}

func testAbortUpload(t *testing.T, store storage.Store, lister storage.UploadLister) {
	content := data(1, 100)
	info := put(t, store, "a/b", content, storage.Condition{})
	abandon(t, store, "a/b", "a/b", "a/c")
	all := uploads(t, lister, "")
	require.Len(t, all, 3)
	for range 2 {
		require.NoError(t, lister.AbortUpload(t.Context(), all[0]), "also if the upload has already ended")
		assert.ElementsMatch(t, all[1:], uploads(t, lister, ""))
	}
	require.NoError(t, lister.AbortUpload(t.Context(), all[1]))
	require.NoError(t, lister.AbortUpload(t.Context(), all[2]))
	assert.Empty(t, uploads(t, lister, ""))
	assertUnchanged(t, store, info, content)
	assert.Equal(t, []string{"a/b"}, names(t, store, ""))
}

// testLiveUpload aborts all listed uploads except the one in progress, and checks that this one succeeds.
func testLiveUpload(t *testing.T, store storage.Store, lister storage.UploadLister) {
	abandon(t, store, "a/abandoned")
	content := data(1, 3*partSize)
	paused, resume := make(chan struct{}), make(chan struct{})
	reader := io.MultiReader(
		strings.NewReader(string(content[:2*partSize+1])),
		readerFunc(func([]byte) (int, error) {
			close(paused)
			<-resume
			return 0, io.EOF
		}),
		strings.NewReader(string(content[2*partSize+1:])),
	)
	done := make(chan error, 1)
	go func() {
		_, err := store.Put(t.Context(), "a/live", reader, int64(len(content)), storage.Condition{})
		done <- err
	}()
	select {
	case <-paused:
	case err := <-done:
		require.NoError(t, err)
	}
	listed := uploads(t, lister, "a/")
	live := 0
	for _, upload := range listed {
		if upload.Name == "a/live" {
			live++
			continue
		}
		assert.NoError(t, lister.AbortUpload(t.Context(), upload))
	}
	assert.Equal(t, live+1, len(listed))
	close(resume)
	require.NoError(t, <-done)
	got, _ := get(t, store, "a/live")
	assertSame(t, content, got)
	assert.Empty(t, uploads(t, lister, ""))
}

func testInvalidUpload(t *testing.T, store storage.Store, lister storage.UploadLister) {
	content := data(1, 100)
	info := put(t, store, "a/b", content, storage.Condition{})
	for _, prefix := range []string{"/", "a//", "../", "ä"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			count := 0
			for upload, err := range lister.Uploads(t.Context(), prefix) {
				assert.ErrorIs(t, err, storage.ErrInvalidName)
				assert.Zero(t, upload)
				count++
			}
			assert.Equal(t, 1, count)
		})
	}
	for _, upload := range []storage.Upload{
		{}, {Name: "a/b"}, {Name: "../b", ID: ".."}, {ID: "../objects/a/b"}, {ID: ".."}, {ID: "/"},
	} {
		t.Run(fmt.Sprintf("name %q, ID %q", upload.Name, upload.ID), func(t *testing.T) {
			assert.ErrorIs(t, lister.AbortUpload(t.Context(), upload), storage.ErrInvalidName)
		})
	}
	assertUnchanged(t, store, info, content)
}

func testUploadsContext(t *testing.T, store storage.Store, lister storage.UploadLister) {
	abandon(t, store, "a/b", "a/c")
	all := uploads(t, lister, "")
	ctx := cancelled(t, func(ctx context.Context) iter.Seq2[storage.Upload, error] { return lister.Uploads(ctx, "") })
	for _, err := range lister.Uploads(ctx, "") {
		assert.ErrorIs(t, err, context.Canceled)
	}
	assert.ErrorIs(t, lister.AbortUpload(ctx, all[0]), context.Canceled)
	assert.Len(t, uploads(t, lister, ""), 2)
}
