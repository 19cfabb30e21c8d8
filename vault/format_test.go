package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

// storedEnvelope returns a recording's envelope.
func (b *backend) storedEnvelope(t *testing.T, id vault.ID) envelope.Envelope {
	t.Helper()
	parsed, err := envelope.Parse(teststore.Read(t, b.Store, objectName(id, "envelope")))
	require.NoError(t, err)
	return parsed
}

// encrypted returns media under a recording's key, and its header.
func encrypted(t *testing.T, id vault.ID, key *keys.Key, data string) (media []byte, header segment.Header) {
	t.Helper()
	encrypter, err := segment.NewEncrypter(envelope.MediaKey(key), envelope.MediaAssociatedData(id), strings.NewReader(data))
	require.NoError(t, err)
	media, err = io.ReadAll(encrypter)
	require.NoError(t, err)
	return media, encrypter.Header()
}

// forge puts another content under an ID, with a writer's right at the keyring and write access to the store.
func (b *backend) forge(t *testing.T, id vault.ID, key *keys.Key, change func(e *envelope.Envelope)) {
	t.Helper()
	metadataKey := envelope.MetadataKey(key)
	sealer := envelope.NewSealer(id.KeyID(), metadataKey)
	media, header := encrypted(t, id, key, "forged")
	wrapped, err := b.writer.Wrap(t.Context(), id.Binding(), key)
	require.NoError(t, err)
	wrappedMetadata, err := b.writer.Wrap(t.Context(), id.MetadataBinding(), metadataKey)
	require.NoError(t, err)
	e, err := sealer.Seal(wrapped, wrappedMetadata, envelope.Metadata{
		Title: "forged", CreatedAt: time.Now(), MediaSize: int64(len(media)), MediaHeader: header,
	})
	require.NoError(t, err)
	e.ID = id
	change(&e)
	teststore.Write(t, b.Store, objectName(id, "envelope"), e.Encode())
	teststore.Write(t, b.Store, objectName(id, "media"), media)
}

func TestAnIDOpensOneKeyAndNoOther(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's"))
		grant := b.Grant(t, alice)
		original := b.storedEnvelope(t, id)
		for _, c := range []struct {
			name   string
			change func(e *envelope.Envelope)
		}{
			{"another recording", func(*envelope.Envelope) {}},
			{"with the old commitment", func(e *envelope.Envelope) { e.Commitment = original.Commitment }},
			{"with the old metadata", func(e *envelope.Envelope) { e.Sealed, e.Commitment = original.Sealed, original.Commitment }},
			{"with the old metadata key", func(e *envelope.Envelope) { e.WrappedMetadataKey = original.WrappedMetadataKey }},
			{"with the old recording key", func(e *envelope.Envelope) { e.WrappedKey = original.WrappedKey }},
		} {
			t.Run(c.name, func(t *testing.T) {
				b.forge(t, id, keys.NewKey(), c.change)
				_, err := b.open(t, grant, id)
				require.ErrorIs(t, err, vault.ErrDamaged)
				_, err = b.vaultOf(t, b.server).Stat(t.Context(), grant, id)
				require.ErrorIs(t, err, vault.ErrDamaged)
			})
		}
	})
}

// The ID names a key and not a content. docs/threat-model.md says so, and what ends it.
func TestWhoKeptAKeyCanForgeUntilARekey(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's"))
		grant := b.Grant(t, alice)
		kept, err := b.server.Unwrap(t.Context(), grant, id.Binding(), b.storedEnvelope(t, id).WrappedKey)
		require.NoError(t, err)
		v := b.vaultOf(t, b.writerAndReader())
		copied, err := v.Copy(t.Context(), grant, id, bob)
		require.NoError(t, err)
		parted, err := v.Copy(t.Context(), grant, id, bob, vault.WithNewKey())
		require.NoError(t, err)
		renewed, err := v.Rekey(t.Context(), grant, id)
		require.NoError(t, err)

		for _, c := range []struct {
			name    string
			patient keys.Patient
			id      vault.ID
			forged  bool
		}{
			{"the recording", alice, id, true},
			{"a copy with its key", bob, copied, true},
			{"a copy with a new key", bob, parted, false},
			{"the recording with a new key", alice, renewed, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				b.forge(t, c.id, kept, func(*envelope.Envelope) {})
				got, err := b.open(t, b.Grant(t, c.patient), c.id)
				if c.forged {
					require.NoError(t, err)
					assert.Equal(t, "forged", string(got))
				} else {
					require.ErrorIs(t, err, vault.ErrDamaged)
				}
			})
		}
	})
}

// Whoever unwrapped the metadata key, with a grant that can only describe, and may write to the store, can forge the
// description and no media.
func TestAMetadataKeyForgesNoMedia(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		data := string(random(t, firstSegment+2*fullSegment+500))
		id := b.put(t, alice, []byte(data))
		describing, err := b.granter.Issue(t.Context(), alice, keys.GrantOptions{
			TTL: time.Minute, Subject: "mallory", Purpose: keys.Treatment, DescribeOnly: true,
		})
		require.NoError(t, err)
		stored, media := b.storedEnvelope(t, id), teststore.Read(t, b.Store, objectName(id, "media"))
		metadataKey, err := b.server.Unwrap(t.Context(), describing, id.MetadataBinding(), stored.WrappedMetadataKey)
		require.NoError(t, err)
		sealer := envelope.NewSealer(id.KeyID(), metadataKey)
		require.Equal(t, id, sealer.ID())
		other := keys.NewKey()
		wrapped, err := b.writer.Wrap(t.Context(), id.Binding(), other)
		require.NoError(t, err)
		others, othersHeader := encrypted(t, id, other, data)
		header := segment.Header(media)
		swapped := bytes.Clone(media)
		copy(swapped[segment.Size:2*segment.Size], media[2*segment.Size:3*segment.Size])
		for _, c := range []struct {
			name    string
			wrapped keys.WrappedKey
			media   []byte
			header  segment.Header
			damaged bool
		}{
			{"its own media", stored.WrappedKey, media, header, false},
			{"another key's media", stored.WrappedKey, others, othersHeader, true},
			{"another key and its media", wrapped, others, othersHeader, true},
			{"another key", wrapped, media, header, true},
			{"the metadata key as recording key", stored.WrappedMetadataKey, media, header, true},
			{"cut at a segment", stored.WrappedKey, media[:2*segment.Size], header, true},
			{"cut in a segment", stored.WrappedKey, media[:2*segment.Size+100], header, true},
			{"extended", stored.WrappedKey, append(bytes.Clone(media), make([]byte, segment.Size)...), header, true},
			{"a segment twice", stored.WrappedKey, swapped, header, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				e, err := sealer.Seal(c.wrapped, stored.WrappedMetadataKey, envelope.Metadata{
					Title: "forged", CreatedAt: time.Now(), MediaSize: int64(len(c.media)), MediaHeader: c.header,
				})
				require.NoError(t, err)
				teststore.Write(t, b.Store, objectName(id, "envelope"), e.Encode())
				teststore.Write(t, b.Store, objectName(id, "media"), c.media)
				info, err := b.vaultOf(t, b.server).Stat(t.Context(), describing, id)
				require.NoError(t, err)
				assert.Equal(t, "forged", info.Title)
				got, err := b.open(t, b.Grant(t, alice), id)
				assert.True(t, strings.HasPrefix(data, string(got)), "bytes came out that were not written")
				if c.damaged {
					assert.ErrorIs(t, err, vault.ErrDamaged)
				} else {
					require.NoError(t, err)
					assert.Len(t, got, len(data))
				}
			})
		}
	})
}

func TestAMediaHeaderIsCheckedWhereverReadingStarts(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, random(t, 200_000))
	media := teststore.Read(t, b.Store, objectName(id, "media"))
	media[5] ^= 1
	teststore.Write(t, b.Store, objectName(id, "media"), media)
	recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.Grant(t, alice), id, vault.WithOffset(150_000))
	require.NoError(t, err, "the header was not read")
	defer recording.Close()
	p := make([]byte, 10)
	_, err = recording.ReadAt(p, 150_000)
	require.NoError(t, err)
	_, err = recording.ReadAt(p, 0)
	require.ErrorIs(t, err, vault.ErrDamaged)
}

func TestVaultsLogDistinguishesDescribingFromOpening(t *testing.T) {
	b := servers(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's"))
	grant := b.Grant(t, alice)
	contexts := func() []string { return b.Vault.Unwrapped(t, id.KeyID().String()+"-kek") }
	v := b.vaultOf(t, b.server, vault.WithKeyCache(0, 1))
	_, err := v.Stat(t.Context(), grant, id)
	require.NoError(t, err)
	assert.Equal(t, []string{id.MetadataBinding().String()}, contexts())
	recording, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	assert.Equal(t, []string{id.MetadataBinding().String(), id.Binding().String()}, contexts())
}

func TestUnsupportedIsNotDamage(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		grant := b.Grant(t, alice)
		problems, stream := problems()
		v := b.vaultOf(t, b.server, vault.WithEvents(stream))
		id := b.put(t, alice, []byte("Alice's"))
		teststore.Write(t, b.Store, objectName(id, "envelope"), []byte(`{"version":2,"shape":"unknown"}`))
		_, err := v.Open(t.Context(), grant, id)
		require.ErrorIs(t, err, vault.ErrUnsupported)
		require.NotErrorIs(t, err, vault.ErrDamaged)
		_, err = v.Stat(t.Context(), grant, id)
		require.ErrorIs(t, err, vault.ErrUnsupported)
		_, err = v.Update(t.Context(), grant, id, func(*vault.Metadata) error { return nil })
		require.ErrorIs(t, err, vault.ErrUnsupported)
		_, err = v.Open(t.Context(), b.Grant(t, b.enrol(t)), id)
		require.ErrorIs(t, err, keys.ErrDenied, "a listing that hands out others' IDs is noticed all the same")
		e := b.storedEnvelope(t, b.put(t, alice, []byte("of another keyring")))
		teststore.Write(t, b.Store, objectName(e.ID, "envelope"), e.WithWraps("other:v1:AAAA", "other:v1:AAAA").Encode())
		_, err = v.Open(t.Context(), grant, e.ID)
		require.ErrorIs(t, err, vault.ErrUnsupported)
		_, err = v.Open(t.Context(), b.Grant(t, b.enrol(t)), e.ID)
		require.ErrorIs(t, err, keys.ErrDenied)
		require.NoError(t, v.Close())
		require.Len(t, *problems, 2)
		for i, of := range []vault.ID{id, e.ID} {
			assert.Equal(t, events.WrongPatient, (*problems)[i].Kind)
			assert.Equal(t, of, (*problems)[i].Recording)
		}
	})
}

func TestContentTypesAreMediaTypes(t *testing.T) {
	for text, valid := range map[string]bool{
		"": true, "video/webm": true, "video/webm; codecs=\"vp9, opus\"": true, "application/octet-stream": true,
		"mp4": false, "video/": false, "/webm": false, "video/webm\n": false, "vidéo/webm": false, "video/webm;": true,
		"video/webm; codecs=\"\u00e9\"": false, "video webm": false,
	} {
		t.Run(text, func(t *testing.T) {
			err := vault.Metadata{ContentType: text}.Validate()
			if valid {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, vault.ErrInvalidMetadata)
			}
		})
	}
}

func TestUpdateCorrectsMetadataInPlace(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id := b.put(t, alice, []byte("Alice's"))
		grant := b.Grant(t, alice)
		before := b.storedEnvelope(t, id)
		v := b.vaultOf(t, b.server)
		info, err := v.Update(t.Context(), grant, id, func(m *vault.Metadata) error {
			m.Title, m.Attributes["clinic"], m.Truncated = "Corrected", "south", true
			return nil
		})
		require.NoError(t, err)
		assert.EqualValues(t, 1, info.Revision)
		after := b.storedEnvelope(t, id)
		assert.Equal(t, before.WrappedKey, after.WrappedKey)
		assert.Equal(t, before.WrappedMetadataKey, after.WrappedMetadataKey)

		read, err := v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		assert.Equal(t, info, read)
		want := metadata()
		want.Title, want.Attributes["clinic"], want.Truncated = "Corrected", "south", true
		assert.Equal(t, want, read.Metadata)
		got, err := b.open(t, grant, id)
		require.NoError(t, err)
		assert.Equal(t, "Alice's", string(got))

		// Putting the old envelope back shows the earlier revision, and nothing else.
		teststore.Write(t, b.Store, objectName(id, "envelope"), before.Encode())
		read, err = v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		assert.Zero(t, read.Revision)
		assert.Equal(t, "Follow-up", read.Title)

		_, err = v.Update(t.Context(), b.Grant(t, bob), id, func(*vault.Metadata) error { return nil })
		require.ErrorIs(t, err, keys.ErrDenied)
		_, err = v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.ContentType = "mp4"; return nil })
		require.ErrorIs(t, err, vault.ErrInvalidMetadata)
		_, err = v.Update(t.Context(), grant, id, func(*vault.Metadata) error { return assert.AnError })
		require.ErrorIs(t, err, assert.AnError)
		clearHold := b.hold(t, id.KeyID())
		_, err = v.Update(t.Context(), grant, id, func(*vault.Metadata) error { return nil })
		require.ErrorIs(t, err, vault.ErrHeld)
		clearHold()
		assert.Equal(t, before, b.storedEnvelope(t, id), "a refused update writes nothing")
	})
}

func TestUpdatesAtTheSameTimeAllCount(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice := b.enrol(t)
		id := b.put(t, alice, []byte("Alice's"))
		grant := b.Grant(t, alice)
		v := b.vaultOf(t, b.server)
		const writers = 4
		errs := make(chan error, writers)
		for range writers {
			go func() {
				_, err := v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.Title += "!"; return nil })
				errs <- err
			}()
		}
		for range writers {
			require.NoError(t, <-errs)
		}
		info, err := v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		assert.Equal(t, "Follow-up!!!!", info.Title)
		assert.EqualValues(t, writers, info.Revision)
	})
}

func TestUnknownMetadataSurvivesEveryChange(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	id := b.put(t, alice, []byte("Alice's"))
	grant, bobs := b.Grant(t, alice), b.Grant(t, bob)
	sealer := func(grant keys.Grant, id vault.ID) (cipher.AEAD, envelope.Envelope) { // written out from the format
		stored := b.storedEnvelope(t, id)
		key, err := b.server.Unwrap(t.Context(), grant, id.MetadataBinding(), stored.WrappedMetadataKey)
		require.NoError(t, err)
		seal, err := hkdf.Key(sha256.New, key.Bytes(), nil, "recvault/v1/seal", 32)
		require.NoError(t, err)
		block, err := aes.NewCipher(seal)
		require.NoError(t, err)
		gcm, err := cipher.NewGCM(block)
		require.NoError(t, err)
		return gcm, stored
	}
	text := func(grant keys.Grant, id vault.ID) string {
		gcm, stored := sealer(grant, id)
		plain, err := gcm.Open(nil, stored.Sealed[:12], stored.Sealed[12:], id.Binding().Bytes())
		require.NoError(t, err)
		return string(plain)
	}
	// A later release has put a field into the metadata.
	const field = `"transcript":{"by":"a later release"}`
	gcm, later := sealer(grant, id)
	changed := strings.Replace(text(grant, id), "{", "{"+field+",", 1)
	later.Sealed = gcm.Seal(make([]byte, 12), make([]byte, 12), []byte(changed), id.Binding().Bytes())
	teststore.Write(t, b.Store, objectName(id, "envelope"), later.Encode())

	v := b.vaultOf(t, b.writer)
	_, err := v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.Title = "Corrected"; return nil })
	require.NoError(t, err)
	assert.Contains(t, text(grant, id), field)
	copied, err := v.Copy(t.Context(), grant, id, bob, vault.WithDescription())
	require.NoError(t, err)
	assert.Contains(t, text(bobs, copied), field)
	rekeyed, err := v.Copy(t.Context(), grant, id, bob, vault.WithDescription(), vault.WithNewKey())
	require.NoError(t, err)
	assert.Contains(t, text(bobs, rekeyed), field)
	bare, err := v.Copy(t.Context(), grant, id, bob, vault.WithNewKey())
	require.NoError(t, err)
	assert.NotContains(t, text(bobs, bare), "transcript", "it may name the first patient")
	renewed, err := v.Rekey(t.Context(), grant, id)
	require.NoError(t, err)
	assert.Contains(t, text(grant, renewed), field)
	assert.Contains(t, text(grant, renewed), `"title":"Corrected"`)
}

func TestAScanForOthersIDsIsAWrongPatientEvent(t *testing.T) {
	b := embedded(t)
	alice, bob := b.enrol(t), b.enrol(t)
	bobs := b.put(t, bob, []byte("Bob's"))
	missing := keystest.NewRecordingID(bobs.KeyID())
	problems, stream := problems()
	v := b.vaultOf(t, b.server, vault.WithEvents(stream))
	_, err := v.Open(t.Context(), b.Grant(t, alice), missing)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NotErrorIs(t, err, vault.ErrNotFound)
	_, err = v.Open(t.Context(), b.Grant(t, bob), missing)
	require.ErrorIs(t, err, vault.ErrNotFound)
	require.NoError(t, v.Close())
	require.Len(t, *problems, 1)
	assert.Equal(t, events.WrongPatient, (*problems)[0].Kind)
	assert.Equal(t, missing, (*problems)[0].Recording)
}

func TestAnOffsetNearTheGreatestDoesNotOverflow(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("Alice's"))
	for _, offset := range []int64{math.MaxInt64, math.MaxInt64 - 40, 1 << 62, segment.MaxPlaintext} {
		t.Run(strconv.FormatInt(offset, 10), func(t *testing.T) {
			recording, err := b.vaultOf(t, b.server).Open(t.Context(), b.Grant(t, alice), id, vault.WithOffset(offset))
			require.NoError(t, err)
			defer recording.Close()
			_, err = recording.ReadAt(make([]byte, 1), offset)
			require.Equal(t, io.EOF, err)
		})
	}
}
