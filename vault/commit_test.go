package vault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

func TestASlowUploadWrapsItsKeyAgain(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		put := func(v *vault.Vault) (vault.ID, int) {
			before, err := b.writer.KeyID(t.Context(), alice)
			require.NoError(t, err)
			var rotated bool
			id, err := v.Put(t.Context(), alice, readerFunc(func([]byte) (int, error) {
				if !rotated {
					assert.NoError(t, b.admin.Rotate(t.Context(), before))
					rotated = true
				}
				return 0, io.EOF
			}), metadata())
			require.NoError(t, err)
			var fields struct {
				Wrapped keys.WrappedKey `json:"wrapped_key"`
			}
			require.NoError(t, json.Unmarshal(teststore.Read(t, b.Store, objectName(id, "envelope")), &fields))
			version, err := fields.Wrapped.Version()
			require.NoError(t, err)
			return id, version
		}
		quick, version := put(b.vaultOf(t, b.writer))
		assert.Equal(t, 1, version, "within the window, the upload keeps its first wrap")
		slow, version := put(b.vaultOf(t, b.writer, vault.WithFreshness(time.Nanosecond)))
		assert.Equal(t, 3, version, "after the window, the upload wraps again under the newest version")
		for _, id := range []vault.ID{quick, slow} {
			_, err := b.open(t, b.Grant(t, alice), id)
			require.NoError(t, err)
		}
	})
}

func TestALostCommitAnswerLosesNoRecording(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		lost := fmt.Errorf("%w: connection reset", storage.ErrUnavailable)
		for name, c := range map[string]struct {
			answer func(t *testing.T, store func() (storage.Info, error)) (storage.Info, error)
			check  func(t *testing.T, id vault.ID, err error)
		}{
			"stored, answer lost": {
				func(t *testing.T, store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, lost
				},
				func(t *testing.T, id vault.ID, err error) {
					require.NoError(t, err)
					got, err := b.open(t, b.Grant(t, alice), id)
					require.NoError(t, err)
					assert.Equal(t, "a consultation", string(got))
				},
			},
			"stored, repetition finds it": {
				func(t *testing.T, store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, storage.ErrExists
				},
				func(t *testing.T, _ vault.ID, err error) { require.NoError(t, err) },
			},
			"not stored, answer lost": {
				func(*testing.T, func() (storage.Info, error)) (storage.Info, error) { return storage.Info{}, lost },
				func(t *testing.T, _ vault.ID, err error) {
					var uncertain *vault.UncertainError
					require.ErrorAs(t, err, &uncertain)
					require.ErrorIs(t, err, storage.ErrUnavailable)
					_, err = b.open(t, b.Grant(t, alice), uncertain.ID)
					require.ErrorIs(t, err, vault.ErrNotFound)
					_, err = b.Store.Stat(t.Context(), objectName(uncertain.ID, "media"))
					require.NoError(t, err, "a late commit must find its media")
					require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, uncertain.ID))
				},
			},
			"refused": {
				func(*testing.T, func() (storage.Info, error)) (storage.Info, error) {
					return storage.Info{}, storage.ErrFull
				},
				func(t *testing.T, _ vault.ID, err error) {
					require.ErrorIs(t, err, storage.ErrFull)
				},
			},
			// The answer was lost, and the credentials had expired when the request was repeated.
			"stored, repetition refused": {
				func(t *testing.T, store func() (storage.Info, error)) (storage.Info, error) {
					_, err := store()
					require.NoError(t, err)
					return storage.Info{}, storage.ErrDenied
				},
				func(t *testing.T, id vault.ID, err error) {
					require.NoError(t, err)
					_, err = b.open(t, b.Grant(t, alice), id)
					require.NoError(t, err)
				},
			},
		} {
			t.Run(name, func(t *testing.T) {
				before := len(b.Names(t))
				v, err := vault.New(b.writer, &faulty{b.Store, func(object string, store func() (storage.Info, error)) (storage.Info, error) {
					if strings.HasSuffix(object, "/envelope") {
						return c.answer(t, store)
					}
					return store()
				}})
				require.NoError(t, err)
				id, err := v.Put(t.Context(), alice, strings.NewReader("a consultation"), metadata())
				c.check(t, id, err)
				if err != nil {
					assert.Len(t, b.Names(t), before, "an object was left behind")
				}
			})
		}
	})
}

// faulty is a store whose Put can lose an object or an answer.
type faulty struct {
	storage.Store
	put func(name string, store func() (storage.Info, error)) (storage.Info, error)
}

func (f *faulty) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	return f.put(name, func() (storage.Info, error) { return f.Store.Put(ctx, name, r, size, condition) })
}
