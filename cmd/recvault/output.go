package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

const (
	outputText = "text"
	outputJSON = "json"
)

// moreOutputs is the annotation of a command with the formats that it has beside text and JSON.
const moreOutputs = "outputs"

func (c *cli) checkOutput(cmd *cobra.Command) error {
	formats := append([]string{outputText, outputJSON}, strings.Fields(cmd.Annotations[moreOutputs])...)
	if !slices.Contains(formats, c.output) {
		c.output = outputText
		last := len(formats) - 1
		return usagef("--output (or RECVAULT_OUTPUT) must be %s or %s", strings.Join(formats[:last], ", "), formats[last])
	}
	return nil
}

// checkOut checks the flag --out of a command that writes content to a file, as choices has it, or to standard output.
func (c *cli) checkOut(cmd *cobra.Command, out, choices, content string) error {
	switch {
	case out == "":
		return usagef("no output: set %s, or --out - for standard output", choices)
	case out == dash && isTerminal(c.stdout):
		return usagef("%s does not write %s to a terminal: redirect standard output", cmd.Name(), content)
	case out == dash && c.output == outputJSON:
		return usagef("--out - and --output json both write to standard output: use only one of the two")
	}
	return nil
}

// result is what a command prints: one JSON object, or text.
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

// printDone prints the result of a change that cannot be undone. If printing fails, the error says what was done.
func (c *cli) printDone(r result, done string) error {
	if err := c.print(r); err != nil {
		return &notPrintedError{done, err}
	}
	return nil
}

// errWriter keeps its first error, so that writeText need not check each write.
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

// table writes rows in columns. The last cell of a row may be empty.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.TrimSuffix(strings.Join(row, "\t"), "\t"))
	}
	_ = t.Flush() // an errWriter below keeps the error
}

// note writes a note to standard error, unless --quiet is set.
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

// printFailure writes the error that the command ends with.
func (c *cli) printFailure(f failure) {
	if c.output == outputJSON {
		c.printLine(f)
		return
	}
	fmt.Fprintln(c.stderr, "recvault: "+f.Error)
}

// printLine writes a JSON object as one line to standard error.
func (c *cli) printLine(v any) {
	encoder := json.NewEncoder(c.stderr)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // an error on standard error can be reported nowhere
}

// humanBytes formats a size for people.
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

// humanTime formats a time for people, or returns "-" for the zero time.
func humanTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// printable replaces control characters and bidirectional marks in a text from elsewhere, which could otherwise control
// the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func orDash(text string) string { return cmp.Or(text, "-") }
