package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The types of the file of vectors. docs/vectors/README.md describes it, and its schema bounds it.

type file struct {
	Algorithm     string          `json:"algorithm"`
	Schema        string          `json:"schema"`
	NumberOfTests int             `json:"numberOfTests"`
	Header        []string        `json:"header"`
	Notes         map[string]note `json:"notes"`
	TestGroups    []*group        `json:"testGroups"`
}

type note struct {
	BugType     string `json:"bugType"`
	Description string `json:"description"`
}

type group struct {
	Type    string  `json:"type"`
	Source  source  `json:"source"`
	Comment string  `json:"comment"`
	Tests   []*test `json:"tests"`
}

type source struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

type test struct {
	TcID    int      `json:"tcId"`
	Comment string   `json:"comment"`
	Flags   []string `json:"flags"`
	Result  string   `json:"result"`

	ID       string   `json:"id"`
	Grant    *grant   `json:"grant"`
	Keyring  []answer `json:"keyring"`
	Envelope *object  `json:"envelope"`
	Media    *object  `json:"media"`

	Operations []operation `json:"operations"`
}

type grant struct {
	KeyID string `json:"keyId"`
}

// answer is what the keyring answers for one wrapped key and context.
type answer struct {
	Wrapped string  `json:"wrapped"`
	Context string  `json:"context"`
	Key     *string `json:"key,omitempty"`
	Error   string  `json:"error,omitempty"`
}

type object struct {
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Parts  []part `json:"parts"`
}

// part is a piece of an object: text or hex, repeated.
type part struct {
	Text  string `json:"text,omitempty"`
	Hex   string `json:"hex,omitempty"`
	Times int    `json:"times,omitempty"`
}

type operation struct {
	Op       string    `json:"op"`
	Offset   *int64    `json:"offset,omitempty"`
	Length   *int64    `json:"length,omitempty"`
	Class    string    `json:"class"`
	Metadata *metadata `json:"metadata,omitempty"`
	Plain    *digest   `json:"plaintext,omitempty"`
	Released *digest   `json:"released,omitempty"`
}

type digest struct {
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"`
}

type metadata struct {
	ContentType     string            `json:"content_type,omitempty"`
	Title           string            `json:"title,omitempty"`
	RecordedAt      string            `json:"recorded_at,omitempty"`
	DurationMS      int64             `json:"duration_ms,omitempty"`
	Attributes      map[string]string `json:"attributes,omitempty"`
	Truncated       bool              `json:"truncated,omitempty"`
	CreatedAt       string            `json:"created_at"`
	Revision        int64             `json:"revision"`
	PlaintextLength int64             `json:"plaintext_length"`
}

func digestOf(data []byte) *digest { return &digest{int64(len(data)), hex.EncodeToString(sum(data))} }

// text, inHex and repeated make parts.
func text(s string) part { return part{Text: s} }

func inHex(data []byte) part { return part{Hex: hex.EncodeToString(data)} }

func repeated(b byte, times int) part { return part{Hex: hex.EncodeToString([]byte{b}), Times: times} }

func newObject(parts ...part) *object {
	parts = append([]part{}, parts...)
	o := &object{Parts: parts}
	data := o.bytes()
	o.Size, o.SHA256 = len(data), hex.EncodeToString(sum(data))
	return o
}

// bytes returns the object's content.
func (o *object) bytes() []byte {
	var data []byte
	for _, p := range o.Parts {
		piece := []byte(p.Text)
		if p.Hex != "" {
			var err error
			if piece, err = hex.DecodeString(p.Hex); err != nil {
				panic(err)
			}
		}
		data = append(data, bytes.Repeat(piece, max(p.Times, 1))...)
	}
	return data
}

// inParts returns parts that make up the data, with long runs of one byte as such.
func inParts(data []byte) []part {
	const long = 64
	var parts []part
	from := 0
	for at := 0; at < len(data); {
		run := at + 1
		for run < len(data) && data[run] == data[at] {
			run++
		}
		if run-at >= long {
			if from < at {
				parts = append(parts, inHex(data[from:at]))
			}
			parts, from = append(parts, repeated(data[at], run-at)), run
		}
		at = run
	}
	if from < len(data) {
		parts = append(parts, inHex(data[from:]))
	}
	return parts
}

// encode returns the JSON of the file. Each answer of a keyring and each operation has a line of its own.
func (f *file) encode() []byte {
	var text bytes.Buffer
	line := func(indent int, name string, value any, comma bool) {
		text.WriteString(strings.Repeat(" ", indent))
		if name != "" {
			text.Write(compact(name))
			text.WriteString(": ")
		}
		text.Write(compact(value))
		if comma {
			text.WriteString(",")
		}
		text.WriteString("\n")
	}
	text.WriteString("{\n")
	line(2, "algorithm", f.Algorithm, true)
	line(2, "schema", f.Schema, true)
	line(2, "numberOfTests", f.NumberOfTests, true)
	list(&text, 2, "header", f.Header, line)
	text.WriteString("  \"notes\": {\n")
	flags := slices.Sorted(maps.Keys(f.Notes))
	for i, flag := range flags {
		line(4, flag, f.Notes[flag], i < len(flags)-1)
	}
	text.WriteString("  },\n  \"testGroups\": [\n")
	for i, g := range f.TestGroups {
		text.WriteString("    {\n")
		line(6, "type", g.Type, true)
		line(6, "source", g.Source, true)
		line(6, "comment", g.Comment, true)
		text.WriteString("      \"tests\": [\n")
		for j, t := range g.Tests {
			text.WriteString("        {\n")
			line(10, "tcId", t.TcID, true)
			line(10, "comment", t.Comment, true)
			line(10, "flags", t.Flags, true)
			line(10, "result", t.Result, true)
			line(10, "id", t.ID, true)
			line(10, "grant", t.Grant, true)
			list(&text, 10, "keyring", t.Keyring, line)
			line(10, "envelope", t.Envelope, true)
			line(10, "media", t.Media, true)
			list(&text, 10, "operations", t.Operations, line)
			text.Truncate(text.Len() - len(",\n"))
			text.WriteString("\n        }" + separator(j, len(g.Tests)))
		}
		text.WriteString("      ]\n    }" + separator(i, len(f.TestGroups)))
	}
	text.WriteString("  ]\n}\n")
	return text.Bytes()
}

// list writes an array with a line for each item, and a comma after it.
func list[T any](text *bytes.Buffer, indent int, name string, items []T, line func(int, string, any, bool)) {
	spaces := strings.Repeat(" ", indent)
	fmt.Fprintf(text, "%s%q: [\n", spaces, name)
	for i, item := range items {
		line(indent+2, "", item, i < len(items)-1)
	}
	text.WriteString(spaces + "],\n")
}

func separator(i, n int) string {
	if i < n-1 {
		return ",\n"
	}
	return "\n"
}

func compact(value any) []byte {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}

func (f *file) counts() string {
	operations, classes := 0, map[string]int{}
	for _, g := range f.TestGroups {
		for _, t := range g.Tests {
			for _, o := range t.Operations {
				operations++
				classes[o.Class]++
			}
		}
	}
	var each []string
	for _, class := range classNames {
		each = append(each, fmt.Sprintf("%d %s", classes[class], class))
	}
	return fmt.Sprintf("%d tests, %d operations: %s", f.NumberOfTests, operations, strings.Join(each, ", "))
}

// classNames are the classes of docs/format.md, section 9.
var classNames = []string{
	"ok", "invalid-id", "not-found", "wrong-patient", "denied", "invalid-grant", "unsupported", "damaged", "retired",
	"not-enrolled", "erased", "unavailable",
}
