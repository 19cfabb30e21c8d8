package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// recording is a recording as a writer may have stored it. A case alters a part of it.
type recording struct {
	keys     recordingKeys
	grant    *grant
	keyring  []answer
	wrapped  [2]string // RK and MK
	header   []byte    // of the media
	media    []byte    // nil if the object is missing
	plain    []byte    // what the media decrypts to
	metadata string    // the whole text that is sealed
	nonce    []byte    // of the sealed metadata
}

// filler returns n bytes that follow from the label, in the place of random ones.
func filler(label string, n int) []byte {
	var bytes []byte
	for i := uint32(0); len(bytes) < n; i++ {
		block := sha256.Sum256(binary.BigEndian.AppendUint32([]byte("recvault vectors/"+label+"/"), i))
		bytes = append(bytes, block[:]...)
	}
	return bytes[:n]
}

func keyIDOf(patient string) string { return toBase32(filler("patient "+patient, 20)) }

var alice, bob = keyIDOf("alice"), keyIDOf("bob")

// newRecording returns a recording of Alice's whose media has a plaintext of size bytes. Everything follows from the name.
//
// The ciphertext of a segment, without its tag, is one byte many times, so that the file stays small: the plaintext is
// whatever that decrypts to.
func newRecording(name string, size int) *recording {
	r := &recording{keys: newRecordingKeys(alice, filler(name+"/recording key", 32))}
	r.grant = &grant{alice}
	r.header = append([]byte{headerSize}, filler(name+"/header", headerSize-1)...)
	r.nonce = filler(name+"/nonce", 12)
	r.wrapped = [2]string{wrap(name + "/RK"), wrap(name + "/MK")}
	r.keyring = answers(r.keys, r.wrapped)
	r.media, r.plain = r.keys.media(r.header).patterned(r.header, sizes(size))
	r.metadata = padded("{" + optional + "," + r.required() + "}")
	return r
}

// wrap returns a wrapped key. Vault's have 60 bytes; shorter ones keep the file small.
func wrap(label string) string { return "vault:v1:" + toBase64(filler(label, 24)) }

// answers are those of a keyring that made these wraps.
func answers(k recordingKeys, wrapped [2]string) []answer {
	return []answer{keyAnswer(wrapped[0], k.binding, k.recordingKey), keyAnswer(wrapped[1], k.metadataBinding, k.metadataKey)}
}

func keyAnswer(wrapped, context string, key []byte) answer {
	inHex := hex.EncodeToString(key)
	return answer{Wrapped: wrapped, Context: context, Key: &inHex}
}

// optional are the fields that most recordings have beside the required ones.
const optional = `"content_type":"video/webm","title":"Follow-up"`

const createdAt = `"created_at":"2026-03-14T09:26:53.589793238Z"`

// required are the fields that a recording must have.
func (r *recording) required() string {
	return createdAt + fmt.Sprintf(`,"media_size":%d,"media_header":"%s","revision":0`, len(r.media), toBase64(r.header))
}

// patterned returns media whose segment i has the byte 0xa0+i in the place of ciphertext, and its plaintext.
func (m mediaCipher) patterned(header []byte, sizes []int) (media, plain []byte) {
	media = bytes.Clone(header)
	plain = []byte{}
	for i, size := range sizes {
		segment, text := m.segment(m.nonce(i, len(sizes)), byte(0xa0+i), size)
		media, plain = append(media, segment...), append(plain, text...)
	}
	return media, plain
}

// segment returns a segment of one byte many times and its tag, and the plaintext.
func (m mediaCipher) segment(nonce []byte, pattern byte, size int) (segment, plain []byte) {
	plain = m.aead.Seal(nil, nonce, make([]byte, size), nil)[:size] // the key stream
	for i := range plain {
		plain[i] ^= pattern
	}
	return m.aead.Seal(nil, nonce, plain, nil), plain
}

func (r *recording) sealed() []byte { return r.keys.seal(r.nonce, r.metadata) }

func (r *recording) envelope() string { return r.keys.envelope(r.wrapped, r.sealed()) }

// test returns the test of the recording, which is stored as it is but for the envelope's text.
func (r *recording) test(envelope []byte, comment string, flags []string, operations ...operation) *test {
	t := &test{Comment: comment, Flags: flags, Result: "valid", ID: r.keys.id, Grant: r.grant, Keyring: r.keyring}
	if envelope != nil {
		t.Envelope = newObject(envelopeParts(envelope)...)
	}
	if r.media != nil {
		t.Media = newObject(inParts(r.media)...)
	}
	for _, o := range operations {
		if o.Class != "ok" {
			t.Result = "invalid"
		}
	}
	t.Operations = operations
	return t
}

// stored returns the test of the recording as it is.
func (r *recording) stored(comment string, flags []string, operations ...operation) *test {
	return r.test([]byte(r.envelope()), comment, flags, operations...)
}

// envelopeParts shows an envelope as text, if that is possible.
func envelopeParts(envelope []byte) []part {
	if len(envelope) == 0 {
		return nil
	}
	for _, b := range envelope {
		if b >= 0x80 {
			return []part{inHex(envelope)}
		}
	}
	trimmed := bytes.TrimRight(envelope, " ")
	if n := len(envelope) - len(trimmed); n >= 64 {
		return []part{text(string(trimmed)), {Text: " ", Times: n}}
	}
	return []part{text(string(envelope))}
}

// describe returns the metadata as a reader returns it.
func (r *recording) describe() *metadata {
	var fields map[string]json.RawMessage // names are exact, unlike those of a struct
	if err := json.Unmarshal([]byte(r.metadata), &fields); err != nil {
		panic(fmt.Sprintf("%v: %s", err, r.metadata))
	}
	m := &metadata{}
	for name, into := range map[string]any{
		"content_type": &m.ContentType, "title": &m.Title, "recorded_at": &m.RecordedAt, "duration_ms": &m.DurationMS,
		"attributes": &m.Attributes, "truncated": &m.Truncated, "created_at": &m.CreatedAt, "revision": &m.Revision,
		"media_size": &m.PlaintextLength,
	} {
		if value, ok := fields[name]; ok {
			if err := json.Unmarshal(value, into); err != nil {
				panic(err)
			}
		}
	}
	if strings.TrimRight(m.RecordedAt, ".0Z") == "0001-01-01T00:00:" { // stands for an unknown time
		m.RecordedAt = ""
	}
	size := m.PlaintextLength
	m.PlaintextLength = size - headerSize - tagSize*((size+segmentSize-1)/segmentSize)
	return m
}

// The operations, and what they must give.

func fails(class string, ops ...string) []operation {
	var operations []operation
	for _, op := range ops {
		o := operation{Op: op, Class: class}
		if op == "range" {
			o.Offset, o.Length = new(int64(0)), new(int64(1))
		}
		operations = append(operations, o)
	}
	return operations
}

func (r *recording) stat() operation {
	return operation{Op: "stat", Class: "ok", Metadata: r.describe()}
}

func (r *recording) open() operation {
	return operation{Op: "open", Class: "ok", Metadata: r.describe(), Plain: digestOf(r.plain)}
}

func (r *recording) slice(offset, length int) operation {
	from := min(offset, len(r.plain))
	to := min(from+length, len(r.plain))
	return operation{
		Op: "range", Offset: new(int64(offset)), Length: new(int64(length)), Class: "ok",
		Plain: digestOf(r.plain[from:to]),
	}
}

// damagedAfter is an Open that may release the plaintext before the damage.
func (r *recording) damagedAfter(length int) operation {
	return operation{Op: "open", Class: "damaged", Released: digestOf(r.plain[:length])}
}

func damagedSlice(offset, length int) operation {
	return operation{Op: "range", Offset: new(int64(offset)), Length: new(int64(length)), Class: "damaged"}
}

// flip returns a copy of data with the lowest bit of a byte flipped. A negative position counts from the end.
func flip(data []byte, at int) []byte {
	flipped := bytes.Clone(data)
	flipped[(at+len(data))%len(data)] ^= 1
	return flipped
}

func replaceOnce(text, old, with string) string {
	if !strings.Contains(text, old) {
		panic("nothing to replace: " + old)
	}
	return strings.Replace(text, old, with, 1)
}
