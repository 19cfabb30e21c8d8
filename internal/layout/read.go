package layout

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/recvault/recvault/storage"
)

// ErrDropped says that the connection dropped while an object came, so that it is worth asking again. It
// comes with [storage.ErrUnavailable].
var ErrDropped = errors.New("connection dropped")

// maxReads is how often Read asks.
const maxReads = 3

// Read returns up to length bytes of an object from offset, and its Info: less only where the object
// ends. A store repeats requests that get no answer; an answer that breaks off is asked for again here,
// three times in all.
//
// Errors: those of Get, the context's, [ErrDropped].
func Read(ctx context.Context, store storage.Store, name string, offset, length int64) (data []byte, info storage.Info, err error) {
	for range maxReads {
		data, info, err = ReadOnce(ctx, store, name, offset, length)
		if !errors.Is(err, ErrDropped) {
			break
		}
	}
	return data, info, err
}

// ReadOnce is Read for those who ask again themselves.
func ReadOnce(ctx context.Context, store storage.Store, name string, offset, length int64) ([]byte, storage.Info, error) {
	object, err := store.Get(ctx, name, offset, length)
	if err != nil {
		return nil, storage.Info{}, err
	}
	defer object.Close()
	data := make([]byte, max(0, min(length, object.Info.Size-offset)))
	if _, err := io.ReadFull(object, data); err != nil { // no more than that, whatever the store sends
		if ctx.Err() != nil {
			return nil, storage.Info{}, ctx.Err()
		}
		return nil, storage.Info{}, fmt.Errorf("%w: %w: %w", storage.ErrUnavailable, ErrDropped, err)
	}
	return data, object.Info, nil
}
