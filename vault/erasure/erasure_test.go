package erasure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func TestAnErasedPatientIsGoneAndTheReceiptSaysHow(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, aliceID := b.enrol(t)
		bob, bobID := b.enrol(t)
		bobs := b.put(t, bob)
		ids := []keys.RecordingID{b.put(t, alice), b.put(t, alice)}
		require.NoError(t, b.admin.Rotate(t.Context(), aliceID))
		ids = append(ids, b.put(t, alice))
		slices.SortFunc(ids, func(a, b keys.RecordingID) int { return strings.Compare(a.String(), b.String()) })
		orphan := objectName(keys.NewRecordingID(aliceID), "media")
		teststore.Write(t, b.store, orphan, []byte("media without an envelope"))
		teststore.Write(t, b.store, "r1/"+aliceID.String()+"/stray", []byte("of no recording"))
		teststore.Write(t, b.store, "r1/"+aliceID.String()+"-not-hers", []byte("of no patient"))
		copied := teststore.Read(t, b.store, objectName(ids[0], "envelope"))
		e := b.erasure(t)

		began := time.Now().Add(-time.Minute) // clocks differ
		plan, err := e.PlanPatient(t.Context(), aliceID)
		require.NoError(t, err)
		assert.Equal(t, aliceID, plan.KeyID)
		assert.Equal(t, 3, plan.Recordings)
		assert.Equal(t, 8, plan.Objects)
		assert.Equal(t, b.bytes(t, aliceID), plan.Bytes)
		assert.Equal(t, 2, plan.KeyVersions.Latest)
		assert.Equal(t, 1, plan.KeyVersions.MinAvailable)
		assert.False(t, plan.Begun)
		assert.Nil(t, plan.Hold)
		assert.True(t, began.Before(plan.Oldest) && !plan.Newest.Before(plan.Oldest), "%v, %v", plan.Oldest, plan.Newest)

		receipt, err := e.ConfirmPatient(t.Context(), aliceID, plan.Digest)
		require.NoError(t, err)
		assert.Empty(t, b.objects(t, aliceID))
		assert.Len(t, b.objects(t, bobID), 2)
		require.NoError(t, b.open(t, bob, bobs))
		assert.Equal(t, "of no patient", string(teststore.Read(t, b.store, "r1/"+aliceID.String()+"-not-hers")))

		assert.Equal(t, aliceID, receipt.KeyID)
		assert.True(t, receipt.Recording.IsZero())
		assert.Equal(t, plan.KeyVersions, receipt.KeyVersions)
		assert.False(t, receipt.Resumed)
		assert.Equal(t, ids, receipt.Recordings)
		assert.Equal(t, plan.Objects, receipt.ObjectsDeleted)
		assert.Equal(t, plan.Bytes, receipt.BytesDeleted)
		assert.Equal(t, operator, receipt.Operator)
		assert.Equal(t, plan.Digest, receipt.PlanDigest)
		assert.WithinDuration(t, time.Now(), receipt.Time, time.Minute)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "versions", Before: "succeeded", After: keys.ErrErased.Error()},
			{Attempt: "rewrap", Recording: ids[0], Before: "succeeded", After: keys.ErrErased.Error()},
		}, receipt.Proof)
		assert.Len(t, receipt.MayRemain, 3)

		// An envelope out of a backup opens no more, and nothing can be added.
		teststore.Write(t, b.store, objectName(ids[0], "envelope"), copied)
		require.ErrorIs(t, b.open(t, alice, ids[0]), keys.ErrErased)
		_, err = b.vault(t).Put(t.Context(), alice, strings.NewReader(content), vault.Metadata{})
		require.ErrorIs(t, err, keys.ErrErased)

		_, err = b.admin.Enrol(t.Context(), alice)
		require.NoError(t, err)
		require.NoError(t, b.open(t, alice, b.put(t, alice)))
		require.ErrorIs(t, b.open(t, alice, ids[0]), keys.ErrIntegrity)
	})
}

// bytes counts those of a patient's objects.
func (b *backend) bytes(t *testing.T, id keys.KeyID) (total int64) {
	t.Helper()
	for object, err := range b.store.List(context.Background(), "r1/"+id.String()+"/") {
		require.NoError(t, err)
		total += object.Size
	}
	return total
}

func TestAPatientWithoutRecordingsIsErasedToo(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		_, id := b.enrol(t)
		e := b.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, plan.Oldest.IsZero())
		receipt, err := e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.NoError(t, err)
		assert.Equal(t, []erasure.Evidence{{Attempt: "versions", Before: "succeeded", After: keys.ErrErased.Error()}}, receipt.Proof)
		_, err = b.admin.Versions(t.Context(), id)
		require.ErrorIs(t, err, keys.ErrErased)
	})
}

func TestAGrantAddsToTheProof(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, id := b.enrol(t)
		bob, _ := b.enrol(t)
		recording := b.put(t, alice)
		plan, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)

		// One that never worked proves nothing, so nothing is erased with it.
		e := newErasure(t, b.eraser, b.store, erasure.Options{Operator: operator, Grant: b.grant(t, bob)})
		_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.ErrorIs(t, err, keys.ErrDenied)
		require.NotErrorIs(t, err, erasure.ErrIncomplete)
		require.NoError(t, b.open(t, alice, recording))

		grant, err := b.admin.Issue(t.Context(), alice, keys.GrantOptions{
			TTL: time.Minute, Subject: operator, Purpose: keys.HealthOperations, MaxUses: 3,
		})
		require.NoError(t, err)
		e = newErasure(t, b.eraser, b.store, erasure.Options{Operator: operator, Grant: grant})
		receipt, err := e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.NoError(t, err)
		require.Len(t, receipt.Proof, 3)
		assert.Equal(t, erasure.Evidence{
			Attempt: "unwrap", Recording: recording, Before: "succeeded", After: keys.ErrErased.Error(),
		}, receipt.Proof[2])
	})
}

func TestNothingIsErasedUnlessThePlanStillHolds(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		for name, change := range map[string]func(patient keys.Patient, id keys.RecordingID){
			"a recording put": func(patient keys.Patient, _ keys.RecordingID) { b.put(t, patient) },
			"a recording deleted": func(patient keys.Patient, id keys.RecordingID) {
				require.NoError(t, b.vault(t).Delete(t.Context(), patient, id))
			},
			"the key rotated": func(_ keys.Patient, id keys.RecordingID) { require.NoError(t, b.admin.Rotate(t.Context(), id.KeyID())) },
			"an envelope replaced": func(_ keys.Patient, id keys.RecordingID) {
				text := teststore.Read(t, b.store, objectName(id, "envelope"))
				text[len(text)-1] ^= 1 // of the same size
				teststore.Write(t, b.store, objectName(id, "envelope"), text)
			},
			"media added": func(_ keys.Patient, id keys.RecordingID) {
				teststore.Write(t, b.store, objectName(keys.NewRecordingID(id.KeyID()), "media"), []byte("more"))
			},
			"the patient erased and enrolled anew": func(patient keys.Patient, id keys.RecordingID) {
				// Vault tells times to the second.
				before, err := b.admin.Versions(t.Context(), id.KeyID())
				require.NoError(t, err)
				require.Eventually(t, func() bool { return time.Since(before.Rotated) > 2*time.Second }, 5*time.Second, 50*time.Millisecond)
				require.NoError(t, b.admin.Erase(t.Context(), id.KeyID()))
				_, err = b.admin.Enrol(t.Context(), patient)
				require.NoError(t, err)
			},
		} {
			patient, id := b.enrol(t)
			kept := b.put(t, patient)
			changed := b.put(t, patient)
			e := b.erasure(t)
			plan, err := e.PlanPatient(t.Context(), id)
			require.NoError(t, err)
			change(patient, changed)
			before := b.objects(t, id)
			_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
			require.ErrorIs(t, err, erasure.ErrPlanChanged, name)
			require.NotErrorIs(t, err, erasure.ErrIncomplete, name)
			assert.Equal(t, before, b.objects(t, id), name)
			_, err = b.admin.Versions(t.Context(), id)
			require.NoError(t, err, name)
			if !strings.Contains(name, "anew") {
				require.NoError(t, b.open(t, patient, kept), name)
			}
		}

		patient, id := b.enrol(t)
		kept := b.put(t, patient)
		for _, digest := range []string{"", "0", strings.Repeat("0", 64)} {
			_, err := b.erasure(t).ConfirmPatient(t.Context(), id, digest)
			require.ErrorIs(t, err, erasure.ErrPlanChanged)
			_, err = b.erasure(t).ConfirmRecording(t.Context(), kept, digest)
			require.ErrorIs(t, err, erasure.ErrPlanChanged)
		}
		require.NoError(t, b.open(t, patient, kept))
	})
}

func TestARoleThatMayNotEraseErasesNothing(t *testing.T) {
	b := servers(t)
	patient, id := b.enrol(t)
	recording := b.put(t, patient)
	e := newErasure(t, b.rotator, b.store, erasure.Options{Operator: operator})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NotErrorIs(t, err, erasure.ErrIncomplete)
	require.NoError(t, b.open(t, patient, recording))
	_, err = b.erasure(t).ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
}

func TestPlansOfTheSameAreTheSame(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		recording := b.put(t, patient)
		first, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		second, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, first, second)
		alone, err := b.erasure(t).PlanRecording(t.Context(), recording)
		require.NoError(t, err)
		assert.NotEqual(t, first.Digest, alone.Digest, "a plan for a recording erases no patient")

		text, err := json.Marshal(first)
		require.NoError(t, err)
		assert.NotContains(t, string(text), string(patient))
		var parsed erasure.Plan
		require.NoError(t, json.Unmarshal(text, &parsed))
		assert.Equal(t, first, parsed)
	})
}

// With another keyring's address every patient looks as if never enrolled.
func TestObjectsOfAPatientWhomTheKeyringDoesNotKnowAreLeftAlone(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		id := keys.NewKeyID([]byte("a patient who was never enrolled"))
		name := objectName(keys.NewRecordingID(id), "envelope")
		teststore.Write(t, b.store, name, []byte("precious"))
		_, err := b.erasure(t).PlanPatient(t.Context(), id)
		require.ErrorIs(t, err, keys.ErrNotEnrolled)
		_, err = b.erasure(t).ConfirmPatient(t.Context(), id, "")
		require.ErrorIs(t, err, keys.ErrNotEnrolled)
		assert.Equal(t, []string{name}, b.objects(t, id))
	})
}

func TestWhatAnUploadCommitsAfterAnErasureIsRemovedByTheNext(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		w, err := b.vault(t).Create(t.Context(), patient, vault.Metadata{})
		require.NoError(t, err)
		_, err = w.Write([]byte(content))
		require.NoError(t, err)

		e := b.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
		require.NoError(t, err)
		require.NoError(t, w.Close(), "its key was wrapped before")
		require.ErrorIs(t, b.open(t, patient, w.ID()), keys.ErrErased)

		plan, err = e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, plan.Begun)
		assert.Equal(t, 1, plan.Recordings)
		assert.Zero(t, plan.KeyVersions)
		receipt, err := e.ConfirmPatient(t.Context(), id, "")
		require.NoError(t, err)
		assert.Empty(t, b.objects(t, id))
		assert.True(t, receipt.Resumed)
		assert.Empty(t, receipt.PlanDigest)
		assert.Equal(t, []keys.RecordingID{w.ID()}, receipt.Recordings)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "versions", After: keys.ErrErased.Error()},
			{Attempt: "rewrap", Recording: w.ID(), After: keys.ErrErased.Error()},
		}, receipt.Proof, "nothing is claimed of what was before")
	})
}

func TestAnErasedRecordingIsGoneAndTheReceiptSaysWhatIsNot(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.enrol(t)
		kept, erased := b.put(t, patient), b.put(t, patient)
		copied := teststore.Read(t, b.store, objectName(erased, "envelope"))
		media := teststore.Read(t, b.store, objectName(erased, "media"))
		e := b.erasure(t)
		plan, err := e.PlanRecording(t.Context(), erased)
		require.NoError(t, err)
		assert.Equal(t, erased, plan.Recording)
		assert.Equal(t, 1, plan.Recordings)
		assert.Equal(t, 2, plan.Objects)
		assert.Zero(t, plan.KeyVersions, "the key stays")

		receipt, err := e.ConfirmRecording(t.Context(), erased, plan.Digest)
		require.NoError(t, err)
		require.ErrorIs(t, b.open(t, patient, erased), vault.ErrNotFound)
		require.NoError(t, b.open(t, patient, kept))
		assert.Equal(t, []string{objectName(kept, "envelope"), objectName(kept, "media")}, b.objects(t, id))
		assert.Equal(t, id, receipt.KeyID)
		assert.Equal(t, erased, receipt.Recording)
		assert.Equal(t, []keys.RecordingID{erased}, receipt.Recordings)
		assert.Equal(t, 2, receipt.ObjectsDeleted)
		assert.Equal(t, plan.Bytes, receipt.BytesDeleted)
		assert.Equal(t, plan.Digest, receipt.PlanDigest)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "stat", Recording: erased, Before: "succeeded", After: storage.ErrNotFound.Error()},
		}, receipt.Proof)

		// Run again it finds nothing, and says so.
		receipt, err = e.ConfirmRecording(t.Context(), erased, plan.Digest)
		require.NoError(t, err)
		assert.True(t, receipt.Resumed)
		assert.Empty(t, receipt.Recordings)
		assert.Zero(t, receipt.ObjectsDeleted)
		_, err = e.PlanRecording(t.Context(), erased)
		require.ErrorIs(t, err, vault.ErrNotFound)

		// What the receipt warns of: a copy out of a backup does open.
		assert.Contains(t, receipt.MayRemain[0], "can still be opened")
		teststore.Write(t, b.store, objectName(erased, "envelope"), copied)
		teststore.Write(t, b.store, objectName(erased, "media"), media)
		require.NoError(t, b.open(t, patient, erased))
	})
}

func TestAReceiptThatWasChangedShows(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	b.put(t, patient)
	e := newErasure(t, b.eraser, b.store, erasure.Options{Operator: "Ms. <O'Brien> & Söhne"})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	receipt, err := e.ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
	text, err := json.Marshal(receipt)
	require.NoError(t, err)
	assert.NotContains(t, string(text), string(patient))

	parsed, err := erasure.ParseReceipt(text)
	require.NoError(t, err)
	assert.Equal(t, receipt, parsed)
	var pretty bytes.Buffer
	encoder := json.NewEncoder(&pretty)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	require.NoError(t, encoder.Encode(receipt))
	_, err = erasure.ParseReceipt(pretty.Bytes())
	require.NoError(t, err)

	var fields map[string]any
	require.NoError(t, json.Unmarshal(text, &fields))
	for name := range fields {
		changed := map[string]any{}
		for other, value := range fields {
			changed[other] = value
		}
		delete(changed, name)
		altered, err := json.Marshal(changed)
		require.NoError(t, err)
		if name == "resumed" { // false is what a missing one means
			changed[name] = true
			altered, err = json.Marshal(changed)
			require.NoError(t, err)
		}
		_, err = erasure.ParseReceipt(altered)
		require.ErrorIs(t, err, erasure.ErrDamagedReceipt, name)
	}
	for name, altered := range map[string]string{
		"empty":         "",
		"not JSON":      "receipt",
		"other JSON":    "{}",
		"cut":           string(text[:len(text)-1]),
		"more after":    string(text) + "{}",
		"more within":   strings.Replace(string(text), "{", `{"note":"all good",`, 1),
		"twice":         strings.Replace(string(text), "{", `{"operator":"mallory",`, 1),
		"other case":    strings.Replace(string(text), `"operator"`, `"OPERATOR"`, 1),
		"both cases":    strings.Replace(string(text), "{", `{"OPERATOR":"mallory",`, 1),
		"another order": `{"resumed":false,` + strings.Replace(string(text)[1:], `"resumed":false,`, "", 1),
		"another name":  strings.Replace(string(text), "Brien", "Brian", 1),
		"fewer":         strings.Replace(string(text), `"objects_deleted":2`, `"objects_deleted":1`, 1),
	} {
		require.NotEqual(t, string(text), altered, name)
		_, err = erasure.ParseReceipt([]byte(altered))
		require.ErrorIs(t, err, erasure.ErrDamagedReceipt, name)
	}
}

func TestZeroIDsAreRefused(t *testing.T) {
	e := embedded(t).erasure(t)
	_, err := e.PlanPatient(t.Context(), keys.KeyID{})
	require.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = e.ConfirmPatient(t.Context(), keys.KeyID{}, "")
	require.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = e.PlanRecording(t.Context(), keys.RecordingID{})
	require.ErrorIs(t, err, keys.ErrInvalidRecordingID)
	_, err = e.ConfirmRecording(t.Context(), keys.RecordingID{}, "")
	require.ErrorIs(t, err, keys.ErrInvalidRecordingID)
	_, err = e.SetHold(t.Context(), keys.KeyID{}, "case 7")
	require.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = e.ClearHold(t.Context(), keys.KeyID{}, "case 7")
	require.ErrorIs(t, err, keys.ErrInvalidKeyID)
	_, err = e.Hold(t.Context(), keys.KeyID{})
	require.ErrorIs(t, err, keys.ErrInvalidKeyID)
}

func TestOptionsHaveBounds(t *testing.T) {
	b := embedded(t)
	for name, options := range map[string]erasure.Options{
		"no operator":          {},
		"a blank operator":     {Operator: " "},
		"a line break":         {Operator: "records\noffice"},
		"not UTF-8":            {Operator: "\xff"},
		"an overlong operator": {Operator: strings.Repeat("o", erasure.MaxOperatorLen+1)},
		"a negative timeout":   {Operator: operator, DeleteTimeout: -1},
	} {
		_, err := erasure.New(b.eraser, b.store, options)
		require.ErrorIs(t, err, erasure.ErrInvalidOptions, name)
	}
	_, err := erasure.New(b.eraser, b.store, erasure.Options{Operator: operator, Prefix: "no-slash"})
	require.ErrorIs(t, err, storage.ErrInvalidName)
	patient, _ := b.enrol(t)
	_, err = erasure.New(noUnwrapper{b.eraser}, b.store, erasure.Options{Operator: operator, Grant: b.grant(t, patient)})
	require.ErrorIs(t, err, erasure.ErrInvalidOptions)
	_, err = erasure.New(nil, b.store, erasure.Options{Operator: operator})
	require.Error(t, err)
	_, err = erasure.New(b.eraser, nil, erasure.Options{Operator: operator})
	require.Error(t, err)
	newErasure(t, b.eraser, b.store, erasure.Options{Operator: strings.Repeat("o", erasure.MaxOperatorLen)})
}

// noUnwrapper hides all but what an Erasure must have.
type noUnwrapper struct{ erasure.Keyring }

func TestAPrefixKeepsVaultsApart(t *testing.T) {
	b := embedded(t)
	patient, id := b.enrol(t)
	outside := b.put(t, patient)
	v, err := vault.New(b.writer, b.store, vault.WithPrefix("clinic/"))
	require.NoError(t, err)
	_, err = v.Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
	require.NoError(t, err)
	e := newErasure(t, b.eraser, b.store, erasure.Options{Operator: operator, Prefix: "clinic/"})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, 1, plan.Recordings)
	_, err = e.ConfirmPatient(t.Context(), id, plan.Digest)
	require.NoError(t, err)
	assert.Equal(t, []string{objectName(outside, "envelope"), objectName(outside, "media")}, b.objects(t, id))
	require.ErrorIs(t, b.open(t, patient, outside), keys.ErrErased, "the key is the same")
}
