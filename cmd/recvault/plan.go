package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault/rotation"
)

// planResult is a plan, and whether anything needs attention.
type planResult struct {
	rotation.Plan
	Complete    bool `json:"complete"`
	Interrupted bool `json:"interrupted"`
}

func (c *cli) plan() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plan",
		Short:   "Count recordings by key version, and estimate a rotation",
		GroupID: groupRotation,
		Long: `Count recordings by the key version that wraps them, and estimate how many
requests and how much time it takes to rotate all keys and to rewrap what is
old. plan reads every envelope of the selected patients. It changes nothing. It
also shows which versions are the oldest that unwrap, and how old the keys are.

Role: rotator.` + scopeHelp,
		Example: `  recvault plan --all`,
		Args:    noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		r, s, end, err := c.rotation(cmd.Context(), &flags, "plan")
		if err != nil {
			return err
		}
		plan, err := r.Plan(cmd.Context(), s)
		end()
		done := plan.Patients.Unchanged + plan.Patients.Erased
		flags.metrics.note(plan.Report, plan.Patients.Seen-done)
		interrupted := err != nil && cmd.Context().Err() != nil
		if err == nil {
			err = errors.Join(flags.expected.check(), needsAttention(plan.Complete(), plan.Findings))
		}
		return errors.Join(err, c.print(planResult{plan, err == nil, interrupted}))
	})
	return cmd
}

func (r planResult) writeText(w io.Writer) {
	writeHeading(w, r.Report)
	table(w, [][]string{
		{"patients", counts(r.Patients.Seen, []count{
			{"with old envelopes", r.Patients.Changed},
			{"erased", r.Patients.Erased},
			{"not enrolled", r.Patients.NotEnrolled},
			{"failed", r.Patients.Failed},
		})},
		{"envelopes", counts(r.Envelopes.Seen, []count{
			{"older", r.Envelopes.Older},
			{"current", r.Envelopes.Current},
			{"without a key", r.Envelopes.Keyless},
			{"damaged", r.Envelopes.Damaged},
			{"unsupported", r.Envelopes.Unsupported},
			{"failed", r.Envelopes.Failed},
		}) + ", " + humanBytes(r.Bytes)},
		{"wrapped by", versionCounts(r.Versions)},
		{"oldest usable", versionCounts(r.Usable)},
		{"keys", keyAges(r.Report)},
		{"rotate all", forecast(r.Rotate)},
		{"rewrap old", forecast(r.Rewrap)},
	})
	if len(r.Largest) > 0 {
		fmt.Fprintln(w, "\npatients with the most to rewrap:")
		var rows [][]string
		for _, patient := range r.Largest[:min(len(r.Largest), 10)] {
			rows = append(rows, []string{
				"  " + patient.KeyID.String(), fmt.Sprintf("%d of %d older than v%d", patient.Older, patient.Envelopes, patient.Latest),
				fmt.Sprintf("from v%d on usable, v%d made %s", patient.Usable, patient.Latest, humanTime(patient.Rotated)),
			})
		}
		table(w, rows)
	}
	writeFindings(w, r.Findings)
	if r.Envelopes.Unsupported > 0 {
		fmt.Fprintln(w, "\n"+unsupportedLine(int64(r.Envelopes.Unsupported)))
	}
	if r.Patients.Seen == 0 && !r.Interrupted {
		fmt.Fprintln(w, noRecordings)
	}
	if r.Interrupted {
		fmt.Fprintln(w, "\ninterrupted: not everything was counted")
	}
}

// forecast describes what a verb would take.
func forecast(f rotation.Forecast) string {
	return fmt.Sprintf("about %v: %d keyring calls, %d lists, %d reads, %d writes (%s)",
		f.Duration.Round(time.Millisecond), f.Requests.Keyring, f.Requests.Lists, f.Requests.Reads, f.Requests.Writes, f.Basis)
}
