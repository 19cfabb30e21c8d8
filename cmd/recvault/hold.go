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
		Short:   "Keep a patient's recordings from being erased",
		GroupID: groupErasure,
		Long: `hold sets, clears and shows a legal hold on a patient. While it stands, nothing
of the patient's is erased, deleted, re-keyed or swept.

Reason and operator stand in the store in clear: name a case, not a person. By
--key-id no right in Vault is needed.`,
		Args: cobra.ArbitraryArgs,
		RunE: needsSubcommand,
	}
	cmd.AddCommand(c.holdSet(), c.holdClear(), c.holdShow())
	return cmd
}

// holds opens the holds in the store, and finds the patient.
func (c *cli) holds(ctx context.Context, patient *patientFlag) (*erasure.Holds, keys.KeyID, error) {
	keyID, err := patient.pseudonym(ctx, c, c.pseudonyms(ctx))
	if err != nil {
		return nil, keys.KeyID{}, err
	}
	store, err := c.openStore()
	if err != nil {
		return nil, keys.KeyID{}, err
	}
	return erasure.NewHolds(store), keyID, nil
}

// signed are the flags of the commands that somebody answers for.
type signed struct {
	patient          patientFlag
	reason, operator string
	dryRun           *bool
}

func (s *signed) add(cmd *cobra.Command) {
	s.patient.addKeyID(cmd)
	cmd.Flags().StringVar(&s.reason, "reason", "", "`why`, such as the number of a case; required")
	operatorFlag(cmd, &s.operator)
	s.dryRun = dryRunFlag(cmd)
}

func (s *signed) check(c *cli) error {
	s.operator = c.operator(s.operator)
	switch {
	case s.reason == "":
		return usagef("say why: --reason")
	case s.operator == "":
		return usagef("say who answers for this: --operator or RECVAULT_OPERATOR")
	}
	return nil
}

type holdResult struct {
	DryRun bool       `json:"dry_run"`
	KeyID  keys.KeyID `json:"key_id"`
	Held   bool       `json:"held"`

	Hold    *erasure.Hold        `json:"hold,omitempty"`    // the one that stands
	Cleared *erasure.ClearedHold `json:"cleared,omitempty"` // the one that was cleared; the store keeps no record of it
}

func (c *cli) holdSet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set --reason WHY --operator WHO",
		Short: "Put a patient on hold",
		Long: `set puts a patient on hold. If a hold stands already, it stays as it is and the
code is 8.`,
		Example: `  recvault hold set --key-id "$key_id" --reason "case 2026-114" --operator m.okafor`,
		Args:    noArgs,
	}
	var flags signed
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
		Short: "End a hold",
		Long: `clear ends a hold and prints the record of it. Keep that: the store keeps none.
Without a hold the code is 4.`,
		Example: `  recvault hold clear --key-id "$key_id" --reason "case closed" --operator m.okafor --output json >> holds.json`,
		Args:    noArgs,
	}
	var flags signed
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
			c.printLine(result) // there is no other record
		}
		return err
	}
	return cmd
}

func (c *cli) holdShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show",
		Short:   "Show whether a patient is on hold",
		Long:    `show tells whether a patient is on hold. The code is 0 either way.`,
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

func holdLine(h erasure.Hold) string {
	return fmt.Sprintf("since %s: %s, by %s", humanTime(h.Time), printable(h.Reason), printable(h.Operator))
}
