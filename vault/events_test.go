package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/recvault/recvault/internal/segment"
	"github.com/recvault/recvault/internal/testserver"
	"github.com/recvault/recvault/internal/teststore"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/events"
)

// soon is how quickly a security event must be delivered.
const soon = 500 * time.Millisecond

// witness receives a vault's events, by a sink, in the log and as lines of JSON.
type witness struct {
	events     chan events.Event
	log, lines *buffer
	stream     *events.Stream
}

func newWitness() *witness {
	w := &witness{events: make(chan events.Event, 100_000), log: &buffer{}, lines: &buffer{}}
	w.stream = events.New(func(e events.Event) error {
		w.events <- e
		return nil
	}, events.Log(slog.New(slog.NewJSONHandler(w.log, nil))), events.JSON(w.lines))
	return w
}

// next returns the next event. It fails the test if none comes soon.
func (w *witness) next(t *testing.T) events.Event {
	t.Helper()
	select {
	case event := <-w.events:
		return event
	case <-time.After(soon):
		require.FailNow(t, "no event came in time")
		panic("not reached")
	}
}

// rest returns the remaining events of a vault that is closed.
func (w *witness) rest() []events.Event {
	var rest []events.Event
	for {
		select {
		case event := <-w.events:
			rest = append(rest, event)
		default:
			return rest
		}
	}
}

// assertSame checks that the log and the lines of JSON have the same events.
func (w *witness) assertSame(t *testing.T, want []events.Event) {
	t.Helper()
	var logged []events.Event
	for line := range strings.Lines(w.log.String()) {
		var entry struct {
			Level slog.Level
			Event events.Event
		}
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		assert.Equal(t, entry.Event.Level(), entry.Level)
		logged = append(logged, entry.Event)
	}
	text := func(all []events.Event) string {
		text, err := json.MarshalIndent(all, "", " ")
		require.NoError(t, err)
		return string(text)
	}
	assert.Equal(t, text(want), text(logged))
	assert.Equal(t, text(want), text(w.written(t)))
}

// written parses the lines of JSON.
func (w *witness) written(t *testing.T) (written []events.Event) {
	t.Helper()
	for line := range strings.Lines(w.lines.String()) {
		var event events.Event
		require.NoError(t, json.Unmarshal([]byte(line), &event))
		written = append(written, event)
	}
	return written
}

// problems returns a stream and a list of what went wrong, which is complete when the vault is closed.
func problems() (*[]events.Event, *events.Stream) {
	var problems []events.Event
	return &problems, events.New(func(e events.Event) error {
		if e.Level() >= slog.LevelWarn {
			problems = append(problems, e)
		}
		return nil
	})
}

func TestRefusalsAndDamageAreReportedOnceAndAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		grant := b.Grant(t, alice)
		data := random(t, 4*segment.Size)
		issue := func(patient keys.Patient, subject string, options keys.GrantOptions) keys.Grant {
			t.Helper()
			options.Subject, options.Purpose, options.RequestID = subject, keys.Treatment, "case-"+subject
			issued, err := b.granter.Issue(t.Context(), patient, options)
			require.NoError(t, err)
			return issued
		}
		bobs := issue(bob, "bob", keys.GrantOptions{TTL: time.Minute})
		revoked := issue(alice, "dr-revoked", keys.GrantOptions{TTL: time.Minute})
		require.NoError(t, b.server.RevokeSelf(t.Context(), revoked))
		used := issue(alice, "dr-used", keys.GrantOptions{TTL: time.Minute, MaxUses: 1})
		_, err := b.open(t, used, b.put(t, alice, data))
		require.NoError(t, err)
		expired := issue(alice, "dr-expired", keys.GrantOptions{TTL: time.Second})
		require.Eventually(t, func() bool { return time.Now().After(expired.Expires()) }, 10*time.Second, 10*time.Millisecond)
		malformed := keys.NewGrant(issue(alice, "dr-malformed", keys.GrantOptions{TTL: time.Minute}).Details(), "nonsense")
		forged := keys.NewGrant(grant.Details(), bobs.Token())

		// altered returns a recording with a changed segment.
		altered := func(segmentNumber int) vault.ID {
			id := b.put(t, alice, data)
			media := teststore.Read(t, b.Store, objectName(id, "media"))
			media[segmentNumber*segment.Size+segment.HeaderSize] ^= 1
			teststore.Write(t, b.Store, objectName(id, "media"), media)
			return id
		}
		// replaced returns a recording with another envelope or media.
		replaced := func(part string) vault.ID {
			id := b.put(t, alice, data)
			teststore.Write(t, b.Store, objectName(id, part), []byte("x"))
			return id
		}
		missing := b.put(t, alice, data)
		require.NoError(t, b.Store.Delete(t.Context(), objectName(missing, "media")))

		w := newWitness()
		v := b.vaultOf(t, b.server, vault.WithEvents(w.stream))
		defer v.Close()
		open := func(t *testing.T, grant keys.Grant, id vault.ID) {
			recording, err := v.Open(t.Context(), grant, id)
			if !assert.Error(t, err) {
				require.NoError(t, recording.Close())
			}
		}
		// readBy opens a recording and reads its damage several times.
		readBy := func(read func(*vault.Recording) error) func(t *testing.T, grant keys.Grant, id vault.ID) {
			return func(t *testing.T, grant keys.Grant, id vault.ID) {
				recording, err := v.Open(t.Context(), grant, id)
				require.NoError(t, err)
				defer recording.Close()
				for range 5 {
					require.ErrorIs(t, read(recording), vault.ErrDamaged)
				}
			}
		}
		var all []events.Event
		for _, c := range []struct {
			name  string
			kind  events.Kind
			grant keys.Grant
			id    vault.ID
			try   func(t *testing.T, grant keys.Grant, id vault.ID)

			opened int // how many events of openings follow
		}{
			{"another patient's grant", events.WrongPatient, bobs, b.put(t, alice, data), open, 0},
			{"another patient's grant for a description", events.WrongPatient, bobs, b.put(t, alice, data), func(t *testing.T, grant keys.Grant, id vault.ID) {
				_, err := v.Stat(t.Context(), grant, id)
				require.ErrorIs(t, err, keys.ErrDenied)
			}, 0},
			{"another patient's grant by HTTP", events.WrongPatient, bobs, b.put(t, alice, data), func(t *testing.T, grant keys.Grant, id vault.ID) {
				recorder := httptest.NewRecorder()
				v.ServeRecording(recorder, httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
				require.Equal(t, http.StatusForbidden, recorder.Code)
			}, 0},
			{"another patient's grant that claims to be hers", events.Refused, forged, b.put(t, alice, data), open, 0},
			{"revoked", events.Refused, revoked, b.put(t, alice, data), open, 0},
			{"used up", events.Exhausted, used, b.put(t, alice, data), open, 0},
			{"expired", events.Refused, expired, b.put(t, alice, data), open, 0},
			{"malformed", events.Refused, malformed, b.put(t, alice, data), open, 0},
			{"no grant", events.Refused, keys.Grant{}, b.put(t, alice, data), open, 0},
			{"damaged envelope", events.Damaged, grant, replaced("envelope"), open, 0},
			{"cut media", events.Damaged, grant, replaced("media"), open, 0},
			{"missing media", events.Damaged, grant, missing, open, 0},
			{"damaged first segment", events.Damaged, grant, altered(0), open, 0},
			{"damage found by Read", events.Damaged, grant, altered(2), readBy(func(recording *vault.Recording) error {
				_, err := io.Copy(io.Discard, struct{ io.Reader }{recording})
				return err
			}), 1},
			{"damage found by WriteTo", events.Damaged, grant, altered(3), readBy(func(recording *vault.Recording) error {
				_, err := recording.WriteTo(io.Discard)
				return err
			}), 1},
			{"damage found by ReadAt", events.Damaged, grant, altered(2), readBy(func(recording *vault.Recording) error {
				_, err := recording.ReadAt(make([]byte, 100), 2*segment.Size+100)
				return err
			}), 1},
			{"damage found by HTTP", events.Damaged, grant, altered(2), func(t *testing.T, grant keys.Grant, id vault.ID) {
				require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() {
					v.ServeRecording(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
				})
			}, 1},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := time.Now()
				c.try(t, c.grant, c.id)
				event := w.next(t)
				all = append(all, event)
				assert.WithinRange(t, event.Time, before.Truncate(time.Millisecond), time.Now())
				assert.NotEmpty(t, event.Error)
				event.Time, event.Error, event.Unwraps, event.Status = time.Time{}, "", 0, 0
				assert.Equal(t, events.Event{Kind: c.kind, KeyID: c.id.KeyID(), Recording: c.id, Grant: c.grant.Details(), Count: 1}, event)
				for range c.opened {
					event := w.next(t)
					all = append(all, event)
					assert.Equal(t, events.Opened, event.Kind)
				}
			})
		}
		require.NoError(t, v.Close())
		require.NoError(t, v.Close(), "again")
		assert.Empty(t, w.rest(), "one event for each attempt")
		w.assertSame(t, all)

		planted := secretsOf(grant, bobs, revoked, used, expired)
		planted.lookFor(t, "the log", []byte(w.log.String()+w.lines.String()))
		planted.lookFor(t, "an event", fmt.Appendf(nil, "%v %+v %#v", all, all, all))
		text, err := json.Marshal(all)
		require.NoError(t, err)
		planted.lookFor(t, "an event in JSON", text)
	})
}

func TestOtherFailuresAreNotSecurityEvents(t *testing.T) {
	b := servers(t, testserver.Dedicated())
	alice, carol := b.enrol(t), b.enrol(t)
	grant, carols := b.Grant(t, alice), b.Grant(t, carol)
	data := random(t, 4*segment.Size)
	id, erased := b.put(t, alice, data), b.put(t, carol, data)
	w := newWitness()
	v := b.vaultOf(t, b.server, vault.WithEvents(w.stream), vault.WithKeyCache(0, 1))
	recording, err := v.Open(t.Context(), grant, id)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, recording)
	require.NoError(t, err)
	require.NoError(t, recording.Close())
	_, err = recording.Read(make([]byte, 1))
	require.ErrorIs(t, err, vault.ErrClosed)
	_, err = v.Stat(t.Context(), grant, id)
	require.NoError(t, err)
	failing := func(ctx context.Context, grant keys.Grant, id vault.ID) {
		t.Helper()
		_, err := v.Open(ctx, grant, id)
		require.Error(t, err)
	}
	failing(t.Context(), grant, keystest.NewRecordingID(grant.KeyID()))
	failing(t.Context(), grant, vault.ID{})
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	failing(cancelled, grant, id)
	require.NoError(t, b.admin.Erase(t.Context(), erased.KeyID()))
	failing(t.Context(), carols, erased)
	b.Vault.Seal(t)
	failing(t.Context(), grant, id)
	b.Vault.Unseal(t)
	b.MinIO.Kill(t)
	failing(t.Context(), grant, id)
	require.NoError(t, v.Close())
	var kinds []events.Kind
	for _, event := range w.rest() {
		kinds = append(kinds, event.Kind)
	}
	assert.Equal(t, []events.Kind{events.Opened, events.Described, events.Gone}, kinds)
	assert.NotContains(t, w.log.String(), "WARN")
}

func TestEventsAreLoggedByDefault(t *testing.T) {
	var log buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	defer slog.SetDefault(before)
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	v := b.vaultOf(t, b.server)
	_, err := v.Stat(t.Context(), b.Grant(t, alice), id)
	require.NoError(t, err)
	_, err = v.Open(t.Context(), b.Grant(t, b.enrol(t)), id)
	require.ErrorIs(t, err, keys.ErrDenied)
	require.NoError(t, v.Close())
	assert.Equal(t, 1, strings.Count(log.String(), "\n"))
	assert.Contains(t, log.String(), id.String())
}

func TestASlowHookDelaysNoCallerAndMissesNothing(t *testing.T) {
	b := embedded(t)
	alice := b.enrol(t)
	id := b.put(t, alice, []byte("a consultation"))
	grant, bobs := b.Grant(t, alice), b.Grant(t, b.enrol(t))
	b.CloseIdle()
	ignore := goleak.IgnoreCurrent()
	release, entered := make(chan struct{}), make(chan struct{}, 1000)
	count := map[events.Kind]int{}
	v := b.vaultOf(t, b.server, vault.WithEvents(events.New(func(event events.Event) error {
		entered <- struct{}{}
		<-release
		count[event.Kind] += event.Count
		return nil
	})))
	attempts := 0
	attempt := func() {
		_, err := v.Open(t.Context(), bobs, id)
		require.ErrorIs(t, err, keys.ErrDenied)
		attempts++
	}
	attempt()
	<-entered
	start := time.Now()
	for range 200 {
		attempt()
		recording, err := v.Open(t.Context(), grant, id)
		require.NoError(t, err)
		require.NoError(t, recording.Close())
	}
	assert.Less(t, time.Since(start), 10*time.Second)
	assert.Empty(t, entered, "one event at a time")
	close(release)
	require.NoError(t, v.Close())
	assert.Equal(t, map[events.Kind]int{events.WrongPatient: attempts, events.Opened: 200}, count)
	b.assertNoLeak(t, ignore)
}

func TestCloseGivesUpOnAStuckSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := embedded(t)
		release := make(chan struct{})
		v := b.vaultOf(t, b.server, vault.WithEvents(events.New(func(events.Event) error {
			<-release
			return nil
		})))
		_, err := v.Open(t.Context(), keys.Grant{}, keystest.NewRecordingID(b.Grant(t, b.enrol(t)).KeyID()))
		require.ErrorIs(t, err, keys.ErrInvalidGrant)
		start := time.Now()
		require.ErrorIs(t, v.Close(), events.ErrUndelivered)
		assert.Equal(t, 5*time.Second, time.Since(start))
		close(release)
		require.NoError(t, v.Close())
	})
}

func TestAFloodIsCountedAndSummarised(t *testing.T) {
	const attempts, attackers = 10_000, 8
	for name, recordings := range map[string]int{"one recording": 1, "a leaked listing": 50} {
		t.Run(name, func(t *testing.T) {
			b := embedded(t)
			alice := b.enrol(t)
			ids := []vault.ID{b.put(t, alice, []byte("a consultation"))}
			sealed := teststore.Read(t, b.Store, objectName(ids[0], "envelope"))
			for len(ids) < recordings { // the envelopes need not open, because the grant is refused before
				id := keystest.NewRecordingID(ids[0].KeyID())
				teststore.Write(t, b.Store, objectName(id, "envelope"), bytes.ReplaceAll(sealed, []byte(ids[0].String()), []byte(id.String())))
				ids = append(ids, id)
			}
			bobs := b.Grant(t, b.enrol(t))
			w := newWitness()
			v := b.vaultOf(t, b.server, vault.WithEvents(w.stream))
			start := time.Now()
			var all sync.WaitGroup
			for attacker := range attackers {
				all.Go(func() {
					for i := attacker; i < attempts; i += attackers {
						_, err := v.Open(t.Context(), bobs, ids[i%len(ids)])
						assert.ErrorIs(t, err, keys.ErrDenied)
					}
				})
			}
			all.Wait()
			windows := int(time.Since(start)/time.Second) + 2
			require.NoError(t, v.Close())
			happened := w.rest()
			for sink, got := range map[string][]events.Event{"sink": happened, "JSON": w.written(t)} { // each has its own windows
				counts := map[vault.ID]int{}
				for _, event := range got {
					assert.Equal(t, events.WrongPatient, event.Kind)
					assert.Equal(t, bobs.KeyID(), event.Grant.KeyID)
					counts[event.Recording] += event.Count
				}
				for _, id := range ids {
					assert.Equal(t, attempts/recordings, counts[id], sink)
				}
			}
			assert.LessOrEqual(t, len(happened), windows*2*recordings, "one at once and one at the end, for each recording and second")
		})
	}
}
