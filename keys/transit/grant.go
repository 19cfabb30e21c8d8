package transit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// The names of a grant's details in its token's metadata, and so in Vault's audit log. They are for people who
// read it: a stolen granter's token can write anything there.
const (
	metaKeyID     = "key_id"
	metaSubject   = "subject"
	metaPurpose   = "purpose"
	metaReason    = "reason"
	metaRequestID = "request_id"
)

// Issue implements [keys.Granter], for the granter's role. The granter's token must have no limit of
// uses, because Vault does not let a limited token create others. The TTL is rounded down to whole
// seconds and is at most [SetupOptions].MaxGrantTTL. In addition to the interface's errors it returns
// [ErrNotSetUp], if Vault made a token with other rights than a grant's; that token is revoked. If it cannot be, the
// error has its accessor.
func (k *Keyring) Issue(ctx context.Context, patient keys.Patient, options keys.GrantOptions) (keys.Grant, error) {
	if err := options.Validate(); err != nil {
		return keys.Grant{}, fmt.Errorf("transit: issue: %w", err)
	}
	id, err := k.KeyID(ctx, patient)
	if err != nil {
		return keys.Grant{}, err
	}
	grant, err := k.issue(ctx, id, options)
	if err != nil {
		return keys.Grant{}, fmt.Errorf("transit: issue: %w", err)
	}
	return grant, nil
}

func (k *Keyring) issue(ctx context.Context, id keys.KeyID, options keys.GrantOptions) (keys.Grant, error) {
	meta := map[string]string{
		metaKeyID:   id.String(),
		metaSubject: options.Subject,
		metaPurpose: string(options.Purpose),
	}
	if options.Reason != "" {
		meta[metaReason] = options.Reason
	}
	if options.RequestID != "" {
		meta[metaRequestID] = options.RequestID
	}
	role := k.prefix + "-grant"
	if options.DescribeOnly {
		role = k.prefix + "-describe"
	}
	asked := time.Now()
	secret, err := k.vault.write(ctx, k.own, "auth/token/create/"+role, map[string]any{
		"entity_alias":      envelopeKey(id),
		"meta":              meta,
		"ttl":               strconv.FormatInt(int64(options.TTL/time.Second), 10) + "s",
		"num_uses":          options.MaxUses,
		"renewable":         false,
		"no_default_policy": true,
	})
	switch {
	case badRequest(err) && strings.Contains(reason(err), "restricted use token"):
		return keys.Grant{}, fmt.Errorf("%w: %s", keys.ErrDenied, reason(err))
	case badRequest(err): // the token role is missing, or allows less than it should
		return keys.Grant{}, fmt.Errorf("%w: %s", ErrNotSetUp, reason(err))
	case err != nil:
		return keys.Grant{}, err
	case secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "":
		return keys.Grant{}, fmt.Errorf("%w: Vault answered with no token", keys.ErrUnavailable)
	case secret.Auth.Accessor == "" || !isServiceToken(secret.Auth.ClientToken): // as a batch token
		err = fmt.Errorf("%w: grants come as tokens of another kind than service tokens", ErrNotSetUp)
	// A token has other policies if the token role was changed, or if the patient's entity was given some.
	case !slices.Equal(secret.Auth.Policies, []string{role}):
		err = fmt.Errorf("%w: grants come with other policies than %s", ErrNotSetUp, role)
	}
	if err != nil {
		return keys.Grant{}, k.discard(ctx, secret.Auth, err)
	}
	return keys.NewGrant(keys.GrantDetails{
		KeyID:    id,
		Accessor: secret.Auth.Accessor,
		// Measured from before the request, so that it is never later than Vault's own expiry.
		Expires:   asked.Add(time.Duration(secret.Auth.LeaseDuration) * time.Second).Round(0),
		Subject:   options.Subject,
		Purpose:   options.Purpose,
		Reason:    options.Reason,
		RequestID: options.RequestID,
		MaxUses:   options.MaxUses,

		DescribeOnly: options.DescribeOnly,
	}, secret.Auth.ClientToken), nil
}

// discard revokes a token that Issue does not return, and returns the error that says why. If neither the token itself
// nor the granter may revoke it, the error has its accessor.
func (k *Keyring) discard(ctx context.Context, issued *api.SecretAuth, why error) error {
	ctx = context.WithoutCancel(ctx)
	itself := credential{token: func() string { return issued.ClientToken }}
	if _, err := k.vault.write(ctx, itself, "auth/token/revoke-self", nil); err == nil {
		return why
	}
	if err := k.revoke(ctx, issued.Accessor); err == nil {
		return why
	}
	return fmt.Errorf("%w; the token that Vault made is valid for %d s and could not be revoked: revoke it by its accessor, %q",
		why, issued.LeaseDuration, issued.Accessor)
}

// CheckGrant implements [keys.Unwrapper] with the grant's token only. It reads the mark of an erasure, which a grant may read
// for its own patient and for no other.
func (k *Keyring) CheckGrant(ctx context.Context, grant keys.Grant) error {
	holder, err := ofHolder(grant)
	if err == nil {
		_, _, err = k.vault.readWith(ctx, holder, k.erasedMarkPath(grant.KeyID()), url.Values{"type": {markType}})
	}
	if err != nil && !missing(err) {
		return fmt.Errorf("transit: check grant: %w", ofGrant(err))
	}
	return nil
}

// RevokeSelf implements [keys.Unwrapper] with the grant's token only.
func (k *Keyring) RevokeSelf(ctx context.Context, grant keys.Grant) error {
	holder, err := ofHolder(grant)
	if err == nil {
		_, err = k.vault.write(ctx, holder, "auth/token/revoke-self", nil)
	}
	if err != nil {
		return fmt.Errorf("transit: end grant: %w", ofGrant(err))
	}
	return nil
}

// Revoke implements [keys.Revoker], for the revoker's role.
func (k *Keyring) Revoke(ctx context.Context, accessor string) error {
	if err := k.revoke(ctx, accessor); err != nil {
		return fmt.Errorf("transit: revoke: %w", err)
	}
	return nil
}

func (k *Keyring) revoke(ctx context.Context, accessor string) error {
	// In Vault Enterprise, the accessor ends with a dot and the namespace.
	if !consistsOf(accessor, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.") || len(accessor) > maxTokenLen {
		return fmt.Errorf("%w: it is not the accessor of a grant", keys.ErrInvalidGrant)
	}
	secret, err := k.vault.write(ctx, k.own, "auth/token/revoke-accessor", map[string]any{"accessor": accessor})
	switch {
	case err == nil && secret != nil && slices.ContainsFunc(secret.Warnings, func(warning string) bool {
		return strings.Contains(warning, "No token found")
	}):
		return fmt.Errorf("%w: Vault has no token with this accessor", keys.ErrInvalidGrant)
	case badRequest(err) && strings.Contains(reason(err), "token not found"),
		err != nil && strings.Contains(reason(err), "no namespace"):
		return fmt.Errorf("%w: %s", keys.ErrInvalidGrant, reason(err))
	}
	return err
}

const maxTokenLen = 2048

// ofHolder returns the grant's token as a credential if it has the form of a service token. Vault would refuse any
// other, and some could not be sent in an HTTP header.
func ofHolder(grant keys.Grant) (credential, error) {
	if !isServiceToken(grant.Token()) {
		return credential{}, fmt.Errorf("%w: its token is not a service token of Vault", keys.ErrInvalidGrant)
	}
	return credential{token: grant.Token}, nil
}

func isServiceToken(token string) bool {
	rest, ok := strings.CutPrefix(token, "hvs.")
	if !ok { // of OpenBao, and of Vault before 1.10
		rest, ok = strings.CutPrefix(token, "s.")
	}
	return ok && len(token) <= maxTokenLen &&
		consistsOf(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")
}

// ofGrant classifies the error of a request that used a grant's token.
func ofGrant(err error) error {
	switch {
	case errors.Is(err, keys.ErrUnauthenticated):
		return fmt.Errorf("%w: %w: %s", keys.ErrInvalidGrant, keys.ErrDenied, reason(err))
	case strings.Contains(reason(err), "namespace from the token"):
		return fmt.Errorf("%w: %s", keys.ErrInvalidGrant, reason(err)) // Vault answers with an internal error
	}
	return err
}
