package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/segment"
)

// Metadata describes a recording. It is the content that an envelope seals.
type Metadata struct {
	ContentType string            `json:"content_type"`
	Title       string            `json:"title"`
	RecordedAt  time.Time         `json:"recorded_at"` // zero if unknown
	Duration    time.Duration     `json:"duration_ns"` // 0 if unknown
	Attributes  map[string]string `json:"attributes"`  // the application's own
	CreatedAt   time.Time         `json:"created_at"`  // when the recording was committed

	// MediaSize is the size of the media object in bytes. It shows that an object was cut or extended
	// before the first byte is used.
	MediaSize int64 `json:"media_size"`
	// MediaHeader is the header of the media object. Because it is here, a seek needs no request for it.
	MediaHeader []byte `json:"media_header"`
}

const (
	// MaxMetadata is the largest length of the metadata's JSON in bytes. With it and the longest wrapped
	// key, an envelope stays within [MaxSize].
	MaxMetadata = 46 << 10

	// padding is a number of bytes. The JSON is filled up with spaces to a multiple of it, so that the envelope's
	// size does not reveal the length of a title.
	padding = 256
)

// Fits returns [ErrMetadataSize] if the metadata could be too large to seal once the fields of the media and
// CreatedAt are set. It assumes the longest value for each.
func (m Metadata) Fits() error {
	m.CreatedAt = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	m.MediaSize = segment.CiphertextSize(segment.MaxPlaintext)
	m.MediaHeader = make([]byte, segment.HeaderSize)
	_, err := m.encode()
	return err
}

// encode returns the padded JSON. It returns [ErrMetadataSize] if there are more than [MaxMetadata] bytes of
// it before the padding.
func (m Metadata) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	if len(text) > MaxMetadata {
		return nil, fmt.Errorf("%w: %d bytes as JSON, more than %d", ErrMetadataSize, len(text), MaxMetadata)
	}
	fill := (padding - len(text)%padding) % padding
	return append(text, bytes.Repeat([]byte(" "), fill)...), nil
}

// decodeMetadata parses the padded JSON, and returns [ErrMetadata] if it is not metadata. The text was
// authenticated, so an error is a writer's mistake and not an attack.
func decodeMetadata(text []byte) (Metadata, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var m Metadata
	if err := decoder.Decode(&m); err != nil {
		return Metadata{}, fmt.Errorf("%w: it is not metadata in JSON", ErrMetadata)
	}
	if len(bytes.TrimSpace(text[decoder.InputOffset():])) != 0 {
		return Metadata{}, fmt.Errorf("%w: there is data after the JSON", ErrMetadata)
	}
	if len(m.MediaHeader) != segment.HeaderSize {
		return Metadata{}, fmt.Errorf("%w: the media header has %d bytes, not %d", ErrMetadata, len(m.MediaHeader), segment.HeaderSize)
	}
	return m, nil
}
