package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
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
older than any upload may last. Unless --remove is given it only tells what it
would remove. Look at that first: if envelopes were lost by mistake, their
media looks the same. What is of a patient on hold stays.

It needs no right in Vault.` + resumeHelp,
		Example: `  recvault sweep --all
  recvault sweep --all --older-than 48h --remove`,
		Args: noArgs,
	}
	var (
		flags   scopeFlags
		options upkeep.SweepOptions
		dryRun  bool
	)
	flags.add(cmd)
	cmd.Flags().DurationVar(&options.OlderThan, "older-than", upkeep.DefaultOlderThan, "longer than any upload takes, at least an hour")
	cmd.Flags().BoolVar(&options.Remove, "remove", false, "remove what is found")
	cmd.Flags().IntVar(&options.Concurrency, "concurrency", upkeep.DefaultConcurrency, "how `many` recordings are worked on at a time")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and do nothing; so it is without --remove")
	cmd.MarkFlagsMutuallyExclusive("remove", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		var err error
		if options.Scope, err = flags.scope(ctx, c, c.pseudonyms(ctx)); err != nil {
			return err
		}
		store, err := c.openStore()
		if err != nil {
			return err
		}
		p := c.startProgress("sweep")
		options.Prefix, options.Progress = c.prefix(), p.upkeep()
		report, err := upkeep.Sweep(ctx, store, options)
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
	if r.DryRun && r.Orphans.Count+r.Uploads > 0 {
		fmt.Fprintln(w, "\nnothing was removed: --remove does")
	}
	if r.Interrupted {
		fmt.Fprintln(w, "\ninterrupted: run it again to do what is left")
	}
}

func tally(t upkeep.Tally) string { return fmt.Sprintf("%d, %s", t.Count, humanBytes(t.Bytes)) }

// upkeep tells of the progress of a sweep or of verify, neither of which knows how much there is.
func (p *progress) upkeep() func(upkeep.Progress) {
	return func(done upkeep.Progress) {
		p.tell(unknown, func() string {
			return fmt.Sprintf("recordings %d, %s, findings %d", done.Recordings, humanBytes(done.Bytes), done.Findings)
		}, done)
	}
}

func writeFindings(w io.Writer, f upkeep.Findings) {
	if len(f.Counts) == 0 {
		return
	}
	fmt.Fprintln(w, "\nfindings:")
	var rows [][]string
	for _, kind := range slices.Sorted(maps.Keys(f.Counts)) {
		rows = append(rows, []string{"  " + string(kind), fmt.Sprint(f.Counts[kind])})
	}
	table(w, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, finding := range f.Listed {
		name := finding.Object
		if name == "" {
			name = finding.Upload
		}
		rows = append(rows, []string{"  " + string(finding.Kind), printable(name), printable(finding.Detail)})
	}
	table(w, rows)
}
