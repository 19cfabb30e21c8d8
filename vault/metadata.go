package vault

import (
	"fmt"
	"maps"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/recvault/recvault/internal/envelope"
)

// Metadata describes a recording. Every field is optional. The metadata is encrypted in the envelope: the store
// shows only the objects' sizes and when they were written.
type Metadata struct {
	ContentType string            // a media type (RFC 9110, 8.3.1) such as "video/webm", at most 255 bytes
	Title       string            // UTF-8, at most 1,024 bytes
	RecordedAt  time.Time         // when the consultation took place, in the years 1 to 9999; stored in UTC
	Duration    time.Duration     // of the consultation, not negative
	Truncated   bool              // the capture broke off before its end
	Attributes  map[string]string // of the application: UTF-8, names not empty, at most 32 KiB in all
}

// The bounds of Metadata, in bytes. Metadata within them fits an envelope, unless most of it is characters that
// JSON escapes, such as control characters.
const (
	maxContentType = 255
	maxTitle       = 1024
	maxAttributes  = 32 << 10
)

// Validate returns [ErrInvalidMetadata] if a field is out of bounds or the metadata does not fit an envelope. Put,
// Create and SetMetadata do the same check.
func (m Metadata) Validate() error {
	_, err := m.sealable()
	return err
}

func (m Metadata) checkFields() error {
	if len(m.ContentType) > maxContentType {
		return fmt.Errorf("%w: the content type has more than %d bytes", ErrInvalidMetadata, maxContentType)
	}
	if m.ContentType != "" && !validContentType(m.ContentType) {
		return fmt.Errorf("%w: the content type is not a media type such as video/webm", ErrInvalidMetadata)
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

// validContentType reports whether text is a media type as RFC 9110, section 8.3.1, has it: a type, "/" and a subtype,
// perhaps with parameters, in printable ASCII.
func validContentType(text string) bool {
	mediaType, _, err := mime.ParseMediaType(text)
	kind, subtype, _ := strings.Cut(mediaType, "/")
	return err == nil && kind != "" && subtype != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// sealable validates the metadata and returns it as the envelope's metadata.
func (m Metadata) sealable() (envelope.Metadata, error) {
	if err := m.checkFields(); err != nil {
		return envelope.Metadata{}, err
	}
	sealable := envelope.Metadata{
		ContentType: m.ContentType,
		Title:       m.Title,
		RecordedAt:  m.RecordedAt.UTC(),
		Duration:    m.Duration.Truncate(time.Millisecond),
		Attributes:  maps.Clone(m.Attributes),
		Truncated:   m.Truncated,
	}
	if err := sealable.Fits(); err != nil {
		return envelope.Metadata{}, fmt.Errorf("%w: %w", ErrInvalidMetadata, err)
	}
	return sealable, nil
}

// Info describes a recording to a caller that may open it.
type Info struct {
	ID ID
	Metadata
	Size      int64     // of the plaintext, in bytes
	CreatedAt time.Time // when the recording was committed, by the writer's clock, in UTC

	// Revision counts the changes of the metadata: see [Vault.Update]. Whoever can write to the store can put an older
	// envelope back, which shows an older revision. Only a caller that remembers the revision notices.
	Revision int64
}
