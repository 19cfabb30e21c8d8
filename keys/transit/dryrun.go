package transit

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/api"
)

// dryVault reads from Vault and writes nothing, for a dry run of Setup.
type dryVault struct {
	vault   settings
	mount   string
	mounted bool // Setup would have mounted the engine by now
}

func (v *dryVault) read(ctx context.Context, by credential, path string) (*api.Secret, error) {
	if v.mounted && (strings.HasPrefix(path, v.mount+"/") || strings.HasPrefix(path, "sys/mounts/"+v.mount+"/")) {
		return &api.Secret{}, nil // as a new engine answers
	}
	return v.vault.read(ctx, by, path)
}

func (v *dryVault) list(ctx context.Context, by credential, path string, each func([]byte) error) error {
	return v.vault.list(ctx, by, path, each)
}

func (v *dryVault) write(_ context.Context, _ credential, path string, _ map[string]any) (*api.Secret, error) {
	if path == "sys/mounts/"+v.mount {
		v.mounted = true
	}
	return nil, nil
}
