package transit

import (
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

// SetupCalls returns what [Setup] asks of a fresh Vault, in order, without asking anything: for those
// who review before they apply, or who apply it by other means. Sent in this order, the calls leave
// nothing for Setup to change.
//
// All but one of them change something. The one that reads, GET sys/auth, answers with the accessor of
// Vault's token mount, in data["token/"].accessor, which takes the place of [TokenAccessor] in the
// policy "<Prefix>-grant" after it.
//
// A policy's HCL is the "policy" of the Body of a call to sys/policies/acl/<name>.
func SetupCalls(options SetupOptions) ([]Call, error) {
	options, where, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	fresh := new(freshVault)
	s := &setup{vault: fresh, where: where, options: options}
	if err := s.run(context.Background()); err != nil {
		return nil, fmt.Errorf("transit: set up: %w", err)
	}
	return fresh.calls, nil
}

// freshVault is a Vault in which nothing is set up. It notes what it is asked to do.
type freshVault struct {
	calls []Call
}

func (v *freshVault) read(_ context.Context, _, path string) (*api.Secret, error) {
	if path != authPath {
		return &api.Secret{}, nil
	}
	v.calls = append(v.calls, Call{Method: http.MethodGet, Path: path})
	return &api.Secret{Data: map[string]any{"token/": map[string]any{"accessor": TokenAccessor}}}, nil
}

func (v *freshVault) write(_ context.Context, _, path string, data map[string]any) (*api.Secret, error) {
	v.calls = append(v.calls, Call{Method: http.MethodPost, Path: path, Body: data})
	return nil, nil
}
