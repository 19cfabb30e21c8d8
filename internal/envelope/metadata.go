package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/recvault/recvault/internal/segment"
)

// Metadata is what an envelope seals: all that is known of a recording but its bytes.
type Metadata struct {
	ContentType string            `json:"content_type"`
	Title       string            `json:"title"`
	RecordedAt  time.Time         `json:"recorded_at"` // zero if unknown
	Duration    time.Duration     `json:"duration_ns"` // 0 if unknown
	Attributes  map[string]string `json:"attributes"`  // the application's own
	CreatedAt   time.Time         `json:"created_at"`  // when the recording was committed

	// MediaSize is the size of the media object in bytes. A cut or extended object is known by it
	// before its first byte is used.
	MediaSize int64 `json:"media_size"`
	// MediaHeader is the header of the media object, so that a seek needs no request for it.
	MediaHeader []byte `json:"media_header"`
}

const (
	// MaxMetadata is the length, in bytes, that the JSON of the metadata may have. With the longest
	// wrapped key the envelope then stays within [MaxSize].
	MaxMetadata = 46 << 10

	// padding: the JSON is filled up with spaces to a multiple of this many bytes, so that the
	// envelope's size does not tell how long a title is.
	padding = 256
)

// Fits returns [ErrMetadataSize] if the metadata will be too large whatever the media's size is.
func (m Metadata) Fits() error {
	m.CreatedAt = time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	m.MediaSize = segment.CiphertextSize(segment.MaxPlaintext)
	m.MediaHeader = make([]byte, segment.HeaderSize)
	_, err := m.encode()
	return err
}

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

// decodeMetadata reads metadata that has been authenticated, so what it finds wrong is a writer's
// mistake and not an attack.
func decodeMetadata(text []byte) (Metadata, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var m Metadata
	if err := decoder.Decode(&m); err != nil {
		return Metadata{}, fmt.Errorf("%w: it is not the JSON of metadata", ErrMetadata)
	}
	if len(bytes.TrimSpace(text[decoder.InputOffset():])) != 0 {
		return Metadata{}, fmt.Errorf("%w: something follows it", ErrMetadata)
	}
	if len(m.MediaHeader) != segment.HeaderSize {
		return Metadata{}, fmt.Errorf("%w: the media header has %d bytes, not %d", ErrMetadata, len(m.MediaHeader), segment.HeaderSize)
	}
	return m, nil
}
