package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/vault/rotation"
)

type planResult struct{ rotation.Plan }

func (c *cli) plan() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "plan",
		Short:   "Tell what there is to rewrap, and how long it will take",
		GroupID: groupRotation,
		Long: `plan reads every envelope in the scope and tells which key versions wrap them.
It changes nothing.` + "\n\nRole: rotator." + scopeHelp,
		Example: `  recvault plan --all`,
		Args:    noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		r, s, end, err := c.rotation(cmd.Context(), &flags, "plan")
		if err != nil {
			return err
		}
		plan, err := r.Plan(cmd.Context(), s)
		end()
		if err == nil && !plan.Complete() {
			err = fmt.Errorf("%w: some patients and recordings need attention: %s", errIncomplete, findingCounts(plan.Findings))
		}
		return errors.Join(c.print(planResult{plan}), err)
	}
	return cmd
}

func (r planResult) writeText(w io.Writer) {
	fmt.Fprintf(w, "plan, %s, in %v\n", r.Scope, r.Finished.Sub(r.Started).Round(time.Millisecond))
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
			{"failed", r.Envelopes.Failed},
		}) + ", " + humanBytes(r.Bytes)},
		{"wrapped by", versionCounts(r.Versions)},
		{"rotate all", forecast(r.Rotate)},
		{"rewrap old", forecast(r.Rewrap)},
	})
	if len(r.Largest) > 0 {
		fmt.Fprintln(w, "\npatients with the most to rewrap:")
		var rows [][]string
		for _, patient := range r.Largest[:min(len(r.Largest), 10)] {
			rows = append(rows, []string{
				"  " + patient.KeyID.String(), fmt.Sprintf("%d of %d older than v%d", patient.Older, patient.Envelopes, patient.Latest),
			})
		}
		table(w, rows)
	}
	writeFindings(w, r.Findings)
}

func forecast(f rotation.Forecast) string {
	return fmt.Sprintf("about %v (%s): %d keyring calls, %d reads, %d writes",
		f.Duration.Round(time.Millisecond), f.Basis, f.Requests.Keyring, f.Requests.Reads, f.Requests.Writes)
}
