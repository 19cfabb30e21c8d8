package bench

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

// BenchmarkEvents plays from real MinIO with a stream of events to three sinks, and without any, by turns. The events go to
// slog, to lines of JSON, and to a function that counts.
func BenchmarkEvents(b *testing.B) {
	const size = 64 << 20
	rounds := setting(b, "RECVAULT_BENCH_ROUNDS", 5)
	d := deploy(b, false)
	id, _ := d.putBoth(b, size)
	var delivered atomic.Int64
	stream := events.New(
		events.Log(slog.New(slog.NewJSONHandler(io.Discard, nil))),
		events.JSON(io.Discard),
		func(e events.Event) error {
			delivered.Add(e.Bytes)
			return nil
		})
	vaults := []*vault.Vault{d.open(b), d.open(b, vault.WithEvents(stream))}
	serve := func(v *vault.Vault, byteRange string) {
		request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil)
		request.Header.Set("Range", byteRange)
		v.ServeRecording(discard{http.Header{}}, request, d.grant, id)
	}
	watched := int64(0) // with events
	for _, c := range []struct {
		name   string
		times  int
		length int64
		play   func(v *vault.Vault, offset int64)
	}{
		{"the whole recording by HTTP", 20 * rounds, size, func(v *vault.Vault, _ int64) { serve(v, "bytes=0-") }},
		{"64 KiB by HTTP", 1000 * rounds, 64 << 10, func(v *vault.Vault, offset int64) {
			serve(v, fmt.Sprintf("bytes=%d-%d", offset, offset+64<<10-1))
		}},
		{"64 KiB by ReadAt, opened each time", 1000 * rounds, 64 << 10, func(v *vault.Vault, offset int64) {
			recording, err := v.Open(b.Context(), d.grant, id, vault.WithOffset(offset))
			require.NoError(b, err)
			_, err = recording.ReadAt(make([]byte, 64<<10), offset)
			require.NoError(b, err)
			require.NoError(b, recording.Close())
		}},
	} {
		took := [2][]float64{}
		for i := range c.times + 20 {
			offset := int64(0)
			if c.length < size {
				offset = randomOffset(b, size-c.length)
			}
			for turn := range vaults {
				which := (i + turn) % len(vaults) // they take turns in going first
				t := timed(func() { c.play(vaults[which], offset) })
				if i >= 20 { // the first ones warm up
					took[which] = append(took[which], t)
				}
			}
			watched += c.length
		}
		off, on := median(took[0]), median(took[1])
		fmt.Printf("\nPlaying %s (p50 of %d): %.3f ms with events, %.3f ms without, ratio %.3f\n", c.name, c.times, on, off, on/off)
	}
	require.NoError(b, stream.Flush(b.Context()))
	require.Equal(b, watched, delivered.Load(), "the events say what was delivered")
}

// discard is a response that nobody reads.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }
