package erasure_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault/erasure"
)

func TestAResumedErasureHasTheProofFromBefore(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, id := d.Enrol(t)
		recording := d.put(t, alice)
		plan, err := d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		full := errors.New("the disk is full")
		approval := approve(plan.Digest)
		approval.Begin = func(erasure.Beginning) error { return full }
		_, err = d.erasure(t).ConfirmPatient(t.Context(), id, approval)
		assert.ErrorIs(t, err, full)
		assert.NotErrorIs(t, err, erasure.ErrIncomplete)
		require.NoError(t, d.open(t, alice, recording), "nothing is destroyed")

		var kept []byte
		approval.Begin = func(b erasure.Beginning) error {
			require.NoError(t, d.open(t, alice, recording), "nothing is destroyed yet")
			kept, err = json.Marshal(b)
			return err
		}
		_, err = newErasure(t, d.eraser, undeletable{d.Store}, erasure.Options{}).ConfirmPatient(t.Context(), id, approval)
		require.ErrorIs(t, err, erasure.ErrIncomplete)

		var earlier erasure.Beginning
		require.NoError(t, json.Unmarshal(kept, &earlier))
		approval = approve("")
		approval.Earlier = &earlier
		_, other := d.Enrol(t)
		_, err = d.erasure(t).ConfirmPatient(t.Context(), other, approval)
		assert.ErrorIs(t, err, erasure.ErrInvalidOptions, "of another patient")
		receipt, err := d.erasure(t).ConfirmPatient(t.Context(), id, approval)
		require.NoError(t, err)
		assert.True(t, receipt.Resumed)
		assert.Equal(t, plan.Digest, receipt.PlanDigest)
		assert.Equal(t, plan.KeyVersions, receipt.KeyVersions)
		assert.Equal(t, []erasure.Evidence{
			{Attempt: "versions", Before: "succeeded", After: keys.ErrErased.Error()},
			{Attempt: "rewrap", Recording: recording, Before: "succeeded", After: keys.ErrErased.Error()},
		}, receipt.Proof)

		plan, err = d.erasure(t).PlanPatient(t.Context(), id)
		require.NoError(t, err)
		assert.True(t, plan.Finished)
	})
}

// undeletable is a store that deletes nothing.
type undeletable struct{ storage.Store }

func (undeletable) Delete(context.Context, string) error { return storage.ErrUnavailable }
