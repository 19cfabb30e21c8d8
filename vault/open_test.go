package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// The plaintext sizes of a full segment and of a full first segment.
const (
	fullSegment  = segment.Size - 16
	firstSegment = fullSegment - segment.HeaderSize
)

func TestARecordingOpensByteIdentically(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		writer, server := b.vaultOf(t, b.writer), b.vaultOf(t, b.server)
		puts := map[string]func(t *testing.T, data []byte) (vault.ID, error){
			"known size": func(t *testing.T, data []byte) (vault.ID, error) {
				return writer.Put(t.Context(), alice, bytes.NewReader(data), metadata())
			},
			"announced size": func(t *testing.T, data []byte) (vault.ID, error) {
				return writer.Put(t.Context(), alice, unsized{bytes.NewReader(data)}, metadata(), vault.WithSize(int64(len(data))))
			},
			"unknown size": func(t *testing.T, data []byte) (vault.ID, error) {
				return writer.Put(t.Context(), alice, unsized{iotest.HalfReader(bytes.NewReader(data))}, metadata())
			},
			"Create": func(t *testing.T, data []byte) (vault.ID, error) {
				w, err := writer.Create(t.Context(), alice, vault.Metadata{})
				require.NoError(t, err)
				for piece := range slices.Chunk(data, 50_000) {
					n, err := w.Write(piece)
					require.NoError(t, err)
					require.Equal(t, len(piece), n)
				}
				require.NoError(t, w.SetMetadata(metadata()))
				err = w.Close()
				require.NoError(t, w.Close(), "a second Close")
				w.Abort()
				return w.ID(), err
			},
		}
		data := random(t, firstSegment+2*fullSegment+1)
		for _, size := range []int{
			0, 1, 15, 16, 17, firstSegment - 1, firstSegment, firstSegment + 1,
			firstSegment + fullSegment - 1, firstSegment + fullSegment, firstSegment + fullSegment + 1,
			firstSegment + 2*fullSegment, firstSegment + 2*fullSegment + 1,
		} {
			want := data[:size]
			for name, put := range puts {
				t.Run(fmt.Sprintf("%s, %d bytes", name, size), func(t *testing.T) {
					id, err := put(t, want)
					require.NoError(t, err)
					recording, err := server.Open(t.Context(), grant, id)
					require.NoError(t, err)
					got, err := io.ReadAll(recording)
					require.NoError(t, err)
					require.True(t, bytes.Equal(want, got))

					info := recording.Info()
					assert.Equal(t, metadata(), info.Metadata)
					assert.Equal(t, id, info.ID)
					assert.EqualValues(t, size, info.Size)
					assert.EqualValues(t, size, recording.Size())
					assert.WithinDuration(t, time.Now(), info.CreatedAt, time.Minute)
					stat, err := server.Stat(t.Context(), grant, id)
					require.NoError(t, err)
					assert.Equal(t, info, stat)

					require.NoError(t, recording.Close())
					require.NoError(t, recording.Close())
					_, err = recording.Read(make([]byte, 1))
					require.ErrorIs(t, err, vault.ErrClosed)
				})
			}
		}
		assert.Empty(t, b.Uploads(t))
	})
}

func TestRecordingImplementsTheIOInterfaces(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := random(t, firstSegment+3*fullSegment+99)
		id := b.put(t, alice, data)
		recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.Grant(t, alice), id)
		require.NoError(t, err)
		defer recording.Close()
		_, err = recording.Seek(int64(firstSegment+fullSegment-3), io.SeekStart)
		require.NoError(t, err)
		var rest bytes.Buffer
		_, err = recording.WriteTo(&rest)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[firstSegment+fullSegment-3:], rest.Bytes()))
		p := make([]byte, 70_000)
		_, err = recording.ReadAt(p, 65_000)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data[65_000:135_000], p))
		_, err = recording.Seek(0, io.SeekStart)
		require.NoError(t, err)
		// TestReader reads byte by byte, so it gets a short part around a segment's end.
		require.NoError(t, iotest.TestReader(io.NewSectionReader(recording, firstSegment-500, 1000), data[firstSegment-500:firstSegment+500]))
	})
}

func TestAGigabyteOpensByteIdentically(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	const size = 1 << 30
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, unsized{&pattern{left: size}}, metadata())
	require.NoError(t, err)
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.Grant(t, alice), id)
	require.NoError(t, err)
	defer recording.Close()
	require.EqualValues(t, size, recording.Size())
	want, buffer, expected := &pattern{left: size}, make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(recording, buffer)
		_, _ = io.ReadFull(want, expected[:n])
		require.True(t, bytes.Equal(expected[:n], buffer[:n]))
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	assert.Zero(t, want.left)
}

// pattern is a reader of bytes that depend on their offset.
type pattern struct {
	at, left int64
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.left))
	for i := range n {
		at := p.at + int64(i)
		b[i] = byte(at ^ at>>8 ^ at>>16 ^ at>>24)
	}
	p.at += int64(n)
	p.left -= int64(n)
	return n, nil
}

func TestEveryChangeOfAnObjectIsDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		grant := b.Grant(t, alice)
		data := random(t, firstSegment+2*fullSegment+500)
		id, sibling, foreign := b.put(t, alice, data), b.put(t, alice, random(t, len(data))), b.put(t, bob, random(t, len(data)))
		sealed, media := teststore.Read(t, b.Store, objectName(id, "envelope")), teststore.Read(t, b.Store, objectName(id, "media"))
		part := func(of vault.ID, name string) []byte { return teststore.Read(t, b.Store, objectName(of, name)) }
		edit := func(of vault.ID, change func(e *envelope.Envelope)) []byte {
			e := b.storedEnvelope(t, of)
			change(&e)
			return e.Encode()
		}
		// renamed is the envelope of another recording that claims to be that of this one.
		renamed := func(of vault.ID) []byte { return edit(of, func(e *envelope.Envelope) { e.ID = id }) }
		siblings, foreigns := b.storedEnvelope(t, sibling), b.storedEnvelope(t, foreign)
		flip := func(data []byte, at int) []byte {
			flipped := bytes.Clone(data)
			flipped[at] ^= 4
			return flipped
		}
		swapped := bytes.Clone(media)
		copy(swapped[segment.Size:], media[2*segment.Size:])
		for _, c := range []struct {
			name            string
			envelope, media []byte
		}{
			{"envelope of a sibling", part(sibling, "envelope"), media},
			{"envelope of another patient", part(foreign, "envelope"), media},
			{"envelope of a sibling, renamed", renamed(sibling), media},
			{"envelope of another patient, renamed", renamed(foreign), media},
			{"wrapped key of a sibling", edit(id, func(e *envelope.Envelope) { e.WrappedKey = siblings.WrappedKey }), media},
			{"wrapped key of another patient", edit(id, func(e *envelope.Envelope) { e.WrappedKey = foreigns.WrappedKey }), media},
			{"commitment of a sibling", edit(id, func(e *envelope.Envelope) { e.Commitment = siblings.Commitment }), media},
			{"metadata of a sibling", edit(id, func(e *envelope.Envelope) { e.Sealed = siblings.Sealed }), media},
			{"envelope and media of a sibling", part(sibling, "envelope"), part(sibling, "media")},
			{"envelope and media of a sibling, renamed", renamed(sibling), part(sibling, "media")},
			{"envelope cut", sealed[:len(sealed)/2], media},
			{"envelope empty", []byte{}, media},
			{"envelope extended", append(bytes.Clone(sealed), ' '), media},
			{"envelope too large", bytes.Repeat(sealed, 100), media},
			{"envelope flipped", flip(sealed, len(sealed)-10), media},
			{"media of a sibling", sealed, part(sibling, "media")},
			{"media of another patient", sealed, part(foreign, "media")},
			{"media empty", sealed, []byte{}},
			{"media cut by a byte", sealed, media[:len(media)-1]},
			{"media cut at a segment", sealed, media[:2*segment.Size]},
			{"media cut at a segment plus one", sealed, media[:2*segment.Size+1]},
			{"media extended", sealed, append(bytes.Clone(media), 0)},
			{"media extended by a segment", sealed, append(bytes.Clone(media), media[segment.Size:2*segment.Size]...)},
			{"media reordered", sealed, swapped},
			{"media header flipped", sealed, flip(media, 5)},
			{"media flipped at the start", sealed, flip(media, 100)},
			{"media flipped in the middle", sealed, flip(media, segment.Size+100)},
			{"media flipped at the end", sealed, flip(media, len(media)-1)},
			{"media with its start from a sibling", sealed, append(bytes.Clone(part(sibling, "media")[:segment.Size]), media[segment.Size:]...)},
		} {
			t.Run(c.name, func(t *testing.T) {
				teststore.Write(t, b.Store, objectName(id, "envelope"), c.envelope)
				teststore.Write(t, b.Store, objectName(id, "media"), c.media)
				got, err := b.open(t, grant, id)
				assert.ErrorIs(t, err, vault.ErrDamaged)
				assert.True(t, bytes.HasPrefix(data, got), "bytes came out that were not written")
				if strings.HasPrefix(c.name, "envelope") {
					assert.Empty(t, got)
				}
			})
		}
		for name, change := range map[string]func(e *envelope.Envelope){
			"wrapped metadata key of a sibling":          func(e *envelope.Envelope) { e.WrappedMetadataKey = siblings.WrappedMetadataKey },
			"wrapped metadata key of another patient":    func(e *envelope.Envelope) { e.WrappedMetadataKey = foreigns.WrappedMetadataKey },
			"wrapped key in place of the metadata key's": func(e *envelope.Envelope) { e.WrappedMetadataKey = e.WrappedKey },
			"described: commitment of a sibling":         func(e *envelope.Envelope) { e.Commitment = siblings.Commitment },
			"described: metadata of a sibling":           func(e *envelope.Envelope) { e.Sealed = siblings.Sealed },
		} {
			t.Run(name, func(t *testing.T) {
				teststore.Write(t, b.Store, objectName(id, "envelope"), edit(id, change))
				_, err := b.vaultOf(t, b.server).Stat(t.Context(), grant, id)
				assert.ErrorIs(t, err, vault.ErrDamaged)
				teststore.Write(t, b.Store, objectName(id, "envelope"), sealed)
			})
		}
		require.NoError(t, b.Store.Delete(t.Context(), objectName(id, "media")))
		teststore.Write(t, b.Store, objectName(id, "envelope"), sealed)
		_, err := b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged, "media missing")

		teststore.Write(t, b.Store, objectName(id, "media"), media)
		got, err := b.open(t, grant, id)
		require.NoError(t, err, "the original objects are back")
		assert.True(t, bytes.Equal(data, got))
	})
}

// A store can fail between two answers. Whether the media is missing from a recording or the recording was deleted
// is then unknown, and no reason for an alarm.
func TestAStoreFailureIsNeverReportedAsDamage(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's consultation"))
	require.NoError(t, b.Store.Delete(t.Context(), objectName(id, "media")))
	w := newWitness()
	v, err := vault.New(b.server, statlessStore{b.Store}, vault.WithEvents(w.stream))
	require.NoError(t, err)
	_, err = v.Open(t.Context(), b.Grant(t, alice), id)
	require.ErrorIs(t, err, storage.ErrUnavailable)
	require.NotErrorIs(t, err, vault.ErrDamaged)
	require.NoError(t, v.Close())
	assert.Empty(t, w.rest())
}

// statlessStore is a store whose Stat fails.
type statlessStore struct{ storage.Store }

func (statlessStore) Stat(context.Context, string) (storage.Info, error) {
	return storage.Info{}, storage.ErrUnavailable
}

func TestErasedRecordingsStayUnreadable(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's consultation"))
		sealed, media := teststore.Read(t, b.Store, objectName(id, "envelope")), teststore.Read(t, b.Store, objectName(id, "media"))
		grant := b.Grant(t, alice)
		require.NoError(t, b.vaultOf(t, b.writer).Delete(t.Context(), alice, id))
		require.NoError(t, b.admin.Erase(t.Context(), id.KeyID()))

		// The old objects come back from a backup.
		teststore.Write(t, b.Store, objectName(id, "envelope"), sealed)
		teststore.Write(t, b.Store, objectName(id, "media"), media)
		_, err := b.open(t, grant, id)
		require.ErrorIs(t, err, keys.ErrErased)
		_, err = b.vaultOf(t, b.writer).Put(t.Context(), alice, strings.NewReader("x"), vault.Metadata{})
		require.ErrorIs(t, err, keys.ErrErased)

		// The patient gets another key by a second enrolment.
		_, err = b.admin.Enrol(t.Context(), alice)
		require.NoError(t, err)
		_, err = b.open(t, grant, id)
		require.ErrorIs(t, err, vault.ErrDamaged)
		again := b.put(t, alice, []byte("a new consultation"))
		got, err := b.open(t, b.Grant(t, alice), again)
		require.NoError(t, err)
		assert.Equal(t, "a new consultation", string(got))
	})
}

func TestACancelledReaderStops(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		id := b.put(t, alice, make([]byte, 8<<20))
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		ctx, cancel := context.WithCancel(t.Context())
		recording, err := b.vaultOf(t, b.server).Open(ctx, grant, id)
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, recording, 1<<20)
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, recording)
		require.ErrorIs(t, err, context.Canceled)
		_, err = recording.ReadAt(make([]byte, 10), 7<<20)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, recording.Close())
		_, err = b.vaultOf(t, b.server).Open(ctx, grant, id)
		require.ErrorIs(t, err, context.Canceled)
		b.assertNoLeak(t, ignore)
	})
}

// At a logout, for example, one goroutine closes what another one is reading.
func TestCloseDuringReadHandsOutNothingElse(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		data := random(t, 3<<20)
		id := b.put(t, alice, data)
		b.CloseIdle()
		ignore := goleak.IgnoreCurrent()
		server := b.vaultOf(t, b.server)
		for i := range 30 {
			recording, err := server.Open(t.Context(), grant, id)
			require.NoError(t, err)
			var got bytes.Buffer
			done := make(chan error)
			go func() {
				var err error
				if i%2 == 0 {
					_, err = recording.WriteTo(&got)
				} else {
					_, err = io.Copy(&got, onlyReader{recording})
				}
				done <- err
			}()
			if i%3 > 0 {
				time.AfterFunc(time.Duration(i)*200*time.Microsecond, func() { _ = recording.Close() })
			} else {
				_ = recording.Close()
			}
			if err := <-done; err != nil {
				require.True(t, errors.Is(err, vault.ErrClosed) || errors.Is(err, context.Canceled), "%v", err)
			}
			require.True(t, bytes.HasPrefix(data, got.Bytes()), "bytes came out that were not written")
			require.NoError(t, recording.Close())
		}
		require.NoError(t, server.Close())
		b.assertNoLeak(t, ignore)
	})
}

type onlyReader struct{ io.Reader }
