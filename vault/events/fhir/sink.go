package fhir

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/recvault/recvault/vault/events"
)

// postTimeout bounds one post, with its answer.
const postTimeout = 10 * time.Second

// Sink returns a sink that posts each AuditEvent to a FHIR server, as [base]/AuditEvent, with the client, which logs in
// where that is needed. nil stands for http.DefaultClient. A post takes 10 seconds at most. The sink is for one stream.
//
// If the server cannot be reached, or does not answer 201, the stream tries again a second later, and holds back what came
// after: see [events.Stream] for its bounds. If an answer is lost, the server gets the same AuditEvent twice. What the
// server rejects for good, with status 400, 413 or 422, is logged to slog.Default() as an error, with the event, and is
// not tried again.
//
// Sink returns an error if base is not an absolute URL.
func (e *Encoder) Sink(base string, client *http.Client) (events.Sink, error) {
	endpoint, err := url.Parse(base)
	if err != nil || endpoint.Host == "" {
		return nil, fmt.Errorf("fhir: the base of the server, %q, is not an absolute URL", base)
	}
	target := endpoint.JoinPath("AuditEvent").String()
	if client == nil {
		client = http.DefaultClient
	}
	delivered := 0 // how many resources of the present event the server has
	return func(event events.Event) error {
		for _, resource := range e.Encode(event)[delivered:] {
			status, answer, err := post(client, target, resource)
			if err != nil {
				return fmt.Errorf("fhir: %w", err)
			}
			switch status {
			case http.StatusCreated:
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
				slog.Error("recvault: the FHIR server rejected an event", "status", status, "answer", answer, "event", event)
			default: // 200 as well: it can be a page for the login
				return fmt.Errorf("fhir: the server answered with status %d", status)
			}
			delivered++
		}
		delivered = 0
		return nil
	}, nil
}

// post posts a resource, and returns the status and the beginning of the answer.
func post(client *http.Client, target string, resource []byte) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), postTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(resource))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/fhir+json")
	request.Header.Set("Accept", "application/fhir+json")
	request.Header.Set("Prefer", "return=minimal")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	// The rest is read so that the connection can be used again.
	text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	return response.StatusCode, string(text[:min(len(text), 1024)]), nil
}
