package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
)

type enrolResult struct {
	DryRun bool         `json:"dry_run"`
	KeyIDs []keys.KeyID `json:"key_ids"` // in the order of the file, which has one identifier per line
}

func (c *cli) enrol() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "enrol",
		Short:   "Create envelope keys for patients",
		GroupID: groupSetUp,
		Long: `Create an envelope key for each patient who has none, and print the KeyID, the
pseudonym that stands for the patient from then on. A file may name many
patients, one per line. Enrolling a patient again changes nothing. Enrolling an
erased patient creates a new key; the old recordings stay lost.

Role: enroller.`,
		Example: `  recvault enrol --patient-file patient
  recvault enrol --patient-file - < patients`,
		Args: noArgs,
	}
	dryRun := dryRunFlag(cmd)
	file := cmd.Flags().String("patient-file", "",
		"`file` with patient identifiers, one per line, - for standard input (RECVAULT_PATIENT: one identifier)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		var patients []keys.Patient
		if *file != "" {
			var err error
			if patients, err = c.patients(ctx, *file); err != nil {
				return err
			}
		} else {
			patient, err := new(patientFlag).read(ctx, c)
			if err != nil {
				return err
			}
			patients = []keys.Patient{patient}
		}
		k, err := c.openKeyring(ctx, "enroller")
		if err != nil {
			return err
		}
		enrol := k.Enrol
		if *dryRun {
			enrol = k.KeyID
		}
		result := enrolResult{DryRun: *dryRun, KeyIDs: []keys.KeyID{}}
		p := c.startProgress("enrol")
		defer p.end()
		for _, patient := range patients {
			var id keys.KeyID
			if id, err = enrol(ctx, patient); err != nil {
				err = fmt.Errorf("after %d of %d patients: %w", len(result.KeyIDs), len(patients), err)
				break
			}
			result.KeyIDs = append(result.KeyIDs, id)
			done := enrolled{len(result.KeyIDs), len(patients)}
			p.show(float64(done.Patients)/float64(done.Total), done.String, done)
		}
		p.end()
		return errors.Join(err, c.print(result))
	}
	return cmd
}

// enrolled is the progress of an enrolment.
type enrolled struct {
	Patients int `json:"patients"`
	Total    int `json:"total"`
}

func (e enrolled) String() string { return fmt.Sprintf("%d of %d patients", e.Patients, e.Total) }

func (r enrolResult) writeText(w io.Writer) {
	for _, id := range r.KeyIDs {
		if r.DryRun {
			fmt.Fprint(w, "would enrol if not enrolled yet: ")
		}
		fmt.Fprintln(w, id)
	}
}
