package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHelpMatchesTheGoldenFile(t *testing.T) {
	golden := filepath.Join("testdata", "help.golden")
	var all bytes.Buffer
	for _, args := range commands(t) {
		if args[0] == "completion" {
			continue // written by cobra
		}
		all.WriteString("$ recvault " + strings.Join(args, " ") + " --help\n")
		all.WriteString(newDeployment(t).run(append(args, "--help")...).ok().stdout + "\n")
	}
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, all.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), all.String(), "to accept a change: go test ./cmd/recvault -run TestHelp -update")
}

// commands returns the arguments that name each command.
func commands(t *testing.T) [][]string {
	t.Helper()
	var all [][]string
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			if sub.Name() == "help" {
				continue
			}
			all = append(all, strings.Fields(sub.CommandPath())[1:])
			walk(sub)
		}
	}
	walk((&cli{getenv: func(string) string { return "" }, output: outputText}).root())
	require.Greater(t, len(all), 20)
	return all
}

func TestEveryCommandHasHelpAndDryRun(t *testing.T) {
	root := (&cli{getenv: func(string) string { return "" }, output: outputText}).root()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
			if sub.Name() == "help" || sub.Name() == "completion" || sub.Parent().Name() == "completion" || sub.Run == nil && sub.RunE == nil || sub.HasSubCommands() {
				continue
			}
			assert.NotEmpty(t, sub.Short, sub.Name())
			assert.Contains(t, sub.Example, sub.CommandPath(), "%s has an example", sub.Name())
			name := sub.Name()
			if sub.Parent().Name() == "audit" {
				name = "audit"
			}
			switch name {
			case "audit", "get", "export", "list", "stat", "plan", "show", "verify", "inspect", "store-id", "version", "dev", "doctor":
				assert.Nil(t, sub.Flags().Lookup("dry-run"), "%s changes nothing of a deployment", sub.Name())
			default:
				assert.NotNil(t, sub.Flags().Lookup("dry-run"), "%s changes something", sub.Name())
			}
		}
	}
	walk(root)
}

func TestHelpTopicsAndCompletion(t *testing.T) {
	d := newDeployment(t)
	for topic, contains := range map[string]string{"exit-codes": "130", "settings": "VAULT_ADDR", "secrets": "RECVAULT_GRANT"} {
		t.Run(topic, func(t *testing.T) {
			assert.Contains(t, d.in(t).run("help", topic).ok().stdout, contains)
		})
	}
	assert.Contains(t, d.run().ok().stdout, "Rotating keys:")
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		t.Run(shell, func(t *testing.T) {
			assert.Contains(t, d.in(t).run("completion", shell).ok().stdout, "recvault")
		})
	}
}

// Bash asks for completions as it does when somebody presses Tab.
func TestBashCompletionNeedsNoPackage(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	path, err := program()
	require.NoError(t, err)
	ask := exec.Command(bash, "--norc", "--noprofile", "-c", `compopt() { :; }
source <(recvault completion bash)
for COMP_LINE in "recvault rota" "recvault hold " "recvault rotate --all --storage-r"; do
	COMP_TYPE=9 COMP_POINT=${#COMP_LINE} COMP_WORDS=() COMP_CWORD=0
	__start_recvault
	echo "${COMPREPLY[*]}"
done`)
	ask.Env = []string{"PATH=" + filepath.Dir(path) + ":/usr/bin:/bin"}
	printed, err := ask.CombinedOutput()
	require.NoError(t, err, "%s", printed)
	assert.Equal(t, "rotate\nclear set show\n--storage-rate\n", strings.ReplaceAll(string(printed), " \n", "\n"))
}

func TestManualNamesEveryCommandAndCode(t *testing.T) {
	manual := readFile(t, "doc.go")
	for _, args := range commands(t) {
		switch args[0] {
		case "exit-codes", "settings", "secrets":
		default:
			assert.Contains(t, manual, "recvault "+args[0])
		}
	}
	for _, class := range classes {
		assert.Contains(t, exitCodesHelp, class.code)
	}
}
