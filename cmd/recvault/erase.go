package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/erasure"
)

// erasureTarget is what an erasure removes: a patient or one recording.
type erasureTarget struct {
	patient   patientFlag
	recording string
}

func (t *erasureTarget) add(cmd *cobra.Command) {
	t.patient.addKeyID(cmd)
	cmd.Flags().StringVar(&t.recording, "recording", "", "one recording, by its `ID`, instead of a patient")
	cmd.MarkFlagsMutuallyExclusive("recording", "key-id", "patient-file")
}

// find returns the patient's KeyID or, for one recording, its ID. The other one is zero.
func (t *erasureTarget) find(ctx context.Context, c *cli, k keys.Wrapper) (keys.KeyID, vault.ID, error) {
	if t.recording != "" {
		id, err := vault.ParseID(t.recording)
		return keys.KeyID{}, id, err
	}
	keyID, err := t.patient.findKeyID(ctx, c, func() (keys.Wrapper, error) { return k, nil })
	return keyID, vault.ID{}, err
}

func (c *cli) erase() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "erase",
		Short:   "Erase a patient or a recording for good, in two steps",
		GroupID: groupErasure,
		Long: `Erase a patient or a recording for good. For a patient, the envelope key is
destroyed and every object is deleted; for a recording, its objects are deleted.
Erasing takes two steps: "erase plan" shows what will be removed, with a digest,
and "erase confirm" removes it if it still has that digest.

An erasure cannot be undone. While the patient is on hold, nothing is erased.`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(c.erasePlan(), c.eraseConfirm())
	return cmd
}

// erasure returns an Erasure, and the patient or the recording to erase.
func (c *cli) erasure(ctx context.Context, target *erasureTarget, options erasure.Options) (*erasure.Erasure, keys.KeyID, vault.ID, error) {
	k, err := c.openKeyring(ctx, "eraser")
	if err != nil {
		return nil, keys.KeyID{}, vault.ID{}, err
	}
	keyID, id, err := target.find(ctx, c, k)
	if err != nil {
		return nil, keys.KeyID{}, vault.ID{}, err
	}
	store, err := c.openStore()
	if err != nil {
		return nil, keys.KeyID{}, vault.ID{}, err
	}
	options.Prefix = c.prefix()
	if options.Events, err = c.stream(); err != nil {
		return nil, keys.KeyID{}, vault.ID{}, err
	}
	e, err := erasure.New(k, store, options)
	return e, keyID, id, err
}

type erasePlanResult struct{ erasure.Plan }

func (c *cli) erasePlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what an erasure would remove",
		Long: `Show what "erase confirm" would remove, and the digest that it requires. plan
changes nothing.

Role: eraser.`,
		Example: `  recvault erase plan --patient-file patient
  recvault erase plan --recording "$id" --output json`,
		Args: noArgs,
	}
	var target erasureTarget
	target.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		e, keyID, id, err := c.erasure(ctx, &target, erasure.Options{})
		if err != nil {
			return err
		}
		plan, err := planErasure(ctx, e, keyID, id)
		if err != nil {
			return err
		}
		return c.print(erasePlanResult{plan})
	}
	return cmd
}

// planErasure plans the erasure of a recording or, if its ID is zero, of the patient.
func planErasure(ctx context.Context, e *erasure.Erasure, keyID keys.KeyID, id vault.ID) (erasure.Plan, error) {
	if id.IsZero() {
		return e.PlanPatient(ctx, keyID)
	}
	return e.PlanRecording(ctx, id)
}

func (r erasePlanResult) writeText(w io.Writer) {
	rows := [][]string{}
	if r.Recording.IsZero() {
		rows = append(rows, []string{"patient", r.KeyID.String()})
		if r.KeyVersions.Latest > 0 {
			rows = append(rows, []string{"key versions", fmt.Sprintf("%d to %d", r.KeyVersions.MinAvailable, r.KeyVersions.Latest)})
		}
	} else {
		rows = append(rows, []string{"recording", r.Recording.String()})
	}
	rows = append(rows, [][]string{
		{"recordings", fmt.Sprint(r.Recordings)},
		{"objects", fmt.Sprintf("%d, %s", r.Objects, humanBytes(r.Bytes))},
		{"written", humanTime(r.Oldest) + " to " + humanTime(r.Newest)},
	}...)
	switch {
	case r.Finished:
		rows = append(rows, []string{"finished", "yes: the key is destroyed, and no object is left"})
	case r.Begun:
		rows = append(rows, []string{"begun", "yes: the erasure has begun; confirm it again to finish"})
	}
	if r.Hold != nil {
		rows = append(rows, []string{"hold", holdLine(*r.Hold)})
	}
	table(w, append(rows, []string{"digest", r.Digest}))
	if r.Hold != nil {
		fmt.Fprintln(w, "\nnothing can be erased while the patient is on hold")
		return
	}
	if r.Finished {
		fmt.Fprintln(w, "\nNothing is left to erase. If there is no receipt yet:")
	} else {
		fmt.Fprintln(w, "\nAn erasure cannot be undone. To erase this:")
	}
	target := "--key-id " + r.KeyID.String()
	if !r.Recording.IsZero() {
		target = "--recording " + r.Recording.String()
	}
	fmt.Fprintf(w, "  recvault erase confirm %s --digest %s --operator WHO --receipt FILE\n", target, r.Digest)
}

type eraseReceipt struct{ erasure.Receipt }

func (c *cli) eraseConfirm() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm --digest DIGEST --operator WHO",
		Short: "Erase what a plan showed; this cannot be undone",
		Long: `Erase what "erase plan" showed, unless it has changed since. For a patient,
confirm destroys the envelope key with all its versions, deletes every object
and proves that the key is gone. For a recording, it deletes the recording's
objects. It prints a receipt, as JSON with --output json. The --receipt file is
always JSON. An erasure cannot be undone.

After an interruption, run the same command again: it finishes the erasure. Run
it once more when the longest upload that was in progress has ended.

Before anything is destroyed, the --receipt file is on the disk, with what was
proved so far and room for the receipt. If that fails, nothing is destroyed. Run
again with the same file, confirm takes the proof from it. Until there is a
receipt, the file says that it is none.

With a grant for the patient, confirm also proves that readers cannot open the
recordings any more.

Role: eraser.`,
		Example: `  recvault erase confirm --key-id "$key_id" --digest "$digest" --operator m.okafor --receipt receipt.json`,
		Args:    noArgs,
	}
	var (
		target      erasureTarget
		grant       grantFlag
		digest      string
		operator    string
		receiptFile string
		dryRun      = dryRunFlag(cmd)
	)
	target.add(cmd)
	grant.add(cmd)
	operatorFlag(cmd, &operator)
	cmd.Flags().StringVar(&digest, "digest", "", "the plan's `digest`; required")
	cmd.Flags().StringVar(&receiptFile, "receipt", "", "new `file` for the receipt, or the one that an interrupted run left")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if digest == "" {
			return usagef("no digest: set --digest to the one that \"recvault erase plan\" shows")
		}
		approval := erasure.Approval{Digest: digest, Operator: c.operator(operator)}
		if approval.Operator == "" {
			return usagef("no operator: set --operator or RECVAULT_OPERATOR")
		}
		var options erasure.Options
		if grant.given(c) {
			var err error
			if options.Grant, err = grant.read(ctx, c); err != nil {
				return err
			}
		}
		e, keyID, id, err := c.erasure(ctx, &target, options)
		if err != nil {
			return err
		}
		if *dryRun {
			if receiptFile != "" {
				if err := checkReceipt(receiptFile); err != nil {
					return err
				}
			}
			return c.checkPlan(ctx, e, keyID, id, digest)
		}
		return c.confirm(receiptFile, approval, func(approval erasure.Approval) (erasure.Receipt, error) {
			if id.IsZero() {
				return e.ConfirmPatient(ctx, keyID, approval)
			}
			return e.ConfirmRecording(ctx, id, approval)
		})
	}
	return cmd
}

// checkPlan returns, for a dry run, the error that confirm would return: for a hold or a changed plan.
func (c *cli) checkPlan(ctx context.Context, e *erasure.Erasure, keyID keys.KeyID, id vault.ID, digest string) error {
	plan, err := planErasure(ctx, e, keyID, id)
	switch {
	case err != nil:
		return err
	case plan.Hold != nil:
		return vault.ErrHeld
	case !plan.Begun && plan.Digest != digest:
		return erasure.ErrPlanChanged
	}
	return c.print(erasePlanResult{plan})
}

// confirm erases, and writes the receipt to the file and to standard output. If both fail, it writes the receipt to
// standard error.
func (c *cli) confirm(receiptPath string, approval erasure.Approval, erase func(erasure.Approval) (erasure.Receipt, error)) error {
	var file *receiptFile
	if receiptPath != "" {
		var err error
		if file, err = openReceipt(receiptPath); err != nil {
			return err
		}
		approval.Begin, approval.Earlier = file.begin, file.earlier
	}
	receipt, err := erase(approval)
	if err != nil {
		if file != nil {
			file.fail(err)
		}
		return err
	}
	if file != nil {
		if err = file.commit(receipt); err != nil {
			err = &notPrintedError{"it is erased", fmt.Errorf("write the receipt's file: %w", err)}
		}
	}
	printErr := c.printDone(eraseReceipt{receipt}, "it is erased")
	if printErr != nil && (file == nil || err != nil) {
		c.printLine(receipt) // the only receipt
	}
	return errors.Join(err, printErr)
}

func (r eraseReceipt) writeText(w io.Writer) {
	rows := [][]string{}
	if r.Recording.IsZero() {
		rows = append(rows, []string{"erased patient", r.KeyID.String()})
		if r.KeyVersions.Latest > 0 {
			rows = append(rows, []string{"key versions", fmt.Sprintf("%d to %d destroyed", r.KeyVersions.MinAvailable, r.KeyVersions.Latest)})
		}
	} else {
		rows = append(rows, []string{"erased recording", r.Recording.String()})
	}
	switch {
	case r.Resumed && r.ObjectsDeleted == 0:
		rows = append(rows, []string{"finished", "yes: it was erased before, and nothing was left"})
	case r.Resumed:
		rows = append(rows, []string{"resumed", "yes: what an earlier run erased is not counted"})
	}
	rows = append(rows, [][]string{
		{"recordings", fmt.Sprint(len(r.Recordings))},
		{"objects", fmt.Sprintf("%d, %s", r.ObjectsDeleted, humanBytes(r.BytesDeleted))},
		{"time", humanTime(r.Time)},
		{"operator", r.Operator},
	}...)
	for _, proof := range r.Proof {
		before := ""
		if proof.Before != "" {
			before = "before: " + proof.Before + ", "
		}
		rows = append(rows, []string{"proof", proof.Attempt + ": " + before + "after: " + proof.After})
	}
	table(w, append(rows, []string{"receipt", r.Digest}))
	fmt.Fprintln(w, "\nwhat may remain:")
	for _, remains := range r.MayRemain {
		fmt.Fprintln(w, "  - "+remains)
	}
}

func operatorFlag(cmd *cobra.Command, operator *string) {
	cmd.Flags().StringVar(operator, "operator", "", "`account` that is responsible; required (RECVAULT_OPERATOR)")
}

func (c *cli) operator(flag string) string { return c.setting(flag, "RECVAULT_OPERATOR") }
