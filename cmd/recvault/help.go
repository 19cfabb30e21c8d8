package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// usage writes a command's usage, examples, subcommands and flags. Unlike cobra's own function, it shows the flags
// that all commands share only on the first page.
func usage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	line := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		line = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(w, "Usage:\n  %s\n", line)
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableSubCommands() {
		for _, group := range cmd.Groups() {
			commandsOf(w, cmd, group.ID, group.Title)
		}
		others := "Commands:"
		if len(cmd.Groups()) > 0 {
			others = "Other commands:"
		}
		commandsOf(w, cmd, "", others)
	}
	flags := cmd.LocalNonPersistentFlags()
	if !cmd.HasParent() {
		flags = cmd.PersistentFlags()
	}
	if flags.HasAvailableFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", flags.FlagUsages())
	}
	if cmd.HasParent() {
		fmt.Fprint(w, "\n--output json prints JSON, and --quiet turns off notes and progress.\n"+
			"For the location of keys and recordings, see \"recvault help settings\".\n")
	} else {
		fmt.Fprint(w, "\nFor more help: recvault COMMAND --help, recvault help settings,\n"+
			"recvault help secrets, recvault help exit-codes\n")
	}
	return nil
}

// commandsOf lists the commands of a group, or those without a group if it is "". It writes nothing if there are none.
func commandsOf(w io.Writer, cmd *cobra.Command, group, title string) {
	var rows [][]string
	for _, sub := range cmd.Commands() {
		if sub.GroupID == group && sub.IsAvailableCommand() {
			rows = append(rows, []string{"  " + sub.Name(), sub.Short})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintf(w, "\n%s\n", title)
		table(w, rows)
	}
}
