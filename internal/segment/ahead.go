package segment

import (
	"context"
	"runtime"
	"sync"
)

const (
	// batchSegments is how many segments are fetched and decrypted in one go, once reading is under
	// way: enough that handing them over costs nothing to speak of.
	batchSegments = 4
	// window is how many batches are in memory at a time: 1 MiB.
	window = 4
)

// ahead fetches consecutive segments and decrypts them on up to four cores, before they are asked for.
type ahead struct {
	reader  *Reader
	cancel  context.CancelFunc
	running sync.WaitGroup
	free    chan *batch // to be filled; nil stands for one that was not needed yet
	work    chan *batch // filled, for whichever core is free
	queue   chan *batch // the same batches, in order

	// What follows belongs to the consumer.
	next    int64  // the segment that comes next
	current *batch // that it comes from, or nil
}

// batch is a run of consecutive segments. If there is an error, it came after them.
type batch struct {
	buffer    [batchSegments * Size]byte
	first     int64
	segments  [batchSegments][]byte // ciphertext, and once it is opened plaintext
	count     int
	err       error
	decrypted chan struct{} // closed when it is
}

// startAhead reads segments from first up to, and not including, end.
func (r *Reader) startAhead(first, end int64) *ahead {
	ctx, cancel := context.WithCancel(r.ctx)
	a := &ahead{
		reader: r, cancel: cancel, next: first,
		free: make(chan *batch, window), work: make(chan *batch, window), queue: make(chan *batch, window),
	}
	for range window {
		a.free <- nil
	}
	a.running.Go(func() { a.fetch(ctx, first, end) })
	for range min(runtime.GOMAXPROCS(0), window) {
		a.running.Go(a.decrypt)
	}
	return a
}

// stop ends the fetching at once. What was taken becomes invalid.
func (a *ahead) stop() {
	a.cancel()
	a.running.Wait()
}

// fetch fills batches, the first of them small, so that the first segment need not wait for others.
func (a *ahead) fetch(ctx context.Context, first, end int64) {
	defer close(a.queue)
	defer close(a.work)
	s := &stream{reader: a.reader, ctx: ctx, end: end}
	defer s.close()
	for size := int64(1); first < end; size = min(2*size, batchSegments) {
		var b *batch
		select {
		case <-ctx.Done():
			return
		case b = <-a.free:
		}
		if b == nil {
			b = new(batch)
		}
		b.first, b.count, b.decrypted = first, 0, make(chan struct{})
		for at := 0; int64(b.count) < min(size, end-b.first) && b.err == nil; {
			length := a.reader.decrypter.ciphertextLen(first)
			segment := b.buffer[at:][:length]
			if b.err = s.read(segment, first); b.err != nil {
				break
			}
			b.segments[b.count] = segment
			b.count++
			first++
			at += length
		}
		// Neither blocks: no more batches are about than there is room for. Their order lets a batch be
		// waited for as soon as it is there.
		failed := b.err != nil // a worker may set it, too
		a.work <- b
		a.queue <- b
		if failed {
			return
		}
	}
}

// decrypt opens the segments of batches in place. A segment that fails ends its batch.
func (a *ahead) decrypt() {
	for b := range a.work {
		for n := range b.count {
			plain, err := a.reader.decrypter.open(b.segments[n], b.first+int64(n))
			if err != nil {
				b.count, b.err = n, err
				break
			}
			b.segments[n] = plain
		}
		close(b.decrypted)
	}
}

// take returns the plaintext of the next segment, which is valid until the next call. It returns nil
// when there is none left, or when the context has ended.
func (a *ahead) take() ([]byte, error) {
	for {
		if b := a.current; b != nil {
			if n := a.next - b.first; n < int64(b.count) {
				a.next++
				return b.segments[n], nil
			}
			if b.err != nil {
				a.reader.noteDamage(b.err) // now that it is its turn
				return nil, b.err
			}
			a.current = nil
			a.free <- b
		}
		b := <-a.queue
		if b == nil {
			return nil, nil
		}
		<-b.decrypted
		a.current = b
	}
}
