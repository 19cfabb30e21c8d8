package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// inRepository makes a repository with one commit and moves into it. It returns the folder of evidence.
func inRepository(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile(".gitignore", []byte("/evidence/\n"), 0o600))
	git := []string{"-c", "user.name=n", "-c", "user.email=e@example.org"}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, append(git, "commit", "-q", "-m", "first")} {
		printed, err := exec.Command("git", args...).CombinedOutput()
		require.NoError(t, err, "%s", printed)
	}
	return "evidence"
}

func echo(text string) part {
	return part{text, func(ctx context.Context, f *folder) (string, error) {
		if err := f.run(ctx, text+".txt", "an echo", "echo", text); err != nil {
			return "", err
		}
		return f.lastLine(text + ".txt")
	}}
}

func TestTheManifestNamesEveryFile(t *testing.T) {
	dir := inRepository(t)
	var out bytes.Buffer
	require.NoError(t, gather(t.Context(), dir, []part{echo("one"), echo("two")}, []string{"two"}, &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	assert.Regexp(t, `^evidence: commit [0-9a-f]{40} \(clean\), 1 parts in 5 files in evidence, left out: two$`, lines[len(lines)-1])

	sums, err := os.ReadFile(filepath.Join(dir, manifest))
	require.NoError(t, err)
	for _, name := range []string{"README.md", "changes.txt", "commit.txt", "one.txt", "two-LEFT-OUT"} {
		assert.Contains(t, string(sums), "  "+name+"\n")
	}
	text, err := os.ReadFile(filepath.Join(dir, readme))
	require.NoError(t, err)
	assert.Contains(t, string(text), "- one: one\n- two: LEFT OUT\n")
	assert.Contains(t, string(text), "| one.txt | an echo | `echo one` |\n")

	check := func() error {
		command := exec.Command("sha256sum", "--strict", "-c", manifest)
		command.Dir = dir
		return command.Run()
	}
	require.NoError(t, check())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "one.txt"), []byte("altered"), 0o600))
	require.Error(t, check())
}

func TestAFailedPartIsNamedAndNothingIsSigned(t *testing.T) {
	for name, failing := range map[string]func(context.Context, *folder) (string, error){
		"a command": func(ctx context.Context, f *folder) (string, error) { return "", f.run(ctx, "x.txt", "", "false") },
		"an error":  func(context.Context, *folder) (string, error) { return "", errors.New("broken") },
		"no result": func(ctx context.Context, f *folder) (string, error) {
			return "", f.run(ctx, "x.txt", "", "no-such-command")
		},
		"empty file": func(_ context.Context, f *folder) (string, error) { return f.lastLine("changes.txt") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := inRepository(t)
			err := gather(t.Context(), dir, []part{echo("one"), {"two", failing}}, nil, new(bytes.Buffer))
			require.ErrorContains(t, err, "two: ")
			assert.NoFileExists(t, filepath.Join(dir, manifest))
		})
	}
}

func TestASourceThatIsNotCleanIsNamed(t *testing.T) {
	dir := inRepository(t)
	require.NoError(t, os.WriteFile("stray", nil, 0o600))
	var out bytes.Buffer
	require.NoError(t, gather(t.Context(), dir, nil, nil, &out))
	assert.Contains(t, out.String(), "(NOT CLEAN)")
	changes, err := os.ReadFile(filepath.Join(dir, "changes.txt"))
	require.NoError(t, err)
	assert.Equal(t, "?? stray\n", string(changes))
}

func TestASourceThatChangesIsAnError(t *testing.T) {
	dir := inRepository(t)
	change := part{"change", func(context.Context, *folder) (string, error) { return "", os.WriteFile("stray", nil, 0o600) }}
	require.ErrorContains(t, gather(t.Context(), dir, []part{change}, nil, new(bytes.Buffer)), "changed")
	assert.NoFileExists(t, filepath.Join(dir, manifest))
}

func TestAnUnknownPartCannotBeLeftOut(t *testing.T) {
	require.ErrorContains(t, gather(t.Context(), inRepository(t), parts, []string{"test"}, new(bytes.Buffer)), `"test"`)
}

func TestTestsAreCountedByModule(t *testing.T) {
	outcomes, err := read(strings.NewReader(`make: something
== test ./
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"{}\n"}
{"Action":"pass","Package":"p","Test":"TestA/sub"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
{"Action":"skip","Package":"p/none"}
{"Action":"skip","Package":"p","Test":"TestB"}
== test ./internal/m/
{"Action":"fail","Package":"m","Test":"TestC"}`))
	require.NoError(t, err)
	table, sum := count(outcomes)
	assert.Equal(t, "2 tests and subtests passed, 1 were skipped, 1 failed, in 2 runs", sum)
	assert.Regexp(t, `(?s)^\./ +2 passed +1 skipped +0 failed\n\./internal/m/ +0 passed +0 skipped +1 failed\n`+
		`all +2 passed +1 skipped +1 failed\n\nskipped:\n  p TestB\n$`, string(table))
}
