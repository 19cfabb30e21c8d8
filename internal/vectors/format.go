package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// This file is the format once more, from docs/format.md and the standard library alone. It shares no code with the
// packages that store and open recordings, so that a change of theirs is noticed.

const (
	headerSize  = 40
	tagSize     = 16
	segmentSize = 65536
	firstSize   = segmentSize - headerSize - tagSize // plaintext bytes of a full segment 0
	fullSize    = segmentSize - tagSize              // plaintext bytes of every other full segment
)

// recordingKeys are the keys of one recording of one patient, and what follows from them.
type recordingKeys struct {
	keyID           string
	recordingKey    []byte
	metadataKey     []byte
	mediaKey        []byte
	sealKey         []byte
	rec             string
	id              string
	binding         string
	metadataBinding string
	commitment      []byte
}

func newRecordingKeys(keyID string, recordingKey []byte) recordingKeys {
	k := recordingKeys{keyID: keyID, recordingKey: recordingKey}
	k.mediaKey = derive(recordingKey, "recvault/v1/media")
	k.metadataKey = derive(recordingKey, "recvault/v1/metadata")
	return k.describe()
}

// describe fills in what follows from the metadata key alone.
func (k recordingKeys) describe() recordingKeys {
	k.rec = toBase32(derive(k.metadataKey, "recvault/v1/id")[:16])
	k.id = k.keyID + "." + k.rec
	k.binding = "recvault/v1/" + k.keyID + "/" + k.rec
	k.metadataBinding = "recvault/v1/metadata/" + k.keyID + "/" + k.rec
	k.commitment = derive(k.metadataKey, "recvault/v1/commitment\x00"+k.binding)
	k.sealKey = derive(k.metadataKey, "recvault/v1/seal")
	return k
}

// derive is HKDF-SHA-256 (RFC 5869) without salt, with 32 bytes of output.
func derive(key []byte, info string) []byte {
	derived, err := hkdf.Key(sha256.New, key, nil, info, 32)
	if err != nil {
		panic(err)
	}
	return derived
}

func toBase32(data []byte) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(data))
}

func toBase64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// seal encrypts the text of metadata.
func (k recordingKeys) seal(nonce []byte, text string) []byte {
	return append(bytes.Clone(nonce), gcm(k.sealKey).Seal(nil, nonce, []byte(text), []byte(k.binding))...)
}

// padded returns the text of metadata with spaces up to a multiple of 256 bytes.
func padded(text string) string { return text + strings.Repeat(" ", (256-len(text)%256)%256) }

// envelope returns the text of the envelope with these wrapped keys, RK's and MK's.
func (k recordingKeys) envelope(wrapped [2]string, sealed []byte) string {
	return fmt.Sprintf(`{"version":1,"id":%q,"wrapped_key":%q,"wrapped_metadata_key":%q,"commitment":%q,"metadata":%q}`,
		k.id, wrapped[0], wrapped[1], toBase64(k.commitment), toBase64(sealed))
}

// mediaCipher encrypts and decrypts the segments of one media object.
type mediaCipher struct {
	aead   cipher.AEAD
	header []byte
}

// media returns the cipher of the media with this header.
func (k recordingKeys) media(header []byte) mediaCipher {
	return mediaCipher{gcm(k.segmentKey(header)), header}
}

func (k recordingKeys) segmentKey(header []byte) []byte {
	derived, err := hkdf.Key(sha256.New, k.mediaKey, header[1:33], "recvault/v1/"+k.rec, 32)
	if err != nil {
		panic(err)
	}
	return derived
}

// nonce returns the nonce of segment i of n.
func (m mediaCipher) nonce(i, n int) []byte {
	nonce := binary.BigEndian.AppendUint32(bytes.Clone(m.header[33:40]), uint32(i))
	if i == n-1 {
		return append(nonce, 1)
	}
	return append(nonce, 0)
}

// sizes returns the plaintext sizes of the segments of a plaintext.
func sizes(size int) []int {
	segments := []int{min(size, firstSize)}
	for size -= segments[0]; size > 0; size -= fullSize {
		segments = append(segments, min(size, fullSize))
	}
	return segments
}

// encrypt returns the media of a plaintext.
func (m mediaCipher) encrypt(plain []byte) []byte {
	media := bytes.Clone(m.header)
	segments := sizes(len(plain))
	for i, size := range segments {
		media = m.aead.Seal(media, m.nonce(i, len(segments)), plain[:size], nil)
		plain = plain[size:]
	}
	return media
}

var (
	errMalformed = errors.New("the envelope is not canonical")
	errOtherKey  = errors.New("the ID or the commitment is that of another key")
	errForged    = errors.New("a text does not authenticate")
)

const (
	keyIDForm   = `[a-z2-7]{32}`
	recForm     = `[a-z2-7]{25}[aeimquy4]` // 130 bits, of which the last two are zero
	base64Form  = `[A-Za-z0-9+/]*={0,2}`
	wrappedForm = `[a-z0-9]{1,16}:v[1-9][0-9]{0,9}:` + base64Form
)

var envelopeForm = regexp.MustCompile(`^\{"version":1,"id":"(` + keyIDForm + `)\.(` + recForm + `)","wrapped_key":"(` + wrappedForm +
	`)","wrapped_metadata_key":"(` + wrappedForm + `)","commitment":"([A-Za-z0-9+/]{43}=)","metadata":"(` + base64Form + `)"\}$`)

// envelope is an envelope that was written by somebody else.
type envelope struct {
	keyID, rec              string
	wrapped, wrappedMetaKey string
	commitment, sealed      []byte
}

// parseEnvelope reads an envelope as it must be when it was just written.
func parseEnvelope(text []byte) (envelope, error) {
	fields := envelopeForm.FindSubmatch(text)
	if fields == nil || len(text) > 65536 {
		return envelope{}, errMalformed
	}
	commitment, err1 := base64.StdEncoding.Strict().DecodeString(string(fields[5]))
	sealed, err2 := base64.StdEncoding.Strict().DecodeString(string(fields[6]))
	if err1 != nil || err2 != nil {
		return envelope{}, errMalformed
	}
	return envelope{string(fields[1]), string(fields[2]), string(fields[3]), string(fields[4]), commitment, sealed}, nil
}

// unseal checks an envelope against the recording key and returns the text of the metadata.
func (k recordingKeys) unseal(e envelope) (string, error) {
	if e.keyID != k.keyID || e.rec != k.rec || !bytes.Equal(e.commitment, k.commitment) {
		return "", errOtherKey
	}
	if len(e.sealed) < 12+tagSize {
		return "", errForged
	}
	text, err := gcm(k.sealKey).Open(nil, e.sealed[:12], e.sealed[12:], []byte(k.binding))
	if err != nil {
		return "", errForged
	}
	return string(text), nil
}

// decrypt returns the plaintext of media.
func (k recordingKeys) decrypt(media []byte) ([]byte, error) {
	if len(media) < headerSize+tagSize || media[0] != headerSize {
		return nil, errForged
	}
	m := k.media(media[:headerSize])
	n := (len(media) + segmentSize - 1) / segmentSize
	var plain []byte
	for i := range n {
		segment := media[max(i*segmentSize, headerSize):min((i+1)*segmentSize, len(media))]
		var err error
		if plain, err = m.aead.Open(plain, m.nonce(i, n), segment, nil); err != nil {
			return nil, fmt.Errorf("segment %d of %d: %w", i, n, errForged)
		}
	}
	return plain, nil
}
