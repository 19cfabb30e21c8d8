package objects_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/layout"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault/scope"
)

func TestWalkYieldsEveryRecordingOnceWhateverLiesBeside(t *testing.T) {
	l, err := layout.New("clinic/")
	require.NoError(t, err)
	store, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	put := func(name string) {
		_, err := store.Put(t.Context(), name, bytes.NewReader([]byte("x")), 1, storage.Condition{})
		require.NoError(t, err)
	}
	patient := func(first byte) keys.KeyID {
		return keys.NewKeyID(bytes.Repeat([]byte{first}, keys.KeyIDBytes))
	}
	whole := keys.NewRecordingID(patient(0))
	orphan := keys.NewRecordingID(patient(0))
	bare := keys.NewRecordingID(patient(255))
	strays := []string{
		l.Root() + "README", l.Root() + "x/y/media", strings.TrimSuffix(l.Media(whole), "media") + "index",
		l.Media(bare) + "/envelope", l.Patient(patient(7)) + "envelope",
	}
	for _, name := range append(strays, l.Envelope(whole), l.Media(whole), l.Media(orphan), l.Envelope(bare), layout.Hold(patient(0)), "r1/elsewhere") {
		put(name)
	}

	walk := func(s scope.Scope) (found map[keys.RecordingID]layout.Item, stray []string) {
		found = map[keys.RecordingID]layout.Item{}
		for item, err := range l.Walk(t.Context(), store, s) {
			require.NoError(t, err)
			if item.Stray != nil {
				stray = append(stray, item.Stray.Name)
				continue
			}
			assert.NotContains(t, found, item.ID)
			found[item.ID] = item
		}
		return found, stray
	}
	found, stray := walk(scope.All())
	assert.ElementsMatch(t, strays, stray)
	require.Len(t, found, 3)
	assert.Equal(t, l.Envelope(whole), found[whole].Envelope.Name)
	assert.Equal(t, l.Media(whole), found[whole].Media.Name)
	assert.Nil(t, found[orphan].Envelope)
	assert.Nil(t, found[bare].Media)

	found, _ = walk(scope.Of(patient(0)))
	assert.Len(t, found, 2)
	for i := range 4 {
		shard, err := scope.Shard(i, 4)
		require.NoError(t, err)
		found, _ = walk(shard)
		for id := range found {
			assert.True(t, shard.Contains(id.KeyID()))
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range l.Walk(ctx, store, scope.All()) {
		assert.ErrorIs(t, err, context.Canceled)
	}
	for range l.Walk(t.Context(), store, scope.All()) {
		break
	}
}

func TestAHoldHasOneNameAndEndsWhenItsObjectIsEmpty(t *testing.T) {
	store, err := dir.Open(t.TempDir())
	require.NoError(t, err)
	id := keys.NewKeyID(make([]byte, keys.KeyIDBytes))
	assert.Equal(t, "holds/"+id.String(), layout.Hold(id))
	for _, step := range []struct {
		text string
		held bool
	}{{"{}", true}, {"", false}, {" ", true}} {
		_, err := store.Put(t.Context(), layout.Hold(id), strings.NewReader(step.text), int64(len(step.text)), storage.Condition{})
		require.NoError(t, err)
		hold, err := layout.Held(t.Context(), store, id)
		require.NoError(t, err)
		assert.Equal(t, step.held, hold != nil, "%q", step.text)
	}
	require.NoError(t, store.Delete(t.Context(), layout.Hold(id)))
	hold, err := layout.Held(t.Context(), store, id)
	require.NoError(t, err)
	assert.Nil(t, hold)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = layout.Held(ctx, store, id)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestPrefixesThatNameNothingAreRefused(t *testing.T) {
	for _, prefix := range []string{"a", "/", "../", "a//", "ä/", strings.Repeat("a/", 257)} {
		_, err := layout.New(prefix)
		assert.ErrorIs(t, err, storage.ErrInvalidName, "%q", prefix)
	}
}
