package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/jwt"

	"github.com/recvault/recvault/keys"
)

const (
	grantsDir     = "grants"
	accessorBytes = 16
	sweepInterval = time.Minute
)

func grantFile(accessor string) string { return grantsDir + "/" + accessor + ".json" }

// The claims of a grant's token, in addition to RFC 7519's iss, sub, jti, iat and exp.
const (
	issuer         = "recvault/local"
	keyIDClaim     = "key_id"
	purposeClaim   = "purpose"
	requestIDClaim = "request_id"
	maxUsesClaim   = "max_uses"
	describeClaim  = "describe_only"
)

// grantState is the file of a grant. It exists as long as the grant can be used: a revocation and the
// last use remove it.
type grantState struct {
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"`             // how often the grant was presented; counted only if uses are limited
	Reason  string    `json:"reason,omitempty"` // not in the token, which it would make long
}

// Issue implements [keys.Granter]. The grant's token is a JWT (RFC 7519) signed with HMAC-SHA256. Its
// times are in whole seconds, so a grant may last up to a second longer than its TTL.
func (k *Keyring) Issue(ctx context.Context, patient keys.Patient, options keys.GrantOptions) (keys.Grant, error) {
	if err := options.Validate(); err != nil {
		return keys.Grant{}, fmt.Errorf("issue: %w", err)
	}
	id, err := k.KeyID(ctx, patient)
	if err != nil {
		return keys.Grant{}, fmt.Errorf("issue: %w", err)
	}
	now := time.Now()
	details := keys.GrantDetails{
		KeyID:     id,
		Accessor:  newAccessor(),
		Expires:   now.Add(options.TTL + time.Second - 1).Truncate(time.Second).UTC(),
		Subject:   options.Subject,
		Purpose:   options.Purpose,
		Reason:    options.Reason,
		RequestID: options.RequestID,
		MaxUses:   options.MaxUses,

		DescribeOnly: options.DescribeOnly,
	}
	token, err := k.sign(details, now)
	if err != nil {
		return keys.Grant{}, fmt.Errorf("issue: %w: %w", keys.ErrUnavailable, err)
	}
	err = k.dir.exclusively(ctx, func() error {
		if err := k.sweep(ctx); err != nil {
			return err
		}
		return k.writeGrantState(details.Accessor, grantState{Expires: details.Expires, Reason: details.Reason})
	})
	if err != nil {
		return keys.Grant{}, fmt.Errorf("issue: %w", err)
	}
	return keys.NewGrant(details, token), nil
}

// CheckGrant implements [keys.Unwrapper].
func (k *Keyring) CheckGrant(ctx context.Context, grant keys.Grant) error {
	claims, err := k.use(ctx, grant)
	if err == nil && claims.keyID != grant.KeyID() {
		err = fmt.Errorf("%w: the grant is for another patient", keys.ErrDenied)
	}
	if err != nil {
		return fmt.Errorf("check grant: %w", err)
	}
	return nil
}

// RevokeSelf implements [keys.Unwrapper].
func (k *Keyring) RevokeSelf(ctx context.Context, grant keys.Grant) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("revoke own grant: %w", err)
	}
	claims, err := k.verify(grant)
	if err != nil {
		return fmt.Errorf("revoke own grant: %w", err)
	}
	err = k.dir.exclusively(ctx, func() error {
		if _, err := k.readGrantState(claims.accessor); err != nil {
			return err
		}
		return k.dir.remove(grantFile(claims.accessor))
	})
	if err != nil {
		return fmt.Errorf("revoke own grant: %w", err)
	}
	return nil
}

// Revoke implements [keys.Revoker].
func (k *Keyring) Revoke(ctx context.Context, accessor string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if !isAccessor(accessor) {
		return fmt.Errorf("revoke: %w: no grant has this accessor", keys.ErrInvalidGrant)
	}
	err := k.dir.exclusively(ctx, func() error {
		state, err := k.readGrantState(accessor)
		if err != nil {
			return err
		}
		if err := k.dir.remove(grantFile(accessor)); err != nil {
			return err
		}
		if !state.Expires.After(time.Now()) {
			return ended("it has expired")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}

// claims are the content of a token that this keyring signed and that has not expired.
type claims struct {
	keyID    keys.KeyID
	accessor string
	maxUses  int

	describeOnly bool
}

// use takes one of the grant's uses and returns the claims.
func (k *Keyring) use(ctx context.Context, grant keys.Grant) (claims, error) {
	if err := ctx.Err(); err != nil {
		return claims{}, err
	}
	c, err := k.verify(grant)
	if err != nil {
		return claims{}, err
	}
	if c.maxUses == 0 {
		_, err := k.readGrantState(c.accessor)
		return c, err
	}
	err = k.dir.exclusively(ctx, func() error {
		state, err := k.readGrantState(c.accessor)
		if err != nil {
			return err
		}
		state.Uses++
		if state.Uses >= c.maxUses {
			return k.dir.remove(grantFile(c.accessor))
		}
		return k.writeGrantState(c.accessor, state)
	})
	return c, err
}

func (k *Keyring) sign(details keys.GrantDetails, issued time.Time) (string, error) {
	iss := issuer
	raw, err := jwt.NewRawJWT(&jwt.RawJWTOptions{
		Issuer:    &iss,
		Subject:   &details.Subject,
		JWTID:     &details.Accessor,
		IssuedAt:  &issued,
		ExpiresAt: &details.Expires,
		CustomClaims: map[string]any{
			keyIDClaim:     details.KeyID.String(),
			purposeClaim:   string(details.Purpose),
			requestIDClaim: details.RequestID,
			maxUsesClaim:   details.MaxUses,
			describeClaim:  details.DescribeOnly,
		},
	})
	if err != nil {
		return "", err
	}
	return k.signer.ComputeMACAndEncode(raw)
}

// verify returns the claims of a grant's token. It ignores the grant's details.
func (k *Keyring) verify(grant keys.Grant) (claims, error) {
	iss := issuer
	validator, err := jwt.NewValidator(&jwt.ValidatorOpts{ExpectedIssuer: &iss})
	if err != nil {
		return claims{}, unavailable(err)
	}
	verified, err := k.signer.VerifyMACAndDecode(grant.Token(), validator)
	if jwt.IsExpirationErr(err) {
		return claims{}, ended("it has expired")
	}
	if err != nil {
		return claims{}, fmt.Errorf("%w: it is malformed, or another keyring issued it", keys.ErrInvalidGrant) // Tink's error has no further details
	}
	accessor, accessorErr := verified.JWTID()
	text, textErr := verified.StringClaim(keyIDClaim)
	maxUses, maxUsesErr := verified.NumberClaim(maxUsesClaim)
	describeOnly, describeErr := verified.BooleanClaim(describeClaim)
	keyID, keyIDErr := keys.ParseKeyID(text)
	if accessorErr != nil || textErr != nil || maxUsesErr != nil || describeErr != nil || keyIDErr != nil || !isAccessor(accessor) {
		return claims{}, fmt.Errorf("%w: its claims are incomplete", keys.ErrInvalidGrant)
	}
	return claims{keyID, accessor, int(maxUses), describeOnly}, nil
}

// ended returns the error of a grant that was valid and has ended.
func ended(why string) error {
	return fmt.Errorf("%w: %w: %s", keys.ErrDenied, keys.ErrInvalidGrant, why)
}

func newAccessor() string {
	var random [accessorBytes]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand crashes the program instead
	return hex.EncodeToString(random[:])
}

// isAccessor reports whether the text has the form of an accessor. Only then may it be part of a path.
func isAccessor(text string) bool {
	return len(text) == hex.EncodedLen(accessorBytes) && strings.Trim(text, "0123456789abcdef") == ""
}

func (k *Keyring) readGrantState(accessor string) (grantState, error) {
	name := grantFile(accessor)
	data, err := k.dir.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return grantState{}, ended("it was revoked or is used up")
	}
	if err != nil {
		return grantState{}, err
	}
	var state grantState
	if err := json.Unmarshal(data, &state); err != nil {
		return grantState{}, damaged(name)
	}
	return state, nil
}

func (k *Keyring) writeGrantState(accessor string, state grantState) error {
	data, err := json.Marshal(state)
	if err != nil {
		return unavailable(err)
	}
	return k.dir.write(grantFile(accessor), data)
}

// sweep removes the files of expired grants, at most once a minute, to keep Issue fast.
func (k *Keyring) sweep(ctx context.Context) error {
	now := time.Now()
	if now.Sub(k.swept) < sweepInterval {
		return nil
	}
	names, err := k.dir.list(grantsDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		accessor, ok := strings.CutSuffix(name, ".json")
		if !ok || !isAccessor(accessor) {
			continue
		}
		if state, err := k.readGrantState(accessor); err == nil && now.After(state.Expires) {
			if err := k.dir.remove(grantFile(accessor)); err != nil {
				return err
			}
		}
	}
	k.swept = now
	return nil
}
