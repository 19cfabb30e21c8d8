package events

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/recvault/recvault/keys"
)

// Log is a sink that logs each event as the attribute "event", whose names are those of the JSON form, with the level of
// [Event.Level]. nil stands for slog.Default().
func Log(logger *slog.Logger) Sink {
	return func(e Event) error {
		cmp.Or(logger, slog.Default()).LogAttrs(context.Background(), e.Level(), "recvault: "+string(e.Kind), slog.Any("event", e))
		return nil
	}
}

// JSON is a sink that writes each event as one line of JSON, with one Write. If a Write fails, what it left is a line of
// its own, and the event is written again.
func JSON(w io.Writer) Sink {
	broken := false
	return func(e Event) error {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		line = append(line, '\n')
		if broken {
			line = append([]byte{'\n'}, line...)
		}
		n, err := w.Write(line)
		broken = err != nil && (broken || n > 0)
		return err
	}
}

// Issuer issues grants, and ends them with the grants themselves. The keyrings of packages keys/transit and keys/local
// are Issuers.
type Issuer interface {
	keys.Granter
	// RevokeSelf is as in [keys.Unwrapper].
	RevokeSelf(ctx context.Context, grant keys.Grant) error
}

// Issuer returns an Issuer that does the same, and emits a GrantIssued or GrantRevoked for each success. It is for the
// login: EndGrant of a vault emits by itself.
func (s *Stream) Issuer(issuer Issuer) Issuer { return emittingIssuer{issuer, s} }

type emittingIssuer struct {
	Issuer
	stream *Stream
}

func (i emittingIssuer) Issue(ctx context.Context, patient keys.Patient, options keys.GrantOptions) (keys.Grant, error) {
	grant, err := i.Issuer.Issue(ctx, patient, options)
	if err == nil {
		i.stream.Emit(Event{Kind: GrantIssued, KeyID: grant.KeyID(), Grant: grant.Details()})
	}
	return grant, err
}

func (i emittingIssuer) RevokeSelf(ctx context.Context, grant keys.Grant) error {
	err := i.Issuer.RevokeSelf(ctx, grant)
	if err == nil {
		i.stream.Emit(Event{Kind: GrantRevoked, KeyID: grant.KeyID(), Grant: grant.Details()})
	}
	return err
}

// Revoker returns a Revoker that does the same, and emits a GrantRevoked for each success.
func (s *Stream) Revoker(revoker keys.Revoker) keys.Revoker { return emittingRevoker{revoker, s} }

type emittingRevoker struct {
	keys.Revoker
	stream *Stream
}

func (r emittingRevoker) Revoke(ctx context.Context, accessor string) error {
	err := r.Revoker.Revoke(ctx, accessor)
	if err == nil {
		r.stream.Emit(Event{Kind: GrantRevoked, Grant: keys.GrantDetails{Accessor: accessor}})
	}
	return err
}
