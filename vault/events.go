package vault

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
)

// EventKind is the kind of a security event.
type EventKind string

// The kinds of security events.
const (
	// WrongPatient: a grant for one patient was used on a recording of another patient, and was refused. It
	// is the mark of an application that mixes patients up, and worth an alarm at night.
	WrongPatient EventKind = "wrong-patient"
	// GrantRefused: a grant was refused for another reason: it is malformed, expired, revoked or used up.
	GrantRefused EventKind = "grant-refused"
	// Damaged: a recording failed authentication, or part of it is missing.
	Damaged EventKind = "damaged"
	// Overflow: too many different events of one kind happened within a second, so the attempts beyond
	// 1,000 different ones were only counted.
	Overflow EventKind = "overflow"
)

// Event is a security event: a refused grant or a damaged recording. It contains no patient identifier, no token
// and no key.
type Event struct {
	Kind       EventKind
	Of         EventKind    // of an Overflow: the kind of the events that were counted
	Time       time.Time    // of the last attempt
	Recording  ID           // the recording that was asked for; its KeyID is the patient's pseudonym
	GrantKeyID keys.KeyID   // the pseudonym of the patient that the grant names
	Subject    string       // who used the grant, as the grant states
	Purpose    keys.Purpose // why, as the grant states
	RequestID  string       // the application's own reference, as the grant states
	Count      int          // how many attempts this event stands for
}

// WithEventHook sets a function that is called with each security event as soon as it happens. If the same event
// happens again within a second, it is counted, and the hook is called once more at the end of the second, with
// the count. The hook runs on its own goroutine and gets one event at a time: a slow hook delays later events and
// Close, and nothing else.
func WithEventHook(hook func(Event)) Option {
	return func(v *Vault) error {
		v.events.hook = hook
		return nil
	}
}

// WithLogger sets where security events are logged, with level WARN, and failures of ServeRecording, with level INFO if
// the status is 4xx and WARN otherwise. The default is slog.Default().
func WithLogger(logger *slog.Logger) Option {
	return func(v *Vault) error {
		if logger == nil {
			return errors.New("the logger is nil")
		}
		v.events.logger = logger
		return nil
	}
}

// report records a security event if err is a refused grant or damage. It returns err.
func (v *Vault) report(grant keys.Grant, id ID, err error) error {
	details := grant.Details()
	event := Event{
		Time: v.now(), Recording: id, GrantKeyID: details.KeyID,
		Subject: details.Subject, Purpose: details.Purpose, RequestID: details.RequestID,
	}
	switch {
	case errors.Is(err, ErrDamaged):
		event.Kind = Damaged
	case errors.Is(err, keys.ErrDenied) && details.KeyID != id.KeyID():
		event.Kind = WrongPatient
	case errors.Is(err, keys.ErrDenied) || errors.Is(err, keys.ErrInvalidGrant):
		event.Kind = GrantRefused
	default:
		return err
	}
	v.events.record(event)
	return err
}

const (
	// eventWindow is how long repetitions of an event are counted before their sum is delivered.
	eventWindow = time.Second
	// maxEvents is how many different events of one kind are delivered within a window. It bounds the memory
	// that a flood takes. Each kind has its own bound, so a flood of one kind hides no event of another.
	maxEvents = 1000
)

// events delivers security events to the log and the hook on a goroutine of its own, so that callers never wait.
// The goroutine starts with an event, and ends after a window without one.
type events struct {
	hook   func(Event)
	logger *slog.Logger  // nil stands for slog.Default()
	wake   chan struct{} // wakes the goroutine; has room for one

	mu       sync.Mutex
	queue    []Event           // to be delivered now
	repeats  map[Event]repeats // the events of this window, without Time and Count
	distinct map[EventKind]int // how many different events of each kind this window has
	running  bool              // the goroutine takes what is recorded
	ended    chan struct{}     // closed when the goroutine that started last has delivered everything
	closing  int               // how many calls of close are waiting
}

// repeats counts the attempts of a window that were not delivered at once.
type repeats struct {
	count int
	last  time.Time
}

func newEvents() *events {
	e := &events{
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		repeats: map[Event]repeats{}, distinct: map[EventKind]int{},
	}
	close(e.ended) // none has started
	return e
}

// record queues an event, or counts it if the window has it already or has too many.
func (e *events) record(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := event
	key.Time = time.Time{}
	counted, seen := e.repeats[key]
	switch {
	case seen:
		e.repeats[key] = repeats{counted.count + 1, event.Time}
	case e.distinct[event.Kind] == maxEvents:
		key = Event{Kind: Overflow, Of: event.Kind}
		e.repeats[key] = repeats{e.repeats[key].count + 1, event.Time}
	default:
		e.distinct[event.Kind]++
		e.repeats[key] = repeats{}
		event.Count = 1
		e.queue = append(e.queue, event)
	}
	if !e.running {
		previous := e.ended
		e.running, e.ended = true, make(chan struct{})
		go e.run(previous, e.ended)
	}
	e.signal()
}

func (e *events) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run delivers events as they come, once the previous goroutine has delivered its own. It ends after a window
// without an event, or when close is waiting.
func (e *events) run(previous <-chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	<-previous
	window := time.NewTicker(eventWindow)
	defer window.Stop()
	for last := false; !last; {
		over := false
		select {
		case <-e.wake:
		case <-window.C:
			over = true
		}
		e.mu.Lock()
		now := e.queue
		e.queue = nil
		if over || e.closing > 0 {
			now = append(now, e.endWindow()...)
		}
		last = e.closing > 0 || over && len(now) == 0
		e.running = !last
		e.mu.Unlock()
		for _, event := range now {
			e.deliver(event)
		}
	}
}

// endWindow returns what was counted in the window, and starts the next one.
func (e *events) endWindow() []Event {
	var sums []Event
	for event, counted := range e.repeats {
		if counted.count > 0 {
			event.Time, event.Count = counted.last, counted.count
			sums = append(sums, event)
		}
	}
	e.repeats, e.distinct = map[Event]repeats{}, map[EventKind]int{}
	return sums
}

// log returns where events are logged.
func (e *events) log() *slog.Logger { return cmp.Or(e.logger, slog.Default()) }

// deliver logs an event and calls the hook with it.
func (e *events) deliver(event Event) {
	e.log().LogAttrs(context.Background(), slog.LevelWarn, "recvault: security event",
		slog.String("kind", string(event.Kind)),
		slog.String("of", string(event.Of)),
		slog.Time("at", event.Time),
		slog.String("recording", event.Recording.String()),
		slog.String("grant_key_id", event.GrantKeyID.String()),
		slog.String("subject", event.Subject),
		slog.String("purpose", string(event.Purpose)),
		slog.String("request_id", event.RequestID),
		slog.Int("count", event.Count))
	if e.hook != nil {
		e.hook(event)
	}
}

// close waits until everything that was recorded has been delivered.
func (e *events) close() {
	e.mu.Lock()
	e.closing++
	ended := e.ended
	e.signal()
	e.mu.Unlock()
	<-ended
	e.mu.Lock()
	e.closing--
	e.mu.Unlock()
}
