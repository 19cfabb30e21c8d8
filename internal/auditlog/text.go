package auditlog

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
)

// maxTextRows is the number of rows of a section that the text shows.
const maxTextRows = 50

// WriteText writes the report for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	out := &firstError{w: w}
	printf := func(format string, args ...any) { out.print(fmt.Sprintf(format, args...)) }
	printf("WHO SAW WHICH RECORDINGS: a report from %s\n\n", r.Origin())
	if r.Alone() {
		printf("covers  %s to %s, %d events\n", stamp(r.First), stamp(r.Last), r.Entries)
	} else {
		printf("covers  %s to %s, %d entries and %d copies of them\n", stamp(r.First), stamp(r.Last), r.Entries, r.Copies)
	}
	for _, file := range r.Files {
		printf("        %s: %d lines, %d unreadable\n", printable(file.Name), file.Lines, file.Unreadable)
	}
	if !r.Alone() {
		printf("engine  %s, policies %s-*\n", r.Mount, r.Prefix)
	}
	printf("\n")
	for _, figure := range r.Figures() {
		mark := " "
		if figure.Bad {
			mark = "!"
		}
		printf("%s %8d  %s\n", mark, figure.N, figure.What)
	}
	for _, section := range r.sections {
		printf("\n%s (%d)\n", strings.ToUpper(section.Title), section.Len)
		if section.Note != "" {
			printf("%s\n", section.Note)
		}
		if section.Len == 0 {
			continue
		}
		printf("\n")
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, strings.ToUpper(strings.Join(section.Columns, "\t")))
		n := 0
		for row := range section.Rows {
			if n++; n > maxTextRows {
				break
			}
			cells := []string{}
			for _, cell := range row.Cells() {
				cells = append(cells, printable(cell))
			}
			fmt.Fprintln(t, strings.Join(cells, "\t"))
		}
		if err := t.Flush(); err != nil && out.err == nil {
			out.err = err
		}
		if section.Len > maxTextRows {
			printf("and %d more: see --output json, csv or html\n", section.Len-maxTextRows)
		}
	}
	printf("\nWHAT THIS REPORT CANNOT SHOW\n")
	for _, limit := range r.Limits {
		printf("- %s\n", limit)
	}
	return out.err
}

// printable replaces what could control a terminal, in texts that a stolen granter's token can choose.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// WriteCSV writes a section of the report as CSV, with a header. A cell that a spreadsheet would take for a formula starts with an
// apostrophe.
func (s Section) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(s.Columns); err != nil {
		return err
	}
	for row := range s.Rows {
		cells := row.Cells()
		for i, cell := range cells {
			if strings.IndexAny(cell, "=+-@\t\r") == 0 {
				cells[i] = "'" + cell
			}
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
