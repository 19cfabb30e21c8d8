package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// workedExample is a small recording with fixed values in the place of random ones. docs/format.md shows it, and it is the
// first of the vectors.
type workedExample struct {
	keys     recordingKeys
	plain    string
	header   []byte // of the media
	metadata string // unpadded
	nonce    []byte // of the sealed metadata
	wrapped  [2]string
}

func newWorkedExample() workedExample {
	header := append([]byte{headerSize}, sequence(0x20, headerSize-1)...)
	return workedExample{
		keys:   newRecordingKeys(toBase32(sequence(0xe0, 20)), sequence(0x00, 32)),
		plain:  "A consultation.",
		header: header,
		metadata: `{"content_type":"video/webm","created_at":"2026-03-14T09:26:53.5Z","media_size":71,"media_header":"` +
			toBase64(header) + `","revision":0}`,
		nonce:   sequence(0x80, 12),
		wrapped: [2]string{"vault:v1:" + toBase64(sequence(0x90, 60)), "vault:v1:" + toBase64(sequence(0x40, 60))},
	}
}

// sequence returns n bytes that count from the first.
func sequence(first byte, n int) []byte {
	bytes := make([]byte, n)
	for i := range bytes {
		bytes[i] = first + byte(i)
	}
	return bytes
}

func (e workedExample) media() []byte { return e.keys.media(e.header).encrypt([]byte(e.plain)) }

func (e workedExample) envelope() string {
	return e.keys.envelope(e.wrapped, e.keys.seal(e.nonce, padded(e.metadata)))
}

// text is the example as docs/format.md shows it.
func (e workedExample) text() string {
	var text strings.Builder
	line := func(name, value string) { fmt.Fprintf(&text, "%-16s  %s\n", name, value) }
	inHex := func(name string, value []byte) { line(name, hex.EncodeToString(value)) }
	k, m, sealed := e.keys, e.keys.media(e.header), e.keys.seal(e.nonce, padded(e.metadata))
	line("KeyID", k.keyID)
	inHex("RK", k.recordingKey)
	inHex("MK", k.metadataKey)
	line("rec", k.rec)
	line("ID", k.id)
	line("binding", k.binding)
	line("  as context", toBase64([]byte(k.binding)))
	line("metadata binding", k.metadataBinding)
	line("  as context", toBase64([]byte(k.metadataBinding)))
	inHex("commitment", k.commitment)
	text.WriteString("\n")
	line("plaintext", e.plain)
	inHex("media key", k.mediaKey)
	inHex("header", e.header)
	inHex("segment key", k.segmentKey(e.header))
	inHex("nonce 0", m.nonce(0, 1))
	inHex("media", e.media())
	text.WriteString("\n")
	line("metadata", e.metadata)
	line("  padded", fmt.Sprintf("%d bytes of text and %d spaces", len(e.metadata), len(padded(e.metadata))-len(e.metadata)))
	inHex("seal key", k.sealKey)
	inHex("nonce", e.nonce)
	inHex("tag", sealed[len(sealed)-tagSize:])
	inHex("  SHA-256", sum(sealed))
	text.WriteString("  (of nonce | ciphertext | tag)\n\n")
	line("envelope", e.envelope())
	inHex("  SHA-256", sum([]byte(e.envelope())))
	return text.String()
}

func sum(data []byte) []byte {
	digest := sha256.Sum256(data)
	return digest[:]
}
