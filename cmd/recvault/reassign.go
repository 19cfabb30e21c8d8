package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/vault"
)

// copyResult is a recording that was given to another patient.
type copyResult struct {
	DryRun     bool       `json:"dry_run"`
	Old        string     `json:"old"`
	New        string     `json:"new,omitempty"` // empty if it is not known, as for a dry run with --rekey
	KeyID      keys.KeyID `json:"key_id"`        // of the patient who was given the recording
	SharesKeys bool       `json:"shares_keys"`   // with the old recording: without --rekey

	moves bool // the old recording is removed
}

func (c *cli) copy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "copy ID",
		Short: "Give a recording to a second patient as well",
		Long: `Give a recording to a second patient as well, and print the ID of the copy: for
a second patient in the room, or a recording that belongs in both records. The
recording of the first patient stays.

` + copyHelp,
		Example: `  recvault copy --grant-file grant --patient-file second-patient "$id"
  recvault copy --grant-file grant --patient-file second-patient --rekey "$id"`,
	}
	return c.giving(cmd, false)
}

func (c *cli) reassign() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reassign ID",
		Short: "Move a recording to another patient",
		Long: `Move a recording to another patient, and print its new ID: for merged records
and misfiled consultations. It is a copy, followed by the removal of the first
patient's recording. Use --rekey for a misfiled consultation, which the first
patient must lose for good.

An interrupted reassign leaves the old recording, the new one, or both. It never
loses the recording. While the first patient is on hold, nothing is reassigned,
and the exit code is 8.

` + copyHelp,
		Example: `  recvault reassign --grant-file grant --patient-file merged-record --with-description "$id"
  recvault reassign --grant-file grant --patient-file right-patient --rekey "$id"`,
	}
	return c.giving(cmd, true)
}

const copyHelp = `Type, times and duration are taken over. The title and the attributes may name
the first patient, so they are taken over only with --with-description.

Without --rekey, the media is copied as it is, and the two recordings share
their keys: whoever opened either of them can, with access to the store, read
the other. Erasing one patient then leaves the other's recording readable, and
through its key old copies of both. With --rekey, the recording is encrypted
again under a fresh key, and none of this holds.

Role: writer, and a grant for the first patient. It takes one or two uses of
the grant.`

// giving completes a command that gives a recording to another patient. moves removes the old recording.
func (c *cli) giving(cmd *cobra.Command, moves bool) *cobra.Command {
	cmd.GroupID = groupRecordings
	cmd.Args = oneArg("a recording's ID")
	var (
		grant                  grantFlag
		patient                patientFlag
		withDescription, rekey bool
		dryRun                 = dryRunFlag(cmd)
	)
	grant.add(cmd)
	cmd.Flags().StringVar(&patient.file, "patient-file", "",
		"`file` with the identifier of the patient who gets the recording, - for standard input (RECVAULT_PATIENT: the identifier itself)")
	cmd.Flags().BoolVar(&withDescription, "with-description", false, "take over title and attributes too")
	cmd.Flags().BoolVar(&rekey, "rekey", false, "encrypt the recording again under a fresh key, so that nothing is shared")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		id, err := vault.ParseID(args[0])
		if err != nil {
			return err
		}
		g, err := grant.read(ctx, c)
		if err != nil {
			return err
		}
		to, err := patient.read(ctx, c)
		if err != nil {
			return err
		}
		k, err := c.openKeyring(ctx, "writer, and a grant for the first patient")
		if err != nil {
			return err
		}
		keyID, err := k.KeyID(ctx, to)
		if err != nil {
			return err
		}
		v, err := c.openVault(k)
		if err != nil {
			return err
		}
		result := copyResult{DryRun: *dryRun, Old: id.String(), KeyID: keyID, SharesKeys: !rekey, moves: moves}
		if *dryRun {
			// fails unless the patient is enrolled
			if _, err := k.Versions(ctx, keyID); err != nil {
				return err
			}
			if err := c.rehearseCopy(ctx, v, g, id, &result); err != nil {
				return err
			}
			return c.print(result)
		}
		var options []vault.CopyOption
		if withDescription {
			options = append(options, vault.WithDescription())
		}
		if rekey {
			options = append(options, vault.WithNewKey())
		}
		give, done := v.Copy, "the recording was copied, with the new ID "
		if moves {
			give, done = v.Reassign, "the recording was reassigned, with the new ID "
		}
		given, err := give(ctx, g, id, to, options...)
		result.New = given.String()
		if result.New == "" {
			return err
		}
		// Even with an error, the new recording exists. The caller must learn its ID.
		return errors.Join(err, c.printDone(result, done+result.New))
	}
	return cmd
}

// rehearseCopy checks, for a dry run, that the recording opens and may be given to the patient, and finds out its new ID.
func (c *cli) rehearseCopy(ctx context.Context, v *vault.Vault, g keys.Grant, id vault.ID, result *copyResult) error {
	if result.KeyID == id.KeyID() {
		return fmt.Errorf("%w: it is the recording's own patient", keys.ErrInvalidPatient)
	}
	if result.moves {
		if err := c.refuseHeld(ctx, id.KeyID()); err != nil {
			return err
		}
	}
	recording, err := v.Open(ctx, g, id)
	if err != nil {
		return err
	}
	_ = recording.Close()
	if !result.SharesKeys {
		return nil
	}
	given, err := vault.ParseID(result.KeyID.String() + "." + id.Rec()) // the same keys, so the same second part
	if err != nil {
		return err
	}
	result.New = given.String()
	if result.moves {
		return nil
	}
	o, err := c.openObjects()
	if err != nil {
		return err
	}
	found, err := o.FindEnvelope(ctx, given)
	if err == nil && found != nil {
		err = fmt.Errorf("the patient has a copy: %w", storage.ErrExists)
	}
	return err
}

func (r copyResult) writeText(w io.Writer) {
	if !r.DryRun {
		fmt.Fprintln(w, r.New)
		return
	}
	verb := "copy"
	if r.moves {
		verb = "move"
	}
	keysText := ", sharing its keys, as " + r.New
	if !r.SharesKeys {
		keysText = ", under a fresh key and a new ID"
	}
	fmt.Fprintf(w, "would %s %s to %s%s\n", verb, r.Old, r.KeyID, keysText)
}
