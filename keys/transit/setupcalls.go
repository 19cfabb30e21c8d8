package transit

import (
	"cmp"
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/api"
)

// Call is one request to Vault's HTTP API.
type Call struct {
	Method string         `json:"method"` // "GET" or "POST"
	Path   string         `json:"path"`   // below "/v1/"
	Body   map[string]any `json:"body,omitempty"`
}

// StorePlaceholder stands for the ID of the store in the result of [SetupCalls].
const StorePlaceholder = "STORE-ID"

// SetupCalls returns the requests that [Setup] sends to a Vault where nothing is set up, in order. It
// sends none itself: use it to review a setup, or to apply it by other means. After these requests, in
// this order, Setup has nothing to change.
//
// All requests but one change something. The one that reads is GET sys/auth. Its answer has the
// accessor of Vault's token mount in data["token/"].accessor. Put that accessor in the place of
// [TokenAccessor] in the policy "<Prefix>-grant", which is sent later.
//
// If the options have no Store, [StorePlaceholder] stands for its ID in the description of the mount.
//
// The HCL of a policy is the field "policy" of the Body, in a call to sys/policies/acl/<name>.
func SetupCalls(options SetupOptions) ([]Call, error) {
	options, where, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	options.Store = cmp.Or(options.Store, StorePlaceholder)
	fresh := new(freshVault)
	s := &setup{vault: fresh, where: where, options: options}
	if err := s.run(context.Background()); err != nil {
		return nil, fmt.Errorf("transit: set up: %w", err)
	}
	return fresh.calls, nil
}

// freshVault acts as a Vault where nothing is set up, and records the calls.
type freshVault struct {
	calls []Call
}

func (v *freshVault) read(_ context.Context, _ credential, path string) (*api.Secret, error) {
	if path != authPath {
		return &api.Secret{}, nil
	}
	v.calls = append(v.calls, Call{Method: http.MethodGet, Path: path})
	return &api.Secret{Data: map[string]any{"token/": map[string]any{"accessor": TokenAccessor}}}, nil
}

func (v *freshVault) list(context.Context, credential, string, func([]byte) error) error { return nil }

func (v *freshVault) write(_ context.Context, _ credential, path string, data map[string]any) (*api.Secret, error) {
	v.calls = append(v.calls, Call{Method: http.MethodPost, Path: path, Body: data})
	return nil, nil
}
