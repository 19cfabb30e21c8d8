// Package auditlog reads the audit log of HashiCorp Vault and reports who saw which recordings, who tried to, and what the log
// itself lacks.
//
// [Read] takes the files of one or several audit devices, whole, rotated or compressed by gzip, in any order, with the same entries
// in several of them. It reads each file twice, first to find out which times it covers, and never holds a file in memory: what it
// keeps grows with the number of distinct grants and of recordings that each grant was used for, about 300 bytes for each, and not
// with the number of entries.
// Without a log, it makes the report from the event stream alone, whose uses it keeps in memory.
//
// Vault gives an entry the same time and request ID on every device, and an HMAC with a salt of the device's own in place of each
// secret. So copies of an entry are found by time and ID, and they show which HMACs stand for the same token.
//
// The fields are those of https://developer.hashicorp.com/vault/docs/audit/schema, as Vault 1.21 writes them.
package auditlog

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/recvault/recvault/keys"
)

// Source is a file of an audit log.
type Source struct {
	Name string                        // by which the report calls it
	Open func() (io.ReadCloser, error) // called at least twice, with the same content each time
}

// Options says what a report is about. The zero value of a filter selects everything.
type Options struct {
	Mount     string // of the transit engine, without slashes around it; "recordings" if it is empty
	Prefix    string // of the names of policies and token roles; "recvault" if it is empty
	Namespace string // of Vault Enterprise, without slashes around it; "" is the root namespace

	Since, Until time.Time // the period: from Since on, and before Until
	KeyIDs       []keys.KeyID
	Recordings   []keys.RecordingID
	Subjects     []string
	Purposes     []string

	// Silence is the time without any entry from which on the report names it.
	Silence time.Duration

	// Events is the event stream of all processes that used recordings, each file once: see vault/events. Optional.
	Events []Source

	// Progress is called with the number of bytes that were read from a source. Optional.
	Progress func(n int)
}

var (
	// ErrNoEntries means that the sources have no entry of an audit log.
	ErrNoEntries = errors.New("no entry of an audit log")
	// ErrNoEvents means that Options.Events have no event.
	ErrNoEvents = errors.New("no event of a stream of events")

	errNotEvent = errors.New("it has no kind, time or count of an event")
)

// Read reads the sources and returns the report. Without any source, the report is made from Options.Events alone. A line that cannot
// be read is named in the report. The errors are those of the context, of opening a source, [ErrNoEntries] and [ErrNoEvents].
func Read(ctx context.Context, sources []Source, options Options) (*Report, error) {
	options.Mount, options.Prefix = cmp.Or(options.Mount, "recordings"), cmp.Or(options.Prefix, "recvault")
	in := &input{sources: sources, progress: options.Progress, files: make([]File, len(sources))}
	for i, source := range sources {
		in.files[i].Name = source.Name
		if err := in.index(ctx, i); err != nil {
			return nil, err
		}
	}
	c := newCollector(options, in)
	if len(sources) == 0 {
		c.alone = newAlone()
	}
	if len(options.Events) > 0 {
		if err := c.readEvents(ctx, options.Events); err != nil {
			return nil, err
		}
	}
	if c.alone != nil && c.events != nil {
		c.replay()
	}
	if err := in.merge(ctx, c); err != nil {
		return nil, err
	}
	if c.entries == 0 {
		return nil, ErrNoEntries
	}
	return c.report(), nil
}
