package vault

import (
	"fmt"
	"maps"
	"mime"
	"time"
	"unicode/utf8"

	"github.com/recvault/recvault/internal/envelope"
)

// Metadata describes a recording. All of it is sealed in the envelope: in storage nothing is to be
// seen but sizes and times of writing. All of it is optional.
type Metadata struct {
	ContentType string            // a media type (RFC 9110, 8.3.1) such as "video/webm", at most 255 bytes
	Title       string            // UTF-8, at most 1,024 bytes
	RecordedAt  time.Time         // when the consultation took place, in years 1 to 9999; kept in UTC
	Duration    time.Duration     // how long it took, not negative
	Attributes  map[string]string // the application's own: UTF-8, names not empty; at most 32 KiB in all
}

// The bounds of Metadata, in bytes. Within them the metadata fits an envelope, unless JSON must
// escape most of it, as it must control characters.
const (
	maxContentType = 255
	maxTitle       = 1024
	maxAttributes  = 32 << 10
)

// Validate returns [ErrInvalidMetadata] unless the metadata is within the bounds that its fields and its size
// in an envelope have. Put and Create call it.
func (m Metadata) Validate() error {
	_, err := m.sealable()
	return err
}

func (m Metadata) checkFields() error {
	if len(m.ContentType) > maxContentType {
		return fmt.Errorf("%w: the content type has more than %d bytes", ErrInvalidMetadata, maxContentType)
	}
	if m.ContentType != "" {
		if _, _, err := mime.ParseMediaType(m.ContentType); err != nil {
			return fmt.Errorf("%w: the content type is not a media type", ErrInvalidMetadata)
		}
	}
	if len(m.Title) > maxTitle || !utf8.ValidString(m.Title) {
		return fmt.Errorf("%w: the title has more than %d bytes or is not UTF-8", ErrInvalidMetadata, maxTitle)
	}
	if year := m.RecordedAt.UTC().Year(); year < 1 || year > 9999 {
		return fmt.Errorf("%w: the recording time is not in the years 1 to 9999", ErrInvalidMetadata)
	}
	if m.Duration < 0 {
		return fmt.Errorf("%w: the duration is negative", ErrInvalidMetadata)
	}
	total := 0
	for name, value := range m.Attributes {
		if name == "" || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return fmt.Errorf("%w: an attribute has no name or is not UTF-8", ErrInvalidMetadata)
		}
		total += len(name) + len(value)
	}
	if total > maxAttributes {
		return fmt.Errorf("%w: the attributes have %d bytes, more than %d", ErrInvalidMetadata, total, maxAttributes)
	}
	return nil
}

// sealable validates the metadata and turns it into what an envelope seals.
func (m Metadata) sealable() (envelope.Metadata, error) {
	if err := m.checkFields(); err != nil {
		return envelope.Metadata{}, err
	}
	sealable := envelope.Metadata{
		ContentType: m.ContentType,
		Title:       m.Title,
		RecordedAt:  m.RecordedAt.UTC(),
		Duration:    m.Duration,
		Attributes:  maps.Clone(m.Attributes),
	}
	if err := sealable.Fits(); err != nil {
		return envelope.Metadata{}, fmt.Errorf("%w: %w", ErrInvalidMetadata, err)
	}
	return sealable, nil
}

// Info is what is known of a recording to whoever may open it.
type Info struct {
	ID ID
	Metadata
	Size      int64     // of the plaintext, in bytes
	CreatedAt time.Time // when the recording was committed, by the writer's clock, in UTC
}
