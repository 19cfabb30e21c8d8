package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	barAfter  = 500 * time.Millisecond // time before the bar appears
	barEvery  = 100 * time.Millisecond // time between two drawings of the bar
	lineEvery = 10 * time.Second       // time between two lines where there is no terminal
	barSteps  = 1000                   // steps of a full bar
)

// progress shows on standard error how far long work has come: as a bar on a terminal, and otherwise as a line
// every ten seconds, which is JSON with --output json. It is safe for concurrent use.
type progress struct {
	c        *cli
	what     string // such as "rewrap"
	begun    time.Time
	every    time.Duration
	terminal bool

	mu   sync.Mutex
	bar  *progressbar.ProgressBar // nil until it appears, and where there is no terminal
	next time.Time                // when progress is shown next
}

// startProgress begins to show the progress of work. The caller calls end.
func (c *cli) startProgress(what string) *progress {
	p := &progress{c: c, what: what, begun: time.Now(), every: lineEvery}
	p.next = p.begun.Add(lineEvery)
	if c.output == outputText && isTerminal(c.stderr) && c.getenv("TERM") != "dumb" {
		p.terminal, p.every, p.next = true, barEvery, p.begun.Add(barAfter)
	}
	return p
}

func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// unknown is the fraction of work with an unknown total.
const unknown = -1

// show reports how far the work has come: the fraction that is done, from 0 to 1 or unknown, a description of it,
// and an object for JSON. It prints at most once in every interval.
func (p *progress) show(fraction float64, words func() string, object any) {
	if p.c.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(p.every)
	switch {
	case p.terminal:
		p.draw(fraction, p.what+": "+words())
	case p.c.output == outputJSON:
		p.c.printLine(map[string]any{"progress": object})
	default:
		fmt.Fprintln(p.c.stderr, p.what+": "+words()+p.forecast(fraction, now))
	}
}

// draw draws the bar.
func (p *progress) draw(fraction float64, text string) {
	if p.bar == nil {
		steps := int64(barSteps)
		if fraction == unknown {
			steps = -1
		}
		p.bar = progressbar.NewOptions64(steps,
			progressbar.OptionSetWriter(p.c.stderr),
			progressbar.OptionSetDescription(text),
			progressbar.OptionSetWidth(24),
			progressbar.OptionClearOnFinish(),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionSetSpinnerChangeInterval(0), // which would take a goroutine
		)
	}
	// Stop one step short of the end: a full bar disappears, and the work may not be done.
	_ = p.bar.Set64(min(int64(fraction*barSteps), barSteps-1))
	p.bar.Describe(text)
}

// forecast returns the time that the rest of the work will take at the pace so far.
func (p *progress) forecast(fraction float64, now time.Time) string {
	if fraction <= 0 {
		return ""
	}
	elapsed := now.Sub(p.begun)
	left := time.Duration(float64(elapsed) * (1 - fraction) / fraction)
	return fmt.Sprintf(" (%.0f%%, about %v left)", fraction*100, left.Round(time.Second))
}

// end removes the bar.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
		p.bar = nil
	}
}

// bytesDone is the progress of a transfer, for JSON.
type bytesDone struct {
	What  string `json:"what"`
	Bytes int64  `json:"bytes"`
	Total int64  `json:"total"` // -1 if unknown
}

// transfer counts bytes that are read or written, and shows the progress.
type transfer struct {
	p     *progress
	done  int64
	total int64 // -1 if unknown
}

func (t *transfer) add(n int) {
	t.done += int64(n)
	fraction := float64(unknown)
	if t.total > 0 {
		fraction = min(1, float64(t.done)/float64(t.total))
	}
	t.p.show(fraction, func() string {
		rate := float64(t.done) / time.Since(t.p.begun).Seconds()
		if t.total > 0 {
			return fmt.Sprintf("%s of %s, %s/s", humanBytes(t.done), humanBytes(t.total), humanBytes(int64(rate)))
		}
		return fmt.Sprintf("%s, %s/s", humanBytes(t.done), humanBytes(int64(rate)))
	}, bytesDone{t.p.what, t.done, t.total})
}

// reader returns a reader that shows the progress of what is read through it. total is -1 if unknown.
func (p *progress) reader(r io.Reader, total int64) io.Reader {
	return &progressReader{r, transfer{p: p, total: total}}
}

type progressReader struct {
	r io.Reader
	transfer
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.add(n)
	return n, err
}

// writer returns a writer that shows the progress of what is written through it. total is -1 if unknown.
func (p *progress) writer(w io.Writer, total int64) io.Writer {
	return &progressWriter{w, transfer{p: p, total: total}}
}

type progressWriter struct {
	w io.Writer
	transfer
}

func (w *progressWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.add(n)
	return n, err
}
