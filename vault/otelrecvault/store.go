package otelrecvault

import (
	"context"
	"io"
	"iter"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/attribute"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
)

// The attributes of a range's span.
const (
	rangeStartKey  = attribute.Key("recvault.range.start")
	rangeLengthKey = attribute.Key("recvault.range.length") // left out if the range goes to the end
)

// Store decorates a store: each method of [storage.Store], and Copy, is an operation. That of reading media is "range", from
// the request to the Close of the body, and the others are "store.get", "store.put", "store.stat", "store.list",
// "store.delete" and "store.copy". What s implements of [storage.Copier] and [storage.UploadLister], the result
// implements too.
func (t *Telemetry) Store(s storage.Store) storage.Store {
	decorated := &store{s, t}
	c, copies := s.(storage.Copier)
	lister, lists := s.(storage.UploadLister)
	switch {
	case copies && lists:
		return struct {
			*store
			storage.Copier
			storage.UploadLister
		}{decorated, copier{c, t}, lister}
	case copies:
		return struct {
			*store
			storage.Copier
		}{decorated, copier{c, t}}
	case lists:
		return struct {
			*store
			storage.UploadLister
		}{decorated, lister}
	}
	return decorated
}

type store struct {
	storage.Store
	t *Telemetry
}

func (s *store) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	return with(ctx, s.t, "store.put", keys.KeyID{}, func(ctx context.Context) (storage.Info, error) {
		return s.Store.Put(ctx, name, r, size, condition)
	})
}

func (s *store) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	operation := "store.get"
	if strings.HasSuffix(name, "/media") {
		operation = "range"
	}
	ctx, o := s.t.start(ctx, operation, keys.KeyID{}, keys.RecordingID{})
	if operation == "range" && o.span.IsRecording() {
		attributes := []attribute.KeyValue{rangeStartKey.Int64(offset), rangeLengthKey.Int64(length)}
		if length < 0 {
			attributes = attributes[:1]
		}
		o.span.SetAttributes(attributes...)
	}
	object, err := s.Store.Get(ctx, name, offset, length)
	if err != nil {
		o.end(class(err))
		return nil, err
	}
	o.measure("")
	return &storage.Object{ReadCloser: &objectBody{ReadCloser: object.ReadCloser, o: o}, Info: object.Info}, nil
}

// objectBody ends the span of a Get when it is closed. A body that fails marks the span.
type objectBody struct {
	io.ReadCloser
	o *operation

	mu   sync.Mutex
	read int64
	err  error
}

func (b *objectBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

func (b *objectBody) Close() error {
	err := b.ReadCloser.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.o.span.SetAttributes(bytesKey.Int64(b.read))
	if b.err != nil {
		b.o.fail(class(b.err))
	}
	b.o.span.End() // once: later calls do nothing
	return err
}

func (s *store) Stat(ctx context.Context, name string) (storage.Info, error) {
	return with(ctx, s.t, "store.stat", keys.KeyID{}, func(ctx context.Context) (storage.Info, error) { return s.Store.Stat(ctx, name) })
}

func (s *store) List(ctx context.Context, prefix string) iter.Seq2[storage.Info, error] {
	return sequence(ctx, s.t, "store.list", keys.KeyID{}, func(ctx context.Context) iter.Seq2[storage.Info, error] { return s.Store.List(ctx, prefix) })
}

func (s *store) Delete(ctx context.Context, name string) error {
	return without(ctx, s.t, "store.delete", keys.KeyID{}, func(ctx context.Context) error { return s.Store.Delete(ctx, name) })
}

type copier struct {
	storage.Copier
	t *Telemetry
}

func (c copier) Copy(ctx context.Context, from, to string) (storage.Info, error) {
	return with(ctx, c.t, "store.copy", keys.KeyID{}, func(ctx context.Context) (storage.Info, error) { return c.Copier.Copy(ctx, from, to) })
}
