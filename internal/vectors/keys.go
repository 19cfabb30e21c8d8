package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
)

func keyTests() []*test {
	var tests []*test
	add := func(comment string, flag string, alter func(r *recording) ([]byte, []operation)) {
		r := newRecording("keys/"+comment, 15)
		envelope, operations := alter(r)
		tests = append(tests, r.test(envelope, comment, flags(flag), operations...))
	}
	all := func(class string) []operation { return fails(class, "stat", "open", "range") }

	r := newRecording("keys/names", 15)
	for _, c := range [][2]string{
		{"nothing", ""},
		{"only a KeyID", r.keys.keyID},
		{"only a rec", r.keys.rec},
		{"capitals", strings.ToUpper(r.keys.id)},
		{"a slash in the place of the dot", r.keys.keyID + "/" + r.keys.rec},
		{"two dots", r.keys.keyID + ".." + r.keys.rec},
		{"a space before it", " " + r.keys.id},
		{"a line break after it", r.keys.id + "\n"},
		{"a line break in it", r.keys.id[:40] + "\n" + r.keys.id[40:]},
		{"a NUL after it", r.keys.id + "\x00"},
		{"unused bits in rec", r.keys.id[:58] + string(r.keys.id[58]+1)},
		{"a digit that base32 does not have", "1" + r.keys.id[1:]},
		{"padding", r.keys.id + "======"},
		{"a way out of the folder", "../" + r.keys.id},
		{"a character less", r.keys.id[:58]},
		{"a character more", r.keys.id + "a"},
	} {
		t := r.stored("the ID has "+c[0], flags("InvalidId"), all("invalid-id")...)
		t.ID = c[1]
		if c[1] == "" || c[1] == r.keys.keyID || c[1] == r.keys.rec {
			t.Comment = "the ID is " + c[0]
		}
		tests = append(tests, t)
	}

	add("no grant", "Keyring", func(r *recording) ([]byte, []operation) {
		r.grant = nil
		return []byte(r.envelope()), all("invalid-grant")
	})
	add("no envelope", "Missing", func(r *recording) ([]byte, []operation) { return nil, all("not-found") })
	add("neither object", "Missing", func(r *recording) ([]byte, []operation) {
		r.media = nil
		return nil, all("not-found")
	})
	add("no media", "Missing", func(r *recording) ([]byte, []operation) {
		envelope, operations := []byte(r.envelope()), append([]operation{r.stat()}, fails("damaged", "open", "range")...)
		r.media = nil
		return envelope, operations
	})

	others := &grant{bob}
	add("another patient's grant", "WrongPatient", func(r *recording) ([]byte, []operation) {
		r.grant = others
		return []byte(r.envelope()), all("wrong-patient")
	})
	add("another patient's grant, and no recording", "WrongPatient", func(r *recording) ([]byte, []operation) {
		r.grant, r.media = others, nil
		return nil, all("wrong-patient")
	})
	add("another patient's grant, and a damaged envelope", "WrongPatient", func(r *recording) ([]byte, []operation) {
		r.grant = others
		return []byte("{}"), all("wrong-patient")
	})
	add("another patient's grant, and an unsupported version", "WrongPatient", func(r *recording) ([]byte, []operation) {
		r.grant = others
		return []byte(`{"version":2,"x":1}`), all("wrong-patient")
	})
	add("another patient's grant, and an unsupported keyring", "WrongPatient", func(r *recording) ([]byte, []operation) {
		r.grant = others
		r.wrapped = [2]string{"hsm:v1:AAAA", "hsm:v1:AAAA"}
		return []byte(r.envelope()), all("wrong-patient")
	})
	add("another patient's grant, and another patient's envelope", "WrongPatient",
		func(r *recording) ([]byte, []operation) {
			r.grant = others
			bobs := *r
			bobs.keys = newRecordingKeys(bob, r.keys.recordingKey)
			r.keyring = append(r.keyring, answers(bobs.keys, bobs.wrapped)...)
			return []byte(bobs.envelope()), all("wrong-patient")
		})
	add("another patient's grant, and a media that is missing", "WrongPatient", func(r *recording) ([]byte, []operation) {
		envelope := []byte(r.envelope())
		r.grant, r.media = others, nil
		return envelope, all("wrong-patient")
	})

	for _, class := range []string{"denied", "invalid-grant", "retired", "not-enrolled", "erased", "unavailable", "damaged"} {
		add("the keyring answers "+class, "Keyring", func(r *recording) ([]byte, []operation) {
			for i := range r.keyring {
				r.keyring[i].Key, r.keyring[i].Error = nil, class
			}
			return []byte(r.envelope()), all(class)
		})
	}
	add("a grant that can only describe", "Keyring", func(r *recording) ([]byte, []operation) {
		r.keyring[0].Key, r.keyring[0].Error = nil, "denied"
		return []byte(r.envelope()), append([]operation{r.stat()}, fails("denied", "open", "range")...)
	})
	add("RK is wrapped under a retired version, MK is not", "Keyring", func(r *recording) ([]byte, []operation) {
		r.keyring[0].Key, r.keyring[0].Error = nil, "retired"
		return []byte(r.envelope()), append([]operation{r.stat()}, fails("retired", "open", "range")...)
	})
	add("the keyring answers unavailable for MK only", "Keyring", func(r *recording) ([]byte, []operation) {
		r.keyring[1].Key, r.keyring[1].Error = nil, "unavailable"
		return []byte(r.envelope()), append(fails("unavailable", "stat"), r.open(), r.slice(0, 1))
	})
	add("a refusal comes before damage of the metadata", "Keyring", func(r *recording) ([]byte, []operation) {
		for i := range r.keyring {
			r.keyring[i].Key, r.keyring[i].Error = nil, "retired"
		}
		return []byte(r.keys.envelope(r.wrapped, flip(r.sealed(), -1))), all("retired")
	})

	add("the wrapped keys are exchanged", "WrongContext", func(r *recording) ([]byte, []operation) {
		r.wrapped[0], r.wrapped[1] = r.wrapped[1], r.wrapped[0]
		return []byte(r.envelope()), all("damaged")
	})
	add("MK's wrap in both places", "WrongContext", func(r *recording) ([]byte, []operation) {
		r.wrapped[0] = r.wrapped[1]
		return []byte(r.envelope()), append([]operation{r.stat()}, fails("damaged", "open", "range")...)
	})
	add("RK's wrap in both places", "WrongContext", func(r *recording) ([]byte, []operation) {
		r.wrapped[1] = r.wrapped[0]
		return []byte(r.envelope()), append(fails("damaged", "stat"), r.open(), r.slice(0, 1))
	})
	add("wraps of another recording", "WrongContext", func(r *recording) ([]byte, []operation) {
		other := newRecording("another", 15)
		r.keyring, r.wrapped = append(r.keyring, other.keyring...), other.wrapped
		return []byte(r.envelope()), all("damaged")
	})
	add("wraps for another patient", "WrongContext", func(r *recording) ([]byte, []operation) {
		r.keyring = answers(newRecordingKeys(bob, r.keys.recordingKey), r.wrapped)
		return []byte(r.envelope()), all("damaged")
	})

	for _, size := range []int{0, 16, 31, 33, 64} {
		add(fmt.Sprintf("the keyring unwraps %d bytes", size), "KeySize", func(r *recording) ([]byte, []operation) {
			for i, key := range [][]byte{r.keys.recordingKey, r.keys.metadataKey} {
				*r.keyring[i].Key = hex.EncodeToString(append(bytes.Clone(key), make([]byte, 32)...)[:size])
			}
			return []byte(r.envelope()), all("damaged")
		})
	}

	// A writer's stolen token can wrap any key for any binding.
	add("MK's wrap has another key", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
		*r.keyring[1].Key = hex.EncodeToString(filler("other MK", 32))
		return []byte(r.envelope()), append(fails("damaged", "stat"), r.open(), r.slice(0, 1))
	})
	add("RK's wrap has another key", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
		*r.keyring[0].Key = hex.EncodeToString(filler("other RK", 32))
		return []byte(r.envelope()), append([]operation{r.stat()}, fails("damaged", "open", "range")...)
	})
	add("MK's wrap has RK", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
		*r.keyring[1].Key = hex.EncodeToString(r.keys.recordingKey)
		return []byte(r.envelope()), append(fails("damaged", "stat"), r.open(), r.slice(0, 1))
	})
	add("RK's wrap has MK", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
		*r.keyring[0].Key = hex.EncodeToString(r.keys.metadataKey)
		return []byte(r.envelope()), append([]operation{r.stat()}, fails("damaged", "open", "range")...)
	})
	add("another recording under this ID, with wraps for this ID", "MaliciousWriter",
		func(r *recording) ([]byte, []operation) {
			other := newRecording("another", 15)
			forged := other.keys
			forged.id, forged.rec = r.keys.id, r.keys.rec
			forged.binding, forged.metadataBinding = r.keys.binding, r.keys.metadataBinding
			forged.commitment = derive(forged.metadataKey, "recvault/v1/commitment\x00"+forged.binding)
			other.keys = forged
			other.media, other.plain = forged.media(other.header).patterned(other.header, sizes(15))
			r.keyring, r.media = answers(forged, other.wrapped), other.media
			return []byte(other.envelope()), all("damaged")
		})

	add("another recording under this ID, committed to its own ID", "MaliciousWriter",
		func(r *recording) ([]byte, []operation) {
			other := newRecording("another", 15)
			r.keyring = []answer{
				keyAnswer(other.wrapped[0], r.keys.binding, other.keys.recordingKey),
				keyAnswer(other.wrapped[1], r.keys.metadataBinding, other.keys.metadataKey),
			}
			r.media = other.media
			return []byte(replaceOnce(other.envelope(), other.keys.id, r.keys.id)), all("damaged")
		})

	add("the commitment is altered in its first bit", "Commitment", func(r *recording) ([]byte, []operation) {
		r.keys.commitment = bytes.Clone(r.keys.commitment)
		r.keys.commitment[0] ^= 0x80
		return []byte(r.envelope()), all("damaged")
	})
	add("the commitment is altered in its last bit", "Commitment", func(r *recording) ([]byte, []operation) {
		r.keys.commitment = flip(r.keys.commitment, -1)
		return []byte(r.envelope()), all("damaged")
	})
	for _, c := range [][2]string{
		{"the commitment is that of the metadata binding", "recvault/v1/commitment\x00recvault/v1/metadata/%s/%s"},
		{"the commitment has no separator", "recvault/v1/commitmentrecvault/v1/%s/%s"},
		{"the commitment is that of the ID", "recvault/v1/commitment\x00%s.%s"},
		{"the commitment is for no binding", "recvault/v1/commitment%.0s%.0s"},
	} {
		add(c[0], "Commitment", func(r *recording) ([]byte, []operation) {
			r.keys.commitment = derive(r.keys.metadataKey, fmt.Sprintf(c[1], r.keys.keyID, r.keys.rec))
			return []byte(r.envelope()), all("damaged")
		})
	}
	add("the commitment is for another patient", "Commitment", func(r *recording) ([]byte, []operation) {
		r.keys.commitment = newRecordingKeys(bob, r.keys.recordingKey).commitment
		return []byte(r.envelope()), all("damaged")
	})
	add("the commitment is of RK", "Commitment", func(r *recording) ([]byte, []operation) {
		r.keys.commitment = derive(r.keys.recordingKey, "recvault/v1/commitment\x00"+r.keys.binding)
		return []byte(r.envelope()), all("damaged")
	})
	add("the commitment is zero", "Commitment", func(r *recording) ([]byte, []operation) {
		r.keys.commitment = make([]byte, 32)
		return []byte(r.envelope()), all("damaged")
	})

	original := newRecording("keys/copied", 15)
	copied := *original
	copied.keys = newRecordingKeys(bob, original.keys.recordingKey)
	copied.grant, copied.nonce = others, filler("keys/copied/second nonce", 12)
	copied.wrapped = [2]string{wrap("keys/copied/second RK"), wrap("keys/copied/second MK")}
	copied.keyring = answers(copied.keys, copied.wrapped)
	tests = append(tests,
		original.stored("a recording that will be copied", flags("Copy"), original.stat(), original.open()),
		copied.stored("its copy for another patient: same keys, same media", flags("Copy"), copied.stat(), copied.open()))
	swapped := copied
	swapped.wrapped = original.wrapped
	tests = append(tests, swapped.stored("the copy with the first patient's wraps", flags("Copy", "WrongContext"), all("damaged")...))
	swapped = copied
	sealed := original.sealed()
	tests = append(tests, swapped.test([]byte(swapped.keys.envelope(swapped.wrapped, sealed)),
		"the copy with the first patient's metadata", flags("Copy", "SealedDamage"), all("damaged")...))

	corrected := newRecording("keys/corrected", 15)
	first := corrected.metadata
	corrected.metadata = replaceOnce(replaceOnce(first, `"revision":0`, `"revision":7`), "Follow-up", "Corrected")
	tests = append(tests, corrected.stored("corrected seven times", flags("Rollback"), corrected.stat(), corrected.open()))
	corrected.metadata, corrected.nonce = first, filler("keys/corrected/first nonce", 12)
	tests = append(tests, corrected.stored("its first envelope, put back", flags("Rollback"), corrected.stat(), corrected.open()))
	return tests
}
