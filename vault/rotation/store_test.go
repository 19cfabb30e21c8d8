package rotation_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// TestRetireAndTrimRefuseAnotherPrefix: the recordings that need the old versions lie under the keyring's own prefix.
func TestRetireAndTrimRefuseAnotherPrefix(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		patient, id := b.Enrol(t)
		kept := b.put(t, patient, 100)
		require.NoError(t, b.admin.Rotate(t.Context(), id))
		moved := b.put(t, patient, 100)
		before, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		b.waitForGrace(t, id)

		teststore.Write(t, b.store, "none/"+objectName(moved.id, "envelope"), teststore.Read(t, b.store, objectName(moved.id, "envelope")))
		teststore.Write(t, b.store, "other/"+objectName(moved.id, "envelope"), teststore.Read(t, b.store, objectName(moved.id, "envelope")))
		teststore.Write(t, b.store, "other/store-id", []byte(keys.NewStoreID()))
		for _, prefix := range []string{"none/", "other/"} {
			for name, verb := range map[string]struct {
				keyring rotation.Keyring
				run     func(*rotation.Rotation, context.Context, scope.Scope) (rotation.Report, error)
			}{
				"retire": {b.retirer, (*rotation.Rotation).Retire},
				"trim":   {b.trimmer, (*rotation.Rotation).Trim},
			} {
				for _, dryRun := range []bool{false, true} {
					t.Run(prefix+name, func(t *testing.T) {
						options := hasty()
						options.Prefix, options.DryRun = prefix, dryRun
						report, err := verb.run(b.rotation(t, verb.keyring, options), t.Context(), scope.All())
						require.ErrorIs(t, err, keys.ErrForeignStore)
						assert.Zero(t, report.Patients.Seen)
					})
				}
			}
		}
		after, err := b.admin.Versions(t.Context(), id)
		require.NoError(t, err)
		assert.Equal(t, before.MinDecryption, after.MinDecryption)
		assert.Equal(t, before.MinAvailable, after.MinAvailable)
		b.requireOpens(t, kept)
	})
}
