package main

import (
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
	for _, number := range []string{
		"0", "01", "02", "-1", "+1", "1.0", "1e0", `"1"`, `"2"`, "1000000000", "0x2", "null", " 1", "1 ", "",
	} {
		replaced("Version", "damaged", "version "+strings.TrimSpace(fmt.Sprintf("%q", number)), version, `"version":`+number+",")
	}
	whole("Version", "damaged", "a version and no comma", `{"version":2}`)
	whole("Version", "damaged", "a space before the version", `{ "version":2,"x":1}`)
	replaced("Version", "damaged", "the version is not the first field", version, "")

	whole("NotCanonical", "damaged", "an empty object", "")
	whole("NotCanonical", "damaged", "no fields", "{}")
	whole("NotCanonical", "damaged", "only the version", `{"version":1,}`)
	whole("NotCanonical", "damaged", "not JSON", "recvault")
	add("NotCanonical", "damaged",
		"a line break after it", func(r *recording) []byte { return []byte(r.envelope() + "\n") })
	add("NotCanonical", "damaged", "a space after it", func(r *recording) []byte { return []byte(r.envelope() + " ") })
	add("NotCanonical", "damaged", "a NUL after it", func(r *recording) []byte { return []byte(r.envelope() + "\x00") })
	add("NotCanonical", "damaged",
		"a byte order mark", func(r *recording) []byte { return []byte("\ufeff" + r.envelope()) })
	add("NotCanonical", "damaged", "in UTF-16", func(r *recording) []byte {
		var text []byte
		for _, b := range []byte(r.envelope()) {
			text = append(text, b, 0)
		}
		return text
	})
	add("NotCanonical", "damaged", "twice", func(r *recording) []byte { return []byte(r.envelope() + r.envelope()) })
	add("NotCanonical", "damaged",
		"cut by one byte", func(r *recording) []byte { return []byte(r.envelope()[:len(r.envelope())-1]) })
	add("NotCanonical", "damaged",
		"cut in the middle", func(r *recording) []byte { return []byte(r.envelope()[:len(r.envelope())/2]) })
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
			tests = append(tests, r.stored(name+" "+comment, flags(flag), operations...))
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
