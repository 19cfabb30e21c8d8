package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
)

// openKeyring wraps keys by keeping them in clear, so that a test sees them.
type openKeyring struct {
	answeringKeyring
	mu      sync.Mutex
	wrapped map[keys.Binding]*keys.Key
}

func (k *openKeyring) KeyID(context.Context, keys.Patient) (keys.KeyID, error) {
	return keys.ParseKeyID(alice)
}
func (k *openKeyring) ClaimStore(context.Context, keys.StoreID) error { return nil }

func (k *openKeyring) Wrap(_ context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	kept, err := keys.KeyFromBytes(key.Bytes())
	k.wrapped[binding] = kept
	return keys.NewWrappedKey("vault", 1, []byte(binding.String())), err
}

func TestWhatIsPutIsWhatTheSpecificationSays(t *testing.T) {
	for _, size := range []int{0, 1, firstSize, firstSize + 1, second, three} {
		keyring := &openKeyring{wrapped: map[keys.Binding]*keys.Key{}}
		store, err := dir.Open(t.TempDir())
		require.NoError(t, err)
		v, err := vault.New(keyring, store)
		require.NoError(t, err)
		defer v.Close()
		plain := filler("plaintext", size)
		described := vault.Metadata{
			ContentType: "video/webm", Title: "Nachgespräch <\u2028>", RecordedAt: time.Date(2026, 3, 14, 9, 0, 0, 5, time.UTC),
			Duration: time.Hour, Attributes: map[string]string{"clinic": "north"}, Truncated: true,
		}
		id, err := v.Put(t.Context(), "a patient", bytes.NewReader(plain), described)
		require.NoError(t, err)

		require.Len(t, keyring.wrapped, 2)
		k := newRecordingKeys(alice, keyring.wrapped[id.Binding()].Bytes())
		assert.Equal(t, k.id, id.String())
		assert.Equal(t, k.metadataKey, keyring.wrapped[id.MetadataBinding()].Bytes())
		e, err := parseEnvelope(read(t, store, id, "envelope"))
		require.NoError(t, err)
		assert.Equal(t, "vault:v1:"+toBase64([]byte(k.binding)), e.wrapped)
		assert.Equal(t, "vault:v1:"+toBase64([]byte(k.metadataBinding)), e.wrappedMetaKey)
		text, err := k.unseal(e)
		require.NoError(t, err)
		assert.Zero(t, len(text)%256)
		media := read(t, store, id, "media")
		got, err := k.decrypt(media)
		require.NoError(t, err)
		assert.Equal(t, len(plain), len(got))
		assert.True(t, bytes.Equal(plain, got))

		var fields map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &fields))
		created, err := time.Parse(time.RFC3339Nano, fields["created_at"].(string))
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), created, time.Minute)
		delete(fields, "created_at")
		assert.Equal(t, map[string]any{
			"content_type": "video/webm", "title": "Nachgespräch <\u2028>", "recorded_at": "2026-03-14T09:00:00.000000005Z",
			"duration_ms": 3600000.0, "attributes": map[string]any{"clinic": "north"}, "truncated": true,
			"media_size": float64(len(media)), "media_header": toBase64(media[:headerSize]), "revision": 0.0,
		}, fields)
	}
}

func read(t *testing.T, store storage.Store, id vault.ID, part string) []byte {
	t.Helper()
	object, err := store.Get(t.Context(), "recordings/"+id.KeyID().String()+"/"+id.Rec()+"/"+part, 0, -1)
	require.NoError(t, err)
	defer object.Close()
	data, err := io.ReadAll(object)
	require.NoError(t, err)
	return data
}
