package objects

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/recvault/recvault/storage"
)

// maxReads is how often Read sends a request whose answer breaks off.
const maxReads = 3

// errDropped: the connection dropped during an object's transfer.
var errDropped = errors.New("connection dropped")

// Read returns length bytes of an object from offset, or fewer if the object ends before, and its Info. A store
// repeats requests that get no answer. Read repeats requests whose answer breaks off. It sends three in all.
//
// Errors: those of [storage.Store] for Get, the context's.
func Read(ctx context.Context, store storage.Store, name string, offset, length int64) (data []byte, info storage.Info, err error) {
	for range maxReads {
		data, info, err = readOnce(ctx, store, name, offset, length)
		if !errors.Is(err, errDropped) {
			break
		}
	}
	return data, info, err
}

func readOnce(ctx context.Context, store storage.Store, name string, offset, length int64) ([]byte, storage.Info, error) {
	object, err := store.Get(ctx, name, offset, length)
	if err != nil {
		return nil, storage.Info{}, err
	}
	defer object.Close()
	data := make([]byte, max(0, min(length, object.Info.Size-offset)))
	if _, err := io.ReadFull(object, data); err != nil { // reads no more, whatever the store sends
		if ctx.Err() != nil {
			return nil, storage.Info{}, ctx.Err()
		}
		return nil, storage.Info{}, fmt.Errorf("%w: %w: %w", storage.ErrUnavailable, errDropped, err)
	}
	return data, object.Info, nil
}
