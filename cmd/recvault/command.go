package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// cli is one run of the command: what it was given, and the flags that all commands share.
type cli struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer

	output   string // "text" or "json"
	quiet    bool
	settings settings

	stdinFor string         // what standard input is read for, because it can be read once
	opened   []func() error // what is to be closed at the end
}

// run is the whole command. It returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr, output: wantedOutput(args, getenv)}
	root := c.root()
	root.SetArgs(append([]string{}, args...)) // nil would stand for os.Args
	err := errors.Join(root.ExecuteContext(ctx), c.close())
	if err == nil {
		return exitOK
	}
	failed := classify(ctx, err)
	c.printFailure(failed)
	return failed.Exit
}

// close closes what was opened, the last first.
func (c *cli) close() error {
	var errs []error
	for i := len(c.opened) - 1; i >= 0; i-- {
		errs = append(errs, c.opened[i]())
	}
	return errors.Join(errs...)
}

// The groups that the help lists commands by.
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
		Short: "Encrypted recordings of consultations, each patient's under a key of their own",
		Long: `recvault looks after encrypted recordings of consultations: it sets up Vault,
enrols patients, stores and opens recordings, and rotates, retires and erases
the keys.

Keys are in HashiCorp Vault (VAULT_ADDR, VAULT_TOKEN) and recordings on an S3
server (AWS_*, RECVAULT_BUCKET). With --dir, both are in a directory instead,
so that everything can be tried without a server.`,
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
				return usagef("%v", err) // which names flags and no values
			}
			return errors.Join(c.checkOutput(), refuseEmpty(cmd.Flags()))
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
		&cobra.Group{ID: groupChecks, Title: "Checking and cleaning:"},
	)
	flags := root.PersistentFlags()
	flags.SortFlags = false
	flags.StringVar(&c.output, "output", c.output, "`form` of what is printed: text or json (RECVAULT_OUTPUT)")
	flags.BoolVar(&c.quiet, "quiet", false, "no progress and no notes on standard error")
	c.settings.addFlags(flags)
	root.AddCommand(
		c.setup(), c.enrol(),
		c.put(), c.get(), c.list(), c.grant(), c.revoke(),
		c.plan(), c.rotate(), c.rewrap(), c.retire(), c.reinstate(), c.trim(), c.rekey(),
		c.erase(), c.hold(),
		c.verify(), c.inspect(), c.sweep(), c.version(),
		topic("exit-codes", "What the exit codes mean", exitCodesHelp),
		topic("settings", "Where settings are taken from", settingsHelp),
		topic("secrets", "How tokens, grants and patients are given", secretsHelp),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "help" {
			cmd.Args = helpArgs
		}
	}
	return root
}

// topic is a page of help that belongs to no command.
func topic(name, short, long string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Long: long}
}

// needsSubcommand is what a command does that only holds others.
func needsSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command; did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return usagef("unknown command; see %q", cmd.CommandPath()+" --help")
}

// helpArgs refuses what there is no help on. Cobra itself shows the general help then, as if all were well.
func helpArgs(cmd *cobra.Command, args []string) error {
	if found, rest, err := cmd.Root().Find(args); err != nil || len(rest) > 0 {
		return needsSubcommand(found, rest)
	}
	return nil
}

// noArgs refuses arguments without repeating them: a patient's identifier may be among them.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument; secrets and patients are never given there: see \"recvault help secrets\"", cmd.Name())
	}
	return nil
}

// oneArg wants exactly one argument.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("%s takes one argument, %s, and was given %d", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// flagError tells of a mistake in the flags without repeating what was given as a value.
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
	return usagef("the flags cannot be understood; %s", hint)
}

// refuseEmpty refuses flags that were given an empty value, as an unset variable in a script gives them. To
// take them for flags that were not given would do something else to somebody else.
func refuseEmpty(flags *pflag.FlagSet) error {
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if value := f.Value.String(); value == "" || f.Name == "shards" && value == "0" {
			err = usagef("flag --%s was given an empty value: leave it out or say what it is", f.Name)
		}
	})
	return err
}

// wantedOutput finds out, before flags are parsed, how errors in them are to be told.
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

// dryRunFlag adds the flag of every command that changes something.
func dryRunFlag(cmd *cobra.Command) *bool {
	dryRun := new(bool)
	dryRunVar(cmd, dryRun)
	return dryRun
}

// dryRunVar is dryRunFlag for a flag that is part of a job's options.
func dryRunVar(cmd *cobra.Command, dryRun *bool) {
	cmd.Flags().BoolVar(dryRun, "dry-run", false, "say what would be done, and do nothing")
}
