package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
)

func validMetadataTests() []*test {
	var tests []*test
	add := func(flag, comment string, text func(required string) string) {
		r := newRecording("valid metadata/"+comment, 15)
		r.metadata = text(r.required())
		tests = append(tests, r.stored(comment, flags(flag), r.stat(), r.open()))
	}
	optional := func(flag, comment, fields string) {
		add(flag, comment, func(required string) string { return padded("{" + fields + "," + required + "}") })
	}
	add("ValidMetadata", "only the required fields", func(required string) string { return padded("{" + required + "}") })
	add("ValidMetadata", "no padding", func(required string) string { return "{" + required + "}" })
	add("ValidMetadata", "all white space of JSON around all tokens", func(required string) string {
		for _, token := range []string{"{", "}", ":", ","} {
			if token != ":" { // the times have colons too
				required = strings.ReplaceAll(required, token, " \t\r\n"+token+"\n\r\t ")
			}
		}
		return " \t\r\n{\"title\" \t\r\n: \t\r\n\"x\"," + required + "\n\r\t }\n\n\n"
	})
	add("ValidMetadata", "the required fields in another order", func(required string) string {
		parts := strings.SplitN(required, `,"revision":0`, 2)
		return padded(`{"revision":0,` + parts[0] + "}")
	})
	add("ValidMetadata", "the greatest revision", func(required string) string {
		return padded("{" + replaceOnce(required, `"revision":0`, `"revision":9007199254740991`) + "}")
	})
	add("OutOfBounds", "a text of exactly 41,984 bytes", func(required string) string {
		return fmt.Sprintf("%-41984s", "{"+required+"}")
	})
	optional("ValidMetadata", "every field",
		`"content_type":"audio/ogg; codecs=\"opus\"","title":"Nachgespräch – 回診 🩺","recorded_at":"0001-01-01T00:00:00.000000001Z",`+
			`"duration_ms":1,"attributes":{"a":"1","b":"2"},"truncated":true`)
	optional("ValidMetadata", "optional fields that say nothing",
		`"content_type":"","title":"","duration_ms":0,"attributes":{},"truncated":false`)
	optional("ValidMetadata", "every escape", `"title":"\"\\\/\b\f\n\r\t\u0000\u001F\uABcd"`)
	optional("ValidMetadata", "a surrogate pair, escaped, in both cases of hexadecimal digits",
		`"title":"\ud83e\ude7a\uD83E\uDE7A"`)
	optional("ValidMetadata", "the first and the last surrogate pair", `"title":"\ud800\udc00\udbff\udfff"`)
	optional("ValidMetadata", "noncharacters and the replacement character",
		`"title":"\ufffe\uffff\ufffd`+"\ufffe\uffff\ufffd\U0010ffff"+`"`)
	optional("ValidMetadata", "characters that JSON does not escape", `"title":"`+"\x7f\u0080\u2028\u2029\ufeff"+`"`)
	optional("ValidMetadata", "a known name with an escape", `"titl\u0065":"Follow-up"`)
	optional("ValidMetadata", "content_type of all printable ASCII",
		`"content_type":" !\"#$%&'()*+,-./0123456789:;<=>?@ABCXYZ[\\]^_`+"`"+`abcxyz{|}~"`)
	optional("ValidMetadata", "an attribute without a name, and names that look alike",
		`"attributes":{"":"x","`+"\u00e9"+`":"composed","`+"e\u0301"+`":"decomposed"}`)
	optional("ValidMetadata", "an attribute named __proto__", `"attributes":{"__proto__":"x","constructor":"y"}`)
	optional("ValidMetadata", "longer than writers write",
		`"content_type":"`+strings.Repeat("x", 300)+`","title":"`+strings.Repeat("x", 1100)+`"`)
	optional("ValidMetadata", "the greatest duration", `"duration_ms":9223372036854`)
	for _, size := range []int64{56, 57, 65536, 65553, 131072, 131089, 1<<48 - 1, 1 << 48} {
		r := newRecording(fmt.Sprintf("media_size %d", size), 0)
		r.metadata = padded("{" + replaceOnce(r.required(), `"media_size":56`, fmt.Sprintf(`"media_size":%d`, size)) + "}")
		r.media = nil
		tests = append(tests, r.stored(fmt.Sprintf("media_size %d, and no media", size), flags("Size", "Missing"),
			append([]operation{r.stat()}, fails("damaged", "open", "range")...)...))
	}
	optional("Time", "a time with nine digits", `"recorded_at":"2024-02-29T23:59:59.999999999Z"`)
	optional("Time", "a time with zeros after the point", `"recorded_at":"9999-12-31T00:00:00.000Z"`)
	optional("Time", "the time that stands for an unknown one", `"recorded_at":"0001-01-01T00:00:00Z"`)
	optional("Time", "the time that stands for an unknown one, with zeros after the point", `"recorded_at":"0001-01-01T00:00:00.00Z"`)
	optional("Time", "a title that reads as that time", `"title":"0001-01-01T00:00:00Z"`)
	optional("Time", "the 29th of February 2000", `"recorded_at":"2000-02-29T00:00:00.1Z"`)
	optional("UnknownField", "unknown fields of every type",
		`"x1":{"a":[1,"b",true,false,{},[]]},"x2":"text","x3":0,"x4":9007199254740991,"x5":[],"x6":{}`)
	optional("UnknownField", "white space in empty arrays and objects", `"x1":[ ],"x2":{ },"attributes":{ }`)
	optional("UnknownField", "names in another case are unknown", `"Title":1,"TITLE":2,"title":"Follow-up"`)
	optional("UnknownField", "an unknown field without a name", `"":"x"`)
	optional("UnknownField", "the same name in different objects", `"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]`)
	optional("UnknownField", "objects 16 deep", `"x":`+strings.Repeat(`{"x":`, 14)+"{}"+strings.Repeat("}", 14))
	optional("UnknownField", "arrays 16 deep", `"x":`+strings.Repeat("[", 15)+strings.Repeat("]", 15))
	optional("UnknownField", "names that only differ in a NUL", `"x":1,"x\u0000":2`)
	return tests
}

func hostileMetadataTests() []*test {
	var tests []*test
	add := func(flag, comment string, text func(required string) string) {
		r := newRecording("hostile metadata/"+comment, 15)
		r.metadata = text(r.required())
		tests = append(tests, r.stored(comment, flags(flag), fails("damaged", "stat", "open", "range")...))
	}
	// whole is a text that needs no media.
	whole := func(flag, comment, text string) { add(flag, comment, func(string) string { return text }) }
	// extra is a text with something before the required fields.
	extra := func(flag, comment, fields string) {
		add(flag, comment, func(required string) string { return padded("{" + fields + "," + required + "}") })
	}
	// instead is a text with something in the place of a required field.
	instead := func(flag, comment, name, value string) {
		add(flag, comment, func(required string) string {
			from := strings.Index(required, `"`+name+`":`) + len(name) + 3
			to := from + strings.IndexAny(required[from:]+",", ",")
			return padded("{" + required[:from] + value + required[to:] + "}")
		})
	}

	for _, name := range []string{"created_at", "media_size", "media_header", "revision"} {
		add("MissingField", "without "+name, func(required string) string {
			return padded("{" + strings.Replace(required, `"`+name+`"`, `"x_`+name+`"`, 1) + "}")
		})
		instead("WrongType", name+" is an object", name, "{}")
		instead("WrongType", name+" is true", name, "true")
	}
	instead("WrongType", "revision is a text", "revision", `"0"`)
	instead("WrongType", "media_size is a text", "media_size", `"71"`)
	instead("WrongType", "created_at is a number", "created_at", "1773480413")
	extra("WrongType", "title is a number", `"title":1`)
	extra("WrongType", "title is an array", `"title":["x"]`)
	extra("WrongType", "content_type is an object", `"content_type":{}`)
	extra("WrongType", "recorded_at is a number", `"recorded_at":0`)
	extra("WrongType", "duration_ms is a text", `"duration_ms":"1"`)
	extra("WrongType", "attributes is an array", `"attributes":[]`)
	extra("WrongType", "an attribute is a number", `"attributes":{"a":1}`)
	extra("WrongType", "an attribute is an object", `"attributes":{"a":{}}`)
	extra("WrongType", "truncated is a number", `"truncated":1`)
	extra("WrongType", "truncated is a text", `"truncated":"true"`)

	extra("OutOfBounds", "a duration of more than 64 bits of nanoseconds", `"duration_ms":9223372036855`)
	extra("OutOfBounds", "content_type with a line break", `"content_type":"text/plain\n"`)
	extra("OutOfBounds", "content_type with DEL", `"content_type":"text/plain`+"\x7f"+`"`)
	extra("OutOfBounds", "content_type beyond ASCII", `"content_type":"text/plàin"`)
	extra("OutOfBounds", "content_type beyond ASCII, escaped", `"content_type":"text/pl\u00e0in"`)
	add("OutOfBounds", "a text of 41,985 bytes",
		func(required string) string { return fmt.Sprintf("%-41985s", "{"+required+"}") })

	const greatest = 1 << 48 // 2^32 segments
	for _, size := range []int{
		0, 1, 40, 55, 65537, 65552, 131073, 131088, 196608 + 16, greatest + 1, greatest + 17, 9007199254740991,
	} {
		instead("ImpossibleSize", fmt.Sprintf("media_size %d", size), "media_size", fmt.Sprint(size))
	}

	extra("HostileJson", "a field twice", `"title":"x","title":"x"`)
	extra("HostileJson", "a field twice after unescaping", `"title":"x","\u0074itle":"y"`)
	extra("HostileJson", "a required field twice", `"revision":1`)
	extra("HostileJson", "an unknown field twice", `"x":1,"x":1`)
	extra("HostileJson", "an attribute twice", `"attributes":{"a":"1","a":"2"}`)
	extra("HostileJson", "an attribute twice after unescaping", `"attributes":{"a":"1","\u0061":"2"}`)
	extra("HostileJson", "a name twice inside an unknown field", `"x":[{"y":{"a":1,"\u0061":1}}]`)
	extra("HostileJson", "a name twice, once as a surrogate pair", `"x":{"`+"\U0001fa7a"+`":1,"\ud83e\ude7a":1}`)
	extra("HostileJson", "a lone high surrogate", `"title":"\ud800"`)
	extra("HostileJson", "a lone low surrogate", `"title":"\udc00"`)
	extra("HostileJson", "surrogates in the wrong order", `"title":"\udc00\ud800"`)
	extra("HostileJson", "two high surrogates", `"title":"\ud800\ud800"`)
	extra("HostileJson", "a high surrogate before another escape", `"title":"\ud800\n"`)
	extra("HostileJson", "a high surrogate before another character", `"title":"\ud800x\udc00"`)
	extra("HostileJson", "a lone surrogate in an unknown field", `"x":["\udfff"]`)
	extra("HostileJson", "a lone surrogate in an unknown name", `"\udfff":1`)
	extra("HostileJson", "an encoded surrogate", "\"title\":\"\xed\xa0\x80\"")
	extra("HostileJson", "an encoded surrogate pair (CESU-8)", "\"title\":\"\xed\xa0\xbe\xed\xb9\xba\"")
	extra("HostileJson", "an overlong NUL", "\"title\":\"\xc0\x80\"")
	extra("HostileJson", "an overlong slash", "\"title\":\"\xe0\x80\xaf\"")
	extra("HostileJson", "a character above U+10FFFF", "\"title\":\"\xf4\x90\x80\x80\"")
	extra("HostileJson", "a byte that UTF-8 does not have", "\"title\":\"\xff\"")
	extra("HostileJson", "a continuation without a beginning", "\"title\":\"\x80\"")
	extra("HostileJson", "a character that is cut", "\"title\":\"\xe5\x9b\"")
	extra("HostileJson", "a Latin-1 text", "\"title\":\"Nachgespr\xe4ch\"")
	extra("HostileJson", "a UTF-8 error in an unknown field", "\"x\":{\"\xff\":1}")
	for _, number := range []string{
		"-0", "-1", "1.0", "0.0", "1e3", "1E3", "0e0", "01", "00", "+1", "1.", ".1", "0x1", "1_000", "1n", "9007199254740992",
		"9007199254740993", "9223372036854775808", "18446744073709551616", "1" + strings.Repeat("0", 399), "NaN", "Infinity",
	} {
		shown := number
		if len(shown) > 30 {
			shown = "with 400 digits"
		}
		instead("HostileJson", "revision "+shown, "revision", number)
		extra("HostileJson", "an unknown field with the number "+shown, `"x":[`+number+`]`)
	}
	extra("HostileJson", "null", `"title":null`)
	instead("HostileJson", "null in a required field", "revision", "null")
	extra("HostileJson", "null in an unknown field", `"x":[null]`)
	extra("HostileJson", "objects 17 deep", `"x":`+strings.Repeat(`{"x":`, 15)+"{}"+strings.Repeat("}", 15))
	extra("HostileJson", "arrays 17 deep", `"x":`+strings.Repeat("[", 16)+strings.Repeat("]", 16))
	extra("HostileJson", "arrays 15,000 deep", `"x":`+strings.Repeat("[", 15000)+strings.Repeat("]", 15000))
	extra("HostileJson", "a NUL in a text", "\"title\":\"a\x00b\"")
	extra("HostileJson", "a tab in a text", "\"title\":\"a\tb\"")
	extra("HostileJson", "a line break in a name", "\"x\ny\":1")
	extra("HostileJson", "an escape that JSON does not have", `"title":"\x41"`)
	extra("HostileJson", "an escaped apostrophe", `"title":"\'"`)
	extra("HostileJson", "a capital in \\u", `"title":"\U0041"`)
	extra("HostileJson", "\\u with three digits", `"title":"\u041"`)
	extra("HostileJson", "\\u with a sign", `"title":"\u+041"`)
	extra("HostileJson", "\\u with braces", `"title":"\u{41}"`)
	extra("HostileJson", "apostrophes", `'title':'x'`)
	extra("HostileJson", "a name without quotes", `title:"x"`)
	extra("HostileJson", "a name that is a number", `1:"x"`)
	extra("HostileJson", "True", `"truncated":True`)
	extra("HostileJson", "truex", `"truncated":truex`)
	extra("HostileJson", "a comment", `/* x */"title":"x"`)
	extra("HostileJson", "a comment to the end of the line", "\"title\":\"x\"//\n")
	extra("HostileJson", "two commas", `"title":"x",`)
	extra("HostileJson", "a comma too many in an array", `"x":[1,]`)
	extra("HostileJson", "a comma too few", `"title":"x""truncated":true`)
	extra("HostileJson", "a comma in the place of a colon", `"title","x"`)
	extra("HostileJson", "two values", `"title":"x" "y"`)
	extra("HostileJson", "a form feed between tokens", "\"title\":\f\"x\"")
	extra("HostileJson", "a no-break space between tokens", "\"title\":\u00a0\"x\"")
	extra("HostileJson", "a NUL between tokens", "\"title\":\x00\"x\"")
	add("HostileJson", "a comma too many", func(required string) string { return padded("{" + required + ",}") })
	add("HostileJson", "a byte order mark", func(required string) string { return padded("\ufeff{" + required + "}") })
	add("HostileJson", "a second object", func(required string) string { return padded("{" + required + "}{}") })
	add("HostileJson", "text after the object", func(required string) string { return padded("{" + required + "}x") })
	add("HostileJson", "NULs in the place of padding", func(required string) string {
		return strings.ReplaceAll(padded("{"+required+"}"), " ", "\x00")
	})
	add("HostileJson", "not closed", func(required string) string { return padded("{" + required) })
	add("HostileJson", "an array around the object", func(required string) string { return padded("[{" + required + "}]") })
	add("HostileJson", "in UTF-16", func(required string) string {
		var text []byte
		for _, b := range []byte("{" + required + "}") {
			text = append(text, b, 0)
		}
		return string(text)
	})
	whole("HostileJson", "nothing", "")
	whole("HostileJson", "spaces", strings.Repeat(" ", 256))
	whole("HostileJson", "an empty object", padded("{}"))
	whole("HostileJson", "a text", padded(`"created_at"`))
	whole("HostileJson", "null alone", padded("null"))

	for _, c := range [][2]string{
		{"a lower-case t", "2026-03-14t09:00:00Z"},
		{"a lower-case z", "2026-03-14T09:00:00z"},
		{"an offset of zero", "2026-03-14T09:00:00+00:00"},
		{"an offset", "2026-03-14T10:00:00+01:00"},
		{"no zone", "2026-03-14T09:00:00"},
		{"a space", "2026-03-14 09:00:00Z"},
		{"a comma before the fraction", "2026-03-14T09:00:00,5Z"},
		{"a point without digits", "2026-03-14T09:00:00.Z"},
		{"ten digits", "2026-03-14T09:00:00.1234567890Z"},
		{"the 29th of February in another year", "2026-02-29T09:00:00Z"},
		{"the 29th of February 1900", "1900-02-29T09:00:00Z"},
		{"the 31st of April", "2026-04-31T09:00:00Z"},
		{"day 0", "2026-03-00T09:00:00Z"},
		{"month 0", "2026-00-14T09:00:00Z"},
		{"month 13", "2026-13-14T09:00:00Z"},
		{"hour 24", "2026-03-14T24:00:00Z"},
		{"minute 60", "2026-03-14T09:60:00Z"},
		{"a leap second", "2016-12-31T23:59:60Z"},
		{"the year 0", "0000-12-31T23:59:59Z"},
		{"five digits in the year", "12026-03-14T09:00:00Z"},
		{"a sign", "+2026-03-14T09:00:00Z"},
		{"one digit in the hour", "2026-03-14T9:00:00Z"},
		{"one digit in the hour, as long as a right one", "2026-03-14T9:00:00.5Z"},
		{"no seconds", "2026-03-14T09:00Z"},
		{"the basic form", "20260314T090000Z"},
		{"a day of the year", "2026-073T09:00:00Z"},
		{"digits of another script", "２026-03-14T09:00:00Z"},
		{"a space after it", "2026-03-14T09:00:00Z "},
		{"nothing", ""},
	} {
		extra("Time", "recorded_at with "+c[0], `"recorded_at":"`+c[1]+`"`)
	}
	instead("Time", "created_at with an offset", "created_at", `"2026-03-14T09:00:00+00:00"`)

	header := []byte(toBase64(append([]byte{headerSize}, filler("base64", 39)...))) // ends in "=="
	spoilt := func(comment, text string) { instead("Base64", "media_header "+comment, "media_header", `"`+text+`"`) }
	spoilt("with unused bits", string(header[:53])+string(nextInBase64(header[53]))+"==")
	spoilt("without padding", string(header[:54]))
	spoilt("with too much padding", string(header)+"=")
	spoilt("with a line break", string(header[:10])+`\n`+string(header[10:]))
	spoilt("with a space after it", string(header)+" ")
	spoilt("in the alphabet for URLs", "-_"+string(header[2:]))
	spoilt("of 39 bytes", toBase64(filler("base64", 39)))
	spoilt("of 41 bytes", toBase64(filler("base64", 41)))
	spoilt("of no bytes", "")
	spoilt("in hexadecimal", hex.EncodeToString(filler("base64", 40)))
	return tests
}

// nextInBase64 returns the digit of base64 after an even one.
func nextInBase64(digit byte) byte {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return digits[bytes.IndexByte([]byte(digits), digit)+1]
}
