package s3

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/recvault/recvault/storage"
)

// upload is one multipart upload. It sends several parts at a time.
type upload struct {
	put     *put
	id      string
	fail    context.CancelCauseFunc
	senders sync.WaitGroup
	free    chan []byte // buffers that are not in use; nil stands for one that is not allocated yet

	mutex sync.Mutex
	parts []minio.ObjectPart
}

// upload sends all parts and returns them in order. It returns when all its requests have ended.
func (p *put) upload(ctx context.Context, id string, first []byte) ([]minio.ObjectPart, error) {
	sending, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	concurrent := max(1, min(maxConcurrent, maxBuffers/p.partSize))
	u := &upload{put: p, id: id, fail: fail, free: make(chan []byte, concurrent)}
	for range concurrent - 1 { // the first part's buffer is already in use
		u.free <- nil
	}
	if err := u.sendAll(sending, first); err != nil {
		fail(err)
	}
	u.senders.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := context.Cause(sending); err != nil {
		return nil, err
	}
	close(u.free)
	for buffer := range u.free {
		p.release(buffer)
	}
	return u.parts, nil
}

// sendAll reads one part after another and starts sending each.
func (u *upload) sendAll(ctx context.Context, first []byte) error {
	u.start(ctx, first, len(first))
	for last := false; !last; {
		if int64(len(u.parts)) == u.put.store.maxParts {
			return fmt.Errorf("%w: more than %d parts of %d bytes", storage.ErrTooLarge, len(u.parts), u.put.partSize)
		}
		buffer, err := u.buffer(ctx)
		if err != nil {
			return err
		}
		var n int
		n, last, err = u.put.source.fill(ctx, buffer)
		if err != nil {
			return err
		}
		u.start(ctx, buffer, n)
	}
	return nil
}

// buffer waits for a free buffer and returns it. It holds one part.
func (u *upload) buffer(ctx context.Context) ([]byte, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case buffer := <-u.free:
		if buffer == nil {
			buffer = u.put.buffer()
		}
		return buffer, nil
	}
}

// start sends the first n bytes of the buffer as the next part.
func (u *upload) start(ctx context.Context, buffer []byte, n int) {
	u.mutex.Lock()
	u.parts = append(u.parts, minio.ObjectPart{})
	number := len(u.parts)
	u.mutex.Unlock()
	u.senders.Go(func() {
		part, err := u.put.sendPart(ctx, u.id, number, buffer[:n])
		if err != nil {
			u.fail(u.put.classify(ctx, err))
			return // without freeing the buffer: see release
		}
		u.mutex.Lock()
		u.parts[number-1] = part
		u.mutex.Unlock()
		u.free <- buffer
	})
}

// partData is the data of a part. Once the context has ended, the transport gets no more of it.
type partData struct {
	ctx context.Context

	mutex sync.Mutex
	data  *sentData
}

func (d *partData) Read(p []byte) (int, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if err := d.ctx.Err(); err != nil && d.data.data.Len() > 0 {
		return 0, err
	}
	return d.data.Read(p)
}

func (d *partData) Seek(offset int64, whence int) (int64, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.data.Seek(offset, whence)
}

// whenLost calls cancel when the server's answer does not matter any more, after the context has ended: at once if the
// transport does not have all data, otherwise after the grace period.
func (d *partData) whenLost(cancel func()) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.data.data.Len() > 0 {
		cancel()
	} else {
		time.AfterFunc(grace, cancel)
	}
}
