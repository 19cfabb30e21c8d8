package segment

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// maxCores is how many cores decrypt at a time.
	maxCores = 4
	// corePlaces is how many segments each of them has room for. Fewer have it wait for the others; with
	// more, they no longer fit into its cache.
	corePlaces = 4
	// window is how many segments may be in memory at a time: 1 MiB.
	window = maxCores * corePlaces
	// trial is how many segments are read before other cores are thought of.
	trial = 16
)

// ahead reads consecutive segments, from first on. It begins with one at a time, on the goroutine that asks
// for them: as long as the source is no faster than one core decrypts, that is as fast as can be, because the
// source delivers into the system's buffers meanwhile and the data stays in one core's cache. Where
// decrypting proves to be what takes the time, other cores help: each of them, and the one that asks as
// well, fetches a segment when it is its turn, and decrypts it while others have theirs.
type ahead struct {
	stream *stream
	cancel context.CancelFunc
	place  *place // that the current segment is in
	next   int64  // the segment that comes after it

	// The trial.
	trials               int
	fetching, decrypting time.Duration

	turn  sync.Mutex // guards what follows, and stream
	first int64      // the segment to fetch next
	ended bool       // with an error, which the last place has

	// Once others help.
	helpers sync.WaitGroup
	own     chan *place // free ones, of the goroutine that asks
	queue   chan *place // what was fetched, in order; nil as long as nobody helps
	head    *place      // the first of it, or nil
}

// place has room for one segment.
type place struct {
	buffer  [Size]byte
	index   int64  // of the segment
	segment []byte // its ciphertext, and once it is opened its plaintext
	err     error  // why there is none
	opened  chan struct{}
	free    chan *place // where it goes when it was read, so that it stays in one core's cache
}

// startAhead reads segments from first up to, and not including, end.
func (r *Reader) startAhead(first, end int64) *ahead {
	ctx, cancel := context.WithCancel(r.ctx)
	return &ahead{
		stream: &stream{reader: r, ctx: ctx, end: end}, cancel: cancel, place: new(place), first: first, next: first,
	}
}

// stop ends the fetching at once. What was taken becomes invalid.
func (a *ahead) stop() {
	a.cancel()
	a.helpers.Wait()
	a.stream.close()
}

// take returns the plaintext of the next segment, which is valid until the next call. It returns nil
// when there is none left.
func (a *ahead) take() ([]byte, error) {
	if a.queue == nil && a.trials == trial && a.needsHelp() {
		a.getHelp()
	}
	if a.queue == nil {
		if a.first == a.stream.end {
			return nil, nil
		}
		a.readAlone()
	} else {
		a.place.free <- a.place
		if !a.readTogether() {
			return nil, nil
		}
	}
	a.next++
	if err := a.place.err; err != nil {
		a.stream.reader.noteDamage(err) // now that it is its turn
		return nil, err
	}
	return a.place.segment, nil
}

// readAlone fetches and decrypts the next segment in place of the current one.
func (a *ahead) readAlone() {
	start := time.Now()
	a.fetch(a.place)
	fetched := time.Now()
	a.place.open(a.stream.reader.decrypter)
	if a.trials < trial {
		a.trials++
	}
	if a.trials > 1 { // the first one waits for the answer to begin
		a.fetching += fetched.Sub(start)
		a.decrypting += time.Since(fetched)
	}
}

// needsHelp tells whether decrypting is what takes the time, by a wide margin: what comes from a network
// is shared with the system, which has work to do on other cores.
func (a *ahead) needsHelp() bool {
	return 2*a.decrypting > 3*a.fetching && runtime.GOMAXPROCS(0) > 1
}

// getHelp has other cores fetch and decrypt.
func (a *ahead) getHelp() {
	cores := min(runtime.GOMAXPROCS(0), maxCores)
	a.queue = make(chan *place, cores*corePlaces)
	a.own = make(chan *place, corePlaces)
	a.place.opened, a.place.free = make(chan struct{}, 1), a.own
	for range corePlaces - 1 {
		a.own <- newPlace(a.own)
	}
	for range cores - 1 {
		a.helpers.Go(a.help)
	}
}

func newPlace(free chan *place) *place { return &place{opened: make(chan struct{}, 1), free: free} }

// help fetches and decrypts as there is room.
func (a *ahead) help() {
	free := make(chan *place, corePlaces)
	for range corePlaces {
		free <- newPlace(free)
	}
	for {
		select {
		case <-a.stream.ctx.Done():
			return
		case p := <-free:
			a.takeTurn()
			if !a.work(p) {
				return
			}
		}
	}
}

// readTogether makes the next segment the current one, and tells whether there is one. Rather than wait
// for a helper it does the work that comes next.
func (a *ahead) readTogether() bool {
	for {
		if a.head == nil {
			select {
			case a.head = <-a.queue:
			default:
				// Nobody has anything, and so all places of this core are free.
				a.takeTurn()
				if !a.work(<-a.own) && len(a.queue) == 0 {
					return false
				}
				continue
			}
		}
		select {
		case <-a.head.opened:
		default:
			if len(a.own) > 0 && a.turn.TryLock() && a.work(<-a.own) {
				continue
			}
			<-a.head.opened
		}
		a.place, a.head = a.head, nil
		return true
	}
}

// takeTurn waits for the turn. From a source that is worth helping, another one's takes so little that it
// is over before this goroutine would have been put to sleep, and have lost its core.
func (a *ahead) takeTurn() {
	for range 32 {
		if a.turn.TryLock() {
			return
		}
		runtime.Gosched()
	}
	a.turn.Lock()
}

// work fetches the next segment and decrypts it, and tells whether there was one. In between it gives up the
// turn, which its caller has taken.
func (a *ahead) work(p *place) bool {
	if a.ended || a.first == a.stream.end {
		a.turn.Unlock()
		p.free <- p
		return false
	}
	a.fetch(p)
	a.ended = p.err != nil
	a.queue <- p // which never blocks: there is room for all places
	a.turn.Unlock()
	p.open(a.stream.reader.decrypter)
	p.opened <- struct{}{}
	return true
}

// fetch reads the next segment's ciphertext.
func (a *ahead) fetch(p *place) {
	p.index = a.first
	p.segment = p.buffer[:a.stream.reader.decrypter.ciphertextLen(p.index)]
	p.err = a.stream.read(p.segment, p.index)
	a.first++
}

// open decrypts the segment in place.
func (p *place) open(d *Decrypter) {
	if p.err == nil {
		p.segment, p.err = d.open(p.segment, p.index)
	}
}
