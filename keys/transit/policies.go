package transit

import (
	"embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed policies/*.hcl
var policyFiles embed.FS

// Policy is what Vault lets one role do.
type Policy struct {
	Role string // "setup", "enroller", "writer", "granter", "revoker", "grant", "rotator", "retirer", "eraser" or "auditor"
	Name string // in Vault: "<Prefix>-<Role>"
	HCL  string
}

// Policies returns the policy of every role, as [Setup] installs them, for review. All but that of
// the role "setup" are installed by it. Of the options, the mount and the prefix matter.
// tokenAccessor is the accessor of Vault's token mount: `vault read -field=token/ sys/auth` shows it.
func Policies(options Options, tokenAccessor string) ([]Policy, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if !consistsOf(tokenAccessor, "abcdefghijklmnopqrstuvwxyz0123456789_") {
		return nil, errors.New("transit: the accessor of the token mount has more than lower-case letters, digits and \"_\"")
	}
	fill := strings.NewReplacer("<mount>", options.Mount, "<prefix>", options.Prefix, "<token-accessor>", tokenAccessor)
	var policies []Policy
	for _, role := range []string{
		"setup", "enroller", "writer", "granter", "revoker", "grant", "rotator", "retirer", "eraser", "auditor",
	} {
		text, err := policyFiles.ReadFile("policies/" + role + ".hcl")
		if err != nil {
			return nil, fmt.Errorf("transit: internal error: %w", err)
		}
		policies = append(policies, Policy{role, options.Prefix + "-" + role, fill.Replace(string(text))})
	}
	return policies, nil
}
