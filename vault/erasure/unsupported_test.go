package erasure_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// knowsLabels is a keyring that recognises wrapped keys of another kind of keyring, whether or not the envelope key
// still exists.
type knowsLabels struct{ erasure.Keyring }

func (k knowsLabels) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	for _, item := range items {
		if strings.HasPrefix(string(item.Wrapped), "kms:") {
			return slices.Repeat([]keys.RewrapResult{{Err: fmt.Errorf("rewrap: %w", keys.ErrUnsupported)}}, len(items)), nil
		}
	}
	return k.Keyring.Rewrap(ctx, id, items)
}

// unsupport makes one recording one of another version of the format, and another one of another kind of keyring.
func (d *deployment) unsupport(t *testing.T, otherVersion, otherKeyring vault.ID) {
	t.Helper()
	teststore.Write(t, d.Store, d.objects.EnvelopeName(otherVersion), []byte(`{"version":2,"keys":{}}`))
	sealed, err := envelope.Parse(teststore.Read(t, d.Store, d.objects.EnvelopeName(otherKeyring)))
	require.NoError(t, err)
	sealed.WrappedKey = keys.NewWrappedKey("kms", 1, []byte("a recording key"))
	sealed.WrappedMetadataKey = keys.NewWrappedKey("kms", 1, []byte("a metadata key"))
	teststore.Write(t, d.Store, d.objects.EnvelopeName(otherKeyring), sealed.Encode())
}

func TestAnErasureRemovesUnsupportedRecordings(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		for name, c := range map[string]struct {
			recordings int
			resumed    bool
		}{
			"beside another":          {3, false},
			"alone":                   {2, false},
			"beside another, resumed": {3, true},
			"alone, resumed":          {2, true},
		} {
			t.Run(name, func(t *testing.T) {
				patient, id := d.Enrol(t)
				var ids []vault.ID
				for range c.recordings {
					ids = append(ids, d.put(t, patient))
				}
				slices.SortFunc(ids, func(a, b vault.ID) int { return strings.Compare(a.String(), b.String()) })
				d.unsupport(t, ids[0], ids[1]) // the first ones that could be a sample
				e := newErasure(t, knowsLabels{d.eraser}, d.Store, erasure.Options{})
				if c.resumed {
					require.NoError(t, d.admin.Erase(t.Context(), id))
				}
				plan, err := e.PlanPatient(t.Context(), id)
				require.NoError(t, err)
				assert.Equal(t, c.recordings, plan.Recordings)
				receipt, err := e.ConfirmPatient(t.Context(), id, approve(plan.Digest))
				require.NoError(t, err)
				assert.Empty(t, d.Objects(t, "", id))
				assert.Equal(t, ids, receipt.Recordings)
				before := "succeeded"
				if c.resumed {
					before = ""
				}
				want := []erasure.Evidence{{Attempt: "versions", Before: before, After: keys.ErrErased.Error()}}
				if c.recordings == 3 {
					want = append(want, erasure.Evidence{Attempt: "rewrap", Recording: ids[2], Before: before, After: keys.ErrErased.Error()})
				}
				assert.Equal(t, want, receipt.Proof)
			})
		}
	})
}

func TestAnUnsupportedRecordingIsErasedAlone(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		patient, id := d.Enrol(t)
		kept, otherVersion, otherKeyring := d.put(t, patient), d.put(t, patient), d.put(t, patient)
		d.unsupport(t, otherVersion, otherKeyring)
		for _, recording := range []vault.ID{otherVersion, otherKeyring} {
			plan, err := d.erasure(t).PlanRecording(t.Context(), recording)
			require.NoError(t, err)
			receipt, err := d.erasure(t).ConfirmRecording(t.Context(), recording, approve(plan.Digest))
			require.NoError(t, err)
			assert.Equal(t, []keys.RecordingID{recording}, receipt.Recordings)
		}
		assert.Equal(t, []string{d.objects.EnvelopeName(kept), d.objects.MediaName(kept)}, d.Objects(t, "", id))
		require.NoError(t, d.open(t, patient, kept))
	})
}

// TestACopyOutlivesTheErasure: the receipt warns that whoever can open the other patient's copy can decrypt old copies of
// what was erased.
func TestACopyOutlivesTheErasure(t *testing.T) {
	onEach(t, func(t *testing.T, d *deployment) {
		alice, aliceID := d.Enrol(t)
		bob, _ := d.Enrol(t)
		original := d.put(t, alice)
		copied, err := d.vault.Copy(t.Context(), d.Grant(t, alice), original, bob)
		require.NoError(t, err)
		old := teststore.Read(t, d.Store, d.objects.MediaName(original))

		alone, err := d.erasure(t).PlanRecording(t.Context(), original)
		require.NoError(t, err)
		receipt, err := d.erasure(t).ConfirmRecording(t.Context(), original, approve(alone.Digest))
		require.NoError(t, err)
		assert.Contains(t, receipt.MayRemain[len(receipt.MayRemain)-1], "copied or reassigned to another patient")

		plan, err := d.erasure(t).PlanPatient(t.Context(), aliceID)
		require.NoError(t, err)
		receipt, err = d.erasure(t).ConfirmPatient(t.Context(), aliceID, approve(plan.Digest))
		require.NoError(t, err)
		assert.Contains(t, receipt.MayRemain[len(receipt.MayRemain)-1], "copied or reassigned to another patient")

		require.NoError(t, d.open(t, bob, copied))
		teststore.Write(t, d.Store, d.objects.MediaName(copied), old) // from a backup of the erased one
		require.NoError(t, d.open(t, bob, copied))
	})
}
