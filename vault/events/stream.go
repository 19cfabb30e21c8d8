package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
)

// Sink receives events, one at a time. If it returns an error or panics, it gets the same event again a second later.
type Sink func(Event) error

const (
	// window is how long events that differ only in times and sums are added up before they are delivered again, and how
	// long a sink that failed is left alone.
	window = time.Second
	// maxDistinct is how many different events of one kind wait for a sink, or are delivered to it within a window. It
	// bounds the memory of a flood: to a few MiB, or to 20 MiB if each event has another grant with the longest texts. Each kind has its own bound, so a flood of one hides no other.
	maxDistinct = 10_000
)

// Stream hands events to sinks. Emit never waits for a sink, and each sink has a queue and a goroutine of its own, so
// none holds up another. The zero Stream has no sinks. A Stream is safe for concurrent use.
//
// A sink gets an event as soon as it happens. If the same happens again within a second, in all but times and sums, it is
// added up, and the sink gets one more event at the end of the second. So a flood makes few events, and the Counts add up
// to what happened: see [Overflow] for the bounds. A sink that fails gets the events later, in order. The
// goroutine of a sink that never returns stays.
type Stream struct{ outlets []*outlet }

// New returns a Stream with these sinks.
func New(sinks ...Sink) *Stream {
	s := &Stream{}
	for _, sink := range sinks {
		o := &outlet{
			sink: sink, wake: make(chan struct{}, 1), ended: make(chan struct{}),
			sums: map[likeness]*Event{}, distinct: map[Kind]int{},
		}
		close(o.ended) // no goroutine has started
		s.outlets = append(s.outlets, o)
	}
	return s
}

// Emit hands an event to the sinks. A zero Time becomes the present time, and a zero Count 1.
func (s *Stream) Emit(event Event) {
	if event.Time.IsZero() {
		event.Time = time.Now()
	}
	event.Count = max(event.Count, 1)
	for _, o := range s.outlets {
		o.add(event)
	}
}

// ErrUndelivered: sinks have not taken all events. They are tried again each second.
var ErrUndelivered = errors.New("events were not delivered")

// Flush delivers every event that was emitted before. It returns [ErrUndelivered] with the number of events if a sink
// failed, or has not returned when the context ends. The stream goes on. A sink must not call Flush.
func (s *Stream) Flush(ctx context.Context) error {
	errs := make([]error, len(s.outlets))
	var all sync.WaitGroup
	for i, o := range s.outlets {
		all.Go(func() { errs[i] = o.flush(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// outlet is a sink and what waits for it. Its goroutine starts with an event, and ends after a window without one.
type outlet struct {
	sink Sink
	wake chan struct{} // wakes the goroutine; has room for one

	mu       sync.Mutex
	queue    []Event             // to be delivered, in order; the first one may be under way
	sums     map[likeness]*Event // what happened again in this window; nil if it happened once
	distinct map[Kind]int        // how many different events of each kind this window has
	running  bool                // the goroutine takes what is added
	ended    chan struct{}       // closed when the goroutine that started last has ended
	flushes  []chan bool         // of the calls of flush that wait: whether everything was delivered
}

// likeness is what events that are added up have in common.
type likeness struct {
	kind, of      Kind
	keyID         keys.KeyID
	recording, to keys.RecordingID
	grant         keys.GrantDetails
	operator      string
	reason        string
	status        int
}

// add queues an event, or adds it up if the window has one like it or has too many.
func (o *outlet) add(event Event) {
	like := likeness{event.Kind, event.Of, event.KeyID, event.Recording, event.To, event.Grant, event.Operator, event.Reason, event.Status}
	like.grant.Expires = like.grant.Expires.Round(0).UTC() // a grant is parsed for each request, each time with a zone of its own
	o.mu.Lock()
	defer o.mu.Unlock()
	sum, seen := o.sums[like]
	switch {
	case seen:
	case o.distinct[event.Kind] < maxDistinct:
		o.distinct[event.Kind]++
		o.sums[like] = nil
		o.queue = append(o.queue, event)
		o.start()
		o.rouse()
		return
	default:
		event = Event{
			Kind: Overflow, Of: event.Kind, Time: event.Time,
			Count: event.Count, Bytes: event.Bytes, Unwraps: event.Unwraps, Entries: event.Entries,
		}
		like = likeness{kind: event.Kind, of: event.Of}
		sum = o.sums[like]
	}
	if sum == nil {
		event.Ranges = slices.Clone(event.Ranges) // other sinks share it
		o.sums[like] = &event
	} else {
		sum.addUp(event)
	}
	o.start() // the end of the window is soon enough
}

// start starts the goroutine, unless it is running. The caller holds the lock.
func (o *outlet) start() {
	if !o.running {
		previous := o.ended
		o.running, o.ended = true, make(chan struct{})
		go o.run(previous, o.ended)
	}
}

// rouse wakes the goroutine, which otherwise sleeps until the end of the window.
func (o *outlet) rouse() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run delivers events as they come, once the previous goroutine has ended. It ends when nothing waits, after a window
// without an event or for a flush.
func (o *outlet) run(previous <-chan struct{}, ended chan struct{}) {
	defer o.end(ended)
	<-previous
	tick := time.NewTicker(window)
	defer tick.Stop()
	for failed := false; ; {
		over := false
		select {
		case <-o.wake:
		case <-tick.C:
			over = true
		}
		o.mu.Lock()
		flushes := o.flushes
		o.flushes = nil
		o.mu.Unlock()
		if failed && !over && len(flushes) == 0 {
			continue
		}
		idle := false
		failed = !o.deliver()
		if !failed && (over || len(flushes) > 0) {
			idle = o.endWindow()
			failed = !o.deliver()
		}
		for _, delivered := range flushes {
			delivered <- !failed
		}
		if (idle || len(flushes) > 0) && o.stop() {
			return
		}
	}
}

// stop lets the goroutine end if nothing waits for it.
func (o *outlet) stop() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = len(o.queue)+len(o.sums)+len(o.flushes) > 0
	return !o.running
}

// end says that a goroutine has ended, also if the sink ended it by runtime.Goexit.
func (o *outlet) end(ended chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended == ended {
		o.running = false
	}
	close(ended)
}

// deliver gives the sink what is queued, until it fails. It reports whether it gave it everything.
func (o *outlet) deliver() bool {
	for {
		o.mu.Lock()
		if len(o.queue) == 0 {
			o.mu.Unlock()
			return true
		}
		event := o.queue[0]
		o.mu.Unlock()
		err := attempt(o.sink, event)
		if err != nil {
			o.complain(err)
			return false
		}
		o.mu.Lock()
		o.queue[0] = Event{} // lets go of its memory
		o.queue = o.queue[1:]
		o.mu.Unlock()
	}
}

// attempt calls a sink, and turns a panic into an error.
func attempt(sink Sink, event Event) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the sink panicked: %v", p)
		}
	}()
	return sink(event)
}

// complain logs that a sink failed. The logger can be what failed, so a panic of it is dropped.
func (o *outlet) complain(err error) {
	defer func() { _ = recover() }()
	slog.Error("recvault: a sink of events failed, and gets them again in a second", "error", err, "waiting", o.waiting())
}

// endWindow queues what was added up, and begins the next window. It reports whether nothing happened in this one.
func (o *outlet) endWindow() (idle bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	idle = len(o.sums) == 0
	first := len(o.queue)
	for _, sum := range o.sums {
		if sum != nil {
			o.queue = append(o.queue, *sum)
		}
	}
	slices.SortFunc(o.queue[first:], func(a, b Event) int { return a.Time.Compare(b.Time) })
	clear(o.sums)
	clear(o.distinct)
	return idle
}

// waiting returns how many events the sink has not taken.
func (o *outlet) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, event := range o.queue {
		n += event.Count
	}
	for _, sum := range o.sums {
		if sum != nil {
			n += sum.Count
		}
	}
	return n
}

// flush waits until everything that was added has been delivered.
func (o *outlet) flush(ctx context.Context) error {
	done := make(chan bool, 1)
	o.mu.Lock()
	if !o.running && len(o.queue)+len(o.sums) == 0 {
		o.mu.Unlock()
		return nil
	}
	o.flushes = append(o.flushes, done)
	o.start()
	o.rouse()
	o.mu.Unlock()
	delivered := false
	select {
	case delivered = <-done:
	case <-ctx.Done():
	}
	if waiting := o.waiting(); !delivered && waiting > 0 {
		return fmt.Errorf("%w: %d wait for a sink", ErrUndelivered, waiting)
	}
	return nil
}
