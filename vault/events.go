package vault

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/recvault/recvault/keys"
)

// EventKind says what happened.
type EventKind string

// The kinds of security events.
const (
	// WrongPatient: a grant for one patient was used on a recording of another, and refused. It is the
	// mark of an application that mixes patients up, and worth waking somebody.
	WrongPatient EventKind = "wrong-patient"
	// GrantRefused: a grant was refused for another reason. It is malformed, expired, revoked or used
	// up.
	GrantRefused EventKind = "grant-refused"
	// Damaged: a recording failed authentication, or part of it is missing.
	Damaged EventKind = "damaged"
	// Overflow: so much of one kind happened at once that these attempts were only counted.
	Overflow EventKind = "overflow"
)

// Event is something that a security team should know of. It holds no patient identifier, no token
// and no key.
type Event struct {
	Kind       EventKind
	Of         EventKind // of an Overflow: the kind of what was counted
	Time       time.Time
	Recording  ID           // what was asked for; its KeyID is the patient's pseudonym
	GrantKeyID keys.KeyID   // whose recordings the grant is for, as it says itself
	Subject    string       // who used the grant, as it says itself
	Purpose    keys.Purpose // why
	RequestID  string       // the application's own reference
	Count      int          // how many attempts this event stands for
}

// WithEventHook has a function called with each security event, at once. It is called on a goroutine of
// its own, with one event at a time, so a slow one delays later events, and Close, and nothing else. The same
// event again, within a second, is counted, and told once more with its count when the second is over.
func WithEventHook(hook func(Event)) Option {
	return func(v *Vault) error {
		v.events.hook = hook
		return nil
	}
}

// WithLogger sets where security events are logged, with level WARN. The default is slog.Default().
func WithLogger(logger *slog.Logger) Option {
	return func(v *Vault) error {
		if logger == nil {
			return errors.New("no logger")
		}
		v.events.logger = logger
		return nil
	}
}

const (
	// eventWindow is how long the same event is only counted.
	eventWindow = time.Second
	// maxEvents is how many different events of one kind are told apart within a window, so that a flood of
	// one kind hides none of another.
	maxEvents = 1000
)

// events tells of security events without making those wait who cause them.
type events struct {
	hook   func(Event)
	logger *slog.Logger // nil stands for slog.Default()

	mu       sync.Mutex
	queue    []Event           // to be told now
	repeated map[Event]*Event  // told in this window, by what they have in common, and what to tell at its end
	told     map[EventKind]int // how many are told apart in this window
	overflow map[EventKind]*Event
	running  bool          // there is a goroutine that tells
	latest   chan struct{} // closed when the last one that was started has ended
	wake     chan struct{} // has room for one
	closing  int           // how many wait in close

	telling sync.Mutex // one event is told at a time
}

// report queues an event, or counts it.
func (e *events) report(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	same := event
	same.Time = time.Time{}
	switch again := e.repeated[same]; {
	case again != nil:
		again.Time = event.Time
		again.Count++
	case e.told[event.Kind] == maxEvents:
		if e.overflow[event.Kind] == nil {
			e.overflow[event.Kind] = &Event{Kind: Overflow, Of: event.Kind}
		}
		e.overflow[event.Kind].Time = event.Time
		e.overflow[event.Kind].Count++
	default:
		if e.repeated == nil {
			e.repeated, e.told, e.overflow = map[Event]*Event{}, map[EventKind]int{}, map[EventKind]*Event{}
		}
		e.told[event.Kind]++
		counted := same
		e.repeated[same] = &counted
		event.Count = 1
		e.queue = append(e.queue, event)
	}
	if !e.running {
		e.running, e.latest, e.wake = true, make(chan struct{}), make(chan struct{}, 1)
		go e.run(e.latest, e.wake)
	}
	e.nudge()
}

func (e *events) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run tells of events as they come, until a window has passed in which none did, or it is closed.
func (e *events) run(done, wake chan struct{}) {
	defer close(done)
	window := time.NewTicker(eventWindow)
	defer window.Stop()
	for {
		over := false
		select {
		case <-wake:
		case <-window.C:
			over = true
		}
		e.mu.Lock()
		now := e.queue
		e.queue = nil
		if over || e.closing > 0 {
			now = append(now, e.summaries()...)
		}
		last := e.closing > 0 || over && len(now) == 0
		if last {
			e.running = false // what comes from now on is told by another
		}
		e.mu.Unlock()
		e.telling.Lock()
		for _, event := range now {
			e.tell(event)
		}
		e.telling.Unlock()
		if last {
			return
		}
	}
}

// summaries returns what was counted in the window that ends, and starts another.
func (e *events) summaries() []Event {
	var counted []Event
	for _, event := range e.repeated {
		if event.Count > 0 {
			counted = append(counted, *event)
		}
	}
	for _, event := range e.overflow {
		counted = append(counted, *event)
	}
	e.repeated, e.told, e.overflow = nil, nil, nil
	return counted
}

func (e *events) tell(event Event) {
	logger := e.logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.LogAttrs(context.Background(), slog.LevelWarn, "recvault: security event",
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

// close waits until what is pending has been told.
func (e *events) close() {
	e.mu.Lock()
	latest := e.latest
	e.closing++
	if e.running {
		e.nudge()
	}
	e.mu.Unlock()
	if latest != nil {
		<-latest
	}
	e.mu.Lock()
	e.closing--
	e.mu.Unlock()
}

// report tells of an error that a security team should know of, and passes it on.
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
	v.events.report(event)
	return err
}
