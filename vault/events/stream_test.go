package events_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/keystest"
	"github.com/recvault/recvault/vault/events"
)

// collector is a sink that keeps what it gets.
type collector struct {
	mu  sync.Mutex
	all []events.Event
}

func (c *collector) sink(e events.Event) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, e)
	return nil
}

// got returns what it got so far.
func (c *collector) got() []events.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all)
}

// counts returns how often each kind happened, and how many of those were only counted.
func (c *collector) counts() (all, overflow map[events.Kind]int) {
	all, overflow = map[events.Kind]int{}, map[events.Kind]int{}
	for _, e := range c.got() {
		if e.Kind == events.Overflow {
			overflow[e.Of] += e.Count
			e.Kind = e.Of
		}
		all[e.Kind] += e.Count
	}
	return all, overflow
}

// quiet discards the default logger's lines for the time of a test.
func quiet(t *testing.T) {
	t.Helper()
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
}

func opened(id keys.RecordingID, start, n int64) events.Event {
	e := events.Event{Kind: events.Opened, KeyID: id.KeyID(), Recording: id, Began: time.Now(), Ended: time.Now(), Unwraps: 1}
	e.Deliver(start, n)
	return e
}

func TestWhatHappensAgainIsAddedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c collector
		s := events.New(c.sink)
		a, b := keystest.NewRecordingID(keyID(1)), keystest.NewRecordingID(keyID(1))
		begin := time.Now()
		for i := range 4 {
			s.Emit(opened(a, int64(i*100), 50))
			time.Sleep(10 * time.Millisecond)
		}
		s.Emit(opened(b, 0, 1))
		synctest.Wait()
		require.Len(t, c.got(), 2, "the first of each, at once")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Len(t, c.got(), 3)
		sum := c.got()[2]
		assert.Equal(t, 3, sum.Count)
		assert.Equal(t, 3, sum.Unwraps)
		assert.EqualValues(t, 150, sum.Bytes)
		assert.Equal(t, []events.Range{{Start: 100, End: 150}, {Start: 200, End: 250}, {Start: 300, End: 350}}, sum.Ranges)
		assert.Equal(t, begin.Add(10*time.Millisecond), sum.Began)
		assert.Equal(t, begin.Add(30*time.Millisecond), sum.Ended)
		assert.Equal(t, sum.Ended, sum.Time)
		s.Emit(opened(a, 0, 1))
		synctest.Wait()
		require.Len(t, c.got(), 4, "another second has begun")
		require.NoError(t, s.Flush(t.Context()))
		time.Sleep(3 * time.Second) // the bubble ends only if no goroutine is left
	})
}

// TestASinkThatFailsHoldsUpNoOther has sinks that block for ever, fail and panic, beside one that works.
func TestASinkThatFailsHoldsUpNoOther(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		var c, late, after collector
		release := make(chan struct{})
		var mended, emptied atomic.Bool
		s := events.New(
			func(e events.Event) error { <-release; return late.sink(e) },
			func(e events.Event) error {
				if !mended.Load() {
					panic("canary-panic")
				}
				return after.sink(e)
			},
			func(events.Event) error {
				if !emptied.Load() {
					return errors.New("disk full")
				}
				return nil
			},
			c.sink,
		)
		const n = 100
		for range n {
			s.Emit(events.Event{Kind: events.Opened, Recording: keystest.NewRecordingID(keyID(1))})
		}
		synctest.Wait()
		require.Len(t, c.got(), n)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.Flush(ctx)
		require.ErrorIs(t, err, events.ErrUndelivered)
		assert.Equal(t, 3, strings.Count(err.Error(), fmt.Sprintf("%d wait", n)), err)
		mended.Store(true)
		close(release)
		require.ErrorIs(t, s.Flush(t.Context()), events.ErrUndelivered, "of the full disk")
		assert.Equal(t, c.got(), late.got(), "nothing is lost, and the order stays")
		assert.Equal(t, c.got(), after.got())
		emptied.Store(true)
		require.NoError(t, s.Flush(t.Context()))
	})
}

// A sink that fails is tried again each second, and gets what came before.
func TestAFailingSinkIsTriedAgain(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		var c collector
		attempts, until := 0, time.Now().Add(10*time.Second)
		s := events.New(func(e events.Event) error {
			attempts++
			if time.Now().Before(until) {
				return errors.New("unreachable")
			}
			return c.sink(e)
		})
		for i := range 5 {
			s.Emit(events.Event{Kind: events.Stored, Status: i})
			s.Emit(events.Event{Kind: events.Refused})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		all, _ := c.counts()
		assert.Equal(t, map[events.Kind]int{events.Stored: 5, events.Refused: 5}, all)
		assert.LessOrEqual(t, attempts, 11+len(c.got()), "one attempt a second")
	})
}

// A flush that fails leaves nothing behind: the events are tried again each second, without another event or flush.
func TestAFailedFlushIsTriedAgain(t *testing.T) {
	quiet(t)
	synctest.Test(t, func(t *testing.T) {
		var c collector
		until := time.Now().Add(10 * time.Second)
		s := events.New(func(e events.Event) error {
			if time.Now().Before(until) {
				return errors.New("unreachable")
			}
			return c.sink(e)
		})
		for range 3 {
			s.Emit(events.Event{Kind: events.Refused})
		}
		require.ErrorIs(t, s.Flush(t.Context()), events.ErrUndelivered)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		all, _ := c.counts()
		assert.Equal(t, map[events.Kind]int{events.Refused: 3}, all)
	})
}

// What is emitted while others flush is delivered within two seconds, without another event or flush.
func TestAFlushLeavesNoEventBehind(t *testing.T) {
	for range 40 {
		var mu sync.Mutex
		counted := 0
		s := events.New(func(e events.Event) error {
			mu.Lock()
			defer mu.Unlock()
			counted += e.Count
			return nil
		})
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				for range 20 {
					s.Emit(events.Event{Kind: events.Stored})
					assert.NoError(t, s.Flush(t.Context()))
				}
			})
			group.Go(func() {
				for range 20 {
					s.Emit(events.Event{Kind: events.Stored})
				}
			})
		}
		group.Wait()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return counted == 80
		}, 10*time.Second, time.Millisecond)
	}
}

func TestAFloodIsCountedExactly(t *testing.T) {
	const n, emitters = 24_000, 8 // more than the bound, which is 10,000
	for name, c := range map[string]struct {
		distinct int
		stuck    bool // the sink takes nothing until all have happened
	}{
		"the same":                 {1, false},
		"a hundred":                {100, false},
		"all different":            {n, false},
		"all different, and stuck": {n, true},
		"the same, and stuck":      {1, true},
	} {
		t.Run(name, func(t *testing.T) {
			ids := make([]keys.RecordingID, c.distinct)
			for i := range ids {
				ids[i] = keystest.NewRecordingID(keyID(1))
			}
			var got collector
			gate := make(chan struct{})
			if !c.stuck {
				close(gate)
			}
			s := events.New(func(e events.Event) error { <-gate; return got.sink(e) })
			var all sync.WaitGroup
			for emitter := range emitters {
				all.Go(func() {
					for i := emitter; i < n; i += emitters {
						e := opened(ids[i%len(ids)], 0, 3)
						e.Count = 2
						s.Emit(e)
						s.Emit(events.Event{Kind: events.WrongPatient, Recording: ids[0]})
					}
				})
			}
			all.Wait()
			if c.stuck {
				close(gate)
			}
			require.NoError(t, s.Flush(t.Context()))
			counts, overflow := got.counts()
			assert.Equal(t, map[events.Kind]int{events.Opened: 2 * n, events.WrongPatient: n}, counts)
			assert.Zero(t, overflow[events.WrongPatient], "each kind has its own bound")
			bytes := int64(0)
			for _, e := range got.got() {
				bytes += e.Bytes
			}
			assert.EqualValues(t, 3*n, bytes)
			if c.stuck {
				assert.Equal(t, 2*max(0, c.distinct-10_000), overflow[events.Opened])
				assert.LessOrEqual(t, len(got.got()), 10_000+4, "memory is bounded")
			}
		})
	}
}

// A process parses the grant for each request.
func TestEventsOfOneGrantAreAlike(t *testing.T) {
	details := keys.GrantDetails{KeyID: keyID(1), Accessor: "a", Expires: at.In(time.FixedZone("", 3*3600+1800)), Subject: "s", Purpose: keys.Treatment}
	text := keys.NewGrant(details, "token").Reveal()
	var c collector
	s := events.New(c.sink)
	for range 100 {
		grant, err := keys.ParseGrant(text)
		require.NoError(t, err)
		s.Emit(events.Event{Kind: events.Refused, Grant: grant.Details()})
	}
	require.NoError(t, s.Flush(t.Context()))
	assert.LessOrEqual(t, len(c.got()), 4)
}

func TestFlushDeliversWhatEachEmitterHasEmitted(t *testing.T) {
	var mu sync.Mutex
	counted := 0
	s := events.New(func(e events.Event) error {
		mu.Lock()
		defer mu.Unlock()
		counted += e.Count
		return nil
	})
	emitted := 0
	for range 2000 {
		for range rand.IntN(4) {
			s.Emit(events.Event{Kind: events.Stored})
			emitted++
		}
		require.NoError(t, s.Flush(t.Context()))
		mu.Lock()
		require.Equal(t, emitted, counted)
		mu.Unlock()
	}
}

func TestAddingUpLeavesTheEmittersRangesAlone(t *testing.T) {
	var a, b collector
	s := events.New(a.sink, b.sink)
	id := keystest.NewRecordingID(keyID(1))
	var own []events.Event
	for i := range 5 {
		own = append(own, opened(id, int64(i)*10, 10))
		s.Emit(own[i])
	}
	require.NoError(t, s.Flush(t.Context()))
	for i, e := range own {
		assert.Equal(t, []events.Range{{Start: int64(i) * 10, End: int64(i)*10 + 10}}, e.Ranges)
	}
	for _, c := range []*collector{&a, &b} {
		var sum events.Event
		for _, e := range c.got() {
			for _, r := range e.Ranges {
				sum.Deliver(r.Start, r.End-r.Start)
			}
		}
		assert.Equal(t, []events.Range{{Start: 0, End: 50}}, sum.Ranges)
		assert.EqualValues(t, 50, sum.Bytes, "each once")
	}
}

func TestALineAfterAFailedWriteIsWhole(t *testing.T) {
	quiet(t)
	w := &halfWriter{}
	s := events.New(events.JSON(w))
	s.Emit(events.Event{Kind: events.Stored})
	require.ErrorIs(t, s.Flush(t.Context()), events.ErrUndelivered)
	w.whole = true
	require.NoError(t, s.Flush(t.Context()))
	lines := strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
	require.NotEmpty(t, lines)
	var e events.Event
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &e))
	assert.Equal(t, events.Stored, e.Kind)
}

// halfWriter writes half and fails, until it is whole.
type halfWriter struct {
	bytes.Buffer
	whole bool
}

func (w *halfWriter) Write(p []byte) (int, error) {
	if !w.whole {
		n, _ := w.Buffer.Write(p[:len(p)/2])
		return n, errors.New("disk full")
	}
	return w.Buffer.Write(p)
}

// TestRangesAgainstAModel delivers at random, within and beyond the bound.
func TestRangesAgainstAModel(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const size = 3000
	for round := range 300 {
		var e events.Event
		seen, total := [size]bool{}, int64(0)
		for range random.IntN(400) {
			start := random.Int64N(size)
			n := min(size-start, random.Int64N(20))
			e.Deliver(start, n)
			total += n
			for i := range n {
				seen[start+i] = true
			}
			require.LessOrEqual(t, len(e.Ranges), events.MaxRanges)
		}
		require.Equal(t, total, e.Bytes)
		covered := [size]bool{}
		for i, r := range e.Ranges {
			require.Less(t, r.Start, r.End)
			if i > 0 {
				require.Less(t, e.Ranges[i-1].End, r.Start, "in order, and apart")
			}
			for at := r.Start; at < r.End; at++ {
				covered[at] = true
			}
			assert.True(t, seen[r.Start] && seen[r.End-1])
		}
		if !e.Coarse {
			require.Equal(t, seen, covered, "round %d", round)
			continue
		}
		for i := range seen {
			require.True(t, covered[i] || !seen[i], "round %d: byte %d was delivered", round, i)
		}
	}
}
