package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// usage writes how a command is called. Unlike cobra's own it does not repeat the flags that all commands
// share on every page.
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
			others = "Others:"
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
		fmt.Fprint(w, "\nWith --output json it prints JSON, and --quiet leaves out notes and progress.\n"+
			"Where keys and recordings are: \"recvault help settings\".\n")
	} else {
		fmt.Fprint(w, "\nMore: recvault COMMAND --help, recvault help settings, recvault help secrets,\n"+
			"recvault help exit-codes\n")
	}
	return nil
}

// commandsOf lists the commands of a group, if there are any, or those of no group.
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
