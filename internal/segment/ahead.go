package segment

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// batchSegments is how many segments are fetched and decrypted in one go when it is done ahead:
	// enough that handing them over costs nothing to speak of.
	batchSegments = 4
	// window is how many batches are in memory at a time when reading is done ahead: 1.5 MiB.
	window = 6
	// trial is how many segments are read before reading ahead is thought of.
	trial = 16
)

// ahead reads consecutive segments, from first on. It begins with one at a time, on the goroutine that asks
// for them: as long as the source is slower than one core decrypts, that is as fast as can be, because the
// source delivers into the system's buffers meanwhile and the data stays in one core's cache. Where
// decrypting proves to be what takes the time, batches are fetched and decrypted on other cores before
// they are asked for.
type ahead struct {
	stream *stream
	cancel context.CancelFunc
	first  int64 // the segment to fetch next
	size   int64 // how many to fetch

	// The trial.
	trials               int
	fetching, decrypting time.Duration

	// Once it is done ahead.
	running sync.WaitGroup
	free    chan *batch // to be filled; nil stands for one that was not needed yet
	work    chan *batch // filled, for whichever core is free
	queue   chan *batch // the same batches, in order; nil as long as it is not done ahead

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
	return &ahead{
		stream: &stream{reader: r, ctx: ctx, end: end}, cancel: cancel, first: first, next: first,
		size: 1,
	}
}

// stop ends the fetching at once. What was taken becomes invalid.
func (a *ahead) stop() {
	a.cancel()
	a.running.Wait()
	a.stream.close()
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
				a.stream.reader.noteDamage(b.err) // now that it is its turn
				return nil, b.err
			}
		}
		if !a.advance() {
			return nil, nil
		}
	}
}

// advance makes the next batch the current one, and tells whether there is one.
func (a *ahead) advance() bool {
	if a.queue == nil && a.trials == trial && a.decrypting > a.fetching && runtime.GOMAXPROCS(0) > 1 {
		a.spread()
	}
	if a.queue != nil {
		a.free <- a.current
		a.current = <-a.queue
		if a.current != nil {
			<-a.current.decrypted
		}
		return a.current != nil
	}
	if a.first == a.stream.end || a.stream.ctx.Err() != nil {
		return false
	}
	if a.current == nil {
		a.current = new(batch)
	}
	start := time.Now()
	a.fill(a.current)
	fetched := time.Now()
	a.current.decrypt(a.stream.reader.decrypter)
	if a.trials < trial {
		a.trials++
	}
	if a.trials > 1 { // the first one waits for the answer to begin
		a.fetching += fetched.Sub(start)
		a.decrypting += time.Since(fetched)
	}
	return true
}

// fill fetches the next batch, with one read, so that the system is asked as rarely as can be.
func (a *ahead) fill(b *batch) {
	d := a.stream.reader.decrypter
	count := min(a.size, a.stream.end-a.first)
	start := ciphertextStart(a.first)
	read, err := a.stream.read(b.buffer[:d.ciphertextEnd(a.first+count-1)-start], a.first, count)
	b.first, b.count, b.err, b.decrypted = a.first, int(read), err, make(chan struct{})
	for n := range read {
		b.segments[n] = b.buffer[ciphertextStart(a.first+n)-start : d.ciphertextEnd(a.first+n)-start]
	}
	a.first += read
}

// decrypt opens the segments in place. One that fails ends the batch.
func (b *batch) decrypt(d *Decrypter) {
	for n := range b.count {
		plain, err := d.open(b.segments[n], b.first+int64(n))
		if err != nil {
			b.count, b.err = n, err
			break
		}
		b.segments[n] = plain
	}
	close(b.decrypted)
}

// spread has the rest fetched and decrypted ahead. The current batch joins the others.
func (a *ahead) spread() {
	a.free, a.work, a.queue = make(chan *batch, window), make(chan *batch, window), make(chan *batch, window)
	for range window - 1 {
		a.free <- nil
	}
	a.size = batchSegments
	a.running.Go(a.fetchAll)
	for range min(runtime.GOMAXPROCS(0), 4) {
		a.running.Go(func() {
			for b := range a.work {
				b.decrypt(a.stream.reader.decrypter)
			}
		})
	}
}

// fetchAll fetches batches as there is room for them.
func (a *ahead) fetchAll() {
	defer close(a.queue)
	defer close(a.work)
	for a.first < a.stream.end {
		var b *batch
		select {
		case <-a.stream.ctx.Done():
			return
		case b = <-a.free:
		}
		if b == nil {
			b = new(batch)
		}
		a.fill(b)
		failed := b.err != nil // a worker may set it, too
		// Neither blocks: no more batches are about than there is room for.
		a.work <- b
		a.queue <- b
		if failed {
			return
		}
	}
}
