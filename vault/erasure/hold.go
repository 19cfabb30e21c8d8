package erasure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// MaxReasonLen is the length, in bytes, that the reason for setting or clearing a hold may have.
const MaxReasonLen = 1024

const (
	// maxHoldSize bounds what is read of a hold, in bytes. In JSON a character may take six.
	maxHoldSize = 16 << 10
	// maxSets is how often SetHold tries. More than two take somebody who clears what others set meanwhile.
	maxSets = 5
)

// Hold says that a patient's recordings must be kept: for a court, an inquiry, a complaint. There is at
// most one for each patient. While it stands, neither the patient nor a recording is erased or deleted.
//
// It is an object in the store, in clear. So neither reason nor operator may identify the patient: name a
// case, not a person. The object lies at the root of the store, under "holds/", whatever the prefix: the key
// that an erasure destroys is that of the patient's recordings under all of them.
type Hold struct {
	KeyID    keys.KeyID `json:"key_id"`
	Reason   string     `json:"reason"`
	Operator string     `json:"operator"` // who set it
	Time     time.Time  `json:"time"`     // when, by the operator's clock, in UTC
}

// ClearedHold is the record of a hold that stood once. The store keeps none: it is for the caller to keep.
type ClearedHold struct {
	Hold                      // what KeyID says and nothing else, if it was damaged
	ClearedReason   string    `json:"cleared_reason"`
	ClearedOperator string    `json:"cleared_operator"`
	ClearedTime     time.Time `json:"cleared_time"`
}

// SetHold puts a patient on hold and returns the hold. The reason is 1 to [MaxReasonLen] bytes of
// printable UTF-8; see [Hold] for what it must not say. The patient need not be enrolled.
//
// A patient who is on hold stays so, for the reason that came first: the error is [vault.ErrHeld], and the
// hold that is returned is the one that stands.
//
// Every erasure, deletion and re-keying that begins after SetHold has returned respects the hold. One that
// has begun may not: it looks for a hold when it begins, and an erasure of the patient once more just
// before it destroys the key.
//
// Errors: vault.ErrHeld, [ErrInvalidReason], [ErrDamagedHold], [keys.ErrInvalidKeyID]; those of
// [storage.Store] for Get and Put. After [storage.ErrUnavailable] the hold may stand.
func (e *Erasure) SetHold(ctx context.Context, keyID keys.KeyID, reason string) (Hold, error) {
	hold, err := e.setHold(ctx, keyID, reason)
	if err != nil {
		return hold, fmt.Errorf("set hold on patient %s: %w", keyID, err)
	}
	return hold, nil
}

func (e *Erasure) setHold(ctx context.Context, keyID keys.KeyID, reason string) (Hold, error) {
	if err := checkReason(keyID, reason); err != nil {
		return Hold{}, err
	}
	hold := Hold{KeyID: keyID, Reason: reason, Operator: e.options.Operator, Time: time.Now().Round(0).UTC()}
	text, err := json.Marshal(hold)
	if err != nil {
		return Hold{}, err
	}
	for range maxSets {
		standing, etag, err := e.readHold(ctx, keyID)
		switch {
		case err == nil && standing.Operator == hold.Operator && standing.Reason == hold.Reason && standing.Time.Equal(hold.Time):
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
		err = e.putHold(ctx, keyID, text, condition)
		switch {
		case err == nil:
			return hold, nil
		case !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrChanged):
			return Hold{}, err
		}
	}
	return Hold{}, fmt.Errorf("%w: others set and clear it all the time", storage.ErrChanged)
}

func (e *Erasure) putHold(ctx context.Context, keyID keys.KeyID, text []byte, condition storage.Condition) error {
	_, err := e.store.Put(ctx, layout.Hold(keyID), bytes.NewReader(text), int64(len(text)), condition)
	return err
}

func checkReason(keyID keys.KeyID, reason string) error {
	switch {
	case keyID.IsZero():
		return fmt.Errorf("%w: it is the zero KeyID", keys.ErrInvalidKeyID)
	case !meaningful(reason, MaxReasonLen):
		return fmt.Errorf("%w: it is missing, longer than %d bytes or not printable", ErrInvalidReason, MaxReasonLen)
	}
	return nil
}

// ClearHold ends the hold that stands, damaged or not, and returns the record of it, which the caller should
// keep. The reason is bounded as that of SetHold is. In the store, an empty object is left in its place. Of
// those who clear a hold at the same time, more than one may be told that they did.
//
// It never ends a hold that was set while it ran: the error is then [vault.ErrHeld], and it was somebody else
// who ended the one that stood.
//
// Errors: [ErrNotHeld], vault.ErrHeld, [ErrInvalidReason], [keys.ErrInvalidKeyID]; those of [storage.Store]
// for Get and Put.
func (e *Erasure) ClearHold(ctx context.Context, keyID keys.KeyID, reason string) (ClearedHold, error) {
	cleared, err := e.clearHold(ctx, keyID, reason)
	if err != nil {
		return ClearedHold{}, fmt.Errorf("clear hold on patient %s: %w", keyID, err)
	}
	return cleared, nil
}

func (e *Erasure) clearHold(ctx context.Context, keyID keys.KeyID, reason string) (ClearedHold, error) {
	if err := checkReason(keyID, reason); err != nil {
		return ClearedHold{}, err
	}
	hold, etag, err := e.readHold(ctx, keyID)
	if err != nil && !errors.Is(err, ErrDamagedHold) {
		return ClearedHold{}, err
	}
	// Deleting it might remove one that was set since: a store deletes under no condition.
	err = e.putHold(ctx, keyID, nil, storage.IfMatch(etag))
	if errors.Is(err, storage.ErrChanged) {
		// If none stands, it was this call whose answer was lost, or somebody else: nothing tells.
		err = e.veto(ctx, keyID)
	}
	if err != nil {
		return ClearedHold{}, err
	}
	return ClearedHold{
		Hold: hold, ClearedReason: reason, ClearedOperator: e.options.Operator, ClearedTime: time.Now().Round(0).UTC(),
	}, nil
}

// Hold returns the hold that stands.
//
// Errors: [ErrNotHeld], [ErrDamagedHold], [keys.ErrInvalidKeyID]; those of [storage.Store] for Get.
func (e *Erasure) Hold(ctx context.Context, keyID keys.KeyID) (Hold, error) {
	if keyID.IsZero() {
		return Hold{}, fmt.Errorf("read hold: %w: it is the zero KeyID", keys.ErrInvalidKeyID)
	}
	hold, _, err := e.readHold(ctx, keyID)
	if err != nil {
		return Hold{}, fmt.Errorf("read hold on patient %s: %w", keyID, err)
	}
	return hold, nil
}

// readHold returns the hold and the ETag of its object. With [ErrNotHeld] there is an ETag if one stood once,
// with [ErrDamagedHold] always.
func (e *Erasure) readHold(ctx context.Context, keyID keys.KeyID) (hold Hold, etag string, err error) {
	text, info, err := layout.Read(ctx, e.store, layout.Hold(keyID), 0, maxHoldSize)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return Hold{}, "", ErrNotHeld
	case err != nil:
		return Hold{}, "", err
	case info.Size == 0:
		return Hold{}, info.ETag, ErrNotHeld
	}
	if err := json.Unmarshal(text, &hold); err != nil || hold.KeyID != keyID {
		return Hold{KeyID: keyID}, info.ETag, ErrDamagedHold
	}
	return hold, info.ETag, nil
}

// veto returns [vault.ErrHeld] while a hold stands, and an error too if that cannot be told.
func (e *Erasure) veto(ctx context.Context, keyID keys.KeyID) error {
	hold, err := layout.Held(ctx, e.store, keyID)
	if err != nil || hold == nil {
		return err
	}
	return fmt.Errorf("%w since %s", vault.ErrHeld, hold.Modified.UTC().Format(time.RFC3339))
}
