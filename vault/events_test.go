package vault_test

import (
	"bufio"
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
)

// soon is how quickly a security event must be delivered.
const soon = 500 * time.Millisecond

// witness receives a vault's security events, by the hook and in the log.
type witness struct {
	events chan vault.Event
	log    *buffer
}

func newWitness() *witness { return &witness{make(chan vault.Event, 100_000), &buffer{}} }

func (w *witness) options() []vault.Option {
	return []vault.Option{
		vault.WithEventHook(func(event vault.Event) { w.events <- event }),
		vault.WithLogger(slog.New(slog.NewJSONHandler(w.log, nil))),
	}
}

// next returns the next event. It fails the test if none comes soon.
func (w *witness) next(t *testing.T) vault.Event {
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
func (w *witness) rest() []vault.Event {
	var events []vault.Event
	for {
		select {
		case event := <-w.events:
			events = append(events, event)
		default:
			return events
		}
	}
}

// logged parses the lines of the log that are security events.
func (w *witness) logged(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for scanner := bufio.NewScanner(strings.NewReader(w.log.String())); scanner.Scan(); {
		var line map[string]any
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &line))
		if line["msg"] == "recvault: security event" {
			lines = append(lines, line)
		}
	}
	return lines
}

// assertLogged checks that the log has the same events.
func (w *witness) assertLogged(t *testing.T, events []vault.Event) {
	t.Helper()
	lines := w.logged(t)
	if !assert.Len(t, lines, len(events)) {
		return
	}
	for i, event := range events {
		line := lines[i]
		assert.Equal(t, "WARN", line["level"])
		for name, want := range map[string]any{
			"kind":         string(event.Kind),
			"recording":    event.Recording.String(),
			"grant_key_id": event.GrantKeyID.String(),
			"subject":      event.Subject,
			"purpose":      string(event.Purpose),
			"request_id":   event.RequestID,
			"count":        float64(event.Count),
		} {
			assert.Equal(t, want, line[name], name)
		}
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(line["at"]))
		require.NoError(t, err)
		assert.True(t, event.Time.Equal(at))
	}
}

func TestRefusalsAndDamageAreReportedOnceAndAtOnce(t *testing.T) {
	onEachBackend(t, func(t *testing.T, b *backend) {
		alice, bob := b.enrol(t), b.enrol(t)
		grant := b.Grant(t, alice)
		data := random(t, 4*segment.Size)
		issue := func(patient keys.Patient, subject string, options keys.GrantOptions) keys.Grant {
			t.Helper()
			options.Subject, options.Purpose, options.RequestID = subject, keys.BreakTheGlass, "case-"+subject
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
		v := b.vaultOf(t, b.server, w.options()...)
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
		var all []vault.Event
		for _, c := range []struct {
			name  string
			kind  vault.EventKind
			grant keys.Grant
			id    vault.ID
			try   func(t *testing.T, grant keys.Grant, id vault.ID)
		}{
			{"another patient's grant", vault.WrongPatient, bobs, b.put(t, alice, data), open},
			{"another patient's grant for a description", vault.WrongPatient, bobs, b.put(t, alice, data), func(t *testing.T, grant keys.Grant, id vault.ID) {
				_, err := v.Stat(t.Context(), grant, id)
				require.ErrorIs(t, err, keys.ErrDenied)
			}},
			{"another patient's grant by HTTP", vault.WrongPatient, bobs, b.put(t, alice, data), func(t *testing.T, grant keys.Grant, id vault.ID) {
				recorder := httptest.NewRecorder()
				v.ServeRecording(recorder, httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
				require.Equal(t, http.StatusForbidden, recorder.Code)
			}},
			{"another patient's grant that claims to be hers", vault.GrantRefused, forged, b.put(t, alice, data), open},
			{"revoked", vault.GrantRefused, revoked, b.put(t, alice, data), open},
			{"used up", vault.GrantRefused, used, b.put(t, alice, data), open},
			{"expired", vault.GrantRefused, expired, b.put(t, alice, data), open},
			{"malformed", vault.GrantRefused, malformed, b.put(t, alice, data), open},
			{"no grant", vault.GrantRefused, keys.Grant{}, b.put(t, alice, data), open},
			{"damaged envelope", vault.Damaged, grant, replaced("envelope"), open},
			{"cut media", vault.Damaged, grant, replaced("media"), open},
			{"missing media", vault.Damaged, grant, missing, open},
			{"damaged first segment", vault.Damaged, grant, altered(0), open},
			{"damage found by Read", vault.Damaged, grant, altered(2), readBy(func(recording *vault.Recording) error {
				_, err := io.Copy(io.Discard, struct{ io.Reader }{recording})
				return err
			})},
			{"damage found by WriteTo", vault.Damaged, grant, altered(3), readBy(func(recording *vault.Recording) error {
				_, err := recording.WriteTo(io.Discard)
				return err
			})},
			{"damage found by ReadAt", vault.Damaged, grant, altered(2), readBy(func(recording *vault.Recording) error {
				_, err := recording.ReadAt(make([]byte, 100), 2*segment.Size+100)
				return err
			})},
			{"damage found by HTTP", vault.Damaged, grant, altered(2), func(t *testing.T, grant keys.Grant, id vault.ID) {
				require.PanicsWithError(t, http.ErrAbortHandler.Error(), func() {
					v.ServeRecording(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil), grant, id)
				})
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				before := time.Now()
				c.try(t, c.grant, c.id)
				event := w.next(t)
				all = append(all, event)
				assert.WithinRange(t, event.Time, before.Truncate(time.Millisecond), time.Now())
				event.Time = time.Time{}
				details := c.grant.Details()
				assert.Equal(t, vault.Event{
					Kind: c.kind, Recording: c.id, GrantKeyID: details.KeyID,
					Subject: details.Subject, Purpose: details.Purpose, RequestID: details.RequestID, Count: 1,
				}, event)
			})
		}
		require.NoError(t, v.Close())
		require.NoError(t, v.Close(), "again")
		assert.Empty(t, w.rest(), "one event for each attempt")
		w.assertLogged(t, all)

		planted := secretsOf(grant, bobs, revoked, used, expired)
		planted.lookFor(t, "the log", []byte(w.log.String()))
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
	v := b.vaultOf(t, b.server, append(w.options(), vault.WithKeyCache(0, 1))...)
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
	assert.Empty(t, w.rest())
	assert.Empty(t, w.log.String())
}

func TestEventsAreLoggedByDefault(t *testing.T) {
	var log buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	defer slog.SetDefault(before)
	b := embedded(t)
	id := b.put(t, b.enrol(t), []byte("a consultation"))
	v := b.vaultOf(t, b.server)
	_, err := v.Open(t.Context(), b.Grant(t, b.enrol(t)), id)
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
	var mu sync.Mutex
	var count int
	v := b.vaultOf(t, b.server, vault.WithLogger(slog.New(slog.DiscardHandler)), vault.WithEventHook(func(event vault.Event) {
		entered <- struct{}{}
		<-release
		mu.Lock()
		defer mu.Unlock()
		count += event.Count
	}))
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
	assert.Equal(t, attempts, count)
	b.assertNoLeak(t, ignore)
}

func TestAFloodIsCountedAndSummarised(t *testing.T) {
	const attempts, attackers = 10_000, 8
	for name, c := range map[string]struct {
		recordings int
		slow       bool // the hook waits until all attempts have been made
	}{
		"one recording":       {1, false},
		"a leaked listing":    {50, false},
		"more than the limit": {1500, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := embedded(t)
			alice := b.enrol(t)
			ids := []vault.ID{b.put(t, alice, []byte("a consultation"))}
			sealed := teststore.Read(t, b.Store, objectName(ids[0], "envelope"))
			for len(ids) < c.recordings { // the envelopes need not open, because the grant is refused before
				id := keystest.NewRecordingID(ids[0].KeyID())
				teststore.Write(t, b.Store, objectName(id, "envelope"), bytes.ReplaceAll(sealed, []byte(ids[0].String()), []byte(id.String())))
				ids = append(ids, id)
			}
			bobs := b.Grant(t, b.enrol(t))
			w, gate := newWitness(), make(chan struct{})
			if !c.slow {
				close(gate)
			}
			v := b.vaultOf(t, b.server, append(w.options(), vault.WithEventHook(func(event vault.Event) {
				<-gate
				w.events <- event
			}))...)
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
			if c.slow {
				close(gate)
				windows = 1
			}
			require.NoError(t, v.Close())
			events := w.rest()
			counts := map[vault.ID]int{}
			sum, overflow := 0, 0
			for _, event := range events {
				require.Positive(t, event.Count)
				sum += event.Count
				if event.Kind == vault.Overflow {
					overflow += event.Count
					continue
				}
				assert.Equal(t, vault.WrongPatient, event.Kind)
				assert.Equal(t, bobs.KeyID(), event.GrantKeyID)
				counts[event.Recording] += event.Count
			}
			assert.Equal(t, attempts, sum, "every attempt is counted")
			// In each window, each of at most 1,000 recordings has one event at once and one at the end, and
			// there is one Overflow.
			assert.LessOrEqual(t, len(events), windows*(2*min(c.recordings, 1000)+1))
			if c.recordings > 1000 {
				assert.Positive(t, overflow)
				assert.Len(t, counts, 1000)
			} else {
				assert.Zero(t, overflow)
				for _, id := range ids {
					assert.Equal(t, attempts/c.recordings, counts[id])
				}
			}
			w.assertLogged(t, events)
		})
	}
}
