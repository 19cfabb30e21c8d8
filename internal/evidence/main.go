// Command evidence gathers what an auditor can attach to a report on one commit, in the folder evidence: versions, the
// role matrix, results of the model, the vectors, the interop and all tests, a comparison of a fresh setup, SBOMs, and
// the SHA-256 sums of all of it. It runs in the root of the source, and takes as long as all tests do.
//
//	make evidence
//	make evidence EVIDENCE_SKIP="model tests"    # says in the manifest that these are missing
//
// If a part fails, the command names it and fails, and the folder gets no manifest.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	readme   = "README.md"
	manifest = "SHA256SUMS"
)

func main() {
	skip := flag.String("skip", "", "`parts` to leave out, separated by spaces")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := gather(ctx, "evidence", parts, strings.Fields(*skip), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		os.Exit(1)
	}
}

// part is one kind of evidence. Its function returns one line that sums it up.
type part struct {
	name string
	make func(context.Context, *folder) (string, error)
}

// parts are in the order in which they run: the quick ones first.
var parts = []part{
	{"versions", versions},
	{"sbom", sbom},
	{"setup", setup},
	{"vectors", vectors},
	{"interop", interop},
	{"roles", roles},
	{"model", model},
	{"tests", tests},
}

// gather writes the folder from nothing, and prints one line of counts at the end.
func gather(ctx context.Context, dir string, parts []part, skip []string, out io.Writer) error {
	for _, name := range skip {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("there is no part %q to leave out", name)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	f := &folder{dir: dir}
	began := time.Now()
	tree, err := commit(ctx, f)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	sums := []string{tree}
	for _, p := range parts {
		if slices.Contains(skip, p.name) {
			fmt.Fprintf(out, "== %s: left out\n", p.name)
			sums = append(sums, p.name+": LEFT OUT")
			text := []byte("The part " + p.name + " was left out.\n")
			if err := f.write(p.name+"-LEFT-OUT", "stands for the part", "", text); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(out, "== %s\n", p.name)
		sum, err := p.make(ctx, f)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintln(out, sum)
		sums = append(sums, p.name+": "+strings.TrimPrefix(sum, p.name+": ")) // some targets name themselves
	}
	if after, err := treeState(ctx); err != nil {
		return err
	} else if after != tree {
		return fmt.Errorf("the source changed while the parts ran: %s at first, %s at the end", tree, after)
	}
	if err := f.explain(began, sums); err != nil {
		return err
	}
	files, err := f.sign()
	if err != nil {
		return err
	}
	left := "nothing left out"
	if len(skip) > 0 {
		left = "left out: " + strings.Join(skip, ", ")
	}
	fmt.Fprintf(out, "evidence: %s, %d parts in %d files in %s, %s\n", tree, len(parts)-len(skip), files, dir, left)
	return nil
}

// folder is the folder of evidence.
type folder struct {
	dir     string
	entries []entry
}

// entry describes a file of the folder.
type entry struct {
	name, what string
	command    string // that printed it; "" if no command did
}

// run runs a command in the root of the source, and keeps what it prints in a file. Of a JSON file, that is the
// standard output alone.
func (f *folder) run(ctx context.Context, name, what string, command ...string) error {
	return f.runWith(ctx, append(os.Environ(), "RECVAULT_SERVERS=require"), name, what, command...)
}

// runWith is run with another environment.
func (f *folder) runWith(ctx context.Context, environment []string, name, what string, command ...string) error {
	path := filepath.Join(f.dir, name)
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = environment
	cmd.Stdout, cmd.Stderr = file, file
	if filepath.Ext(name) == ".json" {
		cmd.Stderr = os.Stderr
	}
	f.entries = append(f.entries, entry{name, what, strings.Join(command, " ")})
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w (see %s)", strings.Join(command, " "), err, path)
	}
	return file.Close()
}

// write writes a file that is not what a command printed, and describes it.
func (f *folder) write(name, what, command string, data []byte) error {
	f.entries = append(f.entries, entry{name, what, command})
	return os.WriteFile(filepath.Join(f.dir, name), data, 0o644)
}

// copy copies a file of the source, or one that a command made.
func (f *folder) copy(from, what, command string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return f.write(filepath.Base(from), what, command, data)
}

// lastLine returns the last line of a file of the folder that is not empty.
func (f *folder) lastLine(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last, nil
	}
	return "", errors.New(name + " is empty")
}

// explain writes the folder's README.
func (f *folder) explain(began time.Time, sums []string) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Evidence on recvault\n\nMade by `make evidence` on %s/%s, from %s to %s.\n\n",
		runtime.GOOS, runtime.GOARCH, began.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	for _, sum := range sums {
		fmt.Fprintf(&text, "- %s\n", sum)
	}
	fmt.Fprint(&text, "\nCommands ran in the root of the source. `"+manifest+"` has the sums of all other files, "+
		"for `sha256sum -c "+manifest+"`.\n\n| file | what it is | command |\n|---|---|---|\n")
	for _, e := range f.entries {
		command := ""
		if e.command != "" {
			command = "`" + strings.ReplaceAll(e.command, "|", "\\|") + "`"
		}
		fmt.Fprintf(&text, "| %s | %s | %s |\n", e.name, e.what, command)
	}
	return os.WriteFile(filepath.Join(f.dir, readme), text.Bytes(), 0o644)
}

// sign writes the manifest, and returns the number of files that it names.
func (f *folder) sign() (int, error) {
	files, err := os.ReadDir(f.dir) // sorted by name
	if err != nil {
		return 0, err
	}
	var sums bytes.Buffer
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(f.dir, file.Name()))
		if err != nil {
			return 0, err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), file.Name())
	}
	return len(files), os.WriteFile(filepath.Join(f.dir, manifest), sums.Bytes(), 0o644)
}
