package envelope

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxInt is the greatest integer in metadata: the greatest that every JSON reader holds exactly (RFC 8259,
	// section 6).
	maxInt = 1<<53 - 1
	// maxNesting is how deep objects and arrays may be nested, the outermost included.
	maxNesting = 16
)

// field is one field of an object: its name, unescaped, and the text of its value.
type field struct {
	name string
	text []byte
}

// parseObject reads the text of one JSON object (RFC 8259) under the format's stricter rules, so that two readers never
// understand it differently: names are unique after unescaping, text is valid UTF-8 without lone surrogates, numbers
// are integers from 0 to [maxInt] in their shortest form, there is no null, and nesting is at most [maxNesting]. The
// rules hold inside every value. White space may stand anywhere between tokens.
func parseObject(text []byte) ([]field, error) {
	p := parser{text: text}
	fields, err := p.object(1)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(text) {
		return nil, errors.New("text follows the object")
	}
	return fields, nil
}

// parser reads JSON from left to right.
type parser struct {
	text []byte
	at   int
}

func (p *parser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t' || p.text[p.at] == '\n' || p.text[p.at] == '\r') {
		p.at++
	}
}

// next skips white space and takes c, if it comes next.
func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) object(depth int) ([]field, error) {
	if !p.next('{') {
		return nil, errors.New("an object is missing")
	}
	if depth > maxNesting {
		return nil, errors.New("nesting is too deep")
	}
	var fields []field
	names := map[string]bool{}
	for first := true; !p.next('}'); first = false {
		if !first && !p.next(',') {
			return nil, errors.New("a comma is missing")
		}
		p.space()
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if names[name] {
			return nil, errors.New("a name is repeated")
		}
		names[name] = true
		if !p.next(':') {
			return nil, errors.New("a colon is missing")
		}
		p.space()
		start := p.at
		if err := p.value(depth); err != nil {
			return nil, err
		}
		fields = append(fields, field{name, p.text[start:p.at]})
	}
	return fields, nil
}

// value reads a value inside an object or array of this depth.
func (p *parser) value(depth int) error {
	if p.at == len(p.text) {
		return errors.New("a value is missing")
	}
	switch c := p.text[p.at]; {
	case c == '{':
		_, err := p.object(depth + 1)
		return err
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		_, err := p.string()
		return err
	case '0' <= c && c <= '9':
		_, err := p.integer()
		return err
	}
	for _, literal := range []string{"true", "false"} {
		if end := p.at + len(literal); end <= len(p.text) && string(p.text[p.at:end]) == literal {
			p.at = end
			return nil
		}
	}
	return errors.New("a value is none of object, array, text, integer, true and false")
}

func (p *parser) array(depth int) error {
	if depth > maxNesting {
		return errors.New("nesting is too deep")
	}
	p.next('[')
	for first := true; !p.next(']'); first = false {
		if !first && !p.next(',') {
			return errors.New("a comma is missing")
		}
		p.space()
		if err := p.value(depth); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) integer() (int64, error) {
	start := p.at
	for p.at < len(p.text) && '0' <= p.text[p.at] && p.text[p.at] <= '9' {
		p.at++
	}
	digits := string(p.text[start:p.at])
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > maxInt || strconv.FormatInt(n, 10) != digits {
		return 0, errors.New("a number is not an integer from 0 to 2^53-1")
	}
	if p.at < len(p.text) && (p.text[p.at] == '.' || p.text[p.at]|0x20 == 'e') {
		return 0, errors.New("a number has a fraction or an exponent")
	}
	return n, nil
}

// string reads a text in quotes and returns it unescaped.
func (p *parser) string() (string, error) {
	if p.at == len(p.text) || p.text[p.at] != '"' {
		return "", errors.New("a text in quotes is missing")
	}
	start := p.at
	for p.at++; p.at < len(p.text); {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			var text string
			if err := json.Unmarshal(p.text[start:p.at], &text); err != nil {
				return "", errors.New("a text has an escape that JSON does not have")
			}
			return text, nil
		case c < 0x20:
			return "", errors.New("a text has a control character")
		case c == '\\':
			if err := p.escape(); err != nil {
				return "", err
			}
		default:
			r, size := utf8.DecodeRune(p.text[p.at:])
			if r == utf8.RuneError && size == 1 {
				return "", errors.New("a text is not valid UTF-8")
			}
			p.at += size
		}
	}
	return "", errors.New("a text does not end")
}

// escape passes over one escape, or over the two that make a surrogate pair.
func (p *parser) escape() error {
	r, ok := p.unicodeEscape()
	switch {
	case !ok: // another escape; json.Unmarshal knows which there are
		p.at += min(2, len(p.text)-p.at)
		return nil
	case utf16.IsSurrogate(r):
		low, ok := p.unicodeEscape()
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return errors.New("a text has a lone surrogate")
		}
	}
	return nil
}

// unicodeEscape takes an escape of the form \uXXXX, if it comes next.
func (p *parser) unicodeEscape() (rune, bool) {
	rest := p.text[p.at:]
	if len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' {
		return 0, false
	}
	r, err := strconv.ParseUint(string(rest[2:6]), 16, 16)
	if err != nil {
		return 0, false
	}
	p.at += 6
	return rune(r), true
}
