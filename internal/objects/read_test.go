package objects_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

// dropping is a store whose connection drops in the middle of an object, so often.
type dropping struct {
	storage.Store
	times  int
	asked  int
	onDrop func()
}

func (s *dropping) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	s.asked++
	if err != nil || s.asked > s.times {
		return object, err
	}
	s.onDrop()
	object.ReadCloser = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(object.ReadCloser, 2), broken{}), object.ReadCloser}
	return object, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

func TestReadAsksAgainWhenAConnectionDrops(t *testing.T) {
	files, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	_, err = files.Put(t.Context(), "object", strings.NewReader("0123456789"), 10, storage.Condition{})
	require.NoError(t, err)
	for _, c := range []struct {
		offset, length int64
		want           string
	}{{0, 10, "0123456789"}, {0, 20, "0123456789"}, {0, 4, "0123"}, {4, 3, "456"}, {8, 4, "89"}, {20, 4, ""}} {
		data, info, err := layout.Read(t.Context(), files, "object", c.offset, c.length)
		require.NoError(t, err)
		assert.Equal(t, c.want, string(data))
		assert.EqualValues(t, 10, info.Size)
		assert.NotEmpty(t, info.ETag)
	}
	_, _, err = layout.Read(t.Context(), files, "missing", 0, 10)
	assert.ErrorIs(t, err, storage.ErrNotFound)

	store := &dropping{Store: files, times: 2, onDrop: func() {}}
	data, _, err := layout.Read(t.Context(), store, "object", 0, 10)
	require.NoError(t, err)
	assert.Equal(t, "0123456789", string(data))
	assert.Equal(t, 3, store.asked)

	store = &dropping{Store: files, times: 100, onDrop: func() {}}
	data, _, err = layout.Read(t.Context(), store, "object", 0, 10)
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.ErrorIs(t, err, layout.ErrDropped)
	assert.Empty(t, data, "half an object is none")
	assert.Equal(t, 3, store.asked)

	ctx, cancel := context.WithCancel(t.Context())
	store = &dropping{Store: files, times: 100, onDrop: cancel}
	_, _, err = layout.Read(ctx, store, "object", 0, 10)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, store.asked)
}
