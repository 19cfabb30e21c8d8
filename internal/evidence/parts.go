package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/internal/devserver"
	"github.com/recvault/recvault/internal/testserver/binary"
	"github.com/recvault/recvault/keys"
)

// commit records the commit and what differs from it.
func commit(ctx context.Context, f *folder) (string, error) {
	if err := f.run(ctx, "commit.txt", "the commit", "git", "log", "-1", "--format=%H%n%aI%n%s"); err != nil {
		return "", err
	}
	err := f.run(ctx, "changes.txt", "the files that differ from it; empty if none does", "git", "status", "--porcelain")
	if err != nil {
		return "", err
	}
	return treeState(ctx)
}

// treeState returns the commit, and whether anything differs from it.
func treeState(ctx context.Context) (string, error) {
	id, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "", err
	}
	changes, err := exec.CommandContext(ctx, "git", "status", "--porcelain").Output()
	if err != nil {
		return "", err
	}
	state := "clean"
	if len(changes) > 0 {
		state = "NOT CLEAN"
	}
	return fmt.Sprintf("commit %s (%s)", strings.TrimSpace(string(id)), state), nil
}

func versions(ctx context.Context, f *folder) (string, error) {
	err := f.run(ctx, "go.json", "Go and the system", "go", "env", "-json", "GOVERSION", "GOOS", "GOARCH", "GOFLAGS")
	if err != nil {
		return "", err
	}
	err = f.run(ctx, "modules.txt", "the modules that each module of the source requires, tests included", "sh", "-ec",
		`find . -name go.mod | sort | while read -r f; do echo "== $f"; (cd "${f%go.mod}" && go list -m all); done`)
	if err != nil {
		return "", err
	}
	err = f.run(ctx, "servers.txt", "the servers that tests use, and the modules that they were built from", "sh", "-ec",
		`servers=$(go run ./internal/testserver/build); for s in $servers; do go version -m "$s"; done`)
	if err != nil {
		return "", err
	}
	printed, err := exec.CommandContext(ctx, "go", "version").Output()
	return strings.TrimSpace(string(printed)), err
}

func sbom(ctx context.Context, f *folder) (string, error) {
	if err := f.run(ctx, "sbom.txt", "the making of the SBOMs", "make", "--no-print-directory", "sbom"); err != nil {
		return "", err
	}
	for _, part := range []string{"library", "command"} {
		if err := f.copy("bin/recvault-"+part+".cdx.json", "the modules of the "+part+", as CycloneDX", "make sbom"); err != nil {
			return "", err
		}
	}
	return f.lastLine("sbom.txt")
}

// setup sets a fresh Vault up, and has the command compare it with what it should be.
func setup(ctx context.Context, f *folder) (_ string, err error) {
	dir, err := os.MkdirTemp("", "recvault-evidence-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program, err := binary.Vault.Obtain(ctx, func() {})
	if err != nil {
		return "", err
	}
	server, err := devserver.StartVault(ctx, program, filepath.Join(dir, "vault"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	token, err := initialise(ctx, server.URL(), filepath.Join(dir, "audit.log"))
	if err != nil {
		return "", err
	}
	recvault := filepath.Join(dir, "recvault")
	// With the commit, which the page of the comparison shows.
	printed, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=true", "-o", recvault, "./cmd/recvault").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the command: %w: %s", err, printed)
	}
	// The caller's own settings, which may name a deployment, are left out.
	environment := []string{"HOME=" + dir, "VAULT_ADDR=" + server.URL(), "VAULT_TOKEN=" + token}
	store := "--store-id=" + string(keys.NewStoreID())
	for _, run := range []struct{ file, what, arguments string }{
		{"setup.txt", "what setup made in a fresh Vault", "setup --no-doctor " + store},
		{"drift.txt", "the comparison of that Vault with what it should be", "audit setup " + store},
		{"drift.json", "the same as JSON", "audit setup --output json " + store},
	} {
		command := append([]string{recvault}, strings.Fields(run.arguments)...)
		if err := f.runWith(ctx, environment, run.file, run.what, command...); err != nil {
			return "", err
		}
		f.entries[len(f.entries)-1].command = "recvault " + run.arguments
	}
	page, err := os.ReadFile(filepath.Join(f.dir, "drift.txt"))
	if err != nil {
		return "", err
	}
	result := regexp.MustCompile(`(?m)^RESULT: (.*)$`).FindSubmatch(page)
	if result == nil {
		return "", errors.New("drift.txt has no result")
	}
	return string(result[1]), nil
}

// initialise initialises and unseals a Vault, gives it an audit device, and returns its root token.
func initialise(ctx context.Context, address, auditLog string) (string, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return "", config.Error
	}
	config.Address, config.AgentAddress = address, ""
	client, err := api.NewClient(config)
	if err != nil {
		return "", err
	}
	client.ClearNamespace()
	made, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return "", err
	}
	if _, err := client.Sys().UnsealWithContext(ctx, made.Keys[0]); err != nil {
		return "", err
	}
	client.SetToken(made.RootToken)
	return made.RootToken, client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": auditLog},
	})
}

func vectors(ctx context.Context, f *folder) (string, error) {
	err := f.run(ctx, "vectors.txt", "the test vectors, by each reader", "make", "--no-print-directory", "vectors")
	if err != nil {
		return "", err
	}
	printed, err := os.ReadFile(filepath.Join(f.dir, "vectors.txt"))
	if err != nil {
		return "", err
	}
	counts := regexp.MustCompile(`(?m)^vectors.*`).FindAllString(string(printed), -1) // a line for each reader
	if counts == nil {
		return "", errors.New("vectors.txt has no counts")
	}
	return strings.Join(counts, "; "), nil
}

func interop(ctx context.Context, f *folder) (string, error) {
	err := f.run(ctx, "interop.txt", "recordings that cross between recvault and two Tinks",
		"make", "--no-print-directory", "interop")
	if err != nil {
		return "", err
	}
	return f.lastLine("interop.txt")
}

func roles(ctx context.Context, f *folder) (string, error) {
	err := f.run(ctx, "roles.txt", "the test that tries every operation with every role on a real Vault, and compares roles.md",
		"go", "test", "-count=1", "-v", "-run", "^TestRoleMatrix$", "./keys/transit")
	if err != nil {
		return "", err
	}
	if err := f.copy("docs/roles.md", "what each role can do", "cp docs/roles.md evidence/"); err != nil {
		return "", err
	}
	matrix, err := os.ReadFile("docs/roles.md")
	if err != nil {
		return "", err
	}
	allowed, refused := 0, 0
	for _, line := range strings.Split(string(matrix), "\n") {
		if strings.HasPrefix(line, "| ") {
			allowed += strings.Count(line, "**allowed**")
			refused += strings.Count(line, "| denied ")
		}
	}
	return fmt.Sprintf("a real Vault answers as roles.md says: %d attempts allowed, %d denied", allowed, refused), nil
}

func model(ctx context.Context, f *folder) (string, error) {
	if err := f.run(ctx, "model.txt", "the model checker on docs/model", "docs/model/run"); err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(f.dir, "model.txt"))
	if err != nil {
		return "", err
	}
	count := func(pattern string) int { return len(regexp.MustCompile(pattern).FindAll(text, -1)) }
	return fmt.Sprintf("%d properties hold in all states, %d states are reached, "+
		"%d properties fail as expected without a part of the protocol",
		count(`(?m): holds \(`), count(`(?m)^reached: `), count(`(?m)fails as expected `)), nil
}
