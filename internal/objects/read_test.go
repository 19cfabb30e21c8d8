package objects_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/storage"
)

// dropping is a store whose connection drops in the middle of an object, this many times.
type dropping struct {
	storage.Store
	times  int
	gets   int
	onDrop func()
}

func (s *dropping) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	s.gets++
	if err != nil || s.gets > s.times {
		return object, err
	}
	s.onDrop()
	object.ReadCloser = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(object.ReadCloser, 2), broken{}), object.ReadCloser}
	return object, nil
}

// broken is a connection that was reset.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

func TestReadReturnsARange(t *testing.T) {
	store := openStore(t)
	teststore.Write(t, store, "object", []byte("0123456789"))
	for name, c := range map[string]struct {
		offset, length int64
		want           string
	}{
		"all": {0, 10, "0123456789"}, "more than all": {0, 20, "0123456789"}, "the beginning": {0, 4, "0123"},
		"the middle": {4, 3, "456"}, "past the end": {8, 4, "89"}, "after the end": {20, 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			data, info, err := objects.Read(t.Context(), store, "object", c.offset, c.length)
			require.NoError(t, err)
			assert.Equal(t, c.want, string(data))
			assert.EqualValues(t, 10, info.Size)
			assert.NotEmpty(t, info.ETag)
		})
	}
	_, _, err := objects.Read(t.Context(), store, "missing", 0, 10)
	assert.ErrorIs(t, err, storage.ErrNotFound)
}

func TestReadRepeatsAGetThatDrops(t *testing.T) {
	files := openStore(t)
	teststore.Write(t, files, "object", []byte("0123456789"))

	store := &dropping{Store: files, times: 2, onDrop: func() {}}
	data, _, err := objects.Read(t.Context(), store, "object", 0, 10)
	require.NoError(t, err)
	assert.Equal(t, "0123456789", string(data))
	assert.Equal(t, 3, store.gets)

	store = &dropping{Store: files, times: 100, onDrop: func() {}}
	data, _, err = objects.Read(t.Context(), store, "object", 0, 10)
	assert.ErrorIs(t, err, storage.ErrUnavailable)
	assert.ErrorIs(t, err, objects.ErrDropped)
	assert.Empty(t, data, "no part of an object")
	assert.Equal(t, 3, store.gets)

	ctx, cancel := context.WithCancel(t.Context())
	store = &dropping{Store: files, times: 100, onDrop: cancel}
	_, _, err = objects.Read(ctx, store, "object", 0, 10)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, store.gets)
}
