package vault

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
)

// suspended is a store on a machine that is suspended while an envelope is written, or before.
type suspended struct {
	storage.Store
	before func(name string)
	during func()
}

func (s *suspended) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	if s.before != nil && strings.HasSuffix(name, "/envelope") {
		s.before(name)
	}
	info, err := s.Store.Put(ctx, name, r, size, condition)
	if strings.HasSuffix(name, "/envelope") {
		s.during()
	}
	return info, err
}

func TestALateEnvelopeIsReplacedByAFreshOne(t *testing.T) {
	const patient = keys.Patient("NHS 943 476 5919")
	folder := t.TempDir()
	keyring, err := local.Open(filepath.Join(folder, "keys"), local.Options{})
	require.NoError(t, err)
	keyID, err := keyring.Enrol(t.Context(), patient)
	require.NoError(t, err)
	store, err := dir.Open(filepath.Join(folder, "store"))
	require.NoError(t, err)

	for name, c := range map[string]struct {
		late                  bool
		writes, newerVersions int
	}{
		"in time":  {late: false, writes: 1, newerVersions: 0},
		"too late": {late: true, writes: 3, newerVersions: 2},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			writes := 0
			machine := &suspended{Store: store}
			v, err := New(keyring, machine, WithFreshness(time.Minute), WithCommitTimeout(time.Second))
			require.NoError(t, err)
			v.now = func() time.Time { return now }
			machine.during = func() {
				if writes++; writes > 2 || !c.late {
					return
				}
				// The writer's machine sleeps. A rotation passes, and its grace period.
				now = now.Add(time.Hour)
				require.NoError(t, keyring.Rotate(t.Context(), keyID))
			}
			before, err := keyring.Versions(t.Context(), keyID)
			require.NoError(t, err)

			id, err := v.Put(t.Context(), patient, strings.NewReader("x"), Metadata{ContentType: "video/webm"})
			require.NoError(t, err)
			stored, err := v.objects.Envelope(t.Context(), id)
			require.NoError(t, err)
			version, err := stored.WrappedKey.Version()
			require.NoError(t, err)
			assert.Equal(t, c.writes, writes)
			assert.Equal(t, before.Latest+c.newerVersions, version)
			grant, err := keyring.Issue(t.Context(), patient, keys.GrantOptions{TTL: time.Minute, Subject: "x", Purpose: keys.Treatment})
			require.NoError(t, err)
			r, err := v.Open(t.Context(), grant, id)
			require.NoError(t, err)
			require.NoError(t, r.Close())
		})
	}
}

func TestACommitAfterASweepIsNoRecording(t *testing.T) {
	const patient = keys.Patient("NHS 943 476 5919")
	folder := t.TempDir()
	keyring, err := local.Open(filepath.Join(folder, "keys"), local.Options{})
	require.NoError(t, err)
	_, err = keyring.Enrol(t.Context(), patient)
	require.NoError(t, err)
	store, err := dir.Open(filepath.Join(folder, "store"))
	require.NoError(t, err)

	for name, swept := range map[string]bool{"the media was swept": true, "the media is there": false} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			slept := false
			machine := &suspended{Store: store, during: func() {}}
			machine.before = func(envelope string) {
				if slept {
					return
				}
				slept, now = true, now.Add(25*time.Hour) // longer than a sweep waits
				if swept {
					require.NoError(t, store.Delete(t.Context(), strings.TrimSuffix(envelope, "envelope")+"media"))
				}
			}
			v, err := New(keyring, machine)
			require.NoError(t, err)
			v.now = func() time.Time { return now }
			id, err := v.Put(t.Context(), patient, strings.NewReader("x"), Metadata{})
			if !swept {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrAborted)
			require.True(t, id.IsZero())
			keyID, err := keyring.KeyID(t.Context(), patient)
			require.NoError(t, err)
			for entry, err := range v.ListByKeyID(t.Context(), keyID) {
				require.NoError(t, err)
				assert.NotEqual(t, int64(-1), entry.Size, "an envelope without media")
			}
		})
	}
}
