package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/events"
)

type grantResult struct {
	DryRun bool `json:"dry_run"`
	keys.GrantDetails
	MaxUses int    `json:"max_uses"`        // 0: no limit; always there, unlike that of the details
	File    string `json:"file,omitempty"`  // that holds the grant
	Grant   string `json:"grant,omitempty"` // the grant itself, only with --out -
}

func (c *cli) grant() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "grant --subject WHO --purpose CODE --out FILE",
		Short:   "Issue a grant: short-lived access to one patient's recordings",
		GroupID: groupRecordings,
		Long: `Issue a grant for one patient, and write it to a new file that only its owner
can read. Whoever has the grant can open the patient's recordings until it ends.
With --out -, the grant is printed, even on a terminal.

Vault's audit log has subject, purpose, reason and request ID with every use of
the grant. The purpose is a code of HL7 PurposeOfUse: TREAT (treatment), ETREAT
(emergency), BTG (break the glass), PATRQT (the patient's request), FAMRQT,
CAREMGT, HOPERAT, HLEGAL, HRESCH and others; or a code of the site's own, which
starts with X-. The reason is free text and must not name the patient. BTG needs
one.

A grant with --describe-only lists and describes, and plays nothing.

Role: granter.`,
		Example: `  recvault grant --patient-file patient --subject dr-lee --purpose TREAT --ttl 15m --out grant
  recvault grant --patient-file patient --subject dr-lee --purpose BTG --reason "unconscious on arrival" --max-uses 3 --out -`,
		Args: noArgs,
	}
	var (
		patient patientFlag
		options keys.GrantOptions
		purpose string
		out     string
		dryRun  = dryRunFlag(cmd)
	)
	patient.add(cmd)
	cmd.Flags().StringVar(&options.Subject, "subject", "", "`account` that will use the grant, not a patient identifier; required")
	cmd.Flags().StringVar(&purpose, "purpose", "", "HL7 PurposeOfUse `code`, or the site's own; required")
	cmd.Flags().StringVar(&options.Reason, "reason", "", "`text` that says why, without the patient's name; required for BTG")
	cmd.Flags().DurationVar(&options.TTL, "ttl", 15*time.Minute, "lifetime of the grant; Vault may allow less")
	cmd.Flags().IntVar(&options.MaxUses, "max-uses", 0, "`number` of uses, 0 for no limit")
	cmd.Flags().BoolVar(&options.DescribeOnly, "describe-only", false, "titles and times only: the grant plays nothing")
	cmd.Flags().StringVar(&options.RequestID, "request-id", "", "`reference` of the application")
	cmd.Flags().StringVar(&out, "out", "", "new `file` for the grant, - for standard output; required")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		options.Purpose = keys.Purpose(purpose)
		if err := options.Validate(); err != nil {
			return err
		}
		if out == "" && !*dryRun {
			return usagef("no output: set --out FILE, or --out - to print the grant")
		}
		who, err := patient.read(ctx, c)
		if err != nil {
			return err
		}
		k, err := c.openKeyring(ctx, "granter")
		if err != nil {
			return err
		}
		if *dryRun {
			if out != "" && out != dash {
				if err := checkNewFile(out); err != nil {
					return err
				}
			}
			keyID, err := k.KeyID(ctx, who)
			if err != nil {
				return err
			}
			return c.print(grantResult{DryRun: true, MaxUses: options.MaxUses, GrantDetails: keys.GrantDetails{
				KeyID: keyID, Expires: time.Now().Add(options.TTL).UTC(),
				Subject: options.Subject, Purpose: options.Purpose, Reason: options.Reason, RequestID: options.RequestID,
				DescribeOnly: options.DescribeOnly,
			}})
		}
		stream, err := c.stream()
		if err != nil {
			return err
		}
		return c.issue(ctx, stream.Issuer(k), who, options, out)
	}
	return cmd
}

// issue issues a grant and writes it to a file, or prints it. A grant that could not be printed is revoked: the
// output may have a part of it.
func (c *cli) issue(ctx context.Context, k events.Issuer, who keys.Patient, options keys.GrantOptions, out string) error {
	var file *newFile
	if out != dash {
		var err error
		if file, err = createFile(out); err != nil {
			return err
		}
	}
	g, err := k.Issue(ctx, who, options)
	if err == nil && file != nil {
		err = file.commit([]byte(g.Reveal() + "\n"))
	}
	if err != nil {
		if file != nil {
			file.discard()
		}
		return err
	}
	result := grantResult{GrantDetails: g.Details(), MaxUses: options.MaxUses}
	if file != nil {
		result.File = out
		return c.printDone(result, "the grant is in its file, with the accessor "+g.Accessor())
	}
	result.Grant = g.Reveal()
	if c.output == outputText {
		c.note("grant for %s, accessor %s, ends %s", g.KeyID(), g.Accessor(), humanTime(g.Expires()))
	}
	err = c.print(result)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if revokeErr := k.RevokeSelf(ctx, g); revokeErr != nil {
		done := fmt.Sprintf("the grant with the accessor %s was issued and could not be revoked", g.Accessor())
		return &notPrintedError{done, errors.Join(err, revokeErr)}
	}
	return &notPrintedError{fmt.Sprintf("the grant with the accessor %s was issued and revoked again", g.Accessor()), err}
}

// revokeTimeout bounds the revocation of a grant that could not be printed.
const revokeTimeout = 10 * time.Second

func (r grantResult) writeText(w io.Writer) {
	if r.Grant != "" {
		fmt.Fprintln(w, r.Grant) // alone, so that it can be piped
		return
	}
	uses := "no limit"
	if r.MaxUses > 0 {
		uses = fmt.Sprint(r.MaxUses)
	}
	rows := [][]string{}
	if r.DryRun {
		rows = append(rows, []string{"would grant", ""})
	}
	table(w, append(rows, [][]string{
		{"file", orDash(r.File)},
		{"patient", r.KeyID.String()},
		{"subject", r.Subject},
		{"purpose", string(r.Purpose)},
		{"reason", orDash(r.Reason)},
		{"request", orDash(r.RequestID)},
		{"ends", humanTime(r.Expires)},
		{"uses", uses},
		{"accessor", orDash(r.Accessor)},
	}...))
}

type revokeResult struct {
	DryRun   bool   `json:"dry_run"`
	Accessor string `json:"accessor"`
}

func (c *cli) revoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke",
		Short:   "End a grant at once",
		GroupID: groupRecordings,
		Long: `End a grant at once, for everybody who has a copy of it. Name the grant by its
accessor, which "recvault grant" prints and Vault's audit log shows, or pass the
grant itself.

A server that has unwrapped a recording key can use it until its cache drops the
key, after a minute by default.

Role: revoker with --accessor; none with the grant itself.`,
		Example: `  recvault revoke --accessor "$accessor"
  recvault revoke --grant-file grant`,
		Args: noArgs,
	}
	var (
		accessor string
		grant    grantFlag
		dryRun   = dryRunFlag(cmd)
	)
	grant.add(cmd)
	cmd.Flags().StringVar(&accessor, "accessor", "", "the grant's `accessor`")
	cmd.MarkFlagsMutuallyExclusive("accessor", "grant-file")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		revoke, err := c.revocation(ctx, &accessor, &grant)
		if err != nil {
			return err
		}
		if !*dryRun {
			if err := revoke(ctx); err != nil {
				return err
			}
		}
		return c.print(revokeResult{*dryRun, accessor})
	}
	return cmd
}

// revocation returns a function that revokes the grant, by its accessor or with the grant itself. It sets the accessor.
func (c *cli) revocation(ctx context.Context, accessor *string, grant *grantFlag) (func(context.Context) error, error) {
	stream, err := c.stream()
	if err != nil {
		return nil, err
	}
	if *accessor != "" {
		k, err := c.openKeyring(ctx, "revoker")
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return stream.Revoker(k).Revoke(ctx, *accessor) }, nil
	}
	if !grant.given(c) {
		return nil, usagef("no grant: set --accessor, --grant-file or RECVAULT_GRANT")
	}
	g, err := grant.read(ctx, c)
	if err != nil {
		return nil, err
	}
	k, err := c.openGrantKeyring()
	if err != nil {
		return nil, err
	}
	*accessor = g.Accessor()
	return func(ctx context.Context) error { return stream.Issuer(k).RevokeSelf(ctx, g) }, nil
}

func (r revokeResult) writeText(w io.Writer) {
	if r.DryRun {
		fmt.Fprintln(w, "would end the grant with accessor", r.Accessor)
		return
	}
	fmt.Fprintln(w, "ended the grant with accessor", r.Accessor)
}
