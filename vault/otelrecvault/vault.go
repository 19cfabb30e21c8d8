package otelrecvault

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"sync"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
)

// Vault is a vault whose verbs make spans and metrics. It has all methods of [vault.Vault], with the same results.
type Vault struct {
	*vault.Vault
	t *Telemetry
}

// Vault decorates a vault.
func (t *Telemetry) Vault(v *vault.Vault) *Vault { return &Vault{v, t} }

// Put is [vault.Vault.Put]. Its span covers the upload and the commit.
func (v *Vault) Put(ctx context.Context, patient keys.Patient, r io.Reader, metadata vault.Metadata, options ...vault.PutOption) (vault.ID, error) {
	ctx, o := v.t.start(ctx, "put", keys.KeyID{}, vault.ID{})
	id, err := v.Vault.Put(ctx, patient, r, metadata, options...)
	o.identify(id)
	o.end(class(err))
	return id, err
}

// identify adds the ID of a recording that is new, if identifiers were asked for.
func (o *operation) identify(id vault.ID) {
	if o.t.identifiers && !id.IsZero() {
		o.span.SetAttributes(keyIDKey.String(id.KeyID().String()), recordingKey.String(id.String()))
	}
}

// Writer is a [vault.Writer] whose span ends with Close or Abort.
type Writer struct {
	*vault.Writer
	end func(class string) // once
}

// Create is [vault.Vault.Create].
func (v *Vault) Create(ctx context.Context, patient keys.Patient, metadata vault.Metadata) (*Writer, error) {
	ctx, o := v.t.start(ctx, "create", keys.KeyID{}, vault.ID{})
	w, err := v.Vault.Create(ctx, patient, metadata)
	if err != nil {
		o.end(class(err))
		return nil, err
	}
	o.identify(w.ID())
	var once sync.Once
	return &Writer{w, func(class string) { once.Do(func() { o.end(class) }) }}, nil
}

// Close is [vault.Writer.Close].
func (w *Writer) Close() error {
	err := w.Writer.Close()
	w.end(class(err))
	return err
}

// Abort is [vault.Writer.Abort].
func (w *Writer) Abort() {
	w.Writer.Abort()
	w.end(class(vault.ErrAborted))
}

// Open is [vault.Vault.Open]. Its span ends when Open returns; what the Recording fetches later are its children.
func (v *Vault) Open(ctx context.Context, grant keys.Grant, id vault.ID, options ...vault.OpenOption) (*vault.Recording, error) {
	ctx, o := v.t.start(ctx, "open", id.KeyID(), id)
	recording, err := v.Vault.Open(ctx, grant, id, options...)
	o.end(classOf(err, grant, id.KeyID()))
	return recording, err
}

// Stat is [vault.Vault.Stat]. The operation is "describe".
func (v *Vault) Stat(ctx context.Context, grant keys.Grant, id vault.ID) (vault.Info, error) {
	ctx, o := v.t.start(ctx, "describe", id.KeyID(), id)
	info, err := v.Vault.Stat(ctx, grant, id)
	o.end(classOf(err, grant, id.KeyID()))
	return info, err
}

// ListInfo is [vault.Vault.ListInfo]. The operation is "list_info".
func (v *Vault) ListInfo(ctx context.Context, grant keys.Grant, options ...vault.ListOption) ([]vault.Described, error) {
	ctx, o := v.t.start(ctx, "list_info", grant.KeyID(), vault.ID{})
	listed, err := v.Vault.ListInfo(ctx, grant, options...)
	o.end(class(err))
	return listed, err
}

// List is [vault.Vault.List].
func (v *Vault) List(ctx context.Context, patient keys.Patient) iter.Seq2[vault.Entry, error] {
	return sequence(ctx, v.t, "list", keys.KeyID{}, func(ctx context.Context) iter.Seq2[vault.Entry, error] { return v.Vault.List(ctx, patient) })
}

// ListByKeyID is [vault.Vault.ListByKeyID]. The operation is "list".
func (v *Vault) ListByKeyID(ctx context.Context, keyID keys.KeyID) iter.Seq2[vault.Entry, error] {
	return sequence(ctx, v.t, "list", keyID, func(ctx context.Context) iter.Seq2[vault.Entry, error] { return v.Vault.ListByKeyID(ctx, keyID) })
}

// sequence makes each iteration an operation.
func sequence[T any](ctx context.Context, t *Telemetry, name string, keyID keys.KeyID, list func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, o := t.start(ctx, name, keyID, vault.ID{})
		var last error
		defer func() { o.end(class(last)) }()
		for entry, err := range list(ctx) {
			if last = err; !yield(entry, err) {
				return
			}
		}
	}
}

// Update is [vault.Vault.Update].
func (v *Vault) Update(ctx context.Context, grant keys.Grant, id vault.ID, change func(*vault.Metadata) error) (vault.Info, error) {
	ctx, o := v.t.start(ctx, "update", id.KeyID(), id)
	info, err := v.Vault.Update(ctx, grant, id, change)
	o.end(classOf(err, grant, id.KeyID()))
	return info, err
}

// Copy is [vault.Vault.Copy].
func (v *Vault) Copy(ctx context.Context, grant keys.Grant, id vault.ID, to keys.Patient, options ...vault.CopyOption) (vault.ID, error) {
	ctx, o := v.t.start(ctx, "copy", id.KeyID(), id)
	copied, err := v.Vault.Copy(ctx, grant, id, to, options...)
	o.end(classOf(err, grant, id.KeyID()))
	return copied, err
}

// Reassign is [vault.Vault.Reassign].
func (v *Vault) Reassign(ctx context.Context, grant keys.Grant, id vault.ID, to keys.Patient, options ...vault.CopyOption) (vault.ID, error) {
	ctx, o := v.t.start(ctx, "reassign", id.KeyID(), id)
	moved, err := v.Vault.Reassign(ctx, grant, id, to, options...)
	o.end(classOf(err, grant, id.KeyID()))
	return moved, err
}

// Rekey is [vault.Vault.Rekey].
func (v *Vault) Rekey(ctx context.Context, grant keys.Grant, id vault.ID) (vault.ID, error) {
	ctx, o := v.t.start(ctx, "rekey", id.KeyID(), id)
	rekeyed, err := v.Vault.Rekey(ctx, grant, id)
	o.end(classOf(err, grant, id.KeyID()))
	return rekeyed, err
}

// Delete is [vault.Vault.Delete].
func (v *Vault) Delete(ctx context.Context, patient keys.Patient, id vault.ID) error {
	ctx, o := v.t.start(ctx, "delete", id.KeyID(), id)
	err := v.Vault.Delete(ctx, patient, id)
	o.end(class(err))
	return err
}

// EndGrant is [vault.Vault.EndGrant].
func (v *Vault) EndGrant(ctx context.Context, grant keys.Grant) error {
	ctx, o := v.t.start(ctx, "end_grant", grant.KeyID(), vault.ID{})
	err := v.Vault.EndGrant(ctx, grant)
	o.end(class(err))
	return err
}

// ServeRecording is [vault.Vault.ServeRecording]. The operation is "serve", and lasts as long as the answer.
func (v *Vault) ServeRecording(w http.ResponseWriter, r *http.Request, grant keys.Grant, id vault.ID) {
	ctx, o := v.t.start(r.Context(), "serve", id.KeyID(), id)
	answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	outcome := "broken_off" // a panic after the first bytes
	defer func() {
		if outcome != "" && errors.Is(r.Context().Err(), context.Canceled) {
			outcome = canceled
		}
		o.span.SetAttributes(semconv.HTTPResponseStatusCode(answer.status))
		o.end(outcome)
	}()
	v.Vault.ServeRecording(answer, r.WithContext(ctx), grant, id)
	outcome = answer.class(grant, id)
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for [http.ResponseController].
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// class returns the error.type of the answer: see [vault.HTTPStatus].
func (w *statusWriter) class(grant keys.Grant, id vault.ID) string {
	switch {
	case w.status < 400:
		return ""
	case w.status == http.StatusForbidden && grant.KeyID() != id.KeyID():
		return wrongPatient
	}
	class, ok := map[int]string{
		http.StatusUnauthorized: "invalid_grant", http.StatusForbidden: denied, http.StatusNotFound: notFound, http.StatusGone: "erased",
		http.StatusNotImplemented: "unsupported", http.StatusBadGateway: "damaged", http.StatusServiceUnavailable: "unavailable",
		http.StatusMethodNotAllowed: "invalid", http.StatusRequestedRangeNotSatisfiable: "invalid",
	}[w.status]
	if !ok {
		return other
	}
	return class
}
