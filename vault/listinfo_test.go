package vault_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

func TestListInfoDescribesTheNewestFirst(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		b.put(t, bob, []byte("Bob's"))
		writer := b.vaultOf(t, b.writer)
		day := func(n int) time.Time { return time.Date(2020, 6, n, 0, 0, 0, 0, time.UTC) }
		put := func(title string, recorded time.Time) vault.ID {
			id, err := writer.Put(t.Context(), alice, strings.NewReader(title), vault.Metadata{Title: title, RecordedAt: recorded})
			require.NoError(t, err)
			return id
		}
		damaged, later := put("damaged", day(30)), put("of a later release", day(29))
		teststore.Write(t, b.Store, objectName(damaged, "envelope"), []byte("not an envelope"))
		teststore.Write(t, b.Store, objectName(later, "envelope"), []byte(`{"version":2,"shape":"unknown"}`))
		put("second", day(2))
		put("third", day(1))
		put("now", time.Time{}) // dated by when it was committed

		grant := b.Grant(t, alice)
		listed, err := b.vaultOf(t, b.server).ListInfo(t.Context(), grant)
		require.NoError(t, err)
		require.Len(t, listed, 5)
		for i, title := range []string{"now", "second", "third"} {
			assert.Equal(t, title, listed[i].Info.Title)
			assert.Equal(t, listed[i].Entry.ID, listed[i].Info.ID)
			assert.NoError(t, listed[i].Err)
		}
		failed := map[vault.ID]error{listed[3].ID: listed[3].Err, listed[4].ID: listed[4].Err}
		assert.ErrorIs(t, failed[damaged], vault.ErrDamaged)
		assert.ErrorIs(t, failed[later], vault.ErrUnsupported)

		describer, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{
			TTL: time.Minute, Subject: "portal", Purpose: keys.PatientRequest, DescribeOnly: true,
		})
		require.NoError(t, err)
		described, err := b.vaultOf(t, b.server).ListInfo(t.Context(), describer)
		require.NoError(t, err)
		assert.Equal(t, titles(listed), titles(described), "a grant that can only describe is enough")
	})
}

func titles(listed []vault.Described) (titles []string) {
	for _, d := range listed {
		titles = append(titles, d.Info.Title)
	}
	return titles
}

func TestListInfoByPageMissesNothing(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	want := map[vault.ID]bool{}
	for range 7 {
		want[b.put(t, alice, []byte("x"))] = true
	}
	v, grant := b.vaultOf(t, b.server), b.Grant(t, alice)
	got := map[vault.ID]bool{}
	var after vault.ID
	for pages := 1; ; pages++ {
		page, err := v.ListInfo(t.Context(), grant, vault.WithPage(after, 3))
		require.NoError(t, err)
		if len(page) == 0 {
			assert.Equal(t, 4, pages)
			break
		}
		for _, d := range page {
			assert.Greater(t, d.ID.String(), after.String())
			after, got[d.ID] = d.ID, true
		}
	}
	assert.Equal(t, want, got)
}

// TestListInfoStopsAtWhatIsNotARecordingsFault: a keyring that is away, and a grant that ended, are about all of them.
func TestListInfoStopsAtWhatIsNotARecordingsFault(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		for range 3 {
			b.put(t, alice, []byte("x"))
		}
		grant := b.Grant(t, alice)
		require.NoError(t, b.server.RevokeSelf(t.Context(), grant))
		listed, err := b.vaultOf(t, b.server).ListInfo(t.Context(), grant)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		assert.Nil(t, listed)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.vaultOf(t, b.server).ListInfo(ctx, b.Grant(t, alice))
		require.ErrorIs(t, err, context.Canceled)
	})
}

// Without a recording, the grant decides all the same.
func TestListInfoOfNothingPresentsTheGrant(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		var all []events.Event
		stream := events.New(func(e events.Event) error {
			all = append(all, e)
			return nil
		})
		v := b.vaultOf(t, b.server, vault.WithEvents(stream))
		grant := b.Grant(t, alice)
		listed, err := v.ListInfo(t.Context(), grant)
		require.NoError(t, err)
		assert.Empty(t, listed)
		_, err = v.ListInfo(t.Context(), keys.NewGrant(grant.Details(), b.Grant(t, bob).Token()))
		require.ErrorIs(t, err, keys.ErrDenied)
		require.NoError(t, b.server.RevokeSelf(t.Context(), grant))
		_, err = v.ListInfo(t.Context(), grant)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		require.NoError(t, stream.Flush(t.Context()))
		require.Len(t, all, 3)
		for i, kind := range []events.Kind{events.Listed, events.Refused, events.Refused} {
			assert.Equal(t, kind, all[i].Kind)
			assert.Equal(t, grant.KeyID(), all[i].KeyID)
		}

		id := b.put(t, alice, []byte("x"))
		limited, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{
			TTL: time.Minute, Subject: "dr-lee", Purpose: keys.Treatment, MaxUses: 1,
		})
		require.NoError(t, err)
		page, err := v.ListInfo(t.Context(), limited, vault.WithPage(vault.ID{}, 1))
		require.NoError(t, err)
		assert.Len(t, page, 1)
		page, err = v.ListInfo(t.Context(), limited, vault.WithPage(id, 1))
		require.NoError(t, err, "the end of the pages takes no use")
		assert.Empty(t, page)
	})
}

// sideBySide is a keyring whose Unwrap waits until several are under way.
type sideBySide struct {
	vault.Keyring
	waiting atomic.Int64
	enough  chan struct{}
}

func (k *sideBySide) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	if k.waiting.Add(1) == 8 {
		close(k.enough)
	}
	select {
	case <-k.enough:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return k.Keyring.Unwrap(ctx, grant, binding, wrapped)
}

func TestListInfoDescribesSideBySide(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	for range 8 {
		b.put(t, alice, []byte("x"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listed, err := b.vaultOf(t, &sideBySide{Keyring: b.server, enough: make(chan struct{})}).ListInfo(ctx, b.Grant(t, alice))
	require.NoError(t, err)
	assert.Len(t, listed, 8)
}
