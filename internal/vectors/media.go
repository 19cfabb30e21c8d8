package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

const (
	second = firstSize + fullSize // where segment 2 starts in the plaintext
	three  = second + 100         // the size of a plaintext of three segments
)

// span returns where segment i starts and ends in the media.
func span(media []byte, i int) (from, to int) {
	return max(headerSize, i*segmentSize), min((i+1)*segmentSize, len(media))
}

func mediaTests() []*test {
	var tests []*test
	add := func(comment, flag string, alter func(r *recording) []operation) {
		r := newRecording("media/"+comment, three)
		envelope := []byte(r.envelope())
		operations := alter(r) // of the media, after it was sealed
		tests = append(tests, r.test(envelope, comment, flags(flag), operations...))
	}
	// Stat does not look at the media.
	none := func(r *recording) []operation {
		return append([]operation{r.stat()}, fails("damaged", "open", "range")...)
	}

	for _, c := range []struct {
		comment string
		size    int
	}{
		{"empty", 0},
		{"cut in the header", 39},
		{"cut after the header", 40},
		{"cut by one byte", 2*segmentSize + 115},
		{"cut in the middle of segment 1", segmentSize + 1000},
		{"cut after segment 0", segmentSize},
		{"cut after segment 1", 2 * segmentSize},
		{"cut one byte after segment 0", segmentSize + 1},
		{"cut one byte after segment 1", 2*segmentSize + 1},
		{"cut sixteen bytes after segment 1", 2*segmentSize + 16},
		{"cut seventeen bytes after segment 1", 2*segmentSize + 17},
	} {
		add(c.comment, "Truncation", func(r *recording) []operation {
			operations := append(none(r), damagedSlice(three+10*fullSize, 1))
			r.media = r.media[:c.size]
			return operations
		})
	}
	// Here the writer itself sealed the size of the media that was cut: only the final flag shows the cut.
	for _, c := range []struct {
		comment  string
		size     int
		released int
	}{
		{"cut after segment 1, and the size is sealed", 2 * segmentSize, firstSize},
		{"cut seventeen bytes after segment 1, and the size is sealed", 2*segmentSize + 17, second},
	} {
		r := newRecording("media/"+c.comment, three)
		r.metadata = padded("{" + replaceOnce(r.required(), fmt.Sprint(len(r.media)), fmt.Sprint(c.size)) + "}")
		r.media = r.media[:c.size]
		tests = append(tests, r.stored(c.comment, flags("Truncation", "FinalFlag"),
			r.stat(), r.damagedAfter(c.released), r.slice(0, firstSize), damagedSlice(c.released, 1), damagedSlice(c.released-1, 2)))
	}
	for _, c := range []struct {
		comment string
		more    int
	}{{"a byte more", 1}, {"sixteen bytes more", 16}, {"a full segment more", segmentSize}} {
		add(c.comment, "MediaDamage", func(r *recording) []operation {
			operations := none(r)
			r.media = append(r.media, make([]byte, c.more)...)
			return operations
		})
	}
	add("a copy of the last segment more", "MediaDamage", func(r *recording) []operation {
		operations := none(r)
		from, to := span(r.media, 2)
		r.media = append(r.media, r.media[from:to]...)
		return operations
	})

	for _, c := range []struct {
		comment string
		at      int
	}{
		{"a bit flipped in the header's length", 0},
		{"a bit flipped in the salt", 1},
		{"a bit flipped in the last byte of the salt", 32},
		{"a bit flipped in the nonce prefix", 33},
		{"a bit flipped in the last byte of the header", 39},
	} {
		add(c.comment, "LocalDamage", func(r *recording) []operation {
			operations := append(none(r), damagedSlice(firstSize-1, 2), r.slice(firstSize, 1), r.slice(second-1, 2), r.slice(three, 1))
			r.media = flip(r.media, c.at)
			return operations
		})
	}
	for _, c := range []struct {
		comment string
		at      int
		segment int
	}{
		{"a bit flipped in the first byte of segment 0", 40, 0},
		{"a bit flipped in the tag of segment 0", segmentSize - 1, 0},
		{"a bit flipped in the first byte of segment 1", segmentSize, 1},
		{"a bit flipped in the middle of segment 1", segmentSize + 30000, 1},
		{"a bit flipped in the tag of segment 1", 2*segmentSize - 16, 1},
		{"a bit flipped in the first byte of the last segment", 2 * segmentSize, 2},
		{"a bit flipped in the last byte", -1, 2},
	} {
		add(c.comment, "LocalDamage", func(r *recording) []operation {
			operations := r.damagedSegment(c.segment)
			r.media = flip(r.media, c.at)
			return operations
		})
	}
	add("segment 1 is zero", "LocalDamage", func(r *recording) []operation {
		operations := r.damagedSegment(1)
		from, to := span(r.media, 1)
		r.media = append(append(bytes.Clone(r.media[:from]), make([]byte, to-from)...), r.media[to:]...)
		return operations
	})
	add("segment 1 is in the place of segment 0", "MediaDamage", func(r *recording) []operation {
		operations := r.damagedSegment(0)
		from, to := span(r.media, 1)
		r.media = append(append(bytes.Clone(r.media[:headerSize]), r.media[from+headerSize:to]...), r.media[to-segmentSize:]...)
		return operations
	})

	// four has two full segments that can be exchanged.
	four := func(comment string, alter func(r *recording, media []byte) []byte, released int, good ...[2]int) {
		r := newRecording("media/"+comment, second+fullSize+100)
		envelope := []byte(r.envelope())
		operations := append([]operation{r.stat(), r.damagedAfter(released), damagedSlice(released, 1)}, r.slices(good)...)
		r.media = alter(r, bytes.Clone(r.media))
		tests = append(tests, r.test(envelope, comment, flags("MediaDamage"), operations...))
	}
	four("segments 1 and 2 are exchanged", func(r *recording, media []byte) []byte {
		copy(media[segmentSize:], r.media[2*segmentSize:3*segmentSize])
		copy(media[2*segmentSize:], r.media[segmentSize:2*segmentSize])
		return media
	}, firstSize, [2]int{0, firstSize}, [2]int{second + fullSize, 100})
	four("segment 1 is in the place of segment 2 too", func(r *recording, media []byte) []byte {
		copy(media[2*segmentSize:], r.media[segmentSize:2*segmentSize])
		return media
	}, second, [2]int{firstSize, fullSize}, [2]int{second + fullSize, 100})
	four("segment 1 is another recording's, and its tag", func(r *recording, media []byte) []byte {
		other := newRecording("media/another", second+fullSize+100)
		copy(media[segmentSize:2*segmentSize], other.media[segmentSize:])
		return media
	}, firstSize, [2]int{0, firstSize}, [2]int{second, fullSize + 100})

	add("another recording's media of the same size", "Misplaced", func(r *recording) []operation {
		operations := append(none(r), damagedSlice(second, 1))
		r.media = newRecording("media/another", three).media
		return operations
	})
	add("another recording's media after this header", "Misplaced", func(r *recording) []operation {
		operations := append(none(r), damagedSlice(second, 1))
		r.media = append(bytes.Clone(r.header), newRecording("media/another", three).media[headerSize:]...)
		return operations
	})
	add("a media under the same key with another salt", "Misplaced", func(r *recording) []operation {
		operations := append(none(r), damagedSlice(second, 1))
		header := append([]byte{headerSize}, filler("media/another header", headerSize-1)...)
		r.media, _ = r.keys.media(header).patterned(header, sizes(three))
		return operations
	})

	// What follows is sealed by a writer that breaks a rule, so the metadata fits the media.
	broken := func(comment, flag string, released int, write func(r *recording, m mediaCipher) []byte) {
		r := newRecording("media/"+comment, three)
		r.media = write(r, r.keys.media(r.header))
		operations := []operation{r.stat(), r.damagedAfter(released), damagedSlice(released, 1)}
		if released > 0 {
			operations = append(operations, r.slice(0, released))
		} else {
			operations[1].Released = nil
		}
		tests = append(tests, r.stored(comment, flags(flag), operations...))
	}
	nonces := func(alter func(i int, nonce []byte)) func(*recording, mediaCipher) []byte {
		return func(r *recording, m mediaCipher) []byte {
			media := bytes.Clone(r.header)
			for i, size := range sizes(three) {
				nonce := m.nonce(i, 3)
				alter(i, nonce)
				segment, _ := m.segment(nonce, byte(0xa0+i), size)
				media = append(media, segment...)
			}
			return media
		}
	}
	broken("the last segment is not final", "FinalFlag", second, nonces(func(i int, nonce []byte) { nonce[11] = 0 }))
	broken("the last segment has final flag 2", "FinalFlag", second, nonces(func(i int, nonce []byte) { nonce[11] *= 2 }))
	broken("segment 0 is final", "FinalFlag", 0, nonces(func(i int, nonce []byte) { nonce[11] = 1 }))
	broken("segment 1 is final", "FinalFlag", firstSize, nonces(func(i int, nonce []byte) { nonce[11] = byte(min(i, 1)) }))
	broken("the numbers start at 1", "FinalFlag", 0, nonces(func(i int, nonce []byte) { nonce[10]++ }))
	broken("the numbers are little-endian", "FinalFlag",
		firstSize, nonces(func(i int, nonce []byte) { nonce[7], nonce[10] = nonce[10], nonce[7] }))
	broken("the number of segment 1 twice", "FinalFlag",
		second, nonces(func(i int, nonce []byte) { nonce[10] = byte(min(i, 1)) }))
	broken("the final flag before the number", "FinalFlag", firstSize, nonces(func(i int, nonce []byte) {
		copy(nonce[7:], append([]byte{nonce[11]}, nonce[7:11]...))
	}))

	keyed := func(comment string, key func(r *recording) (mainKey []byte, associated string)) {
		broken(comment, "WrongMediaKey", 0, func(r *recording, m mediaCipher) []byte {
			mainKey, associated := key(r)
			derived, err := hkdf.Key(sha256.New, mainKey, r.header[1:33], associated, 32)
			if err != nil {
				panic(err)
			}
			media, _ := mediaCipher{gcm(derived), r.header}.patterned(r.header, sizes(three))
			return media
		})
	}
	keyed("without associated data", func(r *recording) ([]byte, string) { return r.keys.mediaKey, "" })
	keyed("the binding is the associated data", func(r *recording) ([]byte, string) { return r.keys.mediaKey, r.keys.binding })
	keyed("the associated data has another rec", func(r *recording) ([]byte, string) {
		return r.keys.mediaKey, "recvault/v1/" + newRecording("another", 0).keys.rec
	})
	keyed("under RK", func(r *recording) ([]byte, string) { return r.keys.recordingKey, "recvault/v1/" + r.keys.rec })
	keyed("under MK", func(r *recording) ([]byte, string) { return r.keys.metadataKey, "recvault/v1/" + r.keys.rec })
	keyed("under a key derived from MK", func(r *recording) ([]byte, string) {
		return derive(r.keys.metadataKey, "recvault/v1/media"), "recvault/v1/" + r.keys.rec
	})
	broken("under the media key itself, without a salt", "WrongMediaKey", 0, func(r *recording, m mediaCipher) []byte {
		media, _ := mediaCipher{gcm(r.keys.mediaKey), r.header}.patterned(r.header, sizes(three))
		return media
	})

	header := func(comment string, write func(r *recording) (sealed, stored []byte)) {
		r := newRecording("media/"+comment, three)
		sealed, stored := write(r)
		r.metadata = padded("{" + replaceOnce(r.required(), toBase64(r.header), toBase64(sealed)) + "}")
		r.media = append(bytes.Clone(stored), r.media[headerSize:]...)
		operations := append([]operation{r.stat()}, fails("damaged", "open", "range")...)
		tests = append(tests, r.stored(comment, flags("MediaDamage"), append(operations, damagedSlice(second, 1))...))
	}
	header("media_header has another salt", func(r *recording) ([]byte, []byte) { return flip(r.header, 5), r.header })
	header("both headers have another salt",
		func(r *recording) ([]byte, []byte) { return flip(r.header, 5), flip(r.header, 5) })
	header("both headers have another nonce prefix",
		func(r *recording) ([]byte, []byte) { return flip(r.header, 35), flip(r.header, 35) })
	header("both headers give another length",
		func(r *recording) ([]byte, []byte) { return flip(r.header, 0), flip(r.header, 0) })
	return tests
}

// damagedSegment returns what a reader finds when one of three segments is damaged.
func (r *recording) damagedSegment(i int) []operation {
	starts := []int{0, firstSize, second, three}
	operations := []operation{r.stat()}
	if i == 0 {
		operations = append(operations, fails("damaged", "open")...)
	} else {
		operations = append(operations, r.damagedAfter(starts[i]))
	}
	for j := range 3 {
		from, to := starts[j], starts[j+1]
		if j == i {
			operations = append(operations,
				damagedSlice(from, 1), damagedSlice(to-1, 1), damagedSlice(from, 0), damagedSlice(max(from-1, 0), 2))
		} else {
			operations = append(operations, r.slice(from, to-from))
		}
	}
	return operations
}

func (r *recording) slices(ranges [][2]int) []operation {
	var operations []operation
	for _, o := range ranges {
		operations = append(operations, r.slice(o[0], o[1]))
	}
	return operations
}
