package main

import (
	"bytes"
	"fmt"
)

func sealedTests() []*test {
	var tests []*test
	add := func(comment string, seal func(r *recording) []byte) {
		r := newRecording("sealed/"+comment, 15)
		envelope := []byte(r.keys.envelope(r.wrapped, seal(r)))
		tests = append(tests, r.test(envelope, comment, flags("SealedDamage"), fails("damaged", "stat", "open", "range")...))
	}
	sealedWith := func(comment string, seal func(r *recording) (key []byte, associated string)) {
		add(comment, func(r *recording) []byte {
			key, associated := seal(r)
			return append(bytes.Clone(r.nonce), gcm(key).Seal(nil, r.nonce, []byte(r.metadata), []byte(associated))...)
		})
	}
	for _, c := range []struct {
		comment string
		at      int
	}{
		{"a bit flipped in the nonce", 0},
		{"a bit flipped in the last byte of the nonce", 11},
		{"a bit flipped in the first byte", 12},
		{"a bit flipped in the padding", -20},
		{"a bit flipped in the tag", -16},
		{"a bit flipped in the last byte of the tag", -1},
	} {
		add(c.comment, func(r *recording) []byte { return flip(r.sealed(), c.at) })
	}
	add("a byte less", func(r *recording) []byte { return r.sealed()[:len(r.sealed())-1] })
	add("a byte more", func(r *recording) []byte { return append(r.sealed(), 0) })
	for _, size := range []int{0, 1, 11, 12, 27, 28} {
		add(fmt.Sprintf("only the first %d bytes", size), func(r *recording) []byte { return r.sealed()[:size] })
	}
	add("an authentic text of no bytes", func(r *recording) []byte { return r.keys.seal(r.nonce, "") })
	add("with Tink's prefix", func(r *recording) []byte { return append([]byte{1, 2, 3, 4, 5}, r.sealed()...) })
	add("the nonce at the end", func(r *recording) []byte { return append(r.sealed()[12:], r.nonce...) })
	add("the tag before the ciphertext", func(r *recording) []byte {
		s := r.sealed()
		return bytes.Join([][]byte{s[:12], s[len(s)-16:], s[12 : len(s)-16]}, nil)
	})
	add("not encrypted", func(r *recording) []byte { return []byte(r.metadata) })
	add("that of another recording", func(*recording) []byte { return newRecording("another", 15).sealed() })
	sealedWith("without associated data", func(r *recording) ([]byte, string) { return r.keys.sealKey, "" })
	sealedWith("for the metadata binding", func(r *recording) ([]byte, string) { return r.keys.sealKey, r.keys.metadataBinding })
	sealedWith("for the ID", func(r *recording) ([]byte, string) { return r.keys.sealKey, r.keys.id })
	sealedWith("for rec alone", func(r *recording) ([]byte, string) { return r.keys.sealKey, "recvault/v1/" + r.keys.rec })
	sealedWith("for another patient", func(r *recording) ([]byte, string) {
		return r.keys.sealKey, "recvault/v1/" + bob + "/" + r.keys.rec
	})
	sealedWith("under MK", func(r *recording) ([]byte, string) { return r.keys.metadataKey, r.keys.binding })
	sealedWith("under RK", func(r *recording) ([]byte, string) { return r.keys.recordingKey, r.keys.binding })
	sealedWith("under the media key", func(r *recording) ([]byte, string) { return r.keys.mediaKey, r.keys.binding })
	sealedWith("under a key derived from RK", func(r *recording) ([]byte, string) {
		return derive(r.keys.recordingKey, "recvault/v1/seal"), r.keys.binding
	})
	return tests
}
