package erasure

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

const (
	// MaxReasonLen is the greatest length, in bytes, of the reason for setting or clearing a hold.
	MaxReasonLen = 1024
	// MaxOperatorLen is the greatest length, in bytes, of an operator's name.
	MaxOperatorLen = 256
)

const (
	// maxHoldSize is how many bytes are read of a hold at most. In JSON a character may take six.
	maxHoldSize = 16 << 10
	// maxSets is how often Set tries. More than two attempts mean that others set and clear the hold.
	maxSets = 5
)

// Hold says that a patient's recordings must be kept, for a court, an inquiry or a complaint. There is at most one
// for each patient. While it stands, neither the patient nor any of the patient's recordings is erased or deleted.
//
// A hold is an object in the store, not encrypted. So neither reason nor operator may identify the patient: name a
// case, not a person. The object lies at the root of the store, under "holds/", whatever the prefix, because an
// erasure destroys the key of the patient's recordings under all prefixes.
type Hold struct {
	KeyID    keys.KeyID `json:"key_id"`
	Reason   string     `json:"reason"`
	Operator string     `json:"operator"` // who set it, and answers for it
	Time     time.Time  `json:"time"`     // when it was set, by the clock of the computer that set it, in UTC
}

// ClearedHold is the record of a hold that no longer stands. The store does not keep it. The caller should.
type ClearedHold struct {
	Hold                      // the KeyID and nothing else, if the hold was damaged
	ClearedReason   string    `json:"cleared_reason"`
	ClearedOperator string    `json:"cleared_operator"`
	ClearedTime     time.Time `json:"cleared_time"`
}

// Holds sets, clears and shows the holds in a store. It needs no keyring. It is safe for concurrent use.
type Holds struct {
	store  storage.Store
	events *events.Stream
}

// NewHolds returns the holds in a store. The stream, unless it is nil, gets an events.HoldSet or events.HoldCleared for each
// hold that is set or cleared. After an error that leaves it open whether it was, the event has that Error.
func NewHolds(store storage.Store, stream *events.Stream) *Holds {
	return &Holds{store, cmp.Or(stream, events.New())}
}

// Set puts a patient on hold and returns the hold. The operator answers for it, and has 1 to [MaxOperatorLen] bytes
// of printable UTF-8. The reason has 1 to [MaxReasonLen] such bytes. [Hold] says what neither may contain. The
// patient need not be enrolled.
//
// If the patient is on hold already, that hold stays as it is. Set then returns it with [vault.ErrHeld].
//
// Every erasure, deletion and re-keying that begins after Set has returned respects the hold. One that began before
// may not: it checks for a hold when it begins. The erasure of a patient checks again just before it destroys the
// key.
//
// Errors: vault.ErrHeld, [ErrInvalidReason], [ErrInvalidOperator], [ErrDamagedHold], [keys.ErrInvalidKeyID];
// those of [storage.Store] for Get and Put. After [storage.ErrUnavailable] the hold may stand.
func (h *Holds) Set(ctx context.Context, keyID keys.KeyID, operator, reason string) (Hold, error) {
	hold, err := h.set(ctx, keyID, operator, reason)
	if err != nil {
		return hold, fmt.Errorf("set hold on patient %s: %w", keyID, err)
	}
	return hold, nil
}

func (h *Holds) set(ctx context.Context, keyID keys.KeyID, operator, reason string) (Hold, error) {
	if err := checkSigned(keyID, operator, reason); err != nil {
		return Hold{}, err
	}
	hold := Hold{KeyID: keyID, Reason: reason, Operator: operator, Time: time.Now().Round(0).UTC()}
	text, err := json.Marshal(hold)
	if err != nil {
		return Hold{}, err
	}
	set := events.Event{Kind: events.HoldSet, KeyID: keyID, Operator: operator, Reason: reason}
	for range maxSets {
		standing, etag, err := h.read(ctx, keyID)
		switch {
		case err == nil && standing.Operator == hold.Operator && standing.Reason == hold.Reason && standing.Time.Equal(hold.Time):
			h.emit(set, nil)
			return hold, nil // the store repeated a request whose answer was lost
		case err == nil:
			return standing, vault.ErrHeld
		case !errors.Is(err, ErrNotHeld):
			return Hold{}, err
		}
		condition := storage.IfAbsent()
		if etag != "" {
			condition = storage.IfMatch(etag)
		}
		err = h.put(ctx, keyID, text, condition)
		switch {
		case err == nil:
			h.emit(set, nil)
			return hold, nil
		case !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrChanged):
			h.emit(set, err)
			return Hold{}, err
		}
	}
	return Hold{}, fmt.Errorf("%w: the hold is set and cleared again and again", storage.ErrChanged)
}

// emit emits a change of a hold, unless the error says that it was not made.
func (h *Holds) emit(change events.Event, err error) {
	if errors.Is(err, vault.ErrHeld) || errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrNoBucket) {
		return
	}
	if err != nil {
		change.Error = err.Error()
	}
	h.events.Emit(change)
}

func (h *Holds) put(ctx context.Context, keyID keys.KeyID, text []byte, condition storage.Condition) error {
	_, err := h.store.Put(ctx, objects.HoldName(keyID), bytes.NewReader(text), int64(len(text)), condition)
	return err
}

// Clear ends the hold that stands, damaged or not, and returns the record of it, which the caller should keep.
// Operator and reason have the bounds of [Holds.Set]. In the store, an empty object stays in the hold's place. If
// several calls clear a hold at the same time, more than one may succeed.
//
// Clear never ends a hold that was set while it ran. It then returns [vault.ErrHeld]: another call cleared the
// older hold.
//
// Errors: [ErrNotHeld], vault.ErrHeld, [ErrInvalidReason], [ErrInvalidOperator], [keys.ErrInvalidKeyID]; those
// of [storage.Store] for Get and Put.
func (h *Holds) Clear(ctx context.Context, keyID keys.KeyID, operator, reason string) (ClearedHold, error) {
	cleared, err := h.clear(ctx, keyID, operator, reason)
	if err != nil {
		return ClearedHold{}, fmt.Errorf("clear hold on patient %s: %w", keyID, err)
	}
	return cleared, nil
}

func (h *Holds) clear(ctx context.Context, keyID keys.KeyID, operator, reason string) (ClearedHold, error) {
	if err := checkSigned(keyID, operator, reason); err != nil {
		return ClearedHold{}, err
	}
	hold, etag, err := h.read(ctx, keyID)
	if err != nil && !errors.Is(err, ErrDamagedHold) {
		return ClearedHold{}, err
	}
	// Deleting the object might remove a hold that was set since: a store deletes under no condition.
	err = h.put(ctx, keyID, nil, storage.IfMatch(etag))
	if errors.Is(err, storage.ErrChanged) {
		// If no hold stands, either this call's answer was lost or another call cleared it.
		err = h.veto(ctx, keyID)
	}
	h.emit(events.Event{Kind: events.HoldCleared, KeyID: keyID, Operator: operator, Reason: reason}, err)
	if err != nil {
		return ClearedHold{}, err
	}
	return ClearedHold{Hold: hold, ClearedReason: reason, ClearedOperator: operator, ClearedTime: time.Now().Round(0).UTC()}, nil
}

// Get returns the hold that stands.
//
// Errors: [ErrNotHeld], [ErrDamagedHold], [keys.ErrInvalidKeyID]; those of [storage.Store] for Get.
func (h *Holds) Get(ctx context.Context, keyID keys.KeyID) (Hold, error) {
	if keyID.IsZero() {
		return Hold{}, fmt.Errorf("read hold: %w: it is the zero KeyID", keys.ErrInvalidKeyID)
	}
	hold, _, err := h.read(ctx, keyID)
	if err != nil {
		return Hold{}, fmt.Errorf("read hold on patient %s: %w", keyID, err)
	}
	return hold, nil
}

// read returns the hold and the ETag of its object. With [ErrNotHeld] there is an ETag if a hold was
// cleared, with [ErrDamagedHold] always.
func (h *Holds) read(ctx context.Context, keyID keys.KeyID) (hold Hold, etag string, err error) {
	text, info, err := objects.Read(ctx, h.store, objects.HoldName(keyID), 0, maxHoldSize)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return Hold{}, "", ErrNotHeld
	case err != nil:
		return Hold{}, "", err
	case info.ETag == "":
		return Hold{}, "", fmt.Errorf("%w: it gives no ETag", storage.ErrUnavailable)
	case info.Size == 0:
		return Hold{}, info.ETag, ErrNotHeld
	}
	if err := json.Unmarshal(text, &hold); err != nil || hold.KeyID != keyID {
		return Hold{KeyID: keyID}, info.ETag, ErrDamagedHold
	}
	return hold, info.ETag, nil
}

// veto returns [vault.ErrHeld] while a hold stands, and an error too if the store does not answer.
func (h *Holds) veto(ctx context.Context, keyID keys.KeyID) error {
	hold, err := objects.Held(ctx, h.store, keyID)
	if err != nil || hold == nil {
		return err
	}
	return fmt.Errorf("%w since %s", vault.ErrHeld, hold.Modified.UTC().Format(time.RFC3339))
}

func checkSigned(keyID keys.KeyID, operator, reason string) error {
	switch {
	case keyID.IsZero():
		return fmt.Errorf("%w: it is the zero KeyID", keys.ErrInvalidKeyID)
	case !meaningful(reason, MaxReasonLen):
		return fmt.Errorf("%w: it is missing, longer than %d bytes or not printable", ErrInvalidReason, MaxReasonLen)
	}
	return checkOperator(operator)
}

func checkOperator(operator string) error {
	if !meaningful(operator, MaxOperatorLen) {
		return fmt.Errorf("%w: it is missing, longer than %d bytes or not printable", ErrInvalidOperator, MaxOperatorLen)
	}
	return nil
}

// meaningful reports whether text is at most maxLen bytes of printable UTF-8 and not only white space.
func meaningful(text string, maxLen int) bool {
	return strings.TrimSpace(text) != "" && len(text) <= maxLen && utf8.ValidString(text) &&
		!strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
