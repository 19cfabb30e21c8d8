package auditlog_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/auditlog"
)

// inMemory is a source with these lines.
func inMemory(name string, lines ...string) auditlog.Source {
	return auditlog.Source{Name: name, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Join(lines, "\n") + "\n")), nil
	}}
}

// testAlone makes the report from the event stream, without Vault's log.
func testAlone(t *testing.T, s *story) {
	want := &story{truth: map[act]int{}}
	for a, n := range s.truth {
		switch {
		case a.subject == "root [root]" || a.request == "wrapped":
			continue // past the processes that report
		case a.kind == auditlog.UnknownToken.String():
			a.kind = auditlog.Refused.String()
		}
		want.truth[a] = n
	}
	check := func(t *testing.T, sources ...auditlog.Source) reported {
		t.Helper()
		r := s.readWith(auditlog.Options{Events: sources})
		assert.Equal(t, auditlog.FromEvents, r.Source)
		assert.Empty(t, want.differences(&r))
		assert.Equal(t, len(s.events), r.Totals.Events)
		assert.Empty(t, r.Gaps)
		for _, canary := range s.canaries {
			assert.NotContains(t, r.text, canary)
		}
		return r
	}

	r := check(t, inMemory("events", s.events...))
	require.NotEmpty(t, r.Incidents)
	assert.Equal(t, 60, r.Incidents[0].Attempts)
	assert.Len(t, r.Incidents[0].Subjects, 20)
	require.Len(t, r.AfterRevocation, 4)
	for _, a := range r.AfterRevocation {
		assert.Equal(t, "dr-1", a.Subject)
		assert.False(t, a.Allowed)
	}
	assert.Equal(t, 1, r.Totals.Unusual)
	require.Len(t, r.BreakGlass, 1)
	assert.Equal(t, "unconscious, no next of kin", r.BreakGlass[0].Reason)
	assert.Len(t, r.Grants, s.grants+1, "and the invented one")
	for _, g := range r.Grants {
		assert.Equal(t, g.RequestID == "unused", g.Unused, g)
		assert.Equal(t, g.MaxUses == 2, g.OverUsed, g)
		assert.Equal(t, g.Subject == "", g.NotLogged, g)
	}
	opened, bytesOf := 0, int64(0)
	for _, d := range r.Deliveries {
		opened += d.Played
		bytesOf += d.Bytes
	}
	assert.Equal(t, r.Totals.Uses[auditlog.Opened], opened)
	assert.EqualValues(t, 1000*opened, bytesOf)

	t.Run("of several processes, in any order", func(t *testing.T) {
		shuffled := slices.Clone(s.events)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again := check(t, inMemory("one", shuffled[:100]...), inMemory("two", shuffled[100:]...))
		assert.Equal(t, r.Incidents, again.Incidents)
		assert.Equal(t, r.Patients, again.Patients)
		assert.Equal(t, r.AfterRevocation, again.AfterRevocation)
	})
	t.Run("through a filter", func(t *testing.T) {
		r := s.readWith(auditlog.Options{Events: []auditlog.Source{inMemory("events", s.events...)}, Subjects: []string{"dr-2"}})
		for _, use := range r.Accesses {
			assert.Equal(t, "dr-2", use.Subject)
		}
		assert.NotEmpty(t, r.Accesses)
		assert.Len(t, r.BreakGlass, 1)
	})
	t.Run("with what is missing", func(t *testing.T) {
		lines := append([]string{s.events[0][:40]}, s.events[1:]...)
		lines = append(lines, `{"kind":"overflow","of":"opened","time":"`+time.Now().UTC().Format(time.RFC3339)+`","count":7}`)
		r := s.readWith(auditlog.Options{Events: []auditlog.Source{inMemory("events", lines...)}})
		assert.Equal(t, map[auditlog.GapKind]int{auditlog.Unreadable: 1, auditlog.Counted: 7}, r.Totals.Gaps)
		assert.True(t, r.Problems())
		assert.Contains(t, r.text, "events:1")
	})
	t.Run("in every form", func(t *testing.T) {
		report, err := auditlog.Read(t.Context(), nil, auditlog.Options{Events: []auditlog.Source{inMemory("events", s.events...)}})
		require.NoError(t, err)
		for _, section := range report.Sections() {
			for row := range section.Rows {
				require.Len(t, row.Cells(), len(section.Columns), section.Name)
			}
		}
		var text, page bytes.Buffer
		require.NoError(t, report.WriteText(&text))
		require.NoError(t, report.WriteHTML(&page))
		for _, shown := range []string{text.String(), page.String()} {
			assert.Contains(t, shown, " report from the event stream alone")
			assert.Contains(t, shown, "dr-curious")
			assert.NotContains(t, shown, "outside a grant (")
		}
	})
	t.Run("without any event", func(t *testing.T) {
		_, err := auditlog.Read(t.Context(), nil, auditlog.Options{Events: []auditlog.Source{inMemory("events")}})
		assert.ErrorIs(t, err, auditlog.ErrNoEvents)
		_, err = auditlog.Read(t.Context(), nil, auditlog.Options{})
		assert.ErrorIs(t, err, auditlog.ErrNoEntries)
	})
}

// TestEventsOfAnotherKindAreChanges reads events that the story does not have. It needs no server.
func TestEventsOfAnotherKindAreChanges(t *testing.T) {
	const (
		grant = `"grant":{"key_id":"2bt33bqshc2666dvzs4abvwgudvg3lno","accessor":"a","expires":"2026-11-26T12:00:00Z","subject":"dr-lee","purpose":"TREAT"}`
		one   = "2bt33bqshc2666dvzs4abvwgudvg3lno.p5tjj7wltzkeiwkdxw2gpda5ji"
		other = "2sythhyfr5mbtk64km2khc4nsykmcyj5.lvai2jnw543oj4v3cddfqou5ny"
		key   = `"key_id":"2bt33bqshc2666dvzs4abvwgudvg3lno"`
	)
	stream := inMemory("events",
		`{"kind":"stored","time":"2026-11-26T09:00:00Z","count":1,`+key+`,"recording":"`+one+`"}`,
		`{"kind":"listed","time":"2026-11-26T10:00:00Z","count":1,"entries":1,`+key+`}`,
		`{"kind":"opened","time":"2026-11-26T11:10:00Z","began":"2026-11-26T10:30:00Z","count":2,"unwraps":1,"bytes":7,"recording":"`+one+`",`+grant+`}`,
		`{"kind":"deleted","time":"2026-11-26T11:20:00Z","count":1,`+key+`,"recording":"`+one+`"}`,
		`{"kind":"reassigned","time":"2026-11-26T11:00:00Z","count":1,"error":"half of it","recording":"`+one+`","to":"`+other+`",`+grant+`}`,
		`{"kind":"new-in-a-later-release","time":"2026-11-26T11:30:00Z","count":3,`+key+`}`,
		`{"kind":"grant-revoked","time":"2026-11-26T11:00:00Z","count":1,"grant":{"accessor":"a"}}`,
		`{"kind":"opened","time":"2026-11-26T11:05:00Z","began":"2026-11-26T11:01:00Z","count":1,"bytes":9,"recording":"`+one+`",`+grant+`}`,
		`{"kind":"wrong-patient","time":"2026-11-26T11:40:00Z","count":1,"recording":"`+other+`"}`,
	)
	report, err := auditlog.Read(t.Context(), nil, auditlog.Options{Events: []auditlog.Source{stream}})
	require.NoError(t, err)
	rows := map[string][]auditlog.Row{}
	for _, section := range report.Sections() {
		rows[section.Name] = slices.Collect(section.Rows)
	}
	var changes []string
	for _, row := range rows["changes"] {
		c := row.(auditlog.Change)
		changes = append(changes, fmt.Sprint(c.Count, " ", c.Operation, " ", c.Path, " by ", c.By, " ", c.Failed))
	}
	assert.Equal(t, []string{
		"1 reassigned " + one + " to " + other + " by dr-lee true", "1 deleted " + one + " by  false",
		"3 new-in-a-later-release 2bt33bqshc2666dvzs4abvwgudvg3lno by  false",
	}, changes)
	require.Len(t, rows["accesses"], 2)
	opened := rows["accesses"][0].(auditlog.Use)
	assert.Equal(t, 3, opened.Count)
	assert.Equal(t, "2026-11-26T10:30:00Z", opened.First.Format(time.RFC3339), "when it was asked for")
	assert.Equal(t, "2026-11-26T11:10:00Z", opened.Last.Format(time.RFC3339), "when it was closed")
	assert.Equal(t, "no grant that can be read", rows["accesses"][1].(auditlog.Use).By)
	require.Len(t, rows["after_revocation"], 1, "the one that began after it")
	assert.True(t, rows["after_revocation"][0].(auditlog.AfterRevocation).Allowed)
	assert.True(t, report.Problems())
	assert.Zero(t, report.Totals.Outside)
}
