package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

const (
	outputText = "text"
	outputJSON = "json"
)

func (c *cli) checkOutput() error {
	if c.output != outputText && c.output != outputJSON {
		c.output = outputText
		return usagef("--output (or RECVAULT_OUTPUT) is neither text nor json")
	}
	return nil
}

// result is what a command has to tell: one JSON object, or text.
type result interface {
	writeText(w io.Writer)
}

// print writes the result to standard output.
func (c *cli) print(r result) error {
	if c.output == outputJSON {
		encoder := json.NewEncoder(c.stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(r); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		return nil
	}
	out := &errWriter{w: c.stdout}
	r.writeText(out)
	if out.err != nil {
		return fmt.Errorf("write the result: %w", out.err)
	}
	return nil
}

// printDone prints the result of what cannot be taken back. If that fails, the error says what was done.
func (c *cli) printDone(r result, done string) error {
	if err := c.print(r); err != nil {
		return &notPrintedError{done, err}
	}
	return nil
}

// errWriter keeps its first error, so that whoever writes text need not look.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(p []byte) (int, error) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
	}
	return len(p), nil
}

// table writes rows in columns.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, cell)
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // the writers below keep their errors
}

// note tells something beside the result, on standard error.
func (c *cli) note(format string, args ...any) {
	if c.quiet {
		return
	}
	text := fmt.Sprintf(format, args...)
	if c.output == outputJSON {
		c.printLine(map[string]string{"note": text})
		return
	}
	fmt.Fprintln(c.stderr, text)
}

func (c *cli) printFailure(f failure) {
	if c.output == outputJSON {
		c.printLine(f)
		return
	}
	fmt.Fprintln(c.stderr, "recvault: "+f.Error)
}

// printLine writes one JSON object as one line to standard error.
func (c *cli) printLine(v any) {
	encoder := json.NewEncoder(c.stderr)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // whoever does not read it misses it
}

// humanBytes is a size as people read it.
func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}

// humanTime is a time as people read it, or "-" if there is none.
func humanTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// printable replaces what could drive a terminal in a text that somebody else wrote.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
