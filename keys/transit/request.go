package transit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// requester sends requests to Vault, each with the token of its caller, and classifies the errors.
type requester struct {
	client  *api.Client // without a token
	timeout time.Duration
}

const (
	minRetryWait = 50 * time.Millisecond
	maxRetryWait = time.Second
)

func newRequester(client *api.Client, timeout time.Duration, retries int) (*requester, error) {
	own, err := client.CloneWithHeaders() // the namespace is a header
	if err != nil {
		return nil, fmt.Errorf("transit: clone the Vault client: %w", err)
	}
	own.ClearToken()        // a new client takes its token from VAULT_TOKEN
	own.SetClientTimeout(0) // the requester's own timeout applies
	own.SetMaxRetries(max(retries, 0))
	own.SetMinRetryWait(minRetryWait)
	own.SetMaxRetryWait(maxRetryWait)
	own.SetCheckRetry(api.DefaultRetryPolicy)
	own.SetBackoff(backoff)
	return &requester{own, timeout}, nil
}

// backoff returns the wait before a retry. It doubles with each attempt, and is shorter by up to a
// half at random, so that many callers do not retry at the same moment.
func backoff(least, most time.Duration, attempt int, _ *http.Response) time.Duration {
	wait := most
	if attempt < 16 { // beyond that, shifting overflows
		wait = min(least<<attempt, most)
	}
	return wait - rand.N(wait/2+1)
}

func (r *requester) read(ctx context.Context, token, path string) (*api.Secret, error) {
	return r.readWith(ctx, token, path, nil)
}

func (r *requester) readWith(ctx context.Context, token, path string, parameters url.Values) (*api.Secret, error) {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	// The raw call is used, because the other one does not distinguish a missing mount from a missing key.
	response, err := r.as(token).ReadRawWithDataWithContext(limited, path, parameters)
	if response != nil {
		defer response.Body.Close()
	}
	if err != nil {
		return nil, failure(ctx, err)
	}
	secret, err := api.ParseSecret(response.Body)
	if err != nil {
		return nil, failure(ctx, err)
	}
	return secret, nil
}

// write returns a nil secret without an error if the answer has no content.
func (r *requester) write(ctx context.Context, token, path string, data map[string]any) (*api.Secret, error) {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	secret, err := r.as(token).WriteWithContext(limited, path, data)
	if err != nil {
		return nil, failure(ctx, err)
	}
	return secret, nil
}

func (r *requester) delete(ctx context.Context, token, path string) error {
	limited, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	if _, err := r.as(token).DeleteWithContext(limited, path); err != nil {
		return failure(ctx, err)
	}
	return nil
}

// as returns the client for one request with this token.
func (r *requester) as(token string) *api.Logical {
	return r.client.WithRequestCallbacks(func(request *api.Request) {
		request.ClientToken = token
		request.WrapTTL = "" // otherwise VAULT_WRAP_TTL in the environment would make Vault wrap the answer
	}).Logical()
}

// failure classifies the error of a request. ctx is the caller's context: if it has ended, its error
// is returned. The requester's own timeout means that Vault is unavailable.
func failure(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if response, ok := errors.AsType[*api.ResponseError](err); ok {
		return newRefusal(response)
	}
	return fmt.Errorf("%w: %v", keys.ErrUnavailable, err)
}

// decode reads the data of Vault's answer into a struct.
func decode(secret *api.Secret, into any) error {
	if secret == nil {
		return fmt.Errorf("%w: Vault's answer is empty", keys.ErrUnavailable)
	}
	raw, err := json.Marshal(secret.Data)
	if err == nil {
		defer clear(raw)
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return fmt.Errorf("%w: Vault's answer has an unexpected form", keys.ErrUnavailable)
	}
	return nil
}
