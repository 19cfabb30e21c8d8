package otelrecvault

import (
	"context"

	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/recvault/recvault/keys"
)

// Keyring decorates a keyring: each method is an operation. A vault, a rotation, an erasure and a login each use their part of it.
func (t *Telemetry) Keyring(k keys.Keyring) keys.Keyring { return &keyring{k, t} }

type keyring struct {
	keys.Keyring
	t *Telemetry
}

// with runs a method that has a result.
func with[T any](ctx context.Context, t *Telemetry, name string, keyID keys.KeyID, run func(context.Context) (T, error)) (T, error) {
	ctx, o := t.start(ctx, name, keyID, keys.RecordingID{})
	result, err := run(ctx)
	o.end(class(err))
	return result, err
}

// without runs a method that returns an error only.
func without(ctx context.Context, t *Telemetry, name string, keyID keys.KeyID, run func(context.Context) error) error {
	ctx, o := t.start(ctx, name, keyID, keys.RecordingID{})
	err := run(ctx)
	o.end(class(err))
	return err
}

func (k *keyring) Enrol(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	return with(ctx, k.t, "enrol", keys.KeyID{}, func(ctx context.Context) (keys.KeyID, error) { return k.Keyring.Enrol(ctx, patient) })
}

func (k *keyring) KeyID(ctx context.Context, patient keys.Patient) (keys.KeyID, error) {
	return with(ctx, k.t, "key_id", keys.KeyID{}, func(ctx context.Context) (keys.KeyID, error) { return k.Keyring.KeyID(ctx, patient) })
}

func (k *keyring) ClaimStore(ctx context.Context, store keys.StoreID) error {
	return without(ctx, k.t, "claim_store", keys.KeyID{}, func(ctx context.Context) error { return k.Keyring.ClaimStore(ctx, store) })
}

func (k *keyring) CheckStore(ctx context.Context, store keys.StoreID) error {
	return without(ctx, k.t, "check_store", keys.KeyID{}, func(ctx context.Context) error { return k.Keyring.CheckStore(ctx, store) })
}

func (k *keyring) Wrap(ctx context.Context, binding keys.Binding, key *keys.Key) (keys.WrappedKey, error) {
	ctx, o := k.t.start(ctx, "wrap", binding.KeyID(), binding.RecordingID())
	wrapped, err := k.Keyring.Wrap(ctx, binding, key)
	o.end(class(err))
	return wrapped, err
}

func (k *keyring) Unwrap(ctx context.Context, grant keys.Grant, binding keys.Binding, wrapped keys.WrappedKey) (*keys.Key, error) {
	ctx, o := k.t.start(ctx, "unwrap", binding.KeyID(), binding.RecordingID())
	key, err := k.Keyring.Unwrap(ctx, grant, binding, wrapped)
	o.end(classOf(err, grant, binding.KeyID()))
	return key, err
}

func (k *keyring) CheckGrant(ctx context.Context, grant keys.Grant) error {
	return without(ctx, k.t, "check_grant", grant.KeyID(), func(ctx context.Context) error { return k.Keyring.CheckGrant(ctx, grant) })
}

func (k *keyring) RevokeSelf(ctx context.Context, grant keys.Grant) error {
	return without(ctx, k.t, "revoke_self", grant.KeyID(), func(ctx context.Context) error { return k.Keyring.RevokeSelf(ctx, grant) })
}

func (k *keyring) Issue(ctx context.Context, patient keys.Patient, options keys.GrantOptions) (keys.Grant, error) {
	return with(ctx, k.t, "issue", keys.KeyID{}, func(ctx context.Context) (keys.Grant, error) { return k.Keyring.Issue(ctx, patient, options) })
}

func (k *keyring) Revoke(ctx context.Context, accessor string) error {
	return without(ctx, k.t, "revoke", keys.KeyID{}, func(ctx context.Context) error { return k.Keyring.Revoke(ctx, accessor) })
}

func (k *keyring) Rotate(ctx context.Context, id keys.KeyID) error {
	return without(ctx, k.t, "rotate", id, func(ctx context.Context) error { return k.Keyring.Rotate(ctx, id) })
}

func (k *keyring) Versions(ctx context.Context, id keys.KeyID) (keys.Versions, error) {
	return with(ctx, k.t, "versions", id, func(ctx context.Context) (keys.Versions, error) { return k.Keyring.Versions(ctx, id) })
}

func (k *keyring) Rewrap(ctx context.Context, id keys.KeyID, items []keys.RewrapItem) ([]keys.RewrapResult, error) {
	results, err := with(ctx, k.t, "rewrap", id, func(ctx context.Context) ([]keys.RewrapResult, error) { return k.Keyring.Rewrap(ctx, id, items) })
	outcomes := map[string]int64{}
	for _, result := range results {
		outcomes[class(result.Err)]++
	}
	if err != nil {
		outcomes[class(err)] = int64(len(items))
	}
	for outcome, n := range outcomes {
		var options []metric.AddOption
		if outcome != "" {
			options = append(options, metric.WithAttributes(semconv.ErrorTypeKey.String(outcome)))
		}
		k.t.rewraps.Add(context.Background(), n, options...)
	}
	return results, err
}

func (k *keyring) Retire(ctx context.Context, id keys.KeyID, oldest int) error {
	return without(ctx, k.t, "retire", id, func(ctx context.Context) error { return k.Keyring.Retire(ctx, id, oldest) })
}

func (k *keyring) Reinstate(ctx context.Context, id keys.KeyID, oldest int) error {
	return without(ctx, k.t, "reinstate", id, func(ctx context.Context) error { return k.Keyring.Reinstate(ctx, id, oldest) })
}

func (k *keyring) Trim(ctx context.Context, id keys.KeyID, oldest int) error {
	return without(ctx, k.t, "trim", id, func(ctx context.Context) error { return k.Keyring.Trim(ctx, id, oldest) })
}

func (k *keyring) Erase(ctx context.Context, id keys.KeyID) error {
	return without(ctx, k.t, "erase", id, func(ctx context.Context) error { return k.Keyring.Erase(ctx, id) })
}
