package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault/upkeep"
)

// sweepResult is a report, and whether anything needs attention.
type sweepResult struct {
	upkeep.SweepReport
	Complete    bool `json:"complete"`
	Interrupted bool `json:"interrupted"`
}

func (c *cli) sweep() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "sweep",
		Short:   "Remove what unfinished uploads left behind",
		GroupID: groupChecks,
		Long: `Remove media without an envelope, and uploads that were never finished, if they
are older than any upload may last (--older-than). Media and uploads of a
patient on hold are kept.

Run sweep with --dry-run first, and compare what it would remove with the number
of uploads that failed. If envelopes were lost by mistake, their media looks the
same, and a backup of the envelopes needs it.

Role: none. Only --patient-file needs Vault, and the role writer, enroller,
granter or eraser.` + resumeHelp,
		Example: `  recvault sweep --all --dry-run
  recvault sweep --all --older-than 48h`,
		Args: noArgs,
	}
	var (
		flags   scopeFlags
		options upkeep.SweepOptions
	)
	flags.add(cmd)
	cmd.Flags().DurationVar(&options.OlderThan, "older-than", upkeep.DefaultOlderThan, "least age of what is removed: longer than any upload takes, at least 1h")
	cmd.Flags().IntVar(&options.Concurrency, "concurrency", upkeep.DefaultConcurrency, "check `n` recordings at a time")
	dryRunVar(cmd, &options.DryRun)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		s, err := flags.scope(ctx, c, c.keyringLater(ctx))
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
		flags.metrics.note(report.Report, unknown)
		if report.Started.IsZero() {
			return err // the options are not valid
		}
		result := sweepResult{report, err == nil && report.Complete(), err != nil && ctx.Err() != nil}
		printErr := c.print(result)
		if err == nil && !result.Complete {
			err = fmt.Errorf("%w: some objects need attention; the report lists them", errIncomplete)
		}
		return errors.Join(err, printErr)
	})
	return cmd
}

func (r sweepResult) writeText(w io.Writer) {
	writeHeading(w, r.Report)
	removed := "removed"
	if r.DryRun {
		removed = "would remove"
	}
	uploads := fmt.Sprint(r.Uploads)
	if !r.UploadsListed {
		uploads += " (the store could not list all uploads)"
	}
	table(w, [][]string{
		{"older than", humanTime(r.Before)},
		{"recordings", fmt.Sprint(r.Recordings)},
		{removed + ": media without an envelope", tally(r.Orphans)},
		{removed + ": unfinished uploads", uploads},
		{"kept, too young: media", tally(r.Young)},
		{"kept, too young: uploads", fmt.Sprint(r.YoungUploads)},
		{"kept, on hold: media", tally(r.Held)},
		{"kept, on hold: uploads", fmt.Sprint(r.HeldUploads)},
	})
	writeFindings(w, r.Findings)
	if r.Interrupted {
		fmt.Fprintln(w, "\ninterrupted: run the same command again to do what is left")
	}
}

// tally formats how many objects there are, and how large they are together.
func tally(t upkeep.Tally) string { return fmt.Sprintf("%d, %s", t.Count, humanBytes(t.Bytes)) }
