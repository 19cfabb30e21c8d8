package erasure_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/testdeployment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

func TestAnErasedPatientIsGoneAsTheReceiptSays(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.Enrol(t)
		bob, bobID := d.Enrol(t)
		bobs := d.put(t, bob)
		ids := []keys.RecordingID{d.put(t, alice), d.put(t, alice)}
		require.NoError(t, d.admin.Rotate(t.Context(), aliceID))
		ids = append(ids, d.put(t, alice))
		slices.SortFunc(ids, func(a, b keys.RecordingID) int { return strings.Compare(a.String(), b.String()) })
		teststore.Write(t, d.Store, d.objects.MediaName(keystest.NewRecordingID(aliceID)), []byte("media without an envelope"))
		teststore.Write(t, d.Store, d.objects.Patient(aliceID)+"stray", []byte("of no recording"))
		besides := d.objects.Root() + aliceID.String() + "-not-hers"
		teststore.Write(t, d.Store, besides, []byte("of no patient"))
		copied := teststore.Read(t, d.Store, d.objects.EnvelopeName(ids[0]))
		e := d.erasure(t)

		began := time.Now().Add(-time.Minute) // clocks differ
		plan, err := e.PlanPatient(t.Context(), aliceID)
		require.NoError(t, err)
		assert.Equal(t, aliceID, plan.KeyID)
		assert.Equal(t, 3, plan.Recordings)
		assert.Equal(t, 8, plan.Objects)
		assert.Equal(t, d.bytes(t, aliceID), plan.Bytes)
		assert.Equal(t, 2, plan.KeyVersions.Latest)
		assert.Equal(t, 1, plan.KeyVersions.MinAvailable)
		assert.False(t, plan.Begun)
		assert.Nil(t, plan.Hold)
		assert.True(t, began.Before(plan.Oldest) && !plan.Newest.Before(plan.Oldest), "%v, %v", plan.Oldest, plan.Newest)

		receipt, err := e.ConfirmPatient(t.Context(), aliceID, approve(plan.Digest))
		require.NoError(t, err)
		assert.Empty(t, d.Objects(t, "", aliceID))
		assert.Len(t, d.Objects(t, "", bobID), 2)
		require.NoError(t, d.open(t, bob, bobs))
		assert.Equal(t, "of no patient", string(teststore.Read(t, d.Store, besides)))

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
		assert.Len(t, receipt.MayRemain, 4)
		assert.Contains(t, receipt.MayRemain[3], "copied or reassigned to another patient")

		// An envelope from a backup no longer opens, and nothing can be recorded.
		teststore.Write(t, d.Store, d.objects.EnvelopeName(ids[0]), copied)
		require.ErrorIs(t, d.open(t, alice, ids[0]), keys.ErrErased)
		_, err = d.vault.Put(t.Context(), alice, strings.NewReader(content), vault.Metadata{})
		require.ErrorIs(t, err, keys.ErrErased)

		// With a new key there are new recordings, and the old ones stay closed.
		_, err = d.admin.Enrol(t.Context(), alice)
		require.NoError(t, err)
		require.NoError(t, d.open(t, alice, d.put(t, alice)))
		require.ErrorIs(t, d.open(t, alice, ids[0]), keys.ErrIntegrity)
	})
}

// bytes returns the size of a patient's objects.
func (d *deployment) bytes(t *testing.T, id keys.KeyID) (total int64) {
	t.Helper()
	for object, err := range d.Store.List(t.Context(), d.objects.Patient(id)) {
		require.NoError(t, err)
		total += object.Size
	}
	return total
}

func TestAPatientWithoutRecordingsIsErased(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		_, id := d.Enrol(t)
		e := d.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, plan.Oldest.IsZero())
		receipt, err := e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.NoError(t, err)
		assert.Equal(t, []erasure.Evidence{{Attempt: "versions", Before: "succeeded", After: keys.ErrErased.Error()}}, receipt.Proof)
		_, err = d.admin.Versions(t.Context(), id)
		require.ErrorIs(t, err, keys.ErrErased)
	})
}

func TestAGrantAddsToTheProof(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, id := d.Enrol(t)
		bob, _ := d.Enrol(t)
		recording := d.put(t, alice)
		plan, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)

		// A grant that does not work before proves nothing by failing afterwards. So nothing is erased with it.
		e := newErasure(t, d.eraser, d.Store, erasure.Options{Grant: d.Grant(t, bob)})
		_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.ErrorIs(t, err, keys.ErrDenied)
		require.NotErrorIs(t, err, erasure.ErrIncomplete)
		require.NoError(t, d.open(t, alice, recording))

		grant, err := d.admin.Issue(t.Context(), alice, keys.GrantOptions{
			TTL: time.Minute, Subject: operator, Purpose: keys.HealthOperations, MaxUses: 3,
		})
		require.NoError(t, err)
		e = newErasure(t, d.eraser, d.Store, erasure.Options{Grant: grant})
		receipt, err := e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.NoError(t, err)
		require.Len(t, receipt.Proof, 3)
		assert.Equal(t, erasure.Evidence{
			Attempt: "unwrap", Recording: recording, Before: "succeeded", After: keys.ErrErased.Error(),
		}, receipt.Proof[2])
	})
}

func TestNothingIsErasedAfterThePlanChanged(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, change := range map[string]func(t *testing.T, patient keys.Patient, id keys.RecordingID){
			"a recording put": func(t *testing.T, patient keys.Patient, _ keys.RecordingID) { d.put(t, patient) },
			"a recording deleted": func(t *testing.T, patient keys.Patient, id keys.RecordingID) {
				require.NoError(t, d.vault.Delete(t.Context(), patient, id))
			},
			"the key rotated": func(t *testing.T, _ keys.Patient, id keys.RecordingID) {
				require.NoError(t, d.admin.Rotate(t.Context(), id.KeyID()))
			},
			"an envelope replaced": func(t *testing.T, _ keys.Patient, id keys.RecordingID) {
				text := teststore.Read(t, d.Store, d.objects.EnvelopeName(id))
				text[len(text)-1] ^= 1 // of the same size
				teststore.Write(t, d.Store, d.objects.EnvelopeName(id), text)
			},
			"media added": func(t *testing.T, _ keys.Patient, id keys.RecordingID) {
				teststore.Write(t, d.Store, d.objects.MediaName(keystest.NewRecordingID(id.KeyID())), []byte("more"))
			},
			"the patient enrolled again": func(t *testing.T, patient keys.Patient, id keys.RecordingID) {
				// Vault gives times to the second.
				before, err := d.admin.Versions(t.Context(), id.KeyID())
				require.NoError(t, err)
				require.Eventually(t, func() bool { return time.Since(before.Rotated) > 2*time.Second }, 5*time.Second, 50*time.Millisecond)
				require.NoError(t, d.admin.Erase(t.Context(), id.KeyID()))
				_, err = d.admin.Enrol(t.Context(), patient)
				require.NoError(t, err)
			},
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				kept, changed := d.put(t, patient), d.put(t, patient)
				e := d.erasure(t)
				plan, err := e.PlanPatient(t.Context(), id)
				require.NoError(t, err)
				change(t, patient, changed)
				before := d.Objects(t, "", id)
				_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				require.NotErrorIs(t, err, erasure.ErrIncomplete)
				assert.Equal(t, before, d.Objects(t, "", id))
				_, err = d.admin.Versions(t.Context(), id)
				require.NoError(t, err)
				if name != "the patient enrolled again" {
					require.NoError(t, d.open(t, patient, kept))
				}
			})
		}
		for name, digest := range map[string]string{"no digest": "", "a short digest": "0", "another digest": strings.Repeat("0", 64)} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				kept := d.put(t, patient)
				_, err := d.erasure(t).ConfirmPatient(t.Context(), id, approve(digest))
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				_, err = d.erasure(t).ConfirmRecording(t.Context(), kept, approve(digest))
				require.ErrorIs(t, err, erasure.ErrPlanChanged)
				require.NoError(t, d.open(t, patient, kept))
			})
		}
	})
}

func TestARoleThatMayNotEraseErasesNothing(t *testing.T) {
	d := servers(t)
	patient, id := d.Enrol(t)
	recording := d.put(t, patient)
	e := newErasure(t, d.Keyring(testdeployment.Rotator), d.Store, erasure.Options{})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NotErrorIs(t, err, erasure.ErrIncomplete)
	require.NoError(t, d.open(t, patient, recording))
	_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
}

func TestPlansOfUnchangedObjectsAreEqual(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		recording := d.put(t, patient)
		first, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		second, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, first, second)
		alone, err := d.erasure(t).PlanRecording(t.Context(), recording)
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

// TestAPatientWhoWasNeverEnrolledIsNotErased: to the wrong keyring, every patient looks like one.
func TestAPatientWhoWasNeverEnrolledIsNotErased(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		id := keys.NewKeyID([]byte("a patient who was never enrolled"))
		name := d.objects.EnvelopeName(keystest.NewRecordingID(id))
		teststore.Write(t, d.Store, name, []byte("precious"))
		_, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.ErrorIs(t, err, keys.ErrNotEnrolled)
		_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approve(""))
		require.ErrorIs(t, err, keys.ErrNotEnrolled)
		assert.Equal(t, []string{name}, d.Objects(t, "", id))
	})
}

func TestASecondErasureRemovesWhatAnUploadCommits(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		w, err := d.vault.Create(t.Context(), patient, vault.Metadata{})
		require.NoError(t, err)
		_, err = w.Write([]byte(content))
		require.NoError(t, err)

		e := d.erasure(t)
		plan, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
		require.NoError(t, err)
		require.NoError(t, w.Close(), "its key was wrapped before the erasure")
		require.ErrorIs(t, d.open(t, patient, w.ID()), keys.ErrErased)

		plan, err = e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, plan.Begun)
		assert.Equal(t, 1, plan.Recordings)
		assert.Zero(t, plan.KeyVersions)
		receipt, err := e.ConfirmPatient(t.Context(), id, approve(""))
		require.NoError(t, err)
		assert.Empty(t, d.Objects(t, "", id))
		assert.True(t, receipt.Resumed)
		assert.Empty(t, receipt.PlanDigest)
		assert.Equal(t, []keys.RecordingID{w.ID()}, receipt.Recordings)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "versions", After: keys.ErrErased.Error()},
			{Attempt: "rewrap", Recording: w.ID(), After: keys.ErrErased.Error()},
		}, receipt.Proof, "nothing is claimed about the time before")
	})
}

func TestAnErasedRecordingIsGoneAsTheReceiptSays(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		kept, erased := d.put(t, patient), d.put(t, patient)
		copied := teststore.Read(t, d.Store, d.objects.EnvelopeName(erased))
		media := teststore.Read(t, d.Store, d.objects.MediaName(erased))
		e := d.erasure(t)
		plan, err := e.PlanRecording(t.Context(), erased)
		require.NoError(t, err)
		assert.Equal(t, erased, plan.Recording)
		assert.Equal(t, 1, plan.Recordings)
		assert.Equal(t, 2, plan.Objects)
		assert.Zero(t, plan.KeyVersions, "the key stays")

		receipt, err := e.ConfirmRecording(t.Context(), erased, approve(plan.Digest))
		require.NoError(t, err)
		require.ErrorIs(t, d.open(t, patient, erased), vault.ErrNotFound)
		require.NoError(t, d.open(t, patient, kept))
		assert.Equal(t, []string{d.objects.EnvelopeName(kept), d.objects.MediaName(kept)}, d.Objects(t, "", id))
		assert.Equal(t, id, receipt.KeyID)
		assert.Equal(t, erased, receipt.Recording)
		assert.Equal(t, []keys.RecordingID{erased}, receipt.Recordings)
		assert.Equal(t, 2, receipt.ObjectsDeleted)
		assert.Equal(t, plan.Bytes, receipt.BytesDeleted)
		assert.Equal(t, plan.Digest, receipt.PlanDigest)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "stat", Recording: erased, Before: "succeeded", After: storage.ErrNotFound.Error()},
		}, receipt.Proof)

		// A second run finds nothing, and the receipt says so.
		receipt, err = e.ConfirmRecording(t.Context(), erased, approve(plan.Digest))
		require.NoError(t, err)
		assert.True(t, receipt.Resumed)
		assert.Empty(t, receipt.Recordings)
		assert.Zero(t, receipt.ObjectsDeleted)
		_, err = e.PlanRecording(t.Context(), erased)
		require.ErrorIs(t, err, vault.ErrNotFound)

		// The receipt warns that a copy from a backup can be opened. It can.
		assert.Contains(t, receipt.MayRemain[0], "can still be opened")
		teststore.Write(t, d.Store, d.objects.EnvelopeName(erased), copied)
		teststore.Write(t, d.Store, d.objects.MediaName(erased), media)
		require.NoError(t, d.open(t, patient, erased))
	})
}

func TestAChangedReceiptIsDetected(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	d.put(t, patient)
	e := d.erasure(t)
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	receipt, err := e.ConfirmPatient(t.Context(), id, erasure.Approval{Digest: plan.Digest, Operator: "Ms. <O'Brien> & Söhne"})
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
		t.Run("without "+name, func(t *testing.T) {
			changed := maps.Clone(fields)
			delete(changed, name)
			if name == "resumed" { // a missing one means false
				changed[name] = true
			}
			altered, err := json.Marshal(changed)
			require.NoError(t, err)
			_, err = erasure.ParseReceipt(altered)
			require.ErrorIs(t, err, erasure.ErrDamagedReceipt)
		})
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
		t.Run(name, func(t *testing.T) {
			require.NotEqual(t, string(text), altered)
			_, err := erasure.ParseReceipt([]byte(altered))
			require.ErrorIs(t, err, erasure.ErrDamagedReceipt)
		})
	}
}

func TestZeroIDsAreRefused(t *testing.T) {
	d := embedded(t)
	e := d.erasure(t)
	for name, call := range map[string]func() error{
		"PlanPatient": func() error { _, err := e.PlanPatient(t.Context(), keys.KeyID{}); return err },
		"ConfirmPatient": func() error {
			_, err := e.ConfirmPatient(t.Context(), keys.KeyID{}, approve(""))
			return err
		},
		"Holds.Set":   func() error { _, err := d.holds.Set(t.Context(), keys.KeyID{}, operator, "case 7"); return err },
		"Holds.Clear": func() error { _, err := d.holds.Clear(t.Context(), keys.KeyID{}, operator, "case 7"); return err },
		"Holds.Get":   func() error { _, err := d.holds.Get(t.Context(), keys.KeyID{}); return err },
	} {
		t.Run(name, func(t *testing.T) { require.ErrorIs(t, call(), keys.ErrInvalidKeyID) })
	}
	for name, call := range map[string]func() error{
		"PlanRecording": func() error { _, err := e.PlanRecording(t.Context(), keys.RecordingID{}); return err },
		"ConfirmRecording": func() error {
			_, err := e.ConfirmRecording(t.Context(), keys.RecordingID{}, approve(""))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorIs(t, call(), keys.ErrInvalidRecordingID) })
	}
}

// invalidOperators are names that no operator can have.
var invalidOperators = map[string]string{
	"no operator":          "",
	"a blank operator":     " ",
	"a line break":         "records\noffice",
	"not UTF-8":            "\xff",
	"an overlong operator": strings.Repeat("o", erasure.MaxOperatorLen+1),
}

func TestNothingIsErasedWithoutAnOperator(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		recording := d.put(t, patient)
		e := d.erasure(t)
		whole, err := e.PlanPatient(t.Context(), id)
		require.NoError(t, err)
		alone, err := e.PlanRecording(t.Context(), recording)
		require.NoError(t, err)
		for name, invalid := range invalidOperators {
			t.Run(name, func(t *testing.T) {
				receipt, err := e.ConfirmPatient(t.Context(), id, erasure.Approval{Digest: whole.Digest, Operator: invalid})
				require.ErrorIs(t, err, erasure.ErrInvalidOperator)
				assert.Zero(t, receipt)
				receipt, err = e.ConfirmRecording(t.Context(), recording, erasure.Approval{Digest: alone.Digest, Operator: invalid})
				require.ErrorIs(t, err, erasure.ErrInvalidOperator)
				assert.Zero(t, receipt)
				require.NoError(t, d.open(t, patient, recording))
			})
		}
		require.NoError(t, d.admin.Erase(t.Context(), id))
		_, err = e.ConfirmPatient(t.Context(), id, erasure.Approval{})
		require.ErrorIs(t, err, erasure.ErrInvalidOperator, "an erasure that is finished needs an operator too")
		assert.Len(t, d.Objects(t, "", id), 2)
		longest := strings.Repeat("o", erasure.MaxOperatorLen)
		receipt, err := e.ConfirmPatient(t.Context(), id, erasure.Approval{Operator: longest})
		require.NoError(t, err)
		assert.Equal(t, longest, receipt.Operator)
	})
}

func TestOptionsHaveBounds(t *testing.T) {
	d := embedded(t)
	_, err := erasure.New(d.eraser, d.Store, erasure.Options{DeleteTimeout: -1})
	require.ErrorIs(t, err, erasure.ErrInvalidOptions)
	_, err = erasure.New(d.eraser, d.Store, erasure.Options{Prefix: "no-slash"})
	require.ErrorIs(t, err, storage.ErrInvalidName)
	patient, _ := d.Enrol(t)
	_, err = erasure.New(noUnwrapper{d.eraser}, d.Store, erasure.Options{Grant: d.Grant(t, patient)})
	require.ErrorIs(t, err, erasure.ErrInvalidOptions)
	_, err = erasure.New(nil, d.Store, erasure.Options{})
	require.Error(t, err)
	_, err = erasure.New(d.eraser, nil, erasure.Options{})
	require.Error(t, err)
}

// noUnwrapper hides every method that an Erasure does not need.
type noUnwrapper struct{ erasure.Keyring }

func TestAPrefixKeepsVaultsApart(t *testing.T) {
	d := embedded(t)
	patient, id := d.Enrol(t)
	outside := d.put(t, patient)
	d.Serve(t, "clinic/")
	v, err := vault.New(d.Keyring(testdeployment.Writer), d.Store, vault.WithPrefix("clinic/"))
	require.NoError(t, err)
	_, err = v.Put(t.Context(), patient, strings.NewReader(content), vault.Metadata{})
	require.NoError(t, err)
	e := newErasure(t, d.eraser, d.Store, erasure.Options{Prefix: "clinic/"})
	plan, err := e.PlanPatient(t.Context(), id)
	require.NoError(t, err)
	assert.Equal(t, 1, plan.Recordings)
	_, err = e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
	require.NoError(t, err)
	assert.Equal(t, []string{d.objects.EnvelopeName(outside), d.objects.MediaName(outside)}, d.Objects(t, "", id))
	require.ErrorIs(t, d.open(t, patient, outside), keys.ErrErased, "both prefixes have the same key")
}
