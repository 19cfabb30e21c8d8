package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
	"github.com/recvault/recvault/vault/events"
)

// TestEachKindOfEventHappens does what each kind is about.
func TestEachKindOfEventHappens(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		w := newWitness()
		v := b.vaultOf(t, b.writerAndReader(), vault.WithEvents(w.stream))
		defer v.Close()
		login := w.stream.Issuer(b.admin)
		var all []events.Event
		// happened checks the next event but for its times.
		happened := func(want events.Event) events.Event {
			t.Helper()
			got := w.next(t)
			all = append(all, got)
			want.Count = 1
			if want.Kind == events.Opened {
				assert.False(t, got.Ended.Before(got.Began))
			}
			assert.WithinDuration(t, time.Now(), got.Time, 10*time.Second)
			want.Time, want.Began, want.Ended, want.Error = got.Time, got.Began, got.Ended, got.Error
			require.Equal(t, want, got)
			return got
		}
		issue := func(patient keys.Patient, maxUses int) keys.Grant {
			t.Helper()
			grant, err := login.Issue(t.Context(), patient, keys.GrantOptions{
				TTL: time.Minute, Subject: "dr-lee", Purpose: keys.BreakTheGlass, Reason: "unconscious", RequestID: "case-7", MaxUses: maxUses,
			})
			require.NoError(t, err)
			assert.Equal(t, "unconscious", happened(events.Event{Kind: events.GrantIssued, KeyID: grant.KeyID(), Grant: grant.Details()}).Grant.Reason)
			return grant
		}
		grant := issue(alice, 0)
		keyID, details := grant.KeyID(), grant.Details()

		data := random(t, 3*segment.Size)
		id, err := v.Put(t.Context(), alice, bytes.NewReader(data), metadata())
		require.NoError(t, err)
		happened(events.Event{Kind: events.Stored, KeyID: keyID, Recording: id})
		capture, err := v.Create(t.Context(), alice, metadata())
		require.NoError(t, err)
		require.NoError(t, capture.Close())
		happened(events.Event{Kind: events.Stored, KeyID: keyID, Recording: capture.ID()})

		n := 0
		for _, err := range v.List(t.Context(), alice) {
			require.NoError(t, err)
			n++
		}
		happened(events.Event{Kind: events.Listed, KeyID: keyID, Entries: n})
		_, err = v.Stat(t.Context(), grant, id)
		require.NoError(t, err)
		happened(events.Event{Kind: events.Described, KeyID: keyID, Recording: id, Grant: details, Unwraps: 1})
		require.NoError(t, v.Delete(t.Context(), alice, capture.ID()))
		happened(events.Event{Kind: events.Deleted, KeyID: keyID, Recording: capture.ID()})
		_, err = v.ListInfo(t.Context(), issue(bob, 0))
		require.NoError(t, err)
		bobs := all[len(all)-1].Grant
		happened(events.Event{Kind: events.Listed, KeyID: bobs.KeyID, Grant: bobs})

		recording, err := v.Open(t.Context(), grant, id)
		require.NoError(t, err)
		_, err = io.ReadFull(recording, make([]byte, 100))
		require.NoError(t, err)
		_, err = recording.ReadAt(make([]byte, 1000), 70_000)
		require.NoError(t, err)
		assert.Empty(t, w.events, "nothing happened yet")
		require.NoError(t, recording.Close())
		happened(events.Event{
			Kind: events.Opened, KeyID: keyID, Recording: id, Grant: details, Unwraps: 1,
			Bytes: 1100, Ranges: []events.Range{{Start: 0, End: 100}, {Start: 70_000, End: 71_000}},
		})
		require.NoError(t, recording.Close())
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		request.Header.Set("Range", "bytes=-10")
		size := int64(len(data))
		watching := issue(alice, 0) // apart from the event before
		v.ServeRecording(httptest.NewRecorder(), request, watching, id)
		happened(events.Event{
			Kind: events.Opened, KeyID: keyID, Recording: id, Grant: watching.Details(), Unwraps: 1,
			Bytes: 10, Ranges: []events.Range{{Start: size - 10, End: size}},
		})
		_, err = v.Stat(t.Context(), watching, id)
		require.NoError(t, err)
		happened(events.Event{Kind: events.Described, KeyID: keyID, Recording: id, Grant: watching.Details(), Unwraps: 1})

		missing := keystest.NewRecordingID(keyID)
		v.ServeRecording(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), grant, missing)
		happened(events.Event{Kind: events.Failed, KeyID: keyID, Recording: missing, Grant: details, Status: http.StatusNotFound})
		foreign := b.put(t, alice, nil)
		teststore.Write(t, b.Store, objectName(foreign, "envelope"), []byte(`{"version":2,"shape":"unknown"}`))
		_, err = v.Stat(t.Context(), grant, foreign)
		require.ErrorIs(t, err, vault.ErrUnsupported)
		happened(events.Event{Kind: events.Unsupported, KeyID: keyID, Recording: foreign, Grant: details})

		_, err = v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.Title = "Corrected"; return nil })
		require.NoError(t, err)
		happened(events.Event{Kind: events.Updated, KeyID: keyID, Recording: id, Grant: details})
		renewed, err := v.Rekey(t.Context(), grant, id)
		require.NoError(t, err)
		rekeyed := w.next(t)
		all = append(all, rekeyed)
		assert.Equal(t, []any{events.Rekeyed, id, renewed, details}, []any{rekeyed.Kind, rekeyed.Recording, rekeyed.To, rekeyed.Grant})
		copied, err := v.Copy(t.Context(), grant, renewed, bob)
		require.NoError(t, err)
		happened(events.Event{Kind: events.Copied, KeyID: keyID, Recording: renewed, To: copied, Grant: details})
		moved, err := v.Reassign(t.Context(), grant, renewed, bob)
		require.NoError(t, err)
		happened(events.Event{Kind: events.Reassigned, KeyID: keyID, Recording: renewed, To: moved, Grant: details})

		limited := issue(bob, 1)
		recording, err = v.Open(t.Context(), limited, moved)
		require.NoError(t, err)
		require.NoError(t, recording.Close())
		happened(events.Event{Kind: events.Opened, KeyID: limited.KeyID(), Recording: moved, Grant: limited.Details(), Unwraps: 1})
		_, err = v.Stat(t.Context(), limited, moved)
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		happened(events.Event{Kind: events.Exhausted, KeyID: limited.KeyID(), Recording: moved, Grant: limited.Details(), Unwraps: 1})

		require.NoError(t, v.EndGrant(t.Context(), grant))
		happened(events.Event{Kind: events.GrantRevoked, KeyID: keyID, Grant: details})
		again := issue(alice, 0)
		require.NoError(t, login.RevokeSelf(t.Context(), again))
		happened(events.Event{Kind: events.GrantRevoked, KeyID: keyID, Grant: again.Details()})
		again = issue(bob, 0)
		require.NoError(t, w.stream.Revoker(b.admin).Revoke(t.Context(), again.Accessor()))
		happened(events.Event{Kind: events.GrantRevoked, Grant: keys.GrantDetails{Accessor: again.Accessor()}})

		e, err := erasure.New(b.admin, b.Store, erasure.Options{Events: w.stream})
		require.NoError(t, err)
		plan, err := e.PlanPatient(t.Context(), moved.KeyID())
		require.NoError(t, err)
		stillOpen := issue(bob, 0)
		sealed, media := teststore.Read(t, b.Store, objectName(moved, "envelope")), teststore.Read(t, b.Store, objectName(moved, "media"))
		_, err = e.ConfirmPatient(t.Context(), moved.KeyID(), erasure.Approval{Digest: plan.Digest, Operator: "privacy-office"})
		require.NoError(t, err)
		happened(events.Event{Kind: events.Erased, KeyID: moved.KeyID(), Operator: "privacy-office"})
		teststore.Write(t, b.Store, objectName(moved, "envelope"), sealed) // from a backup
		teststore.Write(t, b.Store, objectName(moved, "media"), media)
		_, err = v.Open(t.Context(), stillOpen, moved)
		require.ErrorIs(t, err, keys.ErrErased)
		happened(events.Event{Kind: events.Gone, KeyID: moved.KeyID(), Recording: moved, Grant: stillOpen.Details(), Unwraps: 1})

		require.NoError(t, v.Close())
		assert.Empty(t, w.rest())
		w.assertSame(t, all)
		planted := secretsOf(grant, limited, again, stillOpen)
		planted.plant("a patient", string(alice))
		planted.plant("a patient", string(bob))
		planted.plant("a title", metadata().Title)
		planted.plant("a title", "Corrected")
		planted.lookFor(t, "the log", []byte(w.log.String()+w.lines.String()))
		planted.lookFor(t, "an event", fmt.Appendf(nil, "%v %+v %#v", all, all, all))
	})
}

// TestAHoldAndWhatItRefusesAreEvents: whoever reviews a hold sees who set and cleared it, and what it kept.
func TestAHoldAndWhatItRefusesAreEvents(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		id, grant := b.put(t, alice, []byte("content")), b.Grant(t, alice)
		keyID := id.KeyID()
		w := newWitness()
		v := b.vaultOf(t, b.writerAndReader(), vault.WithEvents(w.stream))
		defer v.Close()
		e, err := erasure.New(b.admin, b.Store, erasure.Options{Events: w.stream})
		require.NoError(t, err)
		plan, err := e.PlanPatient(t.Context(), keyID)
		require.NoError(t, err)
		alone, err := e.PlanRecording(t.Context(), id)
		require.NoError(t, err)
		holds := erasure.NewHolds(b.Store, w.stream)
		happened := func(want events.Event) {
			t.Helper()
			got := w.next(t)
			assert.Equal(t, want.Kind == events.Held, strings.Contains(got.Error, vault.ErrHeld.Error()), got.Error)
			want.KeyID, want.Count, want.Time, want.Error, want.Unwraps = keyID, 1, got.Time, got.Error, got.Unwraps
			assert.Equal(t, want, got)
		}

		_, err = holds.Set(t.Context(), keyID, "legal", "case 7")
		require.NoError(t, err)
		happened(events.Event{Kind: events.HoldSet, Operator: "legal", Reason: "case 7"})
		_, err = holds.Set(t.Context(), keyID, "another", "case 8")
		require.ErrorIs(t, err, vault.ErrHeld)
		for kind, change := range map[events.Kind]func() error{
			events.Updated: func() error {
				_, err := v.Update(t.Context(), grant, id, func(m *vault.Metadata) error { m.Title = "Corrected"; return nil })
				return err
			},
			events.Reassigned: func() error { _, err := v.Reassign(t.Context(), grant, id, bob); return err },
			events.Rekeyed:    func() error { _, err := v.Rekey(t.Context(), grant, id); return err },
		} {
			require.ErrorIs(t, change(), vault.ErrHeld, kind)
			happened(events.Event{Kind: events.Held, Of: kind, Recording: id, Grant: grant.Details()})
		}
		require.ErrorIs(t, v.Delete(t.Context(), alice, id), vault.ErrHeld)
		happened(events.Event{Kind: events.Held, Of: events.Deleted, Recording: id})
		_, err = e.ConfirmRecording(t.Context(), id, erasure.Approval{Digest: alone.Digest, Operator: "privacy-office"})
		require.ErrorIs(t, err, vault.ErrHeld)
		happened(events.Event{Kind: events.Held, Of: events.Erased, Recording: id, Operator: "privacy-office"})
		_, err = e.ConfirmPatient(t.Context(), keyID, erasure.Approval{Digest: plan.Digest, Operator: "privacy-office"})
		require.ErrorIs(t, err, vault.ErrHeld)
		happened(events.Event{Kind: events.Held, Of: events.Erased, Operator: "privacy-office"})

		_, err = holds.Clear(t.Context(), keyID, "m.okafor", "closed")
		require.NoError(t, err)
		happened(events.Event{Kind: events.HoldCleared, Operator: "m.okafor", Reason: "closed"})
		_, err = holds.Clear(t.Context(), keyID, "m.okafor", "closed")
		require.ErrorIs(t, err, erasure.ErrNotHeld)
		require.NoError(t, v.Delete(t.Context(), alice, id))
		happened(events.Event{Kind: events.Deleted, Recording: id})
		require.NoError(t, v.Close())
		assert.Empty(t, w.rest())
	})
}

// TestDeliveredBytesAreExact reads at random, in all ways and with writers that fail, and compares.
func TestDeliveredBytesAreExact(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	const size = 5*segment.Size + 1234
	id, grant := b.put(t, alice, random(t, size)), b.Grant(t, alice)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		w := newWitness()
		v := b.vaultOf(t, b.server, vault.WithEvents(w.stream))
		recording, err := v.Open(t.Context(), grant, id)
		require.NoError(t, err)
		seen, total, position := make([]bool, size), int64(0), int64(0)
		mark := func(start, n int64) {
			total += n
			for i := range n {
				seen[start+i] = true
			}
		}
		for range 10 {
			switch random.IntN(4) {
			case 0:
				position, err = recording.Seek(random.Int64N(size+100), io.SeekStart)
				require.NoError(t, err)
			case 1:
				n, err := recording.Read(make([]byte, random.IntN(100_000)))
				if err != io.EOF {
					require.NoError(t, err)
				}
				mark(position, int64(n))
				position += int64(n)
			case 2:
				offset := random.Int64N(size + 100)
				n, err := recording.ReadAt(make([]byte, random.IntN(100_000)), offset)
				if err != io.EOF {
					require.NoError(t, err)
				}
				mark(offset, int64(n))
			case 3:
				to := &failingWriter{left: random.IntN(size)}
				n, _ := recording.WriteTo(to)
				mark(position, n)
				position += n
			}
		}
		require.NoError(t, recording.Close())
		event := w.next(t)
		require.NoError(t, v.Close())
		assert.Equal(t, total, event.Bytes, "round %d", round)
		assert.Equal(t, ranges(seen), event.Ranges, "round %d", round)
	}
}

// ranges returns the ranges of what is true.
func ranges(seen []bool) (all []events.Range) {
	for i, yes := range seen {
		switch at := int64(i); {
		case !yes:
		case len(all) > 0 && all[len(all)-1].End == at:
			all[len(all)-1].End++
		default:
			all = append(all, events.Range{Start: at, End: at + 1})
		}
	}
	return all
}

// failingWriter takes so many bytes, and fails in the middle of a Write.
type failingWriter struct {
	left  int
	taken []byte
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.taken = append(w.taken, p[:n]...)
	if n < len(p) {
		return n, errors.New("full")
	}
	return n, nil
}

// TestServedBytesAreExact cuts each kind of answer in many places.
func TestServedBytesAreExact(t *testing.T) {
	for _, contentType := range []string{"video/webm", "multipart/byteranges; boundary=x"} { // which an answer can have as well
		t.Run(contentType, func(t *testing.T) { testServedBytes(t, contentType) })
	}
}

func testServedBytes(t *testing.T, contentType string) {
	b := embedded(t)
	alice := b.enrol(t)
	data, grant := random(t, 400), b.Grant(t, alice)
	id, err := b.vaultOf(t, b.writer).Put(t.Context(), alice, bytes.NewReader(data), vault.Metadata{ContentType: contentType})
	require.NoError(t, err)
	serve := func(t *testing.T, ask string, limit int) (events.Event, []byte) {
		t.Helper()
		w := newWitness()
		v := b.vaultOf(t, b.server, vault.WithEvents(w.stream))
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		request.Header.Set("Range", ask)
		to := &failingWriter{left: limit}
		v.ServeRecording(bodyTo{httptest.NewRecorder(), to}, request, grant, id)
		require.NoError(t, v.Close())
		return w.next(t), to.taken
	}
	for ask, parts := range map[string][]events.Range{
		"":                        {{Start: 0, End: 400}},
		"bytes=100-":              {{Start: 100, End: 400}},
		"bytes=-7":                {{Start: 393, End: 400}},
		"bytes=10-19,300-,-50":    {{Start: 10, End: 20}, {Start: 300, End: 400}, {Start: 350, End: 400}},
		"bytes=200-299,0-9,5-104": {{Start: 200, End: 300}, {Start: 0, End: 10}, {Start: 5, End: 105}},
		"bytes=500-":              nil,
	} {
		t.Run(ask, func(t *testing.T) {
			_, whole := serve(t, ask, 1<<20)
			for limit := 0; limit <= len(whole)+4; limit += 5 {
				limit := min(limit, len(whole))
				event, taken := serve(t, ask, limit)
				require.Equal(t, limit, len(taken))
				seen, total, from := make([]bool, len(data)), int64(0), 0
				for _, part := range parts { // where the part lies in the answer
					content := data[part.Start:part.End]
					start := from + bytes.Index(whole[from:], content)
					for i := range content {
						if start+i < limit {
							seen[part.Start+int64(i)] = true
							total++
						}
					}
					from = start + len(content)
				}
				require.Equal(t, total, event.Bytes, "cut after %d bytes", limit)
				require.Equal(t, ranges(seen), event.Ranges, "cut after %d bytes", limit)
			}
		})
	}
}

// bodyTo is a response whose body goes to another writer.
type bodyTo struct {
	http.ResponseWriter
	to io.Writer
}

func (b bodyTo) Write(p []byte) (int, error) { return b.to.Write(p) }

func TestAReadDuringCloseIsCounted(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id, grant := b.put(t, alice, random(t, 100)), b.Grant(t, alice)
	w := newWitness()
	v := b.vaultOf(t, b.server, vault.WithEvents(w.stream))
	defer v.Close()
	recording, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	writing, finish := make(chan struct{}), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = recording.WriteTo(writerFunc(func(p []byte) (int, error) {
			close(writing)
			<-finish
			return len(p), nil
		}))
	}()
	<-writing
	require.NoError(t, recording.Close())
	assert.Empty(t, w.events)
	close(finish)
	<-done
	assert.EqualValues(t, 100, w.next(t).Bytes)
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A change whose answer was lost may have been made, and the event says so.
func TestAnUncertainChangeIsAnEvent(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	w := newWitness()
	v, err := vault.New(b.writer, b.Store, vault.WithEvents(w.stream))
	require.NoError(t, err)
	_, err = v.Put(t.Context(), alice, bytes.NewReader(nil), metadata()) // claims the store
	require.NoError(t, err)
	require.Equal(t, events.Stored, w.next(t).Kind)
	v, err = vault.New(b.writer, lostCommits{b.Store}, vault.WithEvents(w.stream))
	require.NoError(t, err)
	_, err = v.Put(t.Context(), alice, bytes.NewReader(nil), metadata())
	var uncertain *vault.UncertainError
	require.ErrorAs(t, err, &uncertain)
	event := w.next(t)
	assert.Equal(t, events.Stored, event.Kind)
	assert.Equal(t, uncertain.ID, event.Recording)
	assert.Contains(t, event.Error, "may or may not")
	_, err = v.Put(context.Background(), "canary-nobody-"+alice, bytes.NewReader(nil), metadata())
	require.ErrorIs(t, err, keys.ErrNotEnrolled)
	require.NoError(t, v.Close())
	assert.Empty(t, w.rest(), "nothing was changed")
}

// lostCommits is a store that writes envelopes, and loses its answers from then on.
type lostCommits struct{ storage.Store }

func (s lostCommits) Put(ctx context.Context, name string, r io.Reader, size int64, condition storage.Condition) (storage.Info, error) {
	info, err := s.Store.Put(ctx, name, r, size, condition)
	if strings.HasSuffix(name, "/envelope") {
		err = storage.ErrUnavailable
	}
	return info, err
}

func (s lostCommits) Get(ctx context.Context, name string, offset, length int64) (*storage.Object, error) {
	if strings.HasSuffix(name, "/envelope") {
		return nil, storage.ErrUnavailable
	}
	return s.Store.Get(ctx, name, offset, length)
}
