package auditlog_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/recvault/recvault/internal/auditlog"
)

// FuzzRead reads anything as a log and as events. Whatever is in it, a report comes out, or the error that there is none.
func FuzzRead(f *testing.F) {
	const line = `{"time":"2026-03-01T12:00:00.1Z","type":"response","auth":{"accessor":"hmac-sha256:00","policies":["p-grant"],"metadata":` +
		`{"subject":"s","key_id":"k"},"remaining_uses":1},"request":{"id":"1","operation":"update","path":"m/decrypt/` +
		`7c3qageubd3tyrstqcnvy5fuerbhfl5m-kek","client_token":"hmac-sha256:01","data":{"context":"cmVjdmF1bHQvdjEv"},"wrap_ttl":60}}`
	f.Add([]byte(line + "\n" + line))
	f.Add([]byte(`{"time":"2026-03-01T12:00:00Z","type":"request","request":{"id":"1","path":"m/decrypt/","data":{"batch_input":[{"context":1},2]}}}`))
	f.Add([]byte(`{"kind":"opened","time":"2026-03-01T12:00:00Z","ranges":[{"start":2,"end":1}]}` + "\n" + `{"event":{"kind":"x"}}`))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte(`{"time":"9999-12-31T23:59:59Z","type":"response","request":{"id":"2","path":"sys/leases/revoke-prefix/"},"response":{"auth":{}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		sources := []auditlog.Source{{Name: "x", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }}}
		for _, events := range [][]auditlog.Source{nil, sources} {
			report, err := auditlog.Read(t.Context(), sources, auditlog.Options{Mount: "m", Prefix: "p", Silence: 1, Events: events})
			switch {
			case errors.Is(err, auditlog.ErrNoEntries), errors.Is(err, auditlog.ErrNoEvents):
				continue
			case err != nil:
				t.Fatal(err)
			}
			for _, write := range []func(io.Writer) error{report.WriteJSON, report.WriteText, report.WriteHTML} {
				if err := write(io.Discard); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
