package auditlog_test

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/recvault/recvault/internal/auditlog"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events/fhir"
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

const (
	dr    = `"grant":{"key_id":"2bt33bqshc2666dvzs4abvwgudvg3lno","accessor":"a","expires":"2026-11-26T12:00:00Z","subject":"dr-lee","purpose":"TREAT"}`
	one   = "2bt33bqshc2666dvzs4abvwgudvg3lno.p5tjj7wltzkeiwkdxw2gpda5ji"
	other = "2sythhyfr5mbtk64km2khc4nsykmcyj5.lvai2jnw543oj4v3cddfqou5ny"
	key   = `"key_id":"2bt33bqshc2666dvzs4abvwgudvg3lno"`
)

// readAlone reports these lines of an event stream.
func readAlone(t *testing.T, options auditlog.Options, lines ...string) (*auditlog.Report, map[string][]auditlog.Row) {
	t.Helper()
	options.Events = []auditlog.Source{inMemory("events", lines...)}
	report, err := auditlog.Read(t.Context(), nil, options)
	require.NoError(t, err)
	rows := map[string][]auditlog.Row{}
	for _, section := range report.Sections() {
		rows[section.Name] = slices.Collect(section.Rows)
	}
	return report, rows
}

func TestEventsOfEachKindAreReported(t *testing.T) {
	lines := []string{
		`{"kind":"stored","time":"2026-11-26T09:00:00Z","count":1,` + key + `,"recording":"` + one + `"}`,
		`{"kind":"listed","time":"2026-11-26T10:00:00Z","count":1,"entries":1,` + key + `}`,
		`{"kind":"opened","time":"2026-11-26T11:10:00Z","began":"2026-11-26T10:30:00Z","count":2,"unwraps":1,"bytes":7,"recording":"` + one + `",` + dr + `}`,
		`{"kind":"deleted","time":"2026-11-26T11:20:00Z","count":1,` + key + `,"recording":"` + one + `"}`,
		`{"kind":"reassigned","time":"2026-11-26T10:50:00Z","count":1,"error":"half of it","recording":"` + one + `","to":"` + other + `",` + dr + `}`,
		`{"kind":"rekeyed","time":"2026-11-26T10:51:00Z","count":1,"recording":"` + one + `","to":"` + one + `"}`,
		`{"kind":"hold-cleared","time":"2026-11-26T11:25:00Z","count":1,"operator":"dpo",` + key + `}`,
		`{"kind":"new-in-a-later-release","time":"2026-11-26T11:30:00Z","count":3,` + key + `}`,
		`{"kind":"grant-revoked","time":"2026-11-26T11:00:00Z","count":1,"grant":{"accessor":"a"}}`,
		`{"kind":"opened","time":"2026-11-26T11:05:00Z","began":"2026-11-26T11:01:00Z","count":1,"bytes":9,"recording":"` + one + `",` + dr + `}`,
		`{"kind":"exhausted","time":"2026-11-26T11:02:00Z","count":5,"recording":"` + one + `",` + dr + `}`,
		`{"kind":"refused","time":"2026-11-26T11:42:00Z","count":7,` + key + `,` + dr + `}`,
		`{"kind":"failed","time":"2026-11-26T11:41:00Z","count":1,"recording":"` + one + `",` + dr + `}`,
		`{"kind":"wrong-patient","time":"2026-11-26T11:40:00Z","count":1,"recording":"` + other + `"}`,
	}
	report, rows := readAlone(t, auditlog.Options{}, lines...)
	changes := func(rows []auditlog.Row) (texts []string) {
		for _, row := range rows {
			c := row.(auditlog.Change)
			texts = append(texts, fmt.Sprint(c.Count, " ", c.Operation, " ", c.Path, " by ", c.By, " ", c.Failed))
		}
		return texts
	}
	reassigned := "1 reassigned " + one + " to " + other + " by dr-lee true"
	assert.Equal(t, []string{
		reassigned, "1 rekeyed " + one + " to " + one + " by  false", "1 deleted " + one + " by  false",
		"1 hold-cleared 2bt33bqshc2666dvzs4abvwgudvg3lno by dpo false",
		"3 new-in-a-later-release 2bt33bqshc2666dvzs4abvwgudvg3lno by  false",
	}, changes(rows["changes"]))
	var uses []string
	for _, row := range rows["accesses"] {
		u := row.(auditlog.Use)
		uses = append(uses, fmt.Sprint(u.Count, " ", u.Kind, " ", u.Subject, u.By, " ", u.First.Format(time.TimeOnly), " ", u.Last.Format(time.TimeOnly)))
	}
	assert.Equal(t, []string{
		"4 opened dr-lee 10:30:00 11:10:00", "5 revoked dr-lee 11:02:00 11:02:00", "1 wrong_patient no grant that can be read 11:40:00 11:40:00",
		"1 failed dr-lee 11:41:00 11:41:00", "7 revoked dr-lee 11:42:00 11:42:00",
	}, uses, "who reassigned a recording has opened it; a writer who rekeyed it has not")
	require.Len(t, rows["after_revocation"], 4, "what began after it")
	assert.True(t, rows["after_revocation"][0].(auditlog.AfterRevocation).Allowed)
	assert.Equal(t, 14, report.Totals.AfterRevocation)
	assert.Equal(t, 1, report.Totals.AllowedAfter)
	assert.Zero(t, report.Totals.OverUsed)
	assert.Equal(t, 1, report.Totals.Unnamed)
	assert.True(t, report.Problems())
	assert.Zero(t, report.Totals.Outside)
	view := report.PatientView(keyID("2bt33bqshc2666dvzs4abvwgudvg3lno"), auditlog.Names{})
	assert.Equal(t, 12, view.Attempts, "a failure is not a refusal")

	encoder, err := fhir.New(fhir.Site{
		Patients: "urn:test:p", Recordings: "urn:test:r", Users: "urn:test:u", Grants: "urn:test:g", Purposes: "urn:test:x",
		Application: fhir.Party{Name: "a", Address: "a.test"}, Server: fhir.Party{Name: "s", Address: "s.test"},
	})
	require.NoError(t, err)
	var bundle bytes.Buffer
	require.NoError(t, report.WriteFHIR(&bundle, encoder))
	assert.Contains(t, bundle.String(), `"grant-revoked"`)
	assert.NotContains(t, bundle.String(), "110129", "a change of a recording is none of the configuration")

	_, rows = readAlone(t, auditlog.Options{KeyIDs: []keys.KeyID{keyID("2sythhyfr5mbtk64km2khc4nsykmcyj5")}}, lines...)
	assert.Equal(t, []string{reassigned}, changes(rows["changes"]), "the patient to whom it was given")
}

// TestHostileEventsMisleadNobody reads lines that no process of ours writes.
func TestHostileEventsMisleadNobody(t *testing.T) {
	opened := `{"kind":"opened","time":"2026-11-26T11:00:00Z","count":1,"recording":"` + one + `",`
	for _, c := range []struct {
		name  string
		lines []string
		check func(*testing.T, *auditlog.Report, map[string][]auditlog.Row)
	}{
		{"numbers that are too large", []string{
			opened[:strings.Index(opened, `"count"`)] + `"count":3000000000,"recording":"` + one + `",` + dr + `}`, opened + dr + `}`,
		}, func(t *testing.T, r *auditlog.Report, rows map[string][]auditlog.Row) {
			assert.Equal(t, math.MaxInt32, r.Totals.Uses[auditlog.Opened])
		}},
		{"a number below one", []string{opened + dr + `}`, strings.Replace(opened, `"count":1`, `"count":-1`, 1) + dr + `}`}, func(t *testing.T, r *auditlog.Report, _ map[string][]auditlog.Row) {
			assert.Equal(t, 1, r.Totals.Uses[auditlog.Opened])
			assert.Equal(t, 1, r.Totals.Gaps[auditlog.Unreadable])
		}},
		{"a time of no clock", []string{opened + dr + `}`, `{"kind":"opened","time":"0001-01-02T00:00:00Z","count":1}`}, func(t *testing.T, r *auditlog.Report, _ map[string][]auditlog.Row) {
			assert.Equal(t, map[auditlog.GapKind]int{auditlog.Unreadable: 1}, r.Totals.Gaps)
		}},
		{"an end of no clock", []string{
			strings.Replace(opened, "opened", "refused", 1) + strings.Replace(dr, "2026-11-26T12", "9999-01-01T12", 1) + `}`,
			strings.Replace(opened, "opened", "refused", 1) + strings.Replace(dr, `"expires":"2026-11-26T12:00:00Z",`, "", 1) + `}`,
		}, func(t *testing.T, r *auditlog.Report, _ map[string][]auditlog.Row) {
			assert.Equal(t, map[auditlog.Kind]int{auditlog.Refused: 2}, r.Totals.Uses)
		}},
		{"the issue of no grant", []string{
			`{"kind":"grant-issued","time":"2026-11-26T10:00:00Z","count":1,"grant":{"reason":"INJECTED"}}`, opened[:len(opened)-1] + `}`,
		}, func(t *testing.T, r *auditlog.Report, rows map[string][]auditlog.Row) {
			assert.Empty(t, rows["accesses"][0].(auditlog.Use).Reason)
			require.Len(t, rows["outside"], 1)
			assert.Equal(t, 1, r.Totals.Outside)
			var page bytes.Buffer
			require.NoError(t, r.WriteHTML(&page))
			assert.Contains(t, page.String(), `<li class="bad"><b>1</b>uses without a grant`)
		}},
		{"the revocation of no grant", []string{
			`{"kind":"grant-revoked","time":"2026-11-26T10:00:00Z","count":1}`, opened + strings.Replace(dr, `"accessor":"a",`, "", 1) + `}`,
		}, func(t *testing.T, r *auditlog.Report, _ map[string][]auditlog.Row) {
			assert.Zero(t, r.Totals.AfterRevocation)
		}},
		{"a flood that hides a use after a revocation", append(
			slices.Repeat([]string{strings.Replace(opened, "opened", "refused", 1) + dr + `}`}, 1100),
			`{"kind":"grant-revoked","time":"2026-11-26T10:00:00Z","count":1,"grant":{"accessor":"a"}}`,
			strings.Replace(opened, "11:00:00", "11:30:00", 1)+dr+`}`,
		), func(t *testing.T, r *auditlog.Report, rows map[string][]auditlog.Row) {
			assert.Len(t, rows["after_revocation"], 1001)
			assert.Equal(t, 1, r.Totals.AllowedAfter)
			assert.Equal(t, 1101, r.Totals.AfterRevocation)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			report, rows := readAlone(t, auditlog.Options{}, c.lines...)
			c.check(t, report, rows)
		})
	}
}

func TestAPatientIsShownThatRecordsAreMissing(t *testing.T) {
	report, _ := readAlone(t, auditlog.Options{}, `{"kind":"overflow","of":"opened","time":"2026-11-26T11:00:00Z","count":5000}`)
	view := report.PatientView(keyID("2bt33bqshc2666dvzs4abvwgudvg3lno"), auditlog.Names{})
	assert.Contains(t, view.Notes[0], "Something is missing")
}
