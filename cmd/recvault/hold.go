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

func (c *cli) hold() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "hold",
		Short:   "Protect a patient's recordings from erasure",
		GroupID: groupErasure,
		Long: `Set, clear or show a legal hold on a patient. During a hold, no recording of the
patient is erased, deleted, re-keyed, reassigned, corrected or swept.

The store holds reason and operator in clear text: name a case, not a person.

Role: none with --key-id, which needs no Vault at all. With the patient's
identifier: writer, enroller, granter or eraser.`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(c.holdSet(), c.holdClear(), c.holdShow())
	return cmd
}

// holds opens the holds in the store, and returns the patient's KeyID.
func (c *cli) holds(ctx context.Context, patient *patientFlag) (*erasure.Holds, keys.KeyID, error) {
	keyID, err := patient.findKeyID(ctx, c, c.keyringLater(ctx))
	if err != nil {
		return nil, keys.KeyID{}, err
	}
	store, err := c.openStore()
	if err != nil {
		return nil, keys.KeyID{}, err
	}
	stream, err := c.stream()
	if err != nil {
		return nil, keys.KeyID{}, err
	}
	return erasure.NewHolds(store, stream), keyID, nil
}

// holdFlags are the flags of hold set and hold clear.
type holdFlags struct {
	patient          patientFlag
	reason, operator string
	dryRun           *bool
}

func (f *holdFlags) add(cmd *cobra.Command) {
	f.patient.addKeyID(cmd)
	cmd.Flags().StringVar(&f.reason, "reason", "", "`reason`, such as a case number; required")
	operatorFlag(cmd, &f.operator)
	f.dryRun = dryRunFlag(cmd)
}

// check returns a usage error unless there is a reason and an operator.
func (f *holdFlags) check(c *cli) error {
	f.operator = c.operator(f.operator)
	switch {
	case f.reason == "":
		return usagef("no reason: set --reason")
	case f.operator == "":
		return usagef("no operator: set --operator or RECVAULT_OPERATOR")
	}
	return nil
}

type holdResult struct {
	DryRun bool       `json:"dry_run"`
	KeyID  keys.KeyID `json:"key_id"`
	Held   bool       `json:"held"`

	Hold    *erasure.Hold        `json:"hold,omitempty"`    // the current hold
	Cleared *erasure.ClearedHold `json:"cleared,omitempty"` // the hold that was cleared; the store keeps no record of it
}

func (c *cli) holdSet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set --reason WHY --operator WHO",
		Short: "Put a patient on hold",
		Long: `Put a patient on hold. If the patient is on hold already, that hold stays as it
is and the exit code is 8.`,
		Example: `  recvault hold set --key-id "$key_id" --reason "case 2026-114" --operator m.okafor`,
		Args:    noArgs,
	}
	var flags holdFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if err := flags.check(c); err != nil {
			return err
		}
		holds, keyID, err := c.holds(ctx, &flags.patient)
		if err != nil {
			return err
		}
		if *flags.dryRun {
			switch hold, err := holds.Get(ctx, keyID); {
			case err == nil:
				return errors.Join(vault.ErrHeld, c.print(holdResult{DryRun: true, KeyID: keyID, Held: true, Hold: &hold}))
			case !errors.Is(err, erasure.ErrNotHeld):
				return err
			}
			return c.print(holdResult{DryRun: true, KeyID: keyID, Held: true})
		}
		hold, err := holds.Set(ctx, keyID, flags.operator, flags.reason)
		if err != nil && !errors.Is(err, vault.ErrHeld) {
			return err
		}
		return errors.Join(err, c.print(holdResult{KeyID: keyID, Held: true, Hold: &hold}))
	}
	return cmd
}

func (c *cli) holdClear() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clear --reason WHY --operator WHO",
		Short: "End a hold, and print the record of it",
		Long: `End a hold, and print the record of it. Keep the record: the store keeps none.
If the patient is not on hold, the exit code is 4.`,
		Example: `  recvault hold clear --key-id "$key_id" --reason "case closed" --operator m.okafor --output json >> holds.json`,
		Args:    noArgs,
	}
	var flags holdFlags
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if err := flags.check(c); err != nil {
			return err
		}
		holds, keyID, err := c.holds(ctx, &flags.patient)
		if err != nil {
			return err
		}
		if *flags.dryRun {
			hold, err := holds.Get(ctx, keyID)
			if err != nil {
				return err
			}
			return c.print(holdResult{DryRun: true, KeyID: keyID, Hold: &hold})
		}
		cleared, err := holds.Clear(ctx, keyID, flags.operator, flags.reason)
		if err != nil {
			return err
		}
		result := holdResult{KeyID: keyID, Cleared: &cleared}
		err = c.printDone(result, "the hold is cleared")
		if err != nil {
			c.printLine(result) // the only record
		}
		return err
	}
	return cmd
}

func (c *cli) holdShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show whether a patient is on hold",
		Long:    `Show whether a patient is on hold. The exit code is 0 in both cases.`,
		Example: `  recvault hold show --key-id "$key_id"`,
		Args:    noArgs,
	}
	var patient patientFlag
	patient.addKeyID(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		holds, keyID, err := c.holds(ctx, &patient)
		if err != nil {
			return err
		}
		hold, err := holds.Get(ctx, keyID)
		switch {
		case errors.Is(err, erasure.ErrNotHeld):
			return c.print(holdResult{KeyID: keyID})
		case err != nil:
			return err
		}
		return c.print(holdResult{KeyID: keyID, Held: true, Hold: &hold})
	}
	return cmd
}

func (r holdResult) writeText(w io.Writer) {
	switch {
	case r.Cleared != nil:
		fmt.Fprintf(w, "%s is no longer on hold (%s; cleared: %s, by %s)\n", r.KeyID, holdLine(r.Cleared.Hold),
			printable(r.Cleared.ClearedReason), printable(r.Cleared.ClearedOperator))
	case r.DryRun && r.Hold == nil:
		fmt.Fprintf(w, "would put %s on hold\n", r.KeyID)
	case r.DryRun && !r.Held:
		fmt.Fprintf(w, "would clear the hold on %s (%s)\n", r.KeyID, holdLine(*r.Hold))
	case r.Hold != nil:
		fmt.Fprintf(w, "%s is on hold %s\n", r.KeyID, holdLine(*r.Hold))
	default:
		fmt.Fprintf(w, "%s is not on hold\n", r.KeyID)
	}
}

// holdLine describes a hold in one line.
func holdLine(h erasure.Hold) string {
	return fmt.Sprintf("since %s: %s, by %s", humanTime(h.Time), printable(h.Reason), printable(h.Operator))
}
