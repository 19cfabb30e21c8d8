// Package binary finds and builds the programs of HashiCorp Vault, MinIO and versitygw, the servers that tests start.
//
// All are Go programs. Each has its own module next to this package, so that its dependencies stay out of
// the library's go.mod. A built program is kept in the user's cache directory, by version. It is built
// again if its module, the Go version or the platform changes.
package binary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/recvault/recvault/internal/filelock"
)

// Program is the name of a server's program.
type Program string

// The programs that tests use.
const (
	Vault     Program = "vault"
	MinIO     Program = "minio"
	VersityGW Program = "versitygw"
)

// ErrMissing means that [Program.Find] found no program, or that there is no source to build it from.
var ErrMissing = errors.New("program is missing")

// Variable returns the name of the environment variable that contains the program's path.
func (p Program) Variable() string {
	return "RECVAULT_" + strings.ToUpper(string(p)) + "_BIN"
}

// Find returns the path of the program. It looks in the environment variable, then on PATH, then in the
// cache of [Program.Build]. It returns [ErrMissing] if it finds none.
func (p Program) Find() (string, error) {
	if named := os.Getenv(p.Variable()); named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("%s: %w", p.Variable(), err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath(string(p)); err == nil {
		return filepath.Abs(path)
	}
	source, err := p.source()
	if err != nil {
		return "", err
	}
	path, err := source.cached()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", p, ErrMissing)
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// Build builds the program into the cache, unless it is already there, and returns its path. If several
// processes call it at the same time, one builds and the others wait. A first build takes minutes.
func (p Program) Build(ctx context.Context) (string, error) {
	source, err := p.source()
	if err != nil {
		return "", err
	}
	return source.build(ctx)
}

// Obtain returns the path of the program. If [Program.Find] finds none, Obtain calls building and builds it.
func (p Program) Obtain(ctx context.Context, building func()) (string, error) {
	path, err := p.Find()
	if !errors.Is(err, ErrMissing) {
		return path, err
	}
	if _, err := p.source(); err != nil {
		return "", err
	}
	building()
	return p.Build(ctx)
}

// source describes how a program is built.
type source struct {
	name    string // of the program
	pkg     string // the argument of go build
	path    string // the module whose version is the program's
	dir     string // the directory of the module that builds it
	cache   string // the directory that holds all programs
	compile func(ctx context.Context, dir, pkg, output string) error
}

func (p Program) source() (source, error) {
	s := source{name: string(p), compile: compile}
	switch p {
	case Vault:
		s.pkg, s.path = ".", "github.com/hashicorp/vault"
	case MinIO:
		s.pkg, s.path = "github.com/minio/minio", "github.com/minio/minio"
	case VersityGW:
		s.pkg, s.path = "github.com/versity/versitygw/cmd/versitygw", "github.com/versity/versitygw"
	default:
		return source{}, fmt.Errorf("%s: no such program", p)
	}
	var err error
	if s.cache, err = cacheDir(); err != nil {
		return source{}, fmt.Errorf("%s: %w", p, err)
	}
	s.dir, err = moduleDir(s.name)
	return s, err
}

// cacheDir returns the directory that holds all programs.
func cacheDir() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "recvault", "servers"), err
}

// Clean removes all built programs, in every version.
func Clean() error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	return os.RemoveAll(cache)
}

// moduleDir returns the directory of a program's module. It looks in the working directory and its parents,
// because neither go test nor go run records the path of the source if -trimpath is set.
func moduleDir(name string) (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	for above := start; ; above = filepath.Dir(above) {
		dir := filepath.Join(above, "internal", "testserver", name)
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if above == filepath.Dir(above) {
			return "", fmt.Errorf("%s: %w: %s is not inside recvault's source", name, ErrMissing, start)
		}
	}
}

// cached returns the program's path in the cache, whether or not it exists.
func (s source) cached() (string, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.name, err)
	}
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	var version string
	for _, file := range append([]string{filepath.Join(s.dir, "go.mod"), filepath.Join(s.dir, "go.sum")}, files...) {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintln(hash, filepath.Base(file), len(content))
		hash.Write(content)
		if version == "" { // go.mod is the first
			version = s.version(content)
		}
	}
	dir := fmt.Sprintf("%s-%s-%s", s.name, version, hex.EncodeToString(hash.Sum(nil))[:12])
	return filepath.Join(s.cache, dir, s.name+suffix()), nil
}

// version returns the version of the program's module that a go.mod requires.
func (s source) version(goMod []byte) string {
	pattern := regexp.MustCompile(`(?m)^(?:\s|require\s)\s*` + regexp.QuoteMeta(s.path) + `\s+(v\S+)`)
	if found := pattern.FindSubmatch(goMod); found != nil {
		return string(found[1])
	}
	return "v0"
}

func suffix() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

func (s source) build(ctx context.Context) (_ string, err error) {
	path, err := s.cached()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }() // closing releases the lock
	if err := filelock.Lock(ctx, lock); err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// The program is renamed into place, so that Find never returns a partial file.
	partial, err := os.MkdirTemp(dir, "partial-")
	if err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	built := filepath.Join(partial, filepath.Base(path))
	if err := s.compile(ctx, s.dir, s.pkg, built); err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	if err := os.Rename(built, path); err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	return path, nil
}

// compile runs go build for this machine. It overrides the caller's own settings: GOFLAGS could add -race
// or -mod, GOWORK could select other versions.
func compile(ctx context.Context, dir, pkg, output string) error {
	// Without -trimpath, the packages stay in Go's build cache for linting the module.
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", output, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PWD="+dir, "GOWORK=off", "GOFLAGS=-mod=readonly",
		"GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	if printed, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, printed)
	}
	return nil
}
