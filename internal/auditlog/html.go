package auditlog

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// maxPageRows is the number of rows of a section that the page shows. More would be read by nobody, and be printed on 50 sheets.
const maxPageRows = 2000

//go:embed report.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"stamp": stamp,
	"rows":  firstRows,
	"more":  func(s Section) int { return max(0, s.Len-maxPageRows) },
	"code":  isCode,
	"join":  func(texts []string) string { return strings.Join(texts, ", ") },
}).Parse(pageText))

// WriteHTML writes the report as one page that needs no other file and no script, for a screen in light or dark and for paper.
func (r *Report) WriteHTML(w io.Writer) error {
	return page.Execute(w, map[string]any{"R": r, "Figures": r.Figures(), "Sections": r.Sections(), "Timeline": r.timeline()})
}

func firstRows(s Section) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		n := 0
		for row := range s.Rows {
			if n++; n > maxPageRows || !yield(row.Cells()) {
				return
			}
		}
	}
}

// isCode reports whether a column has IDs or paths.
func isCode(column string) bool {
	return slices.Contains([]string{"patient (KeyID)", "recording", "grant for another", "path"}, column)
}

// Figure is a number of the summary.
type Figure struct {
	N    int
	What string
	Bad  bool // it should be 0, and is not
}

// Figures returns the summary.
func (r *Report) Figures() []Figure {
	t := &r.Totals
	refused := 0
	for kind := WrongPatient; kind <= NoGrant; kind++ {
		refused += t.Uses[kind]
	}
	uses := []Figure{
		{t.Patients, "patients with a recording that was opened or described", false},
		{t.Uses[Opened], "openings", false},
		{t.Uses[Described], "descriptions", false},
		{refused, "refused attempts", false},
		{t.Uses[WrongPatient], "attempts on another patient's recording", t.Uses[WrongPatient] > 0},
		{t.Incidents, "incidents", false},
		{t.Unusual, "subjects with unusually many patients", t.Unusual > 0},
		{t.BreakGlass, "emergency grants to review", false},
		{t.Grants, "grants", false},
		{t.Unused, "grants that ended unused", false},
		{t.OverUsed, "grants presented after their last use", t.OverUsed > 0},
		{t.AfterRevocation, "uses of a grant after its revocation", t.AfterRevocation > 0},
		{t.AllowedAfter, "uses after a revocation that were allowed", t.AllowedAfter > 0},
	}
	if r.Alone() {
		return slices.Concat([]Figure{{t.Events, "events, in the whole stream", false}}, uses, []Figure{
			{t.Unnamed, "grants that were used, whose issue is not in the stream", false},
			{t.Outside, "uses without a grant", t.Outside > 0},
			{t.Unexplained, "gaps in the stream", t.Unexplained > 0},
		})
	}
	figures := slices.Concat([]Figure{{t.Requests, "requests to the engine at " + r.Mount + ", in the whole log", t.Requests == 0}}, uses, []Figure{
		{t.Outside, "uses of keys outside a grant", t.Outside > 0},
		{t.Wrapped, "answers that were left in Vault under another token", t.Wrapped > 0},
		{t.Unexplained, "gaps in the log that it does not explain", t.Unexplained > 0},
	})
	if t.Events > 0 {
		figures = append(
			figures,
			Figure{t.OnlyInLog, "uses in the log that no event reports", t.OnlyInLog > 0},
			Figure{t.OnlyInEvents, "uses in the events that the log lacks", t.OnlyInEvents > 0},
		)
	}
	return figures
}

// The size of the timeline, in units of its drawing.
const (
	timelineWidth  = 960
	timelineHeight = 120
)

type bar struct {
	X, Y, Width, Height float64
	Class, Title        string
}

type timeline struct {
	Width, Height int
	Most          int
	Bars          []bar
	Marks         []bar
	Labels        []bar
}

// timeline draws the uses in equal parts of the period, and the incidents above.
func (r *Report) timeline() timeline {
	t := timeline{Width: timelineWidth, Height: timelineHeight}
	for _, counts := range r.bins.counts {
		t.Most = max(t.Most, counts[0]+counts[1]+counts[2])
	}
	const width = float64(timelineWidth) / numBins
	when := func(i int) time.Time { return at(r.bins.from + int64(i)*r.bins.width) }
	for i, counts := range r.bins.counts {
		top := float64(timelineHeight)
		title := fmt.Sprintf("%s: %d opened, %d described, %d refused or failed", stamp(when(i)), counts[0], counts[1], counts[2])
		for kind, n := range counts {
			height := float64(n) / float64(max(1, t.Most)) * timelineHeight
			top -= height
			if n > 0 {
				t.Bars = append(t.Bars, bar{float64(i)*width + 0.5, top, width - 1, height, []string{"opened", "described", "refused"}[kind], title})
			}
		}
	}
	for _, mark := range r.marks {
		x := float64(mark.at.UnixNano()-r.bins.from) / float64(r.bins.width) * width
		t.Marks = append(t.Marks, bar{X: min(max(x, 3), timelineWidth-3), Class: mark.what, Title: stamp(mark.at) + ": incident, " + mark.what})
	}
	for i := 0; i <= numBins; i += numBins / 4 {
		t.Labels = append(t.Labels, bar{X: float64(i) * width, Title: stamp(when(i))})
	}
	return t
}
