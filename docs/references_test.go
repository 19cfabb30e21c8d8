// Package docs_test checks the documentation: that links lead somewhere, and that each test which a claim names exists.
package docs_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A claim is a row of a table that has a column "Shown by". There it has a reference, a link like
//
//	[`TestRoles/granter`](../keys/transit/roles_test.go)
//
// to the test that fails if the claim is wrong, or says "not shown: " and why. The rows that may say so are listed here:
// for each document, the first cell of each.
var notShown = map[string][]string{
	"docs/compliance.md": {
		"Art. 17(2)", "Art. 20(2)", "Art. 33(2)", "Art. 33(5)", "Art. 34(1)", "EHDS 9(2)", "EHDS 9(3)", "B3.a", "B5.c", "A.5.16",
		"A.8.25",
	},
}

const module = "github.com/recvault/recvault/"

var (
	fence     = regexp.MustCompile("(?ms)^[ ]*```.*?^[ ]*```[ ]*$")
	heading   = regexp.MustCompile(`(?m)^#+ +(.*?) *$`)
	link      = regexp.MustCompile(`\[([^\[\]]*)\]\(([^()\s]+)\)`)
	reference = regexp.MustCompile("^`((?:Test|Fuzz)[^`/]*)(?:/([^`]+))?`$")
	separator = regexp.MustCompile(`^[-:]+$`)
)

func TestReferencesAndLinksOfTheDocumentsHold(t *testing.T) {
	root := os.DirFS("..")
	var documents []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md"} {
		found, err := fs.Glob(root, pattern)
		require.NoError(t, err)
		documents = append(documents, found...)
	}
	require.Contains(t, documents, "README.md")
	require.Contains(t, documents, "docs/design.md")
	for _, document := range []string{"docs/threat-model.md", "docs/compliance.md"} {
		require.Regexp(t, `(?m)^\|.* Shown by \|`, read(t, root, document), "%s makes claims", document)
	}
	for _, document := range documents {
		for _, problem := range check(t, root, document, notShown[document]) {
			t.Error(problem)
		}
	}
}

// check returns what is wrong with a document's links, references and claims. The rows of claims in unproved, named by
// their first cells, need no reference.
func check(t *testing.T, root fs.FS, document string, unproved []string) []string {
	t.Helper()
	text := read(t, root, document)
	var problems []string
	report := func(offset int, format string, arguments ...any) {
		line := 1 + strings.Count(text[:offset], "\n")
		problems = append(problems, fmt.Sprintf("%s:%d: ", document, line)+fmt.Sprintf(format, arguments...))
	}
	for _, at := range link.FindAllStringSubmatchIndex(text, -1) {
		label, target := text[at[2]:at[3]], text[at[4]:at[5]]
		if problem := checkLink(t, root, document, target); problem != "" {
			report(at[0], "%s", problem)
		} else if test := reference.FindStringSubmatch(label); test != nil {
			if problem := checkReference(t, root, path.Join(path.Dir(document), target), test[1], test[2]); problem != "" {
				report(at[0], "%s", problem)
			}
		}
	}

	inTable, column, offset := false, -1, 0
	for line := range strings.Lines(text) {
		cells := cells(line)
		switch {
		case cells == nil:
			inTable = false
		case !inTable:
			inTable, column = true, slices.Index(cells, "Shown by")
		case column >= 0 && !separator.MatchString(cells[0]):
			shown := ""
			if column < len(cells) {
				shown = cells[column]
			}
			listed := slices.Index(unproved, cells[0])
			if listed >= 0 {
				unproved = slices.Delete(slices.Clone(unproved), listed, listed+1)
			}
			switch reason, excused := strings.CutPrefix(shown, "not shown: "); {
			case excused && reason != "" && listed >= 0:
			case excused:
				report(offset, "this claim may not be unproved: %s", cells[0])
			case !slices.ContainsFunc(link.FindAllStringSubmatch(shown, -1), isReference):
				report(offset, "a claim without a reference: %s", cells[0])
			case listed >= 0:
				report(offset, "this claim has a reference, and is listed as unproved: %s", cells[0])
			}
		}
		offset += len(line)
	}
	for _, row := range unproved {
		report(0, "no claim, but listed as unproved: %s", row)
	}
	return problems
}

func isReference(found []string) bool { return reference.MatchString(found[1]) }

// cells returns the cells of a line of a table, and nil for other lines.
func cells(line string) []string {
	row, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
	if !ok {
		return nil
	}
	cells := strings.Split(strings.TrimSuffix(strings.ReplaceAll(row, `\|`, "\x00"), "|"), "|")
	for i, cell := range cells {
		cells[i] = strings.TrimSpace(strings.ReplaceAll(cell, "\x00", "|"))
	}
	return cells
}

// checkLink returns what is wrong with a link: its file or its heading is missing. Links to other sites are not followed.
func checkLink(t *testing.T, root fs.FS, document, target string) string {
	t.Helper()
	if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
		return ""
	}
	name, anchor, anchored := strings.Cut(target, "#")
	file := document
	if name != "" {
		file = path.Join(path.Dir(document), name)
	}
	if _, err := fs.Stat(root, file); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return "no such file: " + target
	} else {
		require.NoError(t, err)
	}
	if anchored && (path.Ext(file) != ".md" || !slices.Contains(anchors(read(t, root, file)), anchor)) {
		return "no such heading: " + target
	}
	return ""
}

// anchors returns the anchors that GitHub gives to the headings of a text.
func anchors(text string) []string {
	var anchors []string
	used := map[string]int{}
	for _, found := range heading.FindAllStringSubmatch(text, -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			case r == ' ':
				return '-'
			}
			return -1
		}, link.ReplaceAllString(found[1], "$1"))
		used[anchor]++
		if n := used[anchor]; n > 1 {
			anchor += "-" + strconv.Itoa(n-1)
		}
		anchors = append(anchors, anchor)
	}
	return anchors
}

// checkReference returns what is wrong with a reference: the file does not declare the test, or has no subtest of that name.
// The names of a conformance suite's subtests are in the package that the file imports.
func checkReference(t *testing.T, root fs.FS, file, test, subtest string) string {
	t.Helper()
	if !strings.HasSuffix(file, "_test.go") {
		return fmt.Sprintf("%s is not in a test's file: %s", test, file)
	}
	source := parse(t, root, file)
	declared := slices.ContainsFunc(source.Decls, func(declaration ast.Decl) bool {
		function, ok := declaration.(*ast.FuncDecl)
		return ok && function.Recv == nil && function.Name.Name == test
	})
	switch {
	case !declared:
		return fmt.Sprintf("%s does not declare %s", file, test)
	case subtest == "" || hasSubtest(source, subtest):
		return ""
	}
	for _, spec := range source.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		require.NoError(t, err)
		directory, ours := strings.CutPrefix(imported, module)
		if !ours {
			continue
		}
		files, err := fs.Glob(root, directory+"/*.go")
		require.NoError(t, err)
		for _, suite := range files {
			if !strings.HasSuffix(suite, "_test.go") && hasSubtest(parse(t, root, suite), subtest) {
				return ""
			}
		}
	}
	return fmt.Sprintf("%s of %s has no subtest %s", test, file, subtest)
}

// hasSubtest reports whether a string in the source is the name of the subtest, or of its parent, as t.Run prints it.
func hasSubtest(source *ast.File, subtest string) bool {
	for node := range ast.Preorder(source) {
		literal, ok := node.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			continue
		}
		if text, err := strconv.Unquote(literal.Value); err == nil && text != "" {
			name := strings.ReplaceAll(text, " ", "_")
			if subtest == name || strings.HasPrefix(subtest, name+"/") {
				return true
			}
		}
	}
	return false
}

func parse(t *testing.T, root fs.FS, file string) *ast.File {
	t.Helper()
	text, err := fs.ReadFile(root, file)
	require.NoError(t, err)
	source, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
	require.NoError(t, err)
	return source
}

// read returns a document with empty lines in place of its blocks of code.
func read(t *testing.T, root fs.FS, document string) string {
	t.Helper()
	text, err := fs.ReadFile(root, document)
	require.NoError(t, err)
	return fence.ReplaceAllStringFunc(string(text), func(block string) string {
		return strings.Repeat("\n", strings.Count(block, "\n"))
	})
}

func TestWrongReferencesAndLinksAreFound(t *testing.T) {
	const claims = "# Claims\n\n| Claim | Shown by |\n|---|---|\n"
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for _, test := range []struct {
		name, text string
		unproved   []string
		want       string // how the one problem ends; none if empty
	}{
		{"test", "see [`TestOpen`](../vault/open_test.go)", nil, ""},
		{"fuzz test", "see [`FuzzOpen`](../vault/open_test.go)", nil, ""},
		{"subtest", "see [`TestOpen/another_patient's`](../vault/open_test.go)", nil, ""},
		{"subtest of a subtest", "see [`TestOpen/another_patient's/read`](../vault/open_test.go)", nil, ""},
		{"subtest of a suite", "see [`TestOpen/a_grant_expires`](../vault/open_test.go)", nil, ""},
		{"missing file", "\nsee [`TestOpen`](../vault/close_test.go)", nil, "t.md:2: no such file: ../vault/close_test.go"},
		{"missing function", "see [`TestClose`](../vault/open_test.go)", nil, ":1: vault/open_test.go does not declare TestClose"},
		{"function in a comment", "see [`TestOld`](../vault/open_test.go)", nil, "does not declare TestOld"},
		{"method", "see [`TestMethod`](../vault/open_test.go)", nil, "does not declare TestMethod"},
		{"missing subtest", "see [`TestOpen/nobody's`](../vault/open_test.go)", nil, "has no subtest nobody's"},
		{"part of a subtest's name", "see [`TestOpen/another`](../vault/open_test.go)", nil, "has no subtest another"},
		{"not a test's file", "see [`TestOpen`](../vault/open.go)", nil, "TestOpen is not in a test's file: vault/open.go"},
		{"link across lines", "see [the\nvault](../vault/open.go)", nil, ""},
		{"link out of the repository", "see [it](../../vault/open.go)", nil, "no such file: ../../vault/open.go"},
		{"link in code", "```\n[it](gone.md)\n```\n", nil, ""},
		{"link to a site", "see [it](https://example.org/gone#where)", nil, ""},
		{"heading", "# `Put`, and [why](t.md)\n## Put\n## Put\nsee [1](#put-and-why), [2](t.md#put), [3](#put-1)", nil, ""},
		{"missing heading", "# Put\nsee [it](t.md#get)", nil, ":2: no such heading: t.md#get"},
		{"heading in code", "```\n# Put\n```\nsee [it](#put)", nil, "no such heading: #put"},
		{"claim", claims + "| it holds | here: [`TestOpen`](../vault/open_test.go) |\n", nil, ""},
		{"claim without reference", claims + "| it holds | TestOpen |\n", nil, ":5: a claim without a reference: it holds"},
		{"claim without cell", claims + "| it holds |\n", nil, "a claim without a reference: it holds"},
		{"reference in another cell", claims + "| [`TestOpen`](../vault/open_test.go) | yes |\n", nil, "_test.go)"},
		{"second of two claims", claims + "| a \\| b | [`TestOpen`](../vault/open_test.go) |\n| it holds | |\n", nil, ":6: a claim without a reference: it holds"},
		{"second table", claims + "\n| Shown by | Claim |\n|---|---|\n| | it |\n", nil, ":8: a claim without a reference: "},
		{"other table", "| Role | Test |\n|---|---|\n| writer | none |\n", nil, ""},
		{"row that reads as a header", "| Role | Test |\n|---|---|\n| Shown by | none |\n| writer | none |\n", nil, ""},
		{"unproved claim", claims + "| it holds | not shown: a policy |\n", []string{"it holds"}, ""},
		{"unproved claim without listing", claims + "| it holds | not shown: a policy |\n", nil, "may not be unproved: it holds"},
		{"unproved claim without reason", claims + "| it holds | not shown: |\n", []string{"it holds"}, "a claim without a reference: it holds"},
		{"listed and proved", claims + "| it | [`TestOpen`](../vault/open_test.go) |\n", []string{"it"}, "listed as unproved: it"},
		{"listed and gone", claims, []string{"it holds"}, "no claim, but listed as unproved: it holds"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problems := check(t, fstest.MapFS{
				"docs/t.md":     file(test.text),
				"vault/open.go": file("package vault"),
				"vault/open_test.go": file("package vault_test\n" +
					"import \"github.com/recvault/recvault/keys/keystest\"\n" +
					"func TestOpen(t *testing.T) { t.Run(`another patient's`, nil) }\nfunc FuzzOpen(f *testing.F) {}\n" +
					"func (suite) TestMethod() {}\n// func TestOld(t *testing.T) {}\n"),
				"keys/keystest/keystest.go": file("package keystest\nvar names = []string{\"a grant expires\"}\n"),
			}, "docs/t.md", test.unproved)
			if test.want == "" {
				assert.Empty(t, problems)
				return
			}
			require.Len(t, problems, 1)
			assert.True(t, strings.HasSuffix(problems[0], test.want), problems[0])
		})
	}
}
