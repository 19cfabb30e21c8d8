package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault/upkeep"
)

type sweepResult struct {
	upkeep.SweepReport
	Complete    bool `json:"complete"`
	Interrupted bool `json:"interrupted"`
}

func (c *cli) sweep() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "sweep",
		Short:   "Remove what unfinished uploads left",
		GroupID: groupChecks,
		Long: `sweep finds media that no envelope names and uploads that were never finished,
older than any upload may last, and removes them. Look at a --dry-run first: if
envelopes were lost by mistake, their media looks the same. What belongs to a
patient on hold stays.

It needs no right in Vault.` + resumeHelp,
		Example: `  recvault sweep --all --dry-run
  recvault sweep --all --older-than 48h`,
		Args: noArgs,
	}
	var (
		flags   scopeFlags
		options upkeep.SweepOptions
	)
	flags.add(cmd)
	cmd.Flags().DurationVar(&options.OlderThan, "older-than", upkeep.DefaultOlderThan, "longer than any upload takes, at least an hour")
	cmd.Flags().IntVar(&options.Concurrency, "concurrency", upkeep.DefaultConcurrency, "how `many` recordings are worked on at a time")
	dryRunVar(cmd, &options.DryRun)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		s, err := flags.scope(ctx, c, c.pseudonyms(ctx))
		if err != nil {
			return err
		}
		store, err := c.openStore()
		if err != nil {
			return err
		}
		p := c.startProgress("sweep")
		options.Prefix, options.Progress = c.prefix(), p.job()
		report, err := upkeep.Sweep(ctx, store, s, options)
		p.end()
		if report.Started.IsZero() {
			return err // the options were wrong
		}
		result := sweepResult{report, err == nil && report.Complete(), err != nil && ctx.Err() != nil}
		printErr := c.print(result)
		if err == nil && !result.Complete {
			err = fmt.Errorf("%w: sweep found what somebody should look at", errIncomplete)
		}
		return errors.Join(err, printErr)
	}
	return cmd
}

func (r sweepResult) writeText(w io.Writer) {
	what, gone := "sweep (dry run)", "would remove"
	if !r.DryRun {
		what, gone = "sweep", "removed"
	}
	fmt.Fprintf(w, "%s, %s, older than %s, in %v\n", what, r.Scope, humanTime(r.Before), r.Finished.Sub(r.Started).Round(time.Millisecond))
	uploads := fmt.Sprint(r.Uploads)
	if !r.UploadsListed {
		uploads += " (the store could not be asked for all)"
	}
	table(w, [][]string{
		{"recordings", fmt.Sprint(r.Recordings)},
		{gone + ": media without an envelope", tally(r.Orphans)},
		{gone + ": unfinished uploads", uploads},
		{"kept, too young: media", tally(r.Young)},
		{"kept, too young: uploads", fmt.Sprint(r.YoungUploads)},
		{"kept, on hold: media", tally(r.Held)},
		{"kept, on hold: uploads", fmt.Sprint(r.HeldUploads)},
	})
	writeFindings(w, r.Findings)
	if r.Interrupted {
		fmt.Fprintln(w, "\ninterrupted: run it again to do what is left")
	}
}

func tally(t upkeep.Tally) string { return fmt.Sprintf("%d, %s", t.Count, humanBytes(t.Bytes)) }
