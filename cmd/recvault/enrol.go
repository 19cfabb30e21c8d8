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
	KeyIDs []keys.KeyID `json:"key_ids"` // in the order of the file, which has an identifier to a line
}

func (c *cli) enrol() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "enrol",
		Short:   "Give patients their envelope keys",
		GroupID: groupSetUp,
		Long: `enrol makes a patient's envelope key, if there is none, and prints the KeyID
that stands for the patient from then on. A file may name many patients, one to
a line. Enrolling twice changes nothing. Enrolling an erased patient makes a
new key; what was recorded before stays lost.

Role: enroller.`,
		Example: `  recvault enrol --patient-file patient
  recvault enrol --patient-file - < patients`,
		Args: noArgs,
	}
	dryRun := dryRunFlag(cmd)
	file := cmd.Flags().String("patient-file", "",
		"`file` with patients' identifiers, one to a line, - for standard input (RECVAULT_PATIENT: one identifier)")
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
		k, err := c.openKeyring(ctx)
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
				err = fmt.Errorf("after %d patients of %d: %w", len(result.KeyIDs), len(patients), err)
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

// enrolled is how far an enrolment has come.
type enrolled struct {
	Patients int `json:"patients"`
	Total    int `json:"total"`
}

func (e enrolled) String() string { return fmt.Sprintf("%d patients of %d", e.Patients, e.Total) }

func (r enrolResult) writeText(w io.Writer) {
	for _, id := range r.KeyIDs {
		if r.DryRun {
			fmt.Fprint(w, "would enrol, unless enrolled already: ")
		}
		fmt.Fprintln(w, id)
	}
}
