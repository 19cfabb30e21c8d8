package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

// cli is one run of the command: what it was given, and the flags that all commands share.
type cli struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	output   string // "text" or "json"
	quiet    bool
	settings settings

	configFile string
	config     map[string]configured // by the name of the flag; nil without a configuration file

	client *api.Client // of Vault, with the operator's token; nil if the command has not used one
	role   string      // that the token needs

	stdinFor string         // what standard input is used for, because it can be read only once
	closers  []func() error // called at the end, the last first
	events   *events.Stream // nil if the command has not used it
}

// run runs the command and returns its exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr, output: wantedOutput(args, getenv)}
	root := c.root()
	root.SetArgs(append([]string{}, args...)) // nil would stand for os.Args
	err := errors.Join(root.ExecuteContext(ctx), c.close())
	if err == nil {
		return exitOK
	}
	failed := classify(ctx, err)
	if failed.Code == "denied" && errors.Is(err, keys.ErrDenied) && c.role != "" {
		failed.Error += ": " + c.explainDenial(ctx)
	}
	c.printFailure(failed)
	return failed.Exit
}

// close closes what the command opened, the last first.
func (c *cli) close() error {
	var errs []error
	for _, closer := range slices.Backward(c.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

// The groups of commands in the help.
const (
	groupSetUp      = "setup"
	groupRecordings = "recordings"
	groupRotation   = "rotation"
	groupErasure    = "erasure"
	groupChecks     = "checks"
)

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "recvault",
		Short: "Manage encrypted recordings of medical consultations",
		Long: `Manage encrypted recordings of medical consultations: set up Vault, enrol
patients, store and open recordings, and rotate, retire and erase keys.

Each patient has a key of their own in HashiCorp Vault (VAULT_ADDR,
VAULT_TOKEN). Recordings are on an S3 server (AWS_*, RECVAULT_BUCKET). With
--dir, keys and recordings are in a directory instead, so that every command can
be tried without a server.`,
		Example: `  # Try it without a server.
  recvault setup --dir ./demo
  echo 'patient 1' > patient
  recvault enrol --dir ./demo --patient-file patient
  id=$(recvault put --dir ./demo --patient-file patient consultation.webm)
  recvault grant --dir ./demo --patient-file patient --subject dr-lee --purpose TREAT --out grant
  recvault get --dir ./demo --grant-file grant --out copy.webm "$id"`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return needsSubcommand(cmd, args)
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmd.ValidateFlagGroups(); err != nil {
				return usagef("%v", err) // names flags and no values
			}
			if err := c.configure(cmd.Context(), cmd.Flags()); err != nil {
				return err
			}
			return errors.Join(c.checkOutput(cmd), refuseEmpty(cmd.Flags()))
		},
	}
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(flagError)
	root.SetUsageFunc(usage)
	root.AddGroup(
		&cobra.Group{ID: groupSetUp, Title: "Setting up:"},
		&cobra.Group{ID: groupRecordings, Title: "Recordings and grants:"},
		&cobra.Group{ID: groupRotation, Title: "Rotating keys:"},
		&cobra.Group{ID: groupErasure, Title: "Erasing:"},
		&cobra.Group{ID: groupChecks, Title: "Checking and cleaning up:"},
	)
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&c.output, "output", c.output, "output `format`: text or json (RECVAULT_OUTPUT)")
	flags.BoolVar(&c.quiet, "quiet", false, "print no progress and no notes")
	flags.StringVar(&c.configFile, "config", "", "`file` with settings, in YAML (RECVAULT_CONFIG)")
	c.settings.addFlags(flags)
	root.AddCommand(
		c.dev(), c.setup(), c.doctor(), c.storeIDCommand(), c.configCommand(), c.enrol(),
		c.put(), c.get(), c.export(), c.list(), c.stat(), c.describe(), c.copy(), c.reassign(), c.grant(), c.revoke(),
		c.plan(), c.rotate(), c.rewrap(), c.retire(), c.reinstate(), c.trim(), c.rekey(),
		c.erase(), c.hold(),
		c.verify(), c.inspect(), c.audit(), c.sweep(), c.version(),
		topic("exit-codes", "What the exit codes mean", exitCodesHelp),
		topic("settings", "Flags and variables for keys and storage", settingsHelp),
		topic("secrets", "How to pass tokens, grants and patient identifiers", secretsHelp),
	)
	addCompletion(root)
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" {
			cmd.Args = helpArgs
		}
	}
	return root
}

// topic returns a help page that belongs to no command.
func topic(name, short, long string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Long: long}
}

// needsSubcommand runs a command that only groups others: it shows the help, or returns a usage error for an
// unknown subcommand.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command; did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return usagef("unknown command; see %q", cmd.CommandPath()+" --help")
}

// helpArgs returns a usage error for an unknown help topic. Cobra itself would show the general help.
func helpArgs(cmd *cobra.Command, args []string) error {
	if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
		return needsSubcommand(found, rest)
	}
	return nil
}

// noArgs returns a usage error if there are arguments. It does not repeat them: one may be a patient's identifier.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments; secrets and patients are never passed as arguments: see \"recvault help secrets\"", cmd.Name())
	}
	return nil
}

// oneArg returns a usage error unless there is exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s takes one argument, %s, and got %d", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// flagError describes a mistake in the flags without repeating any value.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	hint := "see \"" + cmd.CommandPath() + " --help\""
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		return usagef("unknown flag --%s; %s", unknown.GetSpecifiedName(), hint)
	case errors.As(err, &missing):
		return usagef("flag --%s needs a value; %s", missing.GetSpecifiedName(), hint)
	case errors.As(err, &invalid):
		return usagef("the value of flag --%s is not of type %s; %s", invalid.GetFlag().Name, invalid.GetFlag().Value.Type(), hint)
	}
	return usagef("the flags are not valid; %s", hint)
}

// refuseEmpty returns a usage error for a flag with an empty value, which an unset variable in a script causes.
// Ignoring such a flag could run the command for other patients than were meant.
func refuseEmpty(flags *pflag.FlagSet) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if value := f.Value.String(); value == "" || f.Name == "shards" && value == "0" {
			err = usagef("flag --%s has an empty value: set a value or leave the flag out", f.Name)
		}
	})
	return err
}

// wantedOutput returns the output format before flags are parsed, for errors in the flags themselves.
func wantedOutput(args []string, getenv func(string) string) string {
	output := getenv("RECVAULT_OUTPUT")
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--output="); ok {
			output = value
		} else if arg == "--output" && i+1 < len(args) {
			output = args[i+1]
		}
	}
	if output == "" {
		return outputText
	}
	return output
}

// dryRunFlag adds --dry-run, which every command that changes something has.
func dryRunFlag(cmd *cobra.Command) *bool {
	dryRun := new(bool)
	dryRunVar(cmd, dryRun)
	return dryRun
}

// dryRunVar adds --dry-run and stores it in a job's options.
func dryRunVar(cmd *cobra.Command, dryRun *bool) {
	cmd.Flags().BoolVar(dryRun, "dry-run", false, "show what would be done, and change nothing")
}
