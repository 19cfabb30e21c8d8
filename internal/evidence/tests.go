package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tests runs every test of every module.
func tests(ctx context.Context, f *folder) (string, error) {
	const command = "make --no-print-directory modules TESTFLAGS=-json"
	log := filepath.Join(f.dir, "test-events.txt")
	failed := f.run(ctx, filepath.Base(log), "", strings.Fields(command)...)
	f.entries = f.entries[:len(f.entries)-1] // the file is removed
	events, err := os.Open(log)
	if err != nil {
		return "", err
	}
	defer events.Close()
	outcomes, err := read(events)
	if err != nil {
		return "", err
	}
	table, sum := count(outcomes)
	err = f.write("tests.txt", "tests and subtests of each module, and those that were skipped", command, table)
	if err != nil {
		return "", err
	}
	var lines bytes.Buffer
	for _, o := range outcomes {
		fmt.Fprintf(&lines, "%s\t%s\t%s\n", o.Action, o.Package, o.Test)
	}
	if err := f.write("test-outcomes.txt", "the outcome of each test and subtest", command, lines.Bytes()); err != nil {
		return "", err
	}
	if failed != nil {
		return "", fmt.Errorf("%s: %w", sum, failed)
	}
	if len(outcomes) == 0 {
		return "", errors.New("no test ran")
	}
	return sum, os.Remove(log)
}

// outcome is the end of a test or subtest, as go test -json prints it.
type outcome struct {
	Action  string // pass, skip or fail
	Package string
	Test    string
	module  string // or the part of the run
}

// read reads what make prints: lines of "== test <module>", each with the events of its tests after it.
func read(r io.Reader) ([]outcome, error) {
	var outcomes []outcome
	module := ""
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if name, ok := bytes.CutPrefix(line, []byte("== test ")); ok {
			module = string(bytes.TrimSpace(name))
		}
		o := outcome{module: module}
		if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &o) == nil && o.Test != "" &&
			slices.Contains([]string{"pass", "skip", "fail"}, o.Action) {
			outcomes = append(outcomes, o)
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(outcomes, func(a, b outcome) int {
		return cmp.Or(cmp.Compare(a.module, b.module), cmp.Compare(a.Package, b.Package), cmp.Compare(a.Test, b.Test))
	})
	return outcomes, nil
}

// count returns a table of the outcomes in each module with the names of tests that were skipped, and the sum.
func count(outcomes []outcome) (table []byte, sum string) {
	var modules []string
	counts := map[string]map[string]int{"": {}}
	var skipped bytes.Buffer
	for _, o := range outcomes {
		if counts[o.module] == nil {
			modules = append(modules, o.module)
			counts[o.module] = map[string]int{}
		}
		counts[o.module][o.Action]++
		counts[""][o.Action]++
		if o.Action == "skip" {
			fmt.Fprintf(&skipped, "  %s %s\n", o.Package, o.Test)
		}
	}
	var text bytes.Buffer
	row := func(module string, n map[string]int) {
		fmt.Fprintf(&text, "%-60s %7d passed %5d skipped %5d failed\n", module, n["pass"], n["skip"], n["fail"])
	}
	for _, module := range modules {
		row(module, counts[module])
	}
	row("all", counts[""])
	fmt.Fprintf(&text, "\nskipped:\n%s", &skipped)
	all := counts[""]
	return text.Bytes(), fmt.Sprintf("%d tests and subtests passed, %d were skipped, %d failed, in %d runs",
		all["pass"], all["skip"], all["fail"], len(modules))
}
