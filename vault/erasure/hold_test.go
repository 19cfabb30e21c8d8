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

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
	"github.com/recvault/recvault/vault/events"
)

func TestNothingIsErasedWhileAHoldStands(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		recording := d.put(t, patient)
		e := d.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		alone, err := e.PlanRecording(t.Context(), recording)
		require.NoError(t, err)

		hold, err := d.holds.Set(t.Context(), id, "legal", "case 7 of 2026")
		require.NoError(t, err)
		assert.Equal(t, erasure.Hold{KeyID: id, Reason: "case 7 of 2026", Operator: "legal", Time: hold.Time}, hold)
		assert.WithinDuration(t, time.Now(), hold.Time, time.Minute)
		standing, err := d.holds.Get(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)

		_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.NotContains(t, err.Error(), "case 7")
		_, err = e.ConfirmRecording(t.Context(), recording, approve(alone.Digest))
		require.ErrorIs(t, err, vault.ErrHeld)
		require.ErrorIs(t, d.vault.Delete(t.Context(), patient, recording), vault.ErrHeld)
		require.NoError(t, d.open(t, patient, recording))

		for _, plan := range []func() (erasure.Plan, error){
			func() (erasure.Plan, error) { return e.PlanPatient(t.Context(), id) },
			func() (erasure.Plan, error) { return e.PlanRecording(t.Context(), recording) },
		} {
			held, err := plan()
			require.NoError(t, err)
			require.NotNil(t, held.Hold)
			assert.Equal(t, hold, *held.Hold)
		}

		cleared, err := d.holds.Clear(t.Context(), id, operator, "case 7 was closed")
		require.NoError(t, err)
		assert.Equal(t, erasure.ClearedHold{
			Hold: hold, ClearedReason: "case 7 was closed", ClearedOperator: operator, ClearedTime: cleared.ClearedTime,
		}, cleared)
		_, err = d.holds.Clear(t.Context(), id, operator, "again")
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		_, err = d.holds.Get(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.NoError(t, err)
	})
}

func TestHoldsNeedNoKeyring(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		holds := erasure.NewHolds(d.Store, nil)
		id := keys.NewKeyID([]byte("a patient who was never enrolled"))
		_, err := holds.Get(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		_, err = holds.Clear(t.Context(), id, operator, "closed")
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		hold, err := holds.Set(t.Context(), id, operator, "case 7")
		require.NoError(t, err)
		standing, err := erasure.NewHolds(d.Store, nil).Get(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)
		cleared, err := holds.Clear(t.Context(), id, operator, "closed")
		require.NoError(t, err)
		assert.Equal(t, hold, cleared.Hold)
		_, err = holds.Get(t.Context(), id)
		require.ErrorIs(t, err, erasure.ErrNotHeld)
	})
}

// TestAHoldStandsUnderEveryPrefix: recordings under another prefix have the same key.
func TestAHoldStandsUnderEveryPrefix(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		outside := d.put(t, patient)
		d.Serve(t, "clinic/")
		v, err := vault.New(d.Keyring(testdeployment.Writer), d.Store, vault.WithPrefix("clinic/"))
		require.NoError(t, err)
		inside, err := v.Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
		require.NoError(t, err)
		for _, e := range []*erasure.Erasure{newErasure(t, d.eraser, d.Store, erasure.Options{Prefix: "clinic/"}), d.erasure(t)} {
			hold, err := d.holds.Set(t.Context(), id, operator, "case 7")
			require.NoError(t, err)
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			require.NotNil(t, plan.Hold)
			assert.Equal(t, hold, *plan.Hold)
			_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
			require.ErrorIs(t, err, vault.ErrHeld)
			require.ErrorIs(t, v.Delete(t.Context(), patient, inside), vault.ErrHeld)
			require.ErrorIs(t, d.vault.Delete(t.Context(), patient, outside), vault.ErrHeld)
			_, err = d.holds.Clear(t.Context(), id, operator, "case 7 was closed")
			require.NoError(t, err)
		}
		require.NoError(t, d.open(t, patient, outside))
		require.NoError(t, v.Delete(t.Context(), patient, inside))
	})
}

func TestAClearedHoldCanBeSetAgain(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		recording := d.put(t, patient)
		e := d.erasure(t)
		for _, reason := range []string{"case 1", "case 2", "case 2"} {
			hold, err := d.holds.Set(t.Context(), id, operator, reason)
			require.NoError(t, err)
			standing, err := d.holds.Get(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, hold, standing)
			second, err := d.holds.Set(t.Context(), id, operator, "another")
			require.ErrorIs(t, err, vault.ErrHeld)
			assert.Equal(t, hold, second)
			require.ErrorIs(t, d.vault.Delete(t.Context(), patient, recording), vault.ErrHeld)
			cleared, err := d.holds.Clear(t.Context(), id, operator, "closed")
			require.NoError(t, err)
			assert.Equal(t, hold, cleared.Hold)
			_, err = d.holds.Clear(t.Context(), id, operator, "closed")
			require.ErrorIs(t, err, erasure.ErrNotHeld)
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			assert.Nil(t, plan.Hold)
		}
		require.NoError(t, d.vault.Delete(t.Context(), patient, recording))
	})
}

func TestClearingAHoldNeverEndsANewerOne(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		_, err := d.holds.Set(t.Context(), id, operator, "case 1")
		require.NoError(t, err)
		var newer erasure.Hold
		store := &hookedStore{Store: d.Store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			_, err := d.holds.Clear(t.Context(), id, operator, "case 1 was closed")
			require.NoError(t, err)
			newer, err = d.holds.Set(t.Context(), id, operator, "case 2")
			require.NoError(t, err)
			return put()
		}}
		cleared, err := erasure.NewHolds(store, nil).Clear(t.Context(), id, operator, "case 1 was closed")
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.Zero(t, cleared)
		standing, err := d.holds.Get(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, newer, standing)
	})
}

// TestARepeatedSetOrClearSucceeds: a store repeats a request whose answer was lost. The second answer is that the
// object exists, or has changed.
func TestARepeatedSetOrClearSucceeds(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		repeating := func(answer error) *erasure.Holds {
			return erasure.NewHolds(&hookedStore{Store: d.Store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
				_, err := put()
				require.NoError(t, err)
				return storage.Info{}, answer
			}}, nil)
		}
		// The first hold is a new object, and the second replaces the one that was cleared.
		for _, answer := range []error{storage.ErrExists, storage.ErrChanged} {
			hold, err := repeating(answer).Set(t.Context(), id, operator, "a case")
			require.NoError(t, err)
			standing, err := d.holds.Get(t.Context(), id)
			require.NoError(t, err)
			assert.Equal(t, standing, hold)

			cleared, err := repeating(storage.ErrChanged).Clear(t.Context(), id, operator, "closed")
			require.NoError(t, err)
			assert.Equal(t, hold, cleared.Hold)
			_, err = d.holds.Get(t.Context(), id)
			require.ErrorIs(t, err, erasure.ErrNotHeld)
		}
	})
}

// TestAHoldThatMayStandIsAnEvent: a hold that was cleared, or set, without an answer must not be missing from the stream.
func TestAHoldThatMayStandIsAnEvent(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		var got []events.Event
		stream := events.New(func(e events.Event) error { got = append(got, e); return nil })
		answer := storage.ErrUnavailable
		lossy := erasure.NewHolds(&hookedStore{Store: d.Store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			if answer != storage.ErrDenied {
				_, err := put()
				require.NoError(t, err)
			}
			return storage.Info{}, answer
		}}, stream)
		_, err := lossy.Set(t.Context(), id, "legal", "case 7")
		require.ErrorIs(t, err, storage.ErrUnavailable)
		answer = storage.ErrDenied
		_, err = lossy.Clear(t.Context(), id, "legal", "closed")
		require.ErrorIs(t, err, storage.ErrDenied)
		answer = storage.ErrUnavailable
		_, err = lossy.Clear(t.Context(), id, "legal", "closed")
		require.ErrorIs(t, err, storage.ErrUnavailable)
		require.NoError(t, stream.Flush(t.Context()))
		require.Len(t, got, 2)
		for i, want := range []events.Event{
			{Kind: events.HoldSet, KeyID: id, Operator: "legal", Reason: "case 7"},
			{Kind: events.HoldCleared, KeyID: id, Operator: "legal", Reason: "closed"},
		} {
			assert.Contains(t, got[i].Error, storage.ErrUnavailable.Error())
			want.Count, want.Time, want.Error = 1, got[i].Time, got[i].Error
			assert.Equal(t, want, got[i])
		}
	})
}

// TestASetDuringAClearStands: callers rely on a hold that was set, even if another hold was set and cleared while
// they set theirs.
func TestASetDuringAClearStands(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		overtaken := false
		store := &hookedStore{Store: d.Store, put: func(put func() (storage.Info, error)) (storage.Info, error) {
			if !overtaken {
				overtaken = true
				_, err := d.holds.Set(t.Context(), id, operator, "a case")
				require.NoError(t, err)
				_, err = d.holds.Clear(t.Context(), id, operator, "closed")
				require.NoError(t, err)
			}
			return put()
		}}
		hold, err := erasure.NewHolds(store, nil).Set(t.Context(), id, operator, "another case")
		require.NoError(t, err)
		standing, err := d.holds.Get(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, hold, standing)
	})
}

func TestAHoldKeepsTheRemainsOfAnErasure(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		d.put(t, patient)
		require.NoError(t, d.admin.Erase(t.Context(), id)) // as if interrupted then
		e := d.erasure(t)
		_, err := d.holds.Set(t.Context(), id, operator, "inquiry")
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, approve(""))
		require.ErrorIs(t, err, vault.ErrHeld)
		assert.Len(t, d.Objects(t, "", id), 2)
		_, err = d.holds.Clear(t.Context(), id, operator, "over")
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, approve(""))
		require.NoError(t, err)
		assert.Empty(t, d.Objects(t, "", id))
	})
}

func TestTheFirstHoldStands(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		const people = 8
		holds, errs := make([]erasure.Hold, people), make([]error, people)
		lawyer := func(i int) string { return "lawyer " + string(rune('a'+i)) }
		var wg sync.WaitGroup
		for i := range people {
			wg.Go(func() { holds[i], errs[i] = d.holds.Set(t.Context(), id, lawyer(i), "a case") })
		}
		wg.Wait()
		standing, err := d.holds.Get(t.Context(), id)
		require.NoError(t, err)
		won := 0
		for i, err := range errs {
			assert.Equal(t, standing, holds[i], "every call returns the hold that stands")
			if err == nil {
				won++
				assert.Equal(t, lawyer(i), standing.Operator)
				continue
			}
			assert.ErrorIs(t, err, vault.ErrHeld)
		}
		assert.Equal(t, 1, won)
	})
}

func TestADamagedHoldHoldsUntilItIsCleared(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, other := d.Enrol(t)
		_, err := d.holds.Set(t.Context(), other, operator, "of another patient")
		require.NoError(t, err)
		for name, text := range map[string]string{
			"blank":    " ",
			"not JSON": "hold!",
			"another":  string(teststore.Read(t, d.Store, objects.HoldName(other))),
			"huge":     `{"reason":"` + strings.Repeat("x", 1<<20) + `"}`,
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				recording := d.put(t, patient)
				e := d.erasure(t)
				plan, err := e.PlanPatient(t.Context(), id)
				require.NoError(t, err)
				teststore.Write(t, d.Store, objects.HoldName(id), []byte(text))
				_, err = d.holds.Get(t.Context(), id)
				require.ErrorIs(t, err, erasure.ErrDamagedHold)
				_, err = e.PlanPatient(t.Context(), id)
				require.ErrorIs(t, err, erasure.ErrDamagedHold)
				_, err = d.holds.Set(t.Context(), id, operator, "a case")
				require.ErrorIs(t, err, erasure.ErrDamagedHold)
				_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.ErrorIs(t, err, vault.ErrHeld)
				require.NoError(t, d.open(t, patient, recording))
				cleared, err := d.holds.Clear(t.Context(), id, operator, "it is damaged")
				require.NoError(t, err)
				assert.Equal(t, erasure.Hold{KeyID: id}, cleared.Hold)
				_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.NoError(t, err)
			})
		}
	})
}

// TestAHoldWithoutAnETagStands: on such a store it can be neither replaced nor cleared safely.
func TestAHoldWithoutAnETagStands(t *testing.T) {
	d := embedded(t)
	_, id := d.Enrol(t)
	_, err := d.holds.Set(t.Context(), id, operator, "a case")
	require.NoError(t, err)
	holds := erasure.NewHolds(withoutETags{d.Store}, nil)
	_, err = holds.Clear(t.Context(), id, operator, "closed")
	require.ErrorIs(t, err, storage.ErrUnavailable)
	_, err = d.holds.Get(t.Context(), id)
	require.NoError(t, err)
}

// withoutETags is a store that gives no ETags.
type withoutETags struct{ storage.Store }

func (s withoutETags) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	object, err := s.Store.Get(ctx, name, offset, length)
	if err == nil {
		object.Info.ETag = ""
	}
	return object, err
}

func TestReasonsHaveBounds(t *testing.T) {
	d := embedded(t)
	for name, invalid := range map[string]string{
		"none":         "",
		"blank":        "  ",
		"not UTF-8":    "case \xff",
		"a line break": "case\n7",
		"overlong":     strings.Repeat("x", erasure.MaxReasonLen+1),
	} {
		t.Run(name, func(t *testing.T) { d.refuse(t, operator, invalid, erasure.ErrInvalidReason) })
	}
	d.accept(t, operator, strings.Repeat("<", erasure.MaxReasonLen)) // six bytes each in JSON
}

func TestOperatorsOfHoldsHaveBounds(t *testing.T) {
	d := embedded(t)
	for name, invalid := range invalidOperators {
		t.Run(name, func(t *testing.T) { d.refuse(t, invalid, "a case", erasure.ErrInvalidOperator) })
	}
	d.accept(t, strings.Repeat("<", erasure.MaxOperatorLen), strings.Repeat("<", erasure.MaxReasonLen))
}

// refuse fails the test unless a hold can be neither set nor cleared by this operator for this reason.
func (d *deployment) refuse(t *testing.T, by, reason string, want error) {
	t.Helper()
	_, id := d.Enrol(t)
	_, err := d.holds.Set(t.Context(), id, by, reason)
	require.ErrorIs(t, err, want)
	_, err = d.holds.Get(t.Context(), id)
	require.ErrorIs(t, err, erasure.ErrNotHeld)
	_, err = d.holds.Set(t.Context(), id, operator, "a case")
	require.NoError(t, err)
	_, err = d.holds.Clear(t.Context(), id, by, reason)
	require.ErrorIs(t, err, want)
	_, err = d.holds.Get(t.Context(), id)
	require.NoError(t, err)
}

// accept fails the test unless a hold can be set by this operator for this reason.
func (d *deployment) accept(t *testing.T, by, reason string) {
	t.Helper()
	_, id := d.Enrol(t)
	set, err := d.holds.Set(t.Context(), id, by, reason)
	require.NoError(t, err)
	hold, err := d.holds.Get(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, set, hold)
	assert.Equal(t, reason, hold.Reason)
	assert.Equal(t, by, hold.Operator)
}

func TestAHoldIsCheckedJustBeforeTheKeyIsDestroyed(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		recording := d.put(t, patient)
		plan, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		keyring := &hookedKeyring{Keyring: d.eraser, rewrap: func() { // the last step before
			_, err := d.holds.Set(t.Context(), id, operator, "at the last moment")
			require.NoError(t, err)
		}}
		_, err = newErasure(t, keyring, d.Store, erasure.Options{}).ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.ErrorIs(t, err, vault.ErrHeld)
		require.NotErrorIs(t, err, erasure.ErrIncomplete)
		require.NoError(t, d.open(t, patient, recording))
	})
}

func TestNothingIsErasedWhereHoldsCannotBeRead(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	recording := d.put(t, patient)
	plan, err := d.erasure(t).PlanPatient(t.Context(), id)
	require.NoError(t, err)
	alone, err := d.erasure(t).PlanRecording(t.Context(), recording)
	require.NoError(t, err)
	e := newErasure(t, d.eraser, holdsDenied{d.Store}, erasure.Options{})
	_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, storage.ErrDenied)
	_, err = e.ConfirmRecording(t.Context(), recording, approve(alone.Digest))
	require.ErrorIs(t, err, storage.ErrDenied)
	v, err := vault.New(d.Keyring(testdeployment.Writer), holdsDenied{d.Store})
	require.NoError(t, err)
	require.ErrorIs(t, v.Delete(t.Context(), patient, recording), storage.ErrDenied)
	require.NoError(t, d.open(t, patient, recording))
}

// holdsDenied is a store whose credentials may not read holds.
type holdsDenied struct{ storage.Store }

func (s holdsDenied) Stat(ctx context.Context, name string) (storage.Info, error) {
	if strings.HasPrefix(name, "holds/") {
		return storage.Info{}, storage.ErrDenied
	}
	return s.Store.Stat(ctx, name)
}

func TestHoldsAreJSON(t *testing.T) {
	d := embedded(t)
	_, id := d.Enrol(t)
	hold, err := d.holds.Set(t.Context(), id, operator, "a case")
	require.NoError(t, err)
	var fields map[string]string
	require.NoError(t, json.Unmarshal(teststore.Read(t, d.Store, objects.HoldName(id)), &fields))
	assert.Equal(t, map[string]string{
		"key_id": id.String(), "reason": "a case", "operator": operator, "time": hold.Time.Format(time.RFC3339Nano),
	}, fields)
}
