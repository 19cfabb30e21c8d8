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
	barAfter  = 500 * time.Millisecond // how long work takes that gets a bar
	barEvery  = 100 * time.Millisecond // how often the bar is drawn
	lineEvery = 10 * time.Second       // how often work tells of itself where there is no terminal
	barSteps  = 1000                   // of a whole
)

// progress tells on standard error how far long work has come: as a bar on a terminal, and otherwise as a
// line from time to time. It is safe for concurrent use.
type progress struct {
	c        *cli
	what     string // such as "rewrap"
	begun    time.Time
	every    time.Duration
	terminal bool

	mu   sync.Mutex
	bar  *progressbar.ProgressBar // nil until there is something to show, and where there is no terminal
	next time.Time                // when something is told next
}

// startProgress begins to tell of work. The caller ends it.
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

// unknown is the fraction of what nobody knows the whole of.
const unknown = -1

// tell says how far the work has come: which fraction of it, from 0 to 1 or unknown, is done, in words, and as
// what is encoded to JSON.
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
	// One step short of the end, where the bar would go away before the work is done.
	_ = p.bar.Set64(min(int64(fraction*barSteps), barSteps-1))
	p.bar.Describe(text)
}

// forecast says how long the work will take at the pace so far.
func (p *progress) forecast(fraction float64, now time.Time) string {
	if fraction <= 0 {
		return ""
	}
	elapsed := now.Sub(p.begun)
	left := time.Duration(float64(elapsed) * (1 - fraction) / fraction)
	return fmt.Sprintf(" (%.0f%%, about %v left)", fraction*100, left.Round(time.Second))
}

// end takes the bar away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
		p.bar = nil
	}
}

// bytesDone is how far a transfer has come.
type bytesDone struct {
	What  string `json:"what"`
	Bytes int64  `json:"bytes"`
	Total int64  `json:"total"` // -1 if it is not known
}

// transfer tells of bytes that are read or written.
type transfer struct {
	p     *progress
	done  int64
	total int64 // -1 if it is not known
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

// reader tells of the bytes that are read through it.
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

// writer tells of the bytes that are written through it.
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
