package erasure_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func TestNothingIsErasedWhileAHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		recording := b.put(t, patient)
		e := b.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		alone, err := e.PlanRecording(t.Context(), recording)
		require.NoError(t, err)

		legal := newErasure(t, b.eraser, b.store, erasure.Options{Operator: "legal"})
		hold, err := legal.SetHold(t.Context(), id, "case 7 of 2026")
		require.NoError(t, err)
		assert.Equal(t, erasure.Hold{KeyID: id, Reason: "case 7 of 2026", Operator: "legal", Time: hold.Time}, hold)
		assert.WithinDuration(t, time.Now(), hold.Time, time.Minute)
		standing, err := e.Hold(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)

		_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.NotContains(t, err.Error(), "case 7")
		_, err = e.ConfirmRecording(t.Context(), recording, alone.Digest)
		require.ErrorIs(t, err, vault.ErrHeld)
		require.ErrorIs(t, b.vault(t).Delete(t.Context(), patient, recording), vault.ErrHeld)
		require.NoError(t, b.open(t, patient, recording))

		for _, plan := range []func() (erasure.Plan, error){
			func() (erasure.Plan, error) { return e.PlanPatient(t.Context(), id) },
			func() (erasure.Plan, error) { return e.PlanRecording(t.Context(), recording) },
		} {
			held, err := plan()
			require.NoError(t, err)
			require.NotNil(t, held.Hold)
			assert.Equal(t, hold, *held.Hold)
		}

		cleared, err := e.ClearHold(t.Context(), id, "case 7 was closed")
		require.NoError(t, err)
		assert.Equal(t, erasure.ClearedHold{
			Hold: hold, ClearedReason: "case 7 was closed", ClearedOperator: operator, ClearedTime: cleared.ClearedTime,
		}, cleared)
		_, err = e.ClearHold(t.Context(), id, "again")
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		_, err = e.Hold(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.NoError(t, err)
	})
}

// What is under another prefix is under the same key.
func TestAHoldStandsUnderEveryPrefix(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		outside := b.put(t, patient)
		v, err := vault.New(b.writer, b.store, vault.WithPrefix("clinic/"))
		require.NoError(t, err)
		inside, err := v.Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
		require.NoError(t, err)
		clinic := newErasure(t, b.eraser, b.store, erasure.Options{Operator: operator, Prefix: "clinic/"})
		for _, pair := range [][2]*erasure.Erasure{{clinic, b.erasure(t)}, {b.erasure(t), clinic}} {
			sets, erases := pair[0], pair[1]
			hold, err := sets.SetHold(t.Context(), id, "case 7")
			require.NoError(t, err)
			plan, err := erases.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			require.NotNil(t, plan.Hold)
			assert.Equal(t, hold, *plan.Hold)
			_, err = erases.ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, vault.ErrHeld)
			require.ErrorIs(t, v.Delete(t.Context(), patient, inside), vault.ErrHeld)
			require.ErrorIs(t, b.vault(t).Delete(t.Context(), patient, outside), vault.ErrHeld)
			_, err = erases.ClearHold(t.Context(), id, "case 7 was closed")
			require.NoError(t, err)
		}
		require.NoError(t, b.open(t, patient, outside))
		require.NoError(t, v.Delete(t.Context(), patient, inside))
	})
}

func TestAClearedHoldCanBeSetAgainAndHoldsAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		recording := b.put(t, patient)
		e := b.erasure(t)
		for _, reason := range []string{"case 1", "case 2", "case 2"} {
			hold, err := e.SetHold(t.Context(), id, reason)
			require.NoError(t, err)
			standing, err := e.Hold(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, hold, standing)
			second, err := e.SetHold(t.Context(), id, "another")
			require.ErrorIs(t, err, vault.ErrHeld)
			assert.Equal(t, hold, second)
			require.ErrorIs(t, b.vault(t).Delete(t.Context(), patient, recording), vault.ErrHeld)
			cleared, err := e.ClearHold(t.Context(), id, "closed")
			require.NoError(t, err)
			assert.Equal(t, hold, cleared.Hold)
			_, err = e.ClearHold(t.Context(), id, "closed")
			require.ErrorIs(t, err, erasure.ErrNotHeld)
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			assert.Nil(t, plan.Hold)
		}
		require.NoError(t, b.vault(t).Delete(t.Context(), patient, recording))
	})
}

func TestClearingAHoldNeverEndsANewerOne(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id := b.enrol(t)
		e := b.erasure(t)
		_, err := e.SetHold(t.Context(), id, "case 1")
		require.NoError(t, err)
		var newer erasure.Hold
		store := &hookedStore{Store: b.store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			_, err := e.ClearHold(t.Context(), id, "case 1 was closed")
			require.NoError(t, err)
			newer, err = e.SetHold(t.Context(), id, "case 2")
			require.NoError(t, err)
			return put()
		}}
		cleared, err := newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).ClearHold(t.Context(), id, "case 1 was closed")
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.Zero(t, cleared)
		standing, err := e.Hold(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, newer, standing)
	})
}

// TestAClearThatIsRepeatedSucceeds: as a set that is.
func TestAClearThatIsRepeatedSucceeds(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id := b.enrol(t)
		hold, err := b.erasure(t).SetHold(t.Context(), id, "a case")
		require.NoError(t, err)
		store := &hookedStore{Store: b.store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			_, err := put()
			require.NoError(t, err)
			return storage.Info{}, storage.ErrChanged
		}}
		cleared, err := newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).ClearHold(t.Context(), id, "closed")
		require.NoError(t, err)
		assert.Equal(t, hold, cleared.Hold)
		_, err = b.erasure(t).Hold(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld)

		// And a set in its place.
		hold, err = newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).SetHold(t.Context(), id, "another case")
		require.NoError(t, err)
		standing, err := b.erasure(t).Hold(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)
	})
}

// TestASetThatIsOvertakenByAClearStands: whoever was told so relies on it.
func TestASetThatIsOvertakenByAClearStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id := b.enrol(t)
		e := b.erasure(t)
		overtake := func() {
			_, err := e.SetHold(t.Context(), id, "a case")
			require.NoError(t, err)
			_, err = e.ClearHold(t.Context(), id, "closed")
			require.NoError(t, err)
		}
		times := 0
		store := &hookedStore{Store: b.store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			if times++; times == 1 {
				overtake()
			}
			return put()
		}}
		hold, err := newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).SetHold(t.Context(), id, "another case")
		require.NoError(t, err)
		standing, err := e.Hold(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)
	})
}

func TestAHoldKeepsTheRemainsOfAnErasure(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		b.put(t, patient)
		require.NoError(t, b.admin.Erase(t.Context(), id)) // as if interrupted then
		e := b.erasure(t)
		_, err := e.SetHold(t.Context(), id, "inquiry")
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, "")
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.Len(t, b.objects(t, id), 2)
		_, err = e.ClearHold(t.Context(), id, "over")
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, "")
		require.NoError(t, err)
		assert.Empty(t, b.objects(t, id))
	})
}

func TestTheFirstHoldStands(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id := b.enrol(t)
		const people = 8
		holds, errs := make([]erasure.Hold, people), make([]error, people)
		var wg sync.WaitGroup
		for i := range people {
			e := newErasure(t, b.eraser, b.store, erasure.Options{Operator: "lawyer " + string(rune('a'+i))})
			wg.Go(func() { holds[i], errs[i] = e.SetHold(t.Context(), id, "a case") })
		}
		wg.Wait()
		standing, err := b.erasure(t).Hold(t.Context(), id)
		require.NoError(t, err)
		won := 0
		for i, err := range errs {
			assert.Equal(t, standing, holds[i], "everybody is told which one stands")
			if err == nil {
				won++
				assert.Equal(t, "lawyer "+string(rune('a'+i)), standing.Operator)
				continue
			}
			assert.ErrorIs(t, err, vault.ErrHeld)
		}
		assert.Equal(t, 1, won)
	})
}

// TestASetThatIsRepeatedSucceeds: a store repeats a request whose answer was lost, and is told that the object exists.
func TestASetThatIsRepeatedSucceeds(t *testing.T) {
	b := embedded(t)
	_, id := b.enrol(t)
	store := &hookedStore{Store: b.store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
		_, err := put()
		require.NoError(t, err)
		return storage.Info{}, storage.ErrExists
	}}
	hold, err := newErasure(t, b.eraser, store, erasure.Options{Operator: operator}).SetHold(t.Context(), id, "a case")
	require.NoError(t, err)
	standing, err := b.erasure(t).Hold(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, standing, hold)
}

func TestADamagedHoldHoldsUntilItIsCleared(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, other := b.enrol(t)
		_, err := b.erasure(t).SetHold(t.Context(), other, "of another patient")
		require.NoError(t, err)
		for name, text := range map[string]string{
			"blank":    " ",
			"not JSON": "hold!",
			"another":  string(teststore.Read(t, b.store, "holds/"+other.String())),
			"huge":     `{"reason":"` + strings.Repeat("x", 1<<20) + `"}`,
		} {
			patient, id := b.enrol(t)
			recording := b.put(t, patient)
			e := b.erasure(t)
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			teststore.Write(t, b.store, "holds/"+id.String(), []byte(text))
			_, err = e.Hold(t.Context(), id)
			require.ErrorIs(t, err, erasure.ErrDamagedHold, name)
			_, err = e.PlanPatient(t.Context(), id)
			require.ErrorIs(t, err, erasure.ErrDamagedHold, name)
			_, err = e.SetHold(t.Context(), id, "a case")
			require.ErrorIs(t, err, erasure.ErrDamagedHold, name)
			_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, vault.ErrHeld, name)
			require.NoError(t, b.open(t, patient, recording), name)
			cleared, err := e.ClearHold(t.Context(), id, "it is damaged")
			require.NoError(t, err, name)
			assert.Equal(t, erasure.Hold{KeyID: id}, cleared.Hold, name)
			_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
			require.NoError(t, err, name)
		}
	})
}

func TestReasonsHaveBounds(t *testing.T) {
	b := embedded(t)
	e := b.erasure(t)
	for name, reason := range map[string]string{
		"none":         "",
		"blank":        "  ",
		"not UTF-8":    "case \xff",
		"a line break": "case\n7",
		"overlong":     strings.Repeat("x", erasure.MaxReasonLen+1),
	} {
		_, id := b.enrol(t)
		_, err := e.SetHold(t.Context(), id, reason)
		require.ErrorIs(t, err, erasure.ErrInvalidReason, name)
		_, err = e.Hold(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld, name)
		_, err = e.SetHold(t.Context(), id, "a case")
		require.NoError(t, err)
		_, err = e.ClearHold(t.Context(), id, reason)
		require.ErrorIs(t, err, erasure.ErrInvalidReason, name)
		_, err = e.Hold(t.Context(), id)
		require.NoError(t, err, name)
	}
	_, id := b.enrol(t)
	longest := strings.Repeat("<", erasure.MaxReasonLen) // six bytes each in JSON
	_, err := e.SetHold(t.Context(), id, longest)
	require.NoError(t, err)
	hold, err := e.Hold(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, longest, hold.Reason)
}

func TestAHoldIsLookedForAgainJustBeforeTheKeyIsDestroyed(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		recording := b.put(t, patient)
		plan, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		keyring := &hookedKeyring{Keyring: b.eraser, rewrap: func() { // the last thing that Confirm does before
			_, err := b.erasure(t).SetHold(t.Context(), id, "at the last moment")
			require.NoError(t, err)
		}}
		_, err = newErasure(t, keyring, b.store, erasure.Options{Operator: operator}).ConfirmPatient(t.Context(), id, plan.Digest)
		require.ErrorIs(t, err, vault.ErrHeld)
		require.NotErrorIs(t, err, erasure.ErrIncomplete)
		require.NoError(t, b.open(t, patient, recording))
	})
}

// What cannot be told whether it is on hold is not erased.
func TestNothingIsErasedWhereHoldsCannotBeRead(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	recording := b.put(t, patient)
	plan, err := b.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	alone, err := b.erasure(t).PlanRecording(t.Context(), recording)
	require.NoError(t, err)
	e := newErasure(t, b.eraser, holdsDenied{b.store}, erasure.Options{Operator: operator})
	_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, storage.ErrDenied)
	_, err = e.ConfirmRecording(t.Context(), recording, alone.Digest)
	require.ErrorIs(t, err, storage.ErrDenied)
	v, err := vault.New(b.writer, holdsDenied{b.store})
	require.NoError(t, err)
	require.ErrorIs(t, v.Delete(t.Context(), patient, recording), storage.ErrDenied)
	require.NoError(t, b.open(t, patient, recording))
}

// holdsDenied is a store whose policy forgot the holds.
type holdsDenied struct{ storage.Store }

func (s holdsDenied) Stat(ctx context.Context, name string) (storage.Info, error) {
	if strings.HasPrefix(name, "holds/") {
		return storage.Info{}, storage.ErrDenied
	}
	return s.Store.Stat(ctx, name)
}

func TestHoldsAreJSON(t *testing.T) {
	b := embedded(t)
	_, id := b.enrol(t)
	hold, err := b.erasure(t).SetHold(t.Context(), id, "a case")
	require.NoError(t, err)
	var fields map[string]string
	require.NoError(t, json.Unmarshal(teststore.Read(t, b.store, "holds/"+id.String()), &fields))
	assert.Equal(t, map[string]string{
		"key_id": id.String(), "reason": "a case", "operator": operator, "time": hold.Time.Format(time.RFC3339Nano),
	}, fields)
}
