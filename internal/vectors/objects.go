package main

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

func envelopeTests() []*test {
	var tests []*test
	add := func(flag, class, comment string, alter func(r *recording) []byte) {
		r := newRecording("envelopes/"+comment, 15)
		tests = append(tests, r.test(alter(r), comment, flags(flag), fails(class, "stat", "open", "range")...))
	}
	// replaced has something else in the place of a part of the envelope.
	replaced := func(flag, class, comment, old, with string) {
		add(flag, class, comment, func(r *recording) []byte { return []byte(replaceOnce(r.envelope(), old, with)) })
	}
	whole := func(flag, class, comment, text string) {
		add(flag, class, comment, func(*recording) []byte { return []byte(text) })
	}

	const version = `"version":1,`
	replaced("Version", "unsupported", "version 2", version, `"version":2,`)
	replaced("Version", "unsupported", "version 11", version, `"version":11,`)
	replaced("Version", "unsupported", "version 999999999", version, `"version":999999999,`)
	whole("Version", "unsupported", "version 2 with other fields", `{"version":2,"kem":"ml-kem-1024"}`)
	whole("Version", "unsupported", "version 2 and then anything", `{"version":2,`+"\x00")
	add("Version", "unsupported", "version 2, as large as an envelope may be", func(r *recording) []byte {
		return fmt.Appendf(nil, "%-65536s", `{"version":2,"x":1}`)
	})
	add("Version", "damaged", "version 2, one byte larger than an envelope may be", func(r *recording) []byte {
		return fmt.Appendf(nil, "%-65537s", `{"version":2,"x":1}`)
	})
	for _, number := range []string{"0", "01", "02", "-1", "+1", "1.0", "1e0", `"1"`, `"2"`, "1000000000", "0x2", "null", " 1", "1 ", ""} {
		replaced("Version", "damaged", "version "+strings.TrimSpace(fmt.Sprintf("%q", number)), version, `"version":`+number+",")
	}
	whole("Version", "damaged", "a version and no comma", `{"version":2}`)
	whole("Version", "damaged", "a space before the version", `{ "version":2,"x":1}`)
	replaced("Version", "damaged", "the version is not the first field", version, "")

	whole("NotCanonical", "damaged", "an empty object", "")
	whole("NotCanonical", "damaged", "no fields", "{}")
	whole("NotCanonical", "damaged", "only the version", `{"version":1,}`)
	whole("NotCanonical", "damaged", "not JSON", "recvault")
	add("NotCanonical", "damaged", "a line break after it", func(r *recording) []byte { return []byte(r.envelope() + "\n") })
	add("NotCanonical", "damaged", "a space after it", func(r *recording) []byte { return []byte(r.envelope() + " ") })
	add("NotCanonical", "damaged", "a NUL after it", func(r *recording) []byte { return []byte(r.envelope() + "\x00") })
	add("NotCanonical", "damaged", "a byte order mark", func(r *recording) []byte { return []byte("\ufeff" + r.envelope()) })
	add("NotCanonical", "damaged", "in UTF-16", func(r *recording) []byte {
		var text []byte
		for _, b := range []byte(r.envelope()) {
			text = append(text, b, 0)
		}
		return text
	})
	add("NotCanonical", "damaged", "twice", func(r *recording) []byte { return []byte(r.envelope() + r.envelope()) })
	add("NotCanonical", "damaged", "cut by one byte", func(r *recording) []byte { return []byte(r.envelope()[:len(r.envelope())-1]) })
	add("NotCanonical", "damaged", "cut in the middle", func(r *recording) []byte { return []byte(r.envelope()[:len(r.envelope())/2]) })
	add("NotCanonical", "damaged", "padded with spaces to 65,536 bytes", func(r *recording) []byte {
		return fmt.Appendf(nil, "%-65536s", r.envelope())
	})
	add("NotCanonical", "damaged", "padded with spaces to 65,537 bytes", func(r *recording) []byte {
		return fmt.Appendf(nil, "%-65537s", r.envelope())
	})
	replaced("NotCanonical", "damaged", "a space between tokens", `,"wrapped_key"`, `, "wrapped_key"`)
	replaced("NotCanonical", "damaged", "another field", `,"wrapped_key"`, `,"x":1,"wrapped_key"`)
	replaced("NotCanonical", "damaged", "another field at the end", `"}`, `","x":1}`)
	replaced("NotCanonical", "damaged", "a name in capitals", `"commitment"`, `"Commitment"`)
	replaced("NotCanonical", "damaged", "an escape in a name", `"commitment"`, `"\u0063ommitment"`)
	replaced("NotCanonical", "damaged", "an escape in the ID", `"id":"`+alice[:1], `"id":"`+fmt.Sprintf(`\u%04x`, alice[0]))
	replaced("NotCanonical", "damaged", "an escaped slash", `"wrapped_key":"vault:v1:`, `"wrapped_key":"vault:v1:\/`)
	add("NotCanonical", "damaged", "two fields exchanged", func(r *recording) []byte {
		id := `"id":"` + r.keys.id + `",`
		return []byte(replaceOnce(replaceOnce(r.envelope(), id, ""), `"commitment"`, id+`"commitment"`))
	})
	for _, name := range []string{"id", "wrapped_key", "wrapped_metadata_key", "commitment", "metadata"} {
		add("NotCanonical", "damaged", "without "+name, func(r *recording) []byte {
			envelope := r.envelope()
			from := strings.Index(envelope, `,"`+name+`":`)
			to := from + 1 + strings.IndexAny(envelope[from+1:], ",}")
			return []byte(envelope[:from] + envelope[to:])
		})
		add("NotCanonical", "damaged", name+" twice", func(r *recording) []byte {
			envelope := r.envelope()
			from := strings.Index(envelope, `,"`+name+`":`)
			to := from + 1 + strings.IndexAny(envelope[from+1:], ",}")
			return []byte(envelope[:to] + envelope[from:])
		})
		replaced("NotCanonical", "damaged", name+" is null", `"`+name+`":"`, `"`+name+`":null,"x":"`)
	}

	// id is the ID in the envelope, and not the one that is asked for.
	id := func(flag, comment string, alter func(id string) string) {
		add(flag, "damaged", comment, func(r *recording) []byte {
			return []byte(replaceOnce(r.envelope(), r.keys.id, alter(r.keys.id)))
		})
	}
	id("NotCanonical", "the ID is in capitals", strings.ToUpper)
	id("NotCanonical", "the ID has unused bits", func(id string) string { return id[:58] + string(id[58]+1) })
	id("NotCanonical", "the ID is too short", func(id string) string { return id[:57] + "a" })
	id("NotCanonical", "the ID has no dot", func(id string) string { return strings.Replace(id, ".", "/", 1) })
	id("Misplaced", "the ID is another recording's", func(string) string { return newRecording("another", 0).keys.id })
	id("Misplaced", "the ID is another patient's", func(id string) string { return bob + id[32:] })
	add("Misplaced", "damaged", "the envelope is another recording's", func(r *recording) []byte {
		other := newRecording("another", 15)
		r.keyring = append(r.keyring, other.keyring...)
		return []byte(other.envelope())
	})

	// wrapped has something in the place of both wrapped keys, one after the other.
	wrapped := func(flag, class, comment string, alter func(wrapped string) string) {
		for i, name := range []string{"wrapped_key", "wrapped_metadata_key"} {
			r := newRecording("envelopes/"+name+" "+comment, 15)
			r.wrapped[i] = alter(r.wrapped[i])
			r.keyring = answers(r.keys, r.wrapped)
			operations := fails(class, "stat", "open", "range")
			switch {
			case class == "ok":
				operations = []operation{r.stat(), r.open(), r.slice(0, 1)}
			case class == "unsupported" && i == 0:
				operations[0] = r.stat()
			case class == "unsupported":
				operations[1], operations[2] = r.open(), r.slice(0, 1)
			}
			if class == "unsupported" { // the keyring is not asked
				r.keyring = append(r.keyring[:i:i], r.keyring[i+1:]...)
			}
			tests = append(tests, r.test([]byte(r.envelope()), name+" "+comment, flags(flag), operations...))
		}
	}
	label := func(with string) func(string) string {
		return func(wrapped string) string { return replaceOnce(wrapped, "vault:v1:", with) }
	}
	wrapped("Label", "ok", "of version 2", label("vault:v2:"))
	wrapped("Label", "ok", "of the greatest version", label("vault:v2147483647:"))
	wrapped("Label", "ok", "of 4,096 bytes", func(string) string { return "vault:v1000:" + toBase64(filler("long", 3063)) })
	wrapped("Label", "ok", "of one byte", func(string) string { return "vault:v1:AA==" })
	wrapped("Label", "damaged", "of 4,097 bytes", func(string) string { return "vault:v10000:" + toBase64(filler("long", 3063)) })
	wrapped("Label", "unsupported", "of another keyring", label("hsm:v1:"))
	wrapped("Label", "unsupported", "of the keyring local", label("local:v1:"))
	wrapped("Label", "unsupported", "of a keyring with 16 characters", label("a123456789012345:v1:"))
	wrapped("Label", "damaged", "of a keyring with 17 characters", label("a1234567890123456:v1:"))
	wrapped("Label", "damaged", "of a keyring in capitals", label("Vault:v1:"))
	wrapped("Label", "damaged", "of a keyring with another character", label("va_ult:v1:"))
	wrapped("Label", "damaged", "without a keyring", label(":v1:"))
	wrapped("Label", "damaged", "without a label", label(""))
	wrapped("Label", "damaged", "of version 0", label("vault:v0:"))
	wrapped("Label", "damaged", "of version 01", label("vault:v01:"))
	wrapped("Label", "damaged", "of version -1", label("vault:v-1:"))
	wrapped("Label", "damaged", "of version +1", label("vault:v+1:"))
	wrapped("Label", "damaged", "of no version", label("vault:v:"))
	wrapped("Label", "damaged", "of version 2147483648", label("vault:v2147483648:"))
	wrapped("Label", "damaged", "of version 4294967297", label("vault:v4294967297:"))
	wrapped("Label", "damaged", "with another separator", label("vault:1:"))
	wrapped("Label", "damaged", "without a ciphertext", func(string) string { return "vault:v1:" })
	wrapped("Base64", "damaged", "with unused bits", func(string) string { return "vault:v1:AB==" })
	wrapped("Base64", "damaged", "without padding", func(string) string { return "vault:v1:AA" })
	wrapped("Base64", "damaged", "with too much padding", func(wrapped string) string { return wrapped + "=" })
	wrapped("Base64", "damaged", "in the alphabet for URLs", func(wrapped string) string { return wrapped[:37] + "-_-_" })
	wrapped("Base64", "damaged", "with another character", func(wrapped string) string { return wrapped[:37] + "!!!!" })

	// field has something in the place of the value of a field with base64.
	field := func(comment, name string, alter func(value string) string) {
		add("Base64", "damaged", name+" "+comment, func(r *recording) []byte {
			before, value, _ := strings.Cut(r.envelope(), `"`+name+`":"`)
			value, after, _ := strings.Cut(value, `"`)
			return []byte(before + `"` + name + `":"` + alter(value) + `"` + after)
		})
	}
	for _, name := range []string{"commitment", "metadata"} {
		field("with a line break", name, func(value string) string { return value[:8] + `\n` + value[8:] })
		field("with a raw line break", name, func(value string) string { return value[:8] + "\n" + value[8:] })
		field("with another character", name, func(value string) string { return "!" + value[1:] })
		field("in the alphabet for URLs", name, func(value string) string { return "-_" + value[2:] })
		field("without padding", name, func(value string) string { return strings.TrimRight(value, "=") })
		field("with too much padding", name, func(value string) string { return value + "=" })
		field("with unused bits", name, func(value string) string {
			digits := strings.TrimRight(value, "=")
			if len(digits) == len(value) {
				panic("no padding: " + value)
			}
			return digits[:len(digits)-1] + string(nextInBase64(digits[len(digits)-1])) + value[len(digits):]
		})
		field("empty", name, func(string) string { return "" })
	}
	field("of 31 bytes", "commitment", func(string) string { return toBase64(make([]byte, 31)) })
	field("of 33 bytes", "commitment", func(string) string { return toBase64(make([]byte, 33)) })
	return tests
}

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
		t := r.test([]byte(r.envelope()), "the ID has "+c[0], flags("InvalidId"), all("invalid-id")...)
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
	add("another patient's grant, and another patient's envelope", "WrongPatient", func(r *recording) ([]byte, []operation) {
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
	add("another recording under this ID, with wraps for this ID", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
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

	add("another recording under this ID, committed to its own ID", "MaliciousWriter", func(r *recording) ([]byte, []operation) {
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
		original.test([]byte(original.envelope()), "a recording that will be copied", flags("Copy"), original.stat(), original.open()),
		copied.test([]byte(copied.envelope()), "its copy for another patient: same keys, same media", flags("Copy"), copied.stat(), copied.open()))
	swapped := copied
	swapped.wrapped = original.wrapped
	tests = append(tests, swapped.test([]byte(swapped.envelope()), "the copy with the first patient's wraps", flags("Copy", "WrongContext"), all("damaged")...))
	swapped = copied
	sealed := original.sealed()
	tests = append(tests, swapped.test([]byte(swapped.keys.envelope(swapped.wrapped, sealed)), "the copy with the first patient's metadata", flags("Copy", "SealedDamage"), all("damaged")...))

	corrected := newRecording("keys/corrected", 15)
	first := corrected.metadata
	corrected.metadata = padded(strings.TrimRight(replaceOnce(replaceOnce(first, `"revision":0`, `"revision":7`), "Follow-up", "Corrected"), " "))
	tests = append(tests, corrected.test([]byte(corrected.envelope()), "corrected seven times", flags("Rollback"), corrected.stat(), corrected.open()))
	corrected.metadata, corrected.nonce = first, filler("keys/corrected/first nonce", 12)
	tests = append(tests, corrected.test([]byte(corrected.envelope()), "its first envelope, put back", flags("Rollback"), corrected.stat(), corrected.open()))
	return tests
}

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

const (
	second = firstSize + fullSize // where segment 2 starts in the plaintext
	whole  = second + 100         // the plaintext of most of these recordings: segments 0, 1 and 2
)

// span returns where segment i starts and ends in the media.
func span(media []byte, i int) (from, to int) {
	return max(headerSize, i*segmentSize), min((i+1)*segmentSize, len(media))
}

func mediaTests() []*test {
	var tests []*test
	add := func(comment, flag string, alter func(r *recording) []operation) {
		r := newRecording("media/"+comment, whole)
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
			operations := append(none(r), damagedSlice(whole+10*fullSize, 1))
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
		r := newRecording("media/"+c.comment, whole)
		r.metadata = padded("{" + replaceOnce(r.required(), fmt.Sprint(len(r.media)), fmt.Sprint(c.size)) + "}")
		r.media = r.media[:c.size]
		tests = append(tests, r.test([]byte(r.envelope()), c.comment, flags("Truncation", "FinalFlag"),
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
			operations := append(none(r), damagedSlice(firstSize-1, 2), r.slice(firstSize, 1), r.slice(second-1, 2), r.slice(whole, 1))
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
		r.media = newRecording("media/another", whole).media
		return operations
	})
	add("another recording's media after this header", "Misplaced", func(r *recording) []operation {
		operations := append(none(r), damagedSlice(second, 1))
		r.media = append(bytes.Clone(r.header), newRecording("media/another", whole).media[headerSize:]...)
		return operations
	})
	add("a media under the same key with another salt", "Misplaced", func(r *recording) []operation {
		operations := append(none(r), damagedSlice(second, 1))
		header := append([]byte{headerSize}, filler("media/another header", headerSize-1)...)
		r.media, _ = r.keys.media(header).patterned(header, sizes(whole))
		return operations
	})

	// What follows is sealed by a writer that breaks a rule, so the metadata fits the media.
	broken := func(comment, flag string, released int, write func(r *recording, m mediaCipher) []byte) {
		r := newRecording("media/"+comment, whole)
		r.media = write(r, r.keys.media(r.header))
		operations := []operation{r.stat(), r.damagedAfter(released), damagedSlice(released, 1)}
		if released > 0 {
			operations = append(operations, r.slice(0, released))
		} else {
			operations[1].Released = nil
		}
		tests = append(tests, r.test([]byte(r.envelope()), comment, flags(flag), operations...))
	}
	nonces := func(alter func(i int, nonce []byte)) func(*recording, mediaCipher) []byte {
		return func(r *recording, m mediaCipher) []byte {
			media := bytes.Clone(r.header)
			for i, size := range sizes(whole) {
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
	broken("the numbers are little-endian", "FinalFlag", firstSize, nonces(func(i int, nonce []byte) { nonce[7], nonce[10] = nonce[10], nonce[7] }))
	broken("the number of segment 1 twice", "FinalFlag", second, nonces(func(i int, nonce []byte) { nonce[10] = byte(min(i, 1)) }))
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
			media, _ := mediaCipher{gcm(derived), r.header}.patterned(r.header, sizes(whole))
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
		media, _ := mediaCipher{gcm(r.keys.mediaKey), r.header}.patterned(r.header, sizes(whole))
		return media
	})

	header := func(comment string, write func(r *recording) (sealed, stored []byte)) {
		r := newRecording("media/"+comment, whole)
		sealed, stored := write(r)
		r.metadata = padded("{" + replaceOnce(r.required(), toBase64(r.header), toBase64(sealed)) + "}")
		r.media = append(bytes.Clone(stored), r.media[headerSize:]...)
		operations := append([]operation{r.stat()}, fails("damaged", "open", "range")...)
		tests = append(tests, r.test([]byte(r.envelope()), comment, flags("MediaDamage"), append(operations, damagedSlice(second, 1))...))
	}
	header("media_header has another salt", func(r *recording) ([]byte, []byte) { return flip(r.header, 5), r.header })
	header("both headers have another salt", func(r *recording) ([]byte, []byte) { return flip(r.header, 5), flip(r.header, 5) })
	header("both headers have another nonce prefix", func(r *recording) ([]byte, []byte) { return flip(r.header, 35), flip(r.header, 35) })
	header("both headers give another length", func(r *recording) ([]byte, []byte) { return flip(r.header, 0), flip(r.header, 0) })
	return tests
}

// damagedSegment returns what a reader finds when one of three segments is damaged.
func (r *recording) damagedSegment(i int) []operation {
	starts := []int{0, firstSize, second, whole}
	operations := []operation{r.stat()}
	if i == 0 {
		operations = append(operations, fails("damaged", "open")...)
	} else {
		operations = append(operations, r.damagedAfter(starts[i]))
	}
	for j := range 3 {
		from, to := starts[j], starts[j+1]
		if j == i {
			operations = append(operations, damagedSlice(from, 1), damagedSlice(to-1, 1), damagedSlice(from, 0), damagedSlice(max(from-1, 0), 2))
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
