package vault_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestACopyOpensForBothPatients(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		data := random(t, 300_000)
		id := b.put(t, alice, data)
		v := b.vaultOf(t, b.writerAndReader())
		copied, err := v.Copy(t.Context(), b.Grant(t, alice), id, bob)
		require.NoError(t, err)
		assert.Equal(t, id.Rec(), copied.Rec(), "one key, one name")
		for patient, id := range map[keys.Patient]vault.ID{alice: id, bob: copied} {
			got, err := b.open(t, b.Grant(t, patient), id)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data, got))
		}
		_, err = b.open(t, b.Grant(t, alice), copied)
		require.ErrorIs(t, err, keys.ErrDenied)
		info, err := v.Stat(t.Context(), b.Grant(t, bob), copied)
		require.NoError(t, err)
		assert.Empty(t, info.Title, "it may name the first patient")
		assert.Empty(t, info.Attributes)
		assert.Equal(t, "video/webm", info.ContentType)
		assert.Equal(t, metadata().RecordedAt, info.RecordedAt)

		_, err = v.Copy(t.Context(), b.Grant(t, alice), id, bob)
		require.ErrorIs(t, err, storage.ErrExists)
		_, err = v.Copy(t.Context(), b.Grant(t, bob), id, bob)
		require.ErrorIs(t, err, keys.ErrDenied, "bob's grant is no grant for alice's recording")
		_, err = v.Copy(t.Context(), b.Grant(t, alice), id, "nobody")
		require.ErrorIs(t, err, keys.ErrNotEnrolled)
		_, err = v.Copy(t.Context(), b.Grant(t, alice), id, alice)
		require.ErrorIs(t, err, keys.ErrInvalidPatient)
	})
}

func TestReassignMovesARecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		for _, c := range []struct {
			name    string
			options []vault.CopyOption
			sameRec bool
			title   string
		}{
			{"with its key", nil, true, ""},
			{"with its description", []vault.CopyOption{vault.WithDescription()}, true, "Follow-up"},
			{"with a new key", []vault.CopyOption{vault.WithNewKey(), vault.WithDescription()}, false, "Follow-up"},
		} {
			t.Run(c.name, func(t *testing.T) {
				data := random(t, 100_000)
				id := b.put(t, alice, data)
				v := b.vaultOf(t, b.writerAndReader())
				clearHold := b.hold(t, id.KeyID())
				_, err := v.Reassign(t.Context(), b.Grant(t, alice), id, bob, c.options...)
				require.ErrorIs(t, err, vault.ErrHeld)
				clearHold()
				moved, err := v.Reassign(t.Context(), b.Grant(t, alice), id, bob, c.options...)
				require.NoError(t, err)
				assert.Equal(t, c.sameRec, id.Rec() == moved.Rec())
				_, err = b.open(t, b.Grant(t, alice), id)
				require.ErrorIs(t, err, vault.ErrNotFound)
				got, err := b.open(t, b.Grant(t, bob), moved)
				require.NoError(t, err)
				assert.True(t, bytes.Equal(data, got))
				info, err := v.Stat(t.Context(), b.Grant(t, bob), moved)
				require.NoError(t, err)
				assert.Equal(t, c.title, info.Title)
			})
		}
	})
}

func TestReassignInterruptedAtAnyCallFinishes(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	o, err := objects.New(b.Store, "")
	require.NoError(t, err)
	teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
		data := random(t, 100_000)
		id := b.put(t, alice, data)
		v, err := vault.New(b.writer, f.Store(b.Store), vault.WithKeyCache(0, 1))
		require.NoError(t, err)
		_, _ = v.Reassign(ctx, b.Grant(t, alice), id, bob)

		moved, err := b.vaultOf(t, b.writer).Reassign(t.Context(), b.Grant(t, alice), id, bob)
		if errors.Is(err, storage.ErrExists) { // it used media that the interrupted run had left
			moved, err = b.vaultOf(t, b.writer).Reassign(t.Context(), b.Grant(t, alice), id, bob)
		}
		require.NoError(t, err)
		got, err := b.open(t, b.Grant(t, bob), moved)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
		found, err := o.Find(t.Context(), id)
		require.NoError(t, err)
		require.Nil(t, found.Envelope)
	})
}

func TestCopyInterruptedAtAnyCallFinishes(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	bobID, err := b.admin.KeyID(t.Context(), bob)
	require.NoError(t, err)
	teststore.EachFault(t, func(ctx context.Context, f *teststore.Fault) {
		data := random(t, 100_000)
		id := b.put(t, alice, data)
		v, err := vault.New(b.writer, f.Store(b.Store), vault.WithKeyCache(0, 1))
		require.NoError(t, err)
		_, _ = v.Copy(ctx, b.Grant(t, alice), id, bob)

		copied, err := b.vaultOf(t, b.writer).Copy(t.Context(), b.Grant(t, alice), id, bob)
		if errors.Is(err, storage.ErrExists) {
			copied, err = vault.ParseID(bobID.String() + "." + id.Rec())
		}
		require.NoError(t, err)
		for patient, id := range map[keys.Patient]vault.ID{alice: id, bob: copied} {
			got, err := b.open(t, b.Grant(t, patient), id)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
		}
	})
}

func TestReassignKeepsTheMetadataOfACopy(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("for both"))
		v := b.vaultOf(t, b.writerAndReader())
		copied, err := v.Copy(t.Context(), b.Grant(t, alice), id, bob)
		require.NoError(t, err)
		_, err = v.Update(t.Context(), b.Grant(t, bob), copied, func(m *vault.Metadata) error {
			m.Title = "Bob's own words"
			return nil
		})
		require.NoError(t, err)
		moved, err := v.Reassign(t.Context(), b.Grant(t, alice), id, bob, vault.WithDescription())
		require.NoError(t, err)
		assert.Equal(t, copied, moved)
		info, err := v.Stat(t.Context(), b.Grant(t, bob), moved)
		require.NoError(t, err)
		assert.Equal(t, "Bob's own words", info.Title)
		assert.EqualValues(t, 1, info.Revision)
	})
}

// TestReassignKeepsTheOriginalOfMediaThatWasThere: another process may be about to remove that media.
func TestReassignKeepsTheOriginalOfMediaThatWasThere(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		data := random(t, 100_000)
		id := b.put(t, alice, data)
		target := ofPatient(t, b.Grant(t, bob).KeyID(), id)
		teststore.Write(t, b.Store, objectName(target, "media"), teststore.Read(t, b.Store, objectName(id, "media")))
		v := b.vaultOf(t, b.writerAndReader())
		moved, err := v.Reassign(t.Context(), b.Grant(t, alice), id, bob)
		require.ErrorIs(t, err, storage.ErrExists)
		assert.Equal(t, target, moved)
		for patient, id := range map[keys.Patient]vault.ID{alice: id, bob: moved} {
			got, err := b.open(t, b.Grant(t, patient), id)
			require.NoError(t, err)
			assert.True(t, bytes.Equal(data, got))
		}
		_, err = v.Reassign(t.Context(), b.Grant(t, alice), id, bob)
		require.NoError(t, err)
		_, err = b.open(t, b.Grant(t, alice), id)
		require.ErrorIs(t, err, vault.ErrNotFound)
	})
}

// ofPatient returns the ID that a recording's key has as another patient's.
func ofPatient(t *testing.T, keyID keys.KeyID, id vault.ID) vault.ID {
	t.Helper()
	other, err := vault.ParseID(keyID.String() + "." + id.Rec())
	require.NoError(t, err)
	return other
}

func TestDamagedMediaInACopysPlaceIsNotUsed(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, random(t, 100_000))
	target := ofPatient(t, b.Grant(t, bob).KeyID(), id)
	media := teststore.Read(t, b.Store, objectName(id, "media"))
	problems, stream := problems()
	v := b.vaultOf(t, b.writer, vault.WithEvents(stream))
	for _, at := range []int{0, 39, 40, 70_000 % 65_536} {
		changed := bytes.Clone(media)
		changed[at] ^= 1
		teststore.Write(t, b.Store, objectName(target, "media"), changed)
		_, err := v.Reassign(t.Context(), b.Grant(t, alice), id, bob)
		require.ErrorIs(t, err, vault.ErrDamaged, "byte %d", at)
		assert.ErrorContains(t, err, "the copy "+target.String())
	}
	require.NoError(t, v.Close())
	assert.Empty(t, *problems, "the original is not damaged")
	_, err := b.open(t, b.Grant(t, alice), id)
	require.NoError(t, err)
}

// TestAChangeDuringACopyIsNotLost changes or deletes the original while its media is copied.
func TestAChangeDuringACopyIsNotLost(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	whole := b.vaultOf(t, b.writer)
	for name, move := range map[string]func(*vault.Vault, vault.ID) (vault.ID, error){
		"rekey": func(v *vault.Vault, id vault.ID) (vault.ID, error) {
			return v.Rekey(t.Context(), b.Grant(t, alice), id)
		},
		"reassign": func(v *vault.Vault, id vault.ID) (vault.ID, error) {
			return v.Reassign(t.Context(), b.Grant(t, alice), id, bob)
		},
		"reassign with a new key": func(v *vault.Vault, id vault.ID) (vault.ID, error) {
			return v.Reassign(t.Context(), b.Grant(t, alice), id, bob, vault.WithNewKey())
		},
	} {
		for _, c := range []struct {
			name   string
			change func(id vault.ID) error
			want   error
		}{
			{"updated", func(id vault.ID) error {
				_, err := whole.Update(t.Context(), b.Grant(t, alice), id, func(m *vault.Metadata) error {
					m.Title = "Corrected"
					return nil
				})
				return err
			}, storage.ErrChanged},
			{"deleted", func(id vault.ID) error { return whole.Delete(t.Context(), alice, id) }, vault.ErrNotFound},
		} {
			t.Run(name+", "+c.name, func(t *testing.T) {
				id := b.put(t, alice, random(t, 100_000))
				before := len(teststore.Names(t, b.Store, "recordings/"))
				var once sync.Once
				store := &hookedStore{Store: b.Store, afterPut: func(name string) {
					if strings.HasSuffix(name, "/media") {
						once.Do(func() { assert.NoError(t, c.change(id)) })
					}
				}}
				v, err := vault.New(b.writer, store)
				require.NoError(t, err)
				moved, err := move(v, id)
				require.ErrorIs(t, err, c.want)
				assert.True(t, moved.IsZero())
				if c.want != storage.ErrChanged {
					assert.Len(t, teststore.Names(t, b.Store, "recordings/"), before-2, "no copy is left")
					return
				}
				assert.Len(t, teststore.Names(t, b.Store, "recordings/"), before, "no copy is left")
				info, err := whole.Stat(t.Context(), b.Grant(t, alice), id)
				require.NoError(t, err)
				assert.Equal(t, "Corrected", info.Title)
			})
		}
	}
}

// TestCopyWithoutTheWritersRoleIsNoAlarm: the grant was not refused.
func TestCopyWithoutTheWritersRoleIsNoAlarm(t *testing.T) {
	b := servers(t)
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, []byte("Alice's"))
	problems, stream := problems()
	v := b.vaultOf(t, b.server, vault.WithEvents(stream))
	_, err := v.Copy(t.Context(), b.Grant(t, alice), id, bob)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NoError(t, v.Close())
	assert.Empty(t, *problems)
}
