package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/segment"
)

// Metadata is what an envelope seals: all that is known of a recording but its bytes. A zero field is unknown, except
// for the last four.
type Metadata struct {
	ContentType string
	Title       string
	RecordedAt  time.Time
	Duration    time.Duration     // in whole milliseconds
	Attributes  map[string]string // the application's own
	Truncated   bool              // the capture broke off

	CreatedAt time.Time // when the recording was committed

	// MediaSize is the size of the media object in bytes. It shows that an object was cut or extended before its
	// first byte is used.
	MediaSize int64
	// MediaHeader is the header of the media object, so that a seek needs no request for it.
	MediaHeader segment.Header

	// Revision is 0 in the first envelope of a recording, and one more at each change of its metadata.
	Revision int64

	// unknown are the fields that this release does not know. They are carried along.
	unknown []field
}

const (
	// MaxMetadata is the greatest length of the padded JSON of the metadata in bytes. With two wrapped keys of the
	// greatest length the envelope then stays within [MaxSize].
	MaxMetadata = 41 << 10

	// padding: the JSON is filled up with spaces to a multiple of this many bytes, so that the envelope's size
	// does not show how long a title is.
	padding = 256
)

// The names of the fields. They are exact: a name in another case is another, unknown field.
const (
	nameContentType = "content_type"
	nameTitle       = "title"
	nameRecordedAt  = "recorded_at"
	nameDuration    = "duration_ms"
	nameAttributes  = "attributes"
	nameTruncated   = "truncated"
	nameCreatedAt   = "created_at"
	nameMediaSize   = "media_size"
	nameMediaHeader = "media_header"
	nameRevision    = "revision"
)

// WithUnknownOf returns the metadata with the fields of other that this release does not know.
func (m Metadata) WithUnknownOf(other Metadata) Metadata {
	m.unknown = other.unknown
	return m
}

// Unknown returns the names of the fields that this release does not know.
func (m Metadata) Unknown() []string {
	var names []string
	for _, f := range m.unknown {
		names = append(names, f.name)
	}
	return names
}

// WithoutUnknown returns the metadata without the fields that this release does not know.
func (m Metadata) WithoutUnknown() Metadata {
	m.unknown = nil
	return m
}

// Fits returns [ErrMetadataSize] if the metadata will be too large, whatever its other fields will be.
func (m Metadata) Fits() error {
	m.CreatedAt = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	m.MediaSize = segment.CiphertextSize(segment.MaxPlaintext)
	m.Revision = max(m.Revision, maxInt)
	m.Truncated = true
	_, err := m.encode()
	return err
}

// encode returns the JSON of the metadata, padded. Known fields come in a fixed order, and unknown ones after them as
// they were read.
func (m Metadata) encode() ([]byte, error) {
	if m.Revision > maxInt {
		return nil, fmt.Errorf("%w: there is no revision after %d", ErrMetadataSize, int64(maxInt))
	}
	text := []byte("{")
	add := func(value any, after byte) error {
		var encoded bytes.Buffer
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("envelope: %w", err)
		}
		text = append(append(text, bytes.TrimSuffix(encoded.Bytes(), []byte("\n"))...), after)
		return nil
	}
	for _, f := range []struct {
		name    string
		value   any
		present bool
	}{
		{nameContentType, m.ContentType, m.ContentType != ""},
		{nameTitle, m.Title, m.Title != ""},
		{nameRecordedAt, formatTime(m.RecordedAt), !m.RecordedAt.IsZero()},
		{nameDuration, m.Duration.Milliseconds(), m.Duration.Milliseconds() != 0},
		{nameAttributes, m.Attributes, len(m.Attributes) > 0},
		{nameTruncated, true, m.Truncated},
		{nameCreatedAt, formatTime(m.CreatedAt), true},
		{nameMediaSize, m.MediaSize, true},
		{nameMediaHeader, base64.StdEncoding.EncodeToString(m.MediaHeader[:]), true},
		{nameRevision, m.Revision, true},
	} {
		if !f.present {
			continue
		}
		if err := errors.Join(add(f.name, ':'), add(f.value, ',')); err != nil {
			return nil, err
		}
	}
	for _, f := range m.unknown {
		if err := errors.Join(add(f.name, ':'), add(json.RawMessage(f.text), ',')); err != nil {
			return nil, err
		}
	}
	text[len(text)-1] = '}'
	if fill := (padding - len(text)%padding) % padding; fill > 0 {
		text = append(text, bytes.Repeat([]byte(" "), fill)...)
	}
	if len(text) > MaxMetadata {
		return nil, fmt.Errorf("%w: %d bytes as padded JSON, more than %d", ErrMetadataSize, len(text), MaxMetadata)
	}
	return text, nil
}

// decodeMetadata reads metadata that has been authenticated. It returns [ErrMetadata] for text that breaks a rule of
// the format: what is wrong is a writer's mistake or a forger who held the metadata key.
func decodeMetadata(text []byte) (Metadata, error) {
	m, err := readMetadata(text)
	if err != nil {
		return Metadata{}, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	return m, nil
}

func readMetadata(text []byte) (Metadata, error) {
	if len(text) > MaxMetadata {
		return Metadata{}, fmt.Errorf("it has %d bytes, more than %d", len(text), MaxMetadata)
	}
	fields, err := parseObject(text)
	if err != nil {
		return Metadata{}, err
	}
	var m Metadata
	missing := map[string]bool{nameCreatedAt: true, nameMediaSize: true, nameMediaHeader: true, nameRevision: true}
	for _, f := range fields {
		delete(missing, f.name)
		var err error
		switch f.name {
		case nameContentType:
			m.ContentType, err = f.string()
			if err == nil && !printableASCII(m.ContentType) {
				err = errors.New("it is not printable ASCII")
			}
		case nameTitle:
			m.Title, err = f.string()
		case nameRecordedAt:
			m.RecordedAt, err = f.time()
		case nameDuration:
			var milliseconds int64
			milliseconds, err = f.integer()
			m.Duration = time.Duration(milliseconds) * time.Millisecond
			if m.Duration.Milliseconds() != milliseconds {
				err = errors.New("it is longer than 292 years")
			}
		case nameAttributes:
			m.Attributes, err = f.texts()
		case nameTruncated:
			m.Truncated, err = f.bool()
		case nameCreatedAt:
			m.CreatedAt, err = f.time()
		case nameMediaSize:
			m.MediaSize, err = f.integer()
		case nameMediaHeader:
			m.MediaHeader, err = f.header()
		case nameRevision:
			m.Revision, err = f.integer()
		default:
			m.unknown = append(m.unknown, field{f.name, bytes.Clone(f.text)})
		}
		if err != nil {
			return Metadata{}, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	for name := range missing {
		return Metadata{}, fmt.Errorf("%s is missing", name)
	}
	return m, nil
}

// What follows reads the value of a field of which parseObject has checked the form.

var errType = errors.New("it has another type")

func (f field) string() (string, error) {
	if f.text[0] != '"' {
		return "", errType
	}
	p := parser{text: f.text}
	return p.string()
}

func (f field) integer() (int64, error) {
	if f.text[0] < '0' || f.text[0] > '9' {
		return 0, errType
	}
	p := parser{text: f.text}
	return p.integer()
}

func (f field) bool() (bool, error) {
	switch string(f.text) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errType
}

func (f field) texts() (map[string]string, error) {
	if f.text[0] != '{' {
		return nil, errType
	}
	entries, err := parseObject(f.text)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	texts := map[string]string{}
	for _, entry := range entries {
		if texts[entry.name], err = entry.string(); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// header reads the header of the media: [segment.HeaderSize] bytes in standard base64 (RFC 4648, section 4), with
// padding, in its one form.
func (f field) header() (segment.Header, error) {
	text, err := f.string()
	if err != nil {
		return segment.Header{}, err
	}
	decoded, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(decoded) != segment.HeaderSize || base64.StdEncoding.EncodeToString(decoded) != text {
		return segment.Header{}, fmt.Errorf("it is not %d bytes in base64", segment.HeaderSize)
	}
	return segment.Header(decoded), nil
}

// timeLayout is RFC 3339 in UTC. Go's parser takes a fraction after it, and more than the format has: see [field.time].
const timeLayout = "2006-01-02T15:04:05Z"

// time reads a time: RFC 3339 in UTC with "Z" and at most nine digits of a fraction, in the years 1 to 9999.
func (f field) time() (time.Time, error) {
	text, err := f.string()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(timeLayout, text)
	whole, fraction := len(timeLayout)-1, len(text)-len(timeLayout)
	if err != nil || t.Year() < 1 || fraction != 0 && (fraction < 2 || fraction > 10 || text[whole] != '.') {
		return time.Time{}, errors.New("it is not an RFC 3339 time in UTC with at most nine digits of a fraction")
	}
	return t, nil
}

// formatTime returns the text of a time, with as many digits of a fraction as it needs.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func printableASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
