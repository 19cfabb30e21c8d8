package binary

import (
	"context"
	"debug/buildinfo"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFindPrefersVariableThenPathThenCache(t *testing.T) {
	named, onPath, cache := t.TempDir(), t.TempDir(), t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache) // macOS has its cache there
	t.Setenv("PATH", onPath)
	for _, program := range []Program{Vault, MinIO, VersityGW} {
		t.Run(string(program), func(t *testing.T) {
			t.Setenv(program.Variable(), "")
			_, err := program.Find()
			require.ErrorIs(t, err, ErrMissing)

			source, err := program.source()
			require.NoError(t, err)
			cached, err := source.cached()
			require.NoError(t, err)
			writeProgram(t, cached)
			assertFinds(t, program, cached)
			built, err := program.Build(t.Context())
			require.NoError(t, err)
			assert.Equal(t, cached, built, "Build uses the program that is already there")

			writeProgram(t, filepath.Join(onPath, string(program)+suffix()))
			assertFinds(t, program, filepath.Join(onPath, string(program)+suffix()))

			writeProgram(t, filepath.Join(named, "any name"+suffix()))
			t.Setenv(program.Variable(), filepath.Join(named, "any name"+suffix()))
			assertFinds(t, program, filepath.Join(named, "any name"+suffix()))

			t.Setenv(program.Variable(), filepath.Join(named, "nothing"))
			_, err = program.Find()
			require.Error(t, err)
			assert.NotErrorIs(t, err, ErrMissing, "a wrong setting fails tests; only a missing program skips them")
			assert.ErrorContains(t, err, program.Variable())
		})
	}
}

func TestCachedProgramsAreNamedByVersion(t *testing.T) {
	for program, pattern := range map[Program]string{
		Vault: `^vault-v1\.\d+\.\d+-[0-9a-f]{12}$`,
		MinIO: `^minio-v[-0-9a-z.]+-[0-9a-f]{12}$`,

		VersityGW: `^versitygw-v\d+\.\d+\.\d+-[0-9a-f]{12}$`,
	} {
		t.Run(string(program), func(t *testing.T) {
			source, err := program.source()
			require.NoError(t, err)
			cached, err := source.cached()
			require.NoError(t, err)
			assert.Regexp(t, pattern, filepath.Base(filepath.Dir(cached)))
		})
	}
}

func TestChangedSourceIsAnotherProgram(t *testing.T) {
	s := module(t)
	original, err := s.cached()
	require.NoError(t, err)
	seen := map[string]string{original: "nothing"}
	for _, change := range []struct{ what, file, content string }{
		{"go.mod", "go.mod", "module example.org/server\n\ngo 1.26.0\n\n// changed\n"},
		{"go.sum", "go.sum", "\n"},
		{"a source file", "main.go", "package main\n\nfunc main() { println() }\n"},
		{"a new source file", "more.go", "package main\n"},
	} {
		t.Run(change.what, func(t *testing.T) {
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, change.file), []byte(change.content), 0o600))
			cached, err := s.cached()
			require.NoError(t, err)
			assert.Empty(t, seen[cached], "the same path as with another change")
			seen[cached] = change.what
			again, err := s.cached()
			require.NoError(t, err)
			assert.Equal(t, cached, again)
		})
	}
}

func TestParallelBuildersBuildOnce(t *testing.T) {
	s := module(t)
	var builds atomic.Int32
	s.compile = func(ctx context.Context, dir, pkg, output string) error {
		builds.Add(1)
		return compile(ctx, dir, pkg, output)
	}
	const builders = 8
	var paths [builders]string
	var errs [builders]error
	var group sync.WaitGroup
	for i := range builders {
		group.Go(func() { paths[i], errs[i] = s.build(t.Context()) })
	}
	group.Wait()
	for i := range builders {
		require.NoError(t, errs[i])
		assert.Equal(t, paths[0], paths[i])
	}
	assert.EqualValues(t, 1, builds.Load())
	assert.NoError(t, exec.CommandContext(t.Context(), paths[0]).Run(), "the program runs")
}

func TestBuildIgnoresCallersGoSettings(t *testing.T) {
	s := module(t)
	t.Setenv("GOFLAGS", "-race -mod=mod -tags=other")
	t.Setenv("GOWORK", filepath.Join(t.TempDir(), "nothing", "go.work"))
	t.Setenv("GOOS", "plan9")
	path, err := s.build(t.Context())
	require.NoError(t, err)
	info, err := buildinfo.ReadFile(path)
	require.NoError(t, err)
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	assert.Equal(t, runtime.GOOS, settings["GOOS"])
	assert.NotContains(t, settings, "-race")
	assert.NotContains(t, settings, "-tags")
}

func TestFailedBuildLeavesNoProgram(t *testing.T) {
	s := module(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "main.go"), []byte("package main\n"), 0o600))
	_, err := s.build(t.Context())
	require.ErrorContains(t, err, "build server: go build: ")
	require.ErrorContains(t, err, "function main is undeclared", "the compiler's message")

	failure := errors.New("disk full")
	s.compile = func(_ context.Context, _, _, output string) error {
		return errors.Join(failure, os.WriteFile(output, []byte("half"), 0o600))
	}
	_, err = s.build(t.Context())
	require.ErrorIs(t, err, failure)

	path, err := s.cached()
	require.NoError(t, err)
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)
	assert.Equal(t, "lock", entries[0].Name())
}

func TestBuildStopsWhenContextEnds(t *testing.T) {
	s := module(t)
	started, release := make(chan struct{}), make(chan struct{})
	first := s
	first.compile = func(ctx context.Context, dir, pkg, output string) error {
		close(started)
		<-release
		return compile(ctx, dir, pkg, output)
	}
	var group sync.WaitGroup
	group.Go(func() {
		_, err := first.build(t.Context())
		assert.NoError(t, err, "the builder is not disturbed")
	})
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, err := s.build(ctx)
		assert.ErrorIs(t, err, context.Canceled)
	})
	cancel()
	waiting.Wait() // though the lock is still held
	close(release)
	group.Wait()
}

func TestBuildOutsideSourceIsErrMissing(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := Vault.Build(t.Context())
	assert.ErrorIs(t, err, ErrMissing)
	assert.ErrorContains(t, err, "not inside recvault's source")
}

// module returns the source of a small program that builds quickly.
func module(t *testing.T) source {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":  "module example.org/server\n\ngo 1.26.0\n",
		"go.sum":  "",
		"main.go": "package main\n\nfunc main() {}\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return source{name: "server", pkg: ".", path: "example.org/server", dir: dir, cache: t.TempDir(), compile: compile}
}

func writeProgram(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700))
}

func assertFinds(t *testing.T, program Program, want string) {
	t.Helper()
	got, err := program.Find()
	require.NoError(t, err)
	assert.Equal(t, want, got)
}
