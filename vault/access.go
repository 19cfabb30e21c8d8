package vault

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// closeTimeout bounds how long Close waits for the sinks of the events.
const closeTimeout = 5 * time.Second

// WithEvents sets where the vault emits what happens: see package [events] for the kinds. Several vaults and a login can
// share a stream. The default logs what went wrong to slog.Default(), and nothing else.
func WithEvents(stream *events.Stream) Option {
	return func(v *Vault) error {
		if stream == nil {
			return errors.New("the stream of events is nil")
		}
		v.events, v.problemsOnly = stream, false
		return nil
	}
}

func (v *Vault) emit(event events.Event) {
	if event.Time.IsZero() {
		event.Time = v.now()
	}
	if !v.problemsOnly || event.Level() >= slog.LevelWarn {
		v.events.Emit(event)
	}
}

// access is one use of a grant on a recording. It makes the events of that use.
type access struct {
	vault   *Vault
	grant   keys.Grant
	id      ID
	unwraps atomic.Int64 // how often the keyring was asked
}

func (v *Vault) access(grant keys.Grant, id ID) *access {
	return &access{vault: v, grant: grant, id: id}
}

// keyID names the patient: that of the recording, or of the grant if it was used for no recording.
func (a *access) keyID() keys.KeyID { return cmp.Or(a.id.KeyID(), a.grant.KeyID()) }

// event returns an event of the access.
func (a *access) event(kind events.Kind) events.Event {
	return events.Event{
		Kind: kind, Time: a.vault.now(), KeyID: a.keyID(), Recording: a.id, Grant: a.grant.Details(),
		Unwraps: int(a.unwraps.Load()),
	}
}

// failed emits what went wrong, if err is more than a failure that the caller will see. It returns err.
func (a *access) failed(err error) error {
	a.answered(err, 0)
	return err
}

// answered emits what went wrong, with the status of the answer that says so. It reports whether it did.
func (a *access) answered(err error, status int) bool {
	var kind events.Kind
	details := a.grant.Details()
	switch {
	case errors.Is(err, ErrDamaged):
		kind = events.Damaged
	case errors.Is(err, keys.ErrDenied) && details.KeyID != a.keyID():
		kind = events.WrongPatient
	case errors.Is(err, keys.ErrDenied) && errors.Is(err, keys.ErrInvalidGrant) && details.MaxUses > 0 && a.vault.now().Before(details.Expires):
		kind = events.Exhausted
	case errors.Is(err, keys.ErrDenied) || errors.Is(err, keys.ErrInvalidGrant):
		kind = events.Refused
	case errors.Is(err, ErrUnsupported):
		kind = events.Unsupported
	case errors.Is(err, keys.ErrErased):
		kind = events.Gone
	default:
		return false
	}
	event := a.event(kind)
	event.Status, event.Error = status, err.Error()
	a.vault.emit(event)
	return true
}

// changed emits a change. If err is not nil, it emits one that was made in part, so that to exists, or that may have been
// made, which an [UncertainError] says. It returns err.
func (a *access) changed(kind events.Kind, to ID, err error) error {
	event := a.event(kind)
	event.To = to
	if err != nil {
		var uncertain *UncertainError
		if errors.As(err, &uncertain) && uncertain.ID != a.id {
			event.To = uncertain.ID
		} else if uncertain == nil && to.IsZero() {
			return err
		}
		event.Error = err.Error()
	}
	a.vault.emit(event)
	return err
}

// delivery counts what the caller of a [Recording] is given, for its event. A nil delivery counts nothing.
type delivery struct {
	access *access

	mu     sync.Mutex
	event  events.Event // Began, Bytes and Ranges
	calls  int          // methods that are running, which may still deliver
	closed bool
}

func (d *delivery) delivered(start, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.event.Deliver(start, n)
}

// begin and end enclose each method that delivers.
func (d *delivery) begin() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
}

func (d *delivery) end() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls--
	d.emit()
}

// close emits the event, once the methods that are running have ended. The reader is closed already, so that no later one
// delivers anything.
func (d *delivery) close() {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.emit()
}

// emit emits the event if the recording is closed and nothing more is delivered. The caller holds the lock.
func (d *delivery) emit() {
	if !d.closed || d.calls > 0 || d.access == nil {
		return
	}
	d.access.opened(d.event)
	d.access = nil // once
}

// opened emits that a recording was open, with what was delivered.
func (a *access) opened(delivered events.Event) {
	event := a.event(events.Opened)
	event.Began, event.Ended = delivered.Began, event.Time
	event.Bytes, event.Ranges, event.Coarse = delivered.Bytes, delivered.Ranges, delivered.Coarse
	a.vault.emit(event)
}

// flush waits for the sinks of the events.
func (v *Vault) flush() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return v.events.Flush(ctx)
}
