package interop_test

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/secretdata"
	"github.com/tink-crypto/tink-go/v2/streamingaead/aesgcmhkdf"

	"github.com/recvault/recvault/internal/envelope"
	"github.com/recvault/recvault/internal/interop/peer"
	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

// The offsets of a plaintext at which segments end: the header takes its room from the first one.
const (
	tag   = 16
	full  = segment.Size - tag
	first = full - segment.HeaderSize
)

// parts is how many parts of the recordings are written and read at the same time.
const parts = 4

func TestRecordingsCrossBothWays(t *testing.T) {
	var readings, ranges atomic.Int64
	t.Run("all", func(t *testing.T) {
		for part := range parts {
			t.Run(strconv.Itoa(part), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				for i := part; i < *recordings; i += parts {
					read, ranged := s.cross(t, i)
					readings.Add(int64(read))
					ranges.Add(int64(ranged))
				}
			})
		}
	})
	counts = append(counts, fmt.Sprintf("seed %d: %d recordings by each of 3 writers "+
		"(recvault, google/tink/go v1.7.0, tink-go/v2), each read whole by the same three: %d readings, and %d ranges by recvault",
		*seed, *recordings, readings.Load(), ranges.Load()))
}

// cross has each writer write recording i, and each reader read it. It returns the numbers of whole recordings and
// of ranges that were read.
func (s *site) cross(t *testing.T, i int) (readings, ranges int) {
	random := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d %d", *seed, i)))
	r := rand.New(random)
	plaintext := make([]byte, size(r))
	_, _ = random.Read(plaintext) // never fails
	for _, writer := range s.writers() {
		stored := s.load(t, writer.write(t, plaintext, r))
		name := fmt.Sprintf("seed %d, recording %d of %d bytes, by %s", *seed, i, len(plaintext), writer.name)
		for _, reader := range s.readers() {
			got, err := reader.read(t, stored, r)
			require.NoError(t, err, "%s, read by %s", name, reader.name)
			require.True(t, bytes.Equal(plaintext, got), "%s, read by %s", name, reader.name)
			readings++
		}
		ranges += s.readRanges(t, stored.id, plaintext, r, name)
	}
	return readings, ranges
}

// Tink's v1.7.0 reads one byte past each segment, to see whether it is the last one, and loses that byte at the end of
// the stream.
func TestOnlyTheOldTinkAcceptsACutStream(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(*seed, 0))
	plaintext := make([]byte, first+2*full+1000) // four segments
	id := s.put(t, plaintext, r)
	media := s.load(t, id).media
	cuts := []int{0, 1, segment.HeaderSize, len(media) - 1}
	for boundary := segment.Size; boundary < len(media); boundary += segment.Size {
		for n := boundary - 20; n <= boundary+20; n++ {
			cuts = append(cuts, n)
		}
	}
	for range 100 {
		cuts = append(cuts, r.IntN(len(media)))
	}
	readers := append(s.readers(), reader{"recvault's segments without the sealed size", openMedia})
	accepted := map[string]map[int]int{} // by reader and cut, the size of the plaintext
	for _, n := range cuts {
		cut := s.replaceMedia(t, id, media[:n])
		for _, reader := range readers {
			got, err := reader.read(t, cut, r)
			if err == nil {
				if accepted[reader.name] == nil {
					accepted[reader.name] = map[int]int{}
				}
				accepted[reader.name][n] = len(got)
			}
		}
	}
	assert.Equal(t, map[string]map[int]int{"tink v1.7.0": {
		1*segment.Size + 1: first,
		2*segment.Size + 1: first + full,
		3*segment.Size + 1: first + 2*full,
	}}, accepted)
}

func TestDamageIsRefusedByAllReaders(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(*seed, 0))
	plaintext := make([]byte, first+2*full+1000)
	id := s.put(t, plaintext, r)
	media, other := s.load(t, id).media, s.load(t, s.put(t, plaintext, r)).media
	flipped := func(offset int) []byte {
		damaged := slices.Clone(media)
		damaged[offset] ^= 1
		return damaged
	}
	for name, damaged := range map[string][]byte{
		"the length of the header": flipped(0),
		"the salt":                 flipped(1),
		"the nonce prefix":         flipped(segment.HeaderSize - 1),
		"a byte of a segment":      flipped(2*segment.Size - 100),
		"a byte of a tag":          flipped(2*segment.Size - 1),
		"the last byte":            flipped(len(media) - 1),
		"a byte more":              append(slices.Clone(media), 0),
		"another recording":        other,
		"another's segment":        slices.Concat(media[:segment.Size], other[segment.Size:2*segment.Size], media[2*segment.Size:]),
		"segments exchanged": slices.Concat(media[:segment.Size], media[2*segment.Size:3*segment.Size],
			media[segment.Size:2*segment.Size], media[3*segment.Size:]),
		"a segment twice": slices.Concat(media[:2*segment.Size], media[segment.Size:]),
		"a segment less":  slices.Concat(media[:segment.Size], media[2*segment.Size:]),
	} {
		t.Run(name, func(t *testing.T) {
			stored := s.replaceMedia(t, id, damaged)
			for _, reader := range s.readers() {
				_, err := reader.read(t, stored, r)
				require.Error(t, err, reader.name)
			}
		})
	}
	stored := s.replaceMedia(t, id, media)
	for _, reader := range s.readers() {
		_, err := reader.read(t, stored, r)
		require.NoError(t, err, "%s, undamaged", reader.name)
	}
}

// size draws the size of a plaintext: two in three are within 20 bytes of a boundary between segments.
func size(r *rand.Rand) int {
	if r.IntN(3) == 0 {
		return r.IntN(first + 3*full)
	}
	boundary := []int{0, first, first + full, first + 2*full}[r.IntN(4)]
	return max(0, boundary-20+r.IntN(41))
}

// site is a vault on the embedded default, with one patient, and both Tinks.
type site struct {
	keyring      *local.Keyring
	store        *dir.Store
	objects      *objects.Objects
	vault        *vault.Vault
	patient      keys.Patient
	keyID        keys.KeyID
	grant        keys.Grant
	tink1, tink2 *tink
}

func newSite(t *testing.T) *site {
	t.Helper()
	root := t.TempDir()
	keyring, err := local.Open(filepath.Join(root, "keys"), local.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, keyring.Close()) })
	store, err := dir.Open(filepath.Join(root, "objects"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	v, err := vault.New(keyring, store, vault.WithEvents(events.New()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, v.Close()) })
	o, err := objects.New(store, "")
	require.NoError(t, err)
	patient := keys.Patient("patient 1")
	keyID, err := keyring.Enrol(t.Context(), patient)
	require.NoError(t, err)
	grant, err := keyring.Issue(t.Context(), patient, keys.GrantOptions{
		TTL: time.Hour, Subject: "interop", Purpose: keys.HealthOperations,
	})
	require.NoError(t, err)
	return &site{keyring, store, o, v, patient, keyID, grant, startTink(t, "tink1"), startTink(t, "tink2")}
}

type writer struct {
	name  string
	write func(t *testing.T, plaintext []byte, r *rand.Rand) vault.ID
}

func (s *site) writers() []writer {
	return []writer{{"recvault", s.put}, {"tink v1.7.0", s.writeWith(s.tink1)}, {"tink v2", s.writeWith(s.tink2)}}
}

// put stores a recording with recvault, from a reader of known or unknown size, or as a live capture.
func (s *site) put(t *testing.T, plaintext []byte, r *rand.Rand) vault.ID {
	t.Helper()
	metadata := vault.Metadata{ContentType: "video/webm"}
	if way := r.IntN(3); way < 2 {
		known := []vault.PutOption{vault.WithSize(int64(len(plaintext)))}
		id, err := s.vault.Put(t.Context(), s.patient, peer.Chunks(bytes.NewReader(plaintext), r), metadata, known[:way]...)
		require.NoError(t, err)
		return id
	}
	w, err := s.vault.Create(t.Context(), s.patient, metadata)
	require.NoError(t, err)
	require.NoError(t, peer.WriteChunks(w, plaintext, r))
	require.NoError(t, w.Close())
	return w.ID()
}

// writeWith returns a function that stores a recording with media by a Tink, and an envelope by recvault.
func (s *site) writeWith(p *tink) func(t *testing.T, plaintext []byte, r *rand.Rand) vault.ID {
	return func(t *testing.T, plaintext []byte, r *rand.Rand) vault.ID {
		t.Helper()
		recordingKey := keys.NewKey()
		metadataKey := envelope.MetadataKey(recordingKey)
		sealer := envelope.NewSealer(s.keyID, metadataKey)
		id := sealer.ID()
		media, err := p.do(t, peer.Job{
			Keyset: keysetOf(t, recordingKey), AssociatedData: associatedData(id), Data: plaintext,
			Encrypt: true, Seed: r.Uint64(),
		})
		require.NoError(t, err)
		wrappedKey, err := s.keyring.Wrap(t.Context(), id.Binding(), recordingKey)
		require.NoError(t, err)
		wrappedMetadataKey, err := s.keyring.Wrap(t.Context(), id.MetadataBinding(), metadataKey)
		require.NoError(t, err)
		e, err := sealer.Seal(wrappedKey, wrappedMetadataKey, envelope.Metadata{
			CreatedAt: time.Now(), MediaSize: int64(len(media)), MediaHeader: segment.Header(media),
		})
		require.NoError(t, err)
		require.NoError(t, s.objects.PutMedia(t.Context(), id, bytes.NewReader(media), int64(len(media))))
		require.NoError(t, s.objects.Create(t.Context(), e))
		return id
	}
}

type reader struct {
	name string
	read func(t *testing.T, of recording, r *rand.Rand) ([]byte, error)
}

func (s *site) readers() []reader {
	return []reader{{"recvault", s.open}, {"tink v1.7.0", readWith(s.tink1)}, {"tink v2", readWith(s.tink2)}}
}

// open reads a recording with recvault.
func (s *site) open(t *testing.T, of recording, r *rand.Rand) ([]byte, error) {
	opened, err := s.vault.Open(t.Context(), s.grant, of.id)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return peer.ReadChunks(opened, r)
}

// readWith returns a function that reads a recording's media with a Tink.
func readWith(p *tink) func(t *testing.T, of recording, r *rand.Rand) ([]byte, error) {
	return func(t *testing.T, of recording, r *rand.Rand) ([]byte, error) {
		return p.do(t, peer.Job{
			Keyset: keysetOf(t, of.key), AssociatedData: associatedData(of.id), Data: of.media, Seed: r.Uint64(),
		})
	}
}

// readRanges reads ranges of a recording with recvault, and returns their number.
func (s *site) readRanges(t *testing.T, id vault.ID, plaintext []byte, r *rand.Rand, name string) int {
	t.Helper()
	const ranges = 3
	recording, err := s.vault.Open(t.Context(), s.grant, id)
	require.NoError(t, err)
	defer recording.Close()
	for range ranges {
		start, end := min(size(r), len(plaintext)), min(size(r), len(plaintext))
		if start > end {
			start, end = end, start
		}
		got := make([]byte, end-start)
		n, err := recording.ReadAt(got, int64(start))
		if err != io.EOF { // of a range that ends where the recording does
			require.NoError(t, err)
		}
		require.Equal(t, len(got), n, name)
		require.True(t, bytes.Equal(plaintext[start:end], got), "%s, bytes %d to %d", name, start, end)
	}
	return ranges
}

// openMedia reads a recording's media as if nothing but its key were known: with the size that the object has.
func openMedia(t *testing.T, of recording, r *rand.Rand) ([]byte, error) {
	size, err := segment.PlaintextSize(int64(len(of.media)))
	if err != nil {
		return nil, err
	}
	decrypter, err := segment.NewDecrypter(mediaKey(t, of.key), associatedData(of.id), segment.Header(of.media), size)
	if err != nil {
		return nil, err
	}
	source := func(_ context.Context, offset, length int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(of.media[offset : offset+length])), nil
	}
	start := slices.Clone(of.media[:min(segment.Size, len(of.media))])
	reader, err := segment.NewReader(t.Context(), decrypter, source, 0, start)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return peer.ReadChunks(reader, r)
}

// recording is what anyone gets who has the grant and can read the store.
type recording struct {
	id    vault.ID
	key   *keys.Key
	media []byte
}

// load reads a recording's media and unwraps its key.
func (s *site) load(t *testing.T, id vault.ID) recording {
	t.Helper()
	stored, err := s.objects.Envelope(t.Context(), id)
	require.NoError(t, err)
	key, err := s.keyring.Unwrap(t.Context(), s.grant, id.Binding(), stored.WrappedKey)
	require.NoError(t, err)
	media, _, err := s.objects.ReadMedia(t.Context(), id, 0, math.MaxInt64)
	require.NoError(t, err)
	return recording{id, key, media}
}

// replaceMedia replaces a recording's media, as anyone with write access to the store can.
func (s *site) replaceMedia(t *testing.T, id vault.ID, media []byte) recording {
	t.Helper()
	_, err := s.store.Put(t.Context(), s.objects.MediaName(id), bytes.NewReader(media), int64(len(media)), storage.Condition{})
	require.NoError(t, err)
	return s.load(t, id)
}

// mediaKey and associatedData follow the specification, and not the code of package envelope.
func mediaKey(t *testing.T, recordingKey *keys.Key) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, recordingKey.Bytes(), nil, "recvault/v1/media", 32)
	require.NoError(t, err)
	return key
}

func associatedData(id vault.ID) []byte {
	_, rec, _ := strings.Cut(id.String(), ".")
	return []byte("recvault/v1/" + rec)
}

// keysetOf returns the media key of a recording as a keyset that any Tink reads.
func keysetOf(t *testing.T, recordingKey *keys.Key) []byte {
	t.Helper()
	parameters, err := aesgcmhkdf.NewParameters(aesgcmhkdf.ParametersOpts{
		KeySizeInBytes: 32, DerivedKeySizeInBytes: 32, HKDFHashType: aesgcmhkdf.SHA256, SegmentSizeInBytes: 64 << 10,
	})
	require.NoError(t, err)
	secret := secretdata.NewBytesFromData(mediaKey(t, recordingKey), insecuresecretdataaccess.Token{})
	key, err := aesgcmhkdf.NewKey(parameters, secret)
	require.NoError(t, err)
	manager := keyset.NewManager()
	keyID, err := manager.AddKey(key)
	require.NoError(t, err)
	require.NoError(t, manager.SetPrimary(keyID))
	handle, err := manager.Handle()
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&text)))
	return text.Bytes()
}
