package transit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	config := client.CloneConfig()
	guarded := *config.HttpClient
	guarded.Transport = &guard{cmp.Or(guarded.Transport, http.DefaultTransport)}
	config.HttpClient = &guarded
	own, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("transit: clone the Vault client: %w", err)
	}
	own.SetHeaders(client.Headers()) // the namespace is one of them
	own.ClearToken()                 // a new client takes its token from VAULT_TOKEN
	own.SetClientTimeout(0)          // the requester's own timeout applies
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

// credential is the token that a request is sent with: that of this process, or a grant's.
type credential struct {
	token   func() string                                   // as it is now
	refresh func(ctx context.Context, refused string) error // as Options.Refresh; nil if there is none
}

// send makes one request, and a second one if Vault did not know the token and there is another one by now.
func (r *requester) send(ctx context.Context, by credential, request func(context.Context, *api.Logical) error) error {
	once := func(token string) error {
		limited, cancel := context.WithTimeout(ctx, r.timeout)
		defer cancel()
		if err := request(limited, r.as(token)); err != nil {
			return failure(ctx, token, err)
		}
		return nil
	}
	token := by.token()
	err := once(token)
	if !errors.Is(err, keys.ErrUnauthenticated) {
		return err
	}
	if by.refresh != nil {
		if err := by.refresh(ctx, token); err != nil {
			return err
		}
	}
	if next := by.token(); next != token {
		return once(next)
	}
	return err
}

func (r *requester) read(ctx context.Context, by credential, path string) (*api.Secret, error) {
	secret, _, err := r.readWith(ctx, by, path, nil)
	return secret, err
}

// readWith also returns Vault's clock when it answered (the Date header, to the second), or zero if it does not report
// it.
func (r *requester) readWith(ctx context.Context, by credential, path string, parameters url.Values) (secret *api.Secret, now time.Time, err error) {
	err = r.send(ctx, by, func(ctx context.Context, vault *api.Logical) error {
		// The raw call is used, because the other one does not distinguish a missing mount from a missing key.
		response, err := vault.ReadRawWithDataWithContext(ctx, path, parameters)
		if response != nil {
			defer response.Body.Close()
		}
		if err != nil {
			return err
		}
		date, _ := http.ParseTime(response.Header.Get("Date"))
		now = date.UTC()
		secret, err = api.ParseSecret(response.Body)
		return err
	})
	return secret, now, err
}

// listTimeout is Vault's own limit for a request, unless it is configured (default_max_request_duration).
const listTimeout = 90 * time.Second

// list calls each with the details of every entry of a list, in JSON, as they arrive. It keeps one entry at a time in
// memory, so the list may be long.
func (r *requester) list(ctx context.Context, by credential, path string, each func(details []byte) error) error {
	token := by.token()
	limited, cancel := context.WithTimeout(ctx, max(r.timeout, listTimeout))
	defer cancel()
	response, err := r.as(token).ReadRawWithDataWithContext(limited, path, url.Values{"list": {"true"}})
	if response != nil {
		defer response.Body.Close()
	}
	if err != nil {
		if err = failure(ctx, token, err); missing(err) {
			return nil // an empty list
		}
		return err
	}
	d := json.NewDecoder(response.Body)
	err = fields(d, func(name string) error {
		if name != "data" {
			return d.Decode(new(json.RawMessage))
		}
		return fields(d, func(name string) error {
			if name != "key_info" {
				return d.Decode(new(json.RawMessage))
			}
			return fields(d, func(string) error {
				var details json.RawMessage
				if err := d.Decode(&details); err != nil {
					return err
				}
				return each(details)
			})
		})
	})
	if err != nil {
		return failure(ctx, token, err)
	}
	return nil
}

// fields calls each for every field of a JSON object, with the decoder before the field's value. each must read it.
func fields(d *json.Decoder, each func(name string) error) error {
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return errors.Join(errors.New("not a JSON object"), err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		if err := each(name.(string)); err != nil { // in an object, Token returns names as strings
			return err
		}
	}
	_, err := d.Token()
	return err
}

// write returns a nil secret without an error if the answer has no content.
func (r *requester) write(ctx context.Context, by credential, path string, data map[string]any) (secret *api.Secret, err error) {
	err = r.send(ctx, by, func(ctx context.Context, vault *api.Logical) error {
		secret, err = vault.WriteWithContext(ctx, path, data)
		return err
	})
	return secret, err
}

func (r *requester) delete(ctx context.Context, by credential, path string) error {
	return r.send(ctx, by, func(ctx context.Context, vault *api.Logical) error {
		_, err := vault.DeleteWithContext(ctx, path)
		return err
	})
}

// as returns the client for one request with this token.
func (r *requester) as(token string) *api.Logical {
	return r.client.WithRequestCallbacks(func(request *api.Request) {
		request.ClientToken = token
		request.WrapTTL = "" // otherwise VAULT_WRAP_TTL in the environment would make Vault wrap the answer
	}).Logical()
}

// failure classifies the error of a request with this token. ctx is the caller's context: if it has ended,
// its error is returned. The requester's own timeout means that Vault is unavailable.
func failure(ctx context.Context, token string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if response, ok := errors.AsType[*api.ResponseError](err); ok {
		return newRefusal(response, token)
	}
	return fmt.Errorf("%w: %s", keys.ErrUnavailable, plain(err.Error(), token)) // net/http quotes answers that it cannot parse
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

// maxAnswer bounds Vault's answers, in bytes. The largest is a batch of rewrapped keys, some 64 KiB. Lists are read
// as a stream, and have a limit of their own.
const (
	maxAnswer = 8 << 20
	maxList   = 1 << 30
)

// guard bounds the size of answers, and refuses redirects to another host, which would send the token there.
type guard struct{ http.RoundTripper }

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := g.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if target, err := response.Location(); err == nil && response.StatusCode < 400 && target.Host != request.URL.Host {
		_ = response.Body.Close()
		return nil, errors.New("the answer is a redirect to another host")
	}
	limit := int64(maxAnswer)
	if request.URL.Query().Has("list") {
		limit = maxList
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, limit), response.Body}
	return response, nil
}
