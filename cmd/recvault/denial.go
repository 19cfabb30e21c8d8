package main

import (
	"context"
	"strings"
	"time"
)

// lookupTimeout bounds the request for the policies of a token that was denied.
const lookupTimeout = 5 * time.Second

// explainDenial says which role the command needs and, if the token may look itself up, which policies it has.
func (c *cli) explainDenial(ctx context.Context) string {
	text := "the command needs the role " + c.role
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	secret, err := c.client.Auth().Token().LookupSelfWithContext(ctx)
	if err != nil {
		return text
	}
	policies, err := secret.TokenPolicies()
	if err != nil {
		return text
	}
	return text + "; this token's policies are " + printable(strings.Join(policies, ", "))
}
