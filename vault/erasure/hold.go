package erasure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// MaxReasonLen is the length, in bytes, that the reason for setting or clearing a hold may have.
const MaxReasonLen = 1024

// maxHoldSize bounds what is read of a hold, in bytes. In JSON a character may take six.
const maxHoldSize = 16 << 10

// Hold says that a patient's recordings must be kept: for a court, an inquiry, a complaint. There is at
// most one for each patient. While it stands, neither the patient nor a recording is erased or deleted.
//
// It is an object in the store, in clear. So neither reason nor operator may identify the patient: name a
// case, not a person.
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
// [storage.Store] for Put. After [storage.ErrUnavailable] the hold may stand.
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
	_, err = e.store.Put(ctx, e.layout.Hold(keyID), bytes.NewReader(text), int64(len(text)), storage.IfAbsent())
	if err == nil {
		return hold, nil
	}
	if !errors.Is(err, storage.ErrExists) {
		return Hold{}, err
	}
	// It may be this very hold: the store repeats a request whose answer was lost.
	standing, err := e.readHold(ctx, keyID)
	if err != nil {
		return Hold{}, err
	}
	if standing.Operator == hold.Operator && standing.Reason == hold.Reason && standing.Time.Equal(hold.Time) {
		return standing, nil
	}
	return standing, vault.ErrHeld
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

// ClearHold ends a hold, damaged or not, and returns the record of it, which the caller should keep. The
// reason is bounded as that of SetHold is. Of those who clear a hold at the same time, more than one may
// be told that they did.
//
// Errors: [ErrNotHeld], [ErrInvalidReason], [keys.ErrInvalidKeyID]; those of [storage.Store] for Get and
// Delete.
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
	hold, err := e.readHold(ctx, keyID)
	if err != nil && !errors.Is(err, ErrDamagedHold) {
		return ClearedHold{}, err
	}
	if err := e.delete(ctx, e.layout.Hold(keyID)); err != nil {
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
	hold, err := e.readHold(ctx, keyID)
	if err != nil {
		return Hold{}, fmt.Errorf("read hold on patient %s: %w", keyID, err)
	}
	return hold, nil
}

func (e *Erasure) readHold(ctx context.Context, keyID keys.KeyID) (Hold, error) {
	text, err := e.read(ctx, e.layout.Hold(keyID), maxHoldSize)
	if errors.Is(err, storage.ErrNotFound) {
		return Hold{}, ErrNotHeld
	}
	if err != nil {
		return Hold{}, err
	}
	var hold Hold
	if err := json.Unmarshal(text, &hold); err != nil || hold.KeyID != keyID {
		return Hold{KeyID: keyID}, ErrDamagedHold
	}
	return hold, nil
}

// read returns an object, or as much of it as makes it too long.
func (e *Erasure) read(ctx context.Context, name string, maxSize int64) ([]byte, error) {
	object, err := e.store.Get(ctx, name, 0, maxSize+1)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(io.LimitReader(object, maxSize+1))
}

// veto returns [vault.ErrHeld] while a hold stands, and an error too if that cannot be told.
func (e *Erasure) veto(ctx context.Context, keyID keys.KeyID) error {
	info, err := e.store.Stat(ctx, e.layout.Hold(keyID))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w since %s", vault.ErrHeld, info.Modified.UTC().Format(time.RFC3339))
}
