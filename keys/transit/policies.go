package transit

import (
	"embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed policies/*.hcl
var policyFiles embed.FS

// Policy is the Vault policy of one role.
type Policy struct {
	Role string // "setup", "enroller", "writer", "granter", "revoker", "grant", "describe", "rotator", "retirer", "trimmer", "eraser" or "auditor"
	Name string // in Vault: "<Prefix>-<Role>"
	HCL  string
}

// TokenAccessor is the placeholder for the accessor of Vault's token mount. The policies of the roles
// "grant" and "describe" have it in two places each.
const TokenAccessor = "<token-accessor>"

// Policies returns the policy of every role, for review. [Setup] installs all of them except that of
// the role "setup". Only the options' mount and prefix have an effect. tokenAccessor is the accessor
// of Vault's token mount, which `vault read -field=token/ sys/auth` shows, or [TokenAccessor] to keep
// the placeholder.
func Policies(options Options, tokenAccessor string) ([]Policy, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if tokenAccessor != TokenAccessor && !consistsOf(tokenAccessor, "abcdefghijklmnopqrstuvwxyz0123456789_") {
		return nil, errors.New("transit: the accessor of the token mount has more than lower-case letters, digits and \"_\"")
	}
	fill := strings.NewReplacer("<mount>", options.Mount, "<prefix>", options.Prefix, TokenAccessor, tokenAccessor)
	var policies []Policy
	for _, role := range []string{
		"setup", "enroller", "writer", "granter", "revoker", "grant", "describe", "rotator", "retirer", "trimmer", "eraser", "auditor",
	} {
		text, err := policyFiles.ReadFile("policies/" + role + ".hcl")
		if err != nil {
			return nil, fmt.Errorf("transit: internal error: %w", err)
		}
		policies = append(policies, Policy{role, options.Prefix + "-" + role, fill.Replace(string(text))})
	}
	return policies, nil
}
