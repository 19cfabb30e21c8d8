package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/keys/transit/transitcheck"
	"github.com/recvault/recvault/storage"
)

// errDrift: Vault is not as setup makes it. The report lists the differences.
var errDrift = errors.New("this Vault is not as setup makes it")

func (c *cli) audit() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Report who saw what, and compare Vault with what it should be",
		GroupID: groupChecks,
		Args:    cobra.ArbitraryArgs,
		RunE:    needsSubcommand,
	}
	cmd.AddCommand(c.auditReport(), c.auditSetup())
	return cmd
}

// driftResult is a comparison, and what is needed to read it later.
type driftResult struct {
	Recvault     versionResult `json:"recvault"`
	VaultAddress string        `json:"vault_address"`
	transitcheck.DriftReport
	Drifts    int      `json:"drift_count"`
	Unchecked int      `json:"unchecked_count"`
	Limits    []string `json:"limits"` // what the comparison cannot see
}

type policyResult struct {
	HCL string `json:"hcl"`
}

func (r policyResult) writeText(w io.Writer) { fmt.Fprint(w, r.HCL) }

func (c *cli) auditSetup() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Compare Vault with what setup makes, and name every difference",
		Long: `Compare a live Vault with what it should be, name every difference, and print a
page that a person can sign. Nothing is changed, and no key is used.

Compared are: audit devices, and what they show in clear; quotas that keep
requests out of the audit log; answers that Vault keeps under wrapping tokens; the
mount, its tuning and the bucket and prefix that it is for; the pseudonym key; the
settings of patients' keys; the policy of each role, line by line; the token
roles; aliases that are no patient's; every other policy with a rule that reaches
the mount, the token roles, identities, policies, auth methods and who may log in,
other users' tokens, audit devices, quotas, plugins or Vault's storage; tokens and
token roles that have no limit in time. The tuning of the token mount is listed.
What a comparison cannot see, and why, is at the end of the page.

Work is bounded: one request for each policy, for each token role, and for each of
--keys keys and --tokens tokens, which are drawn at random. The page says how many
of how many. Vault sends the names of all keys, and the accessors of all tokens,
in one answer each, about 40 bytes for each.

A policy that is meant to reach this far, such as an administrator's, is named
with --expect-policy. It is then listed, and is no difference.

The exit code is 6 if there is a difference ("drift"), or if something was not
checked because the token may not read it ("incomplete"). The page then names the
right that it needs. It is 3 if the token may read nothing at all.

Role: auditor, and more: the policy that --print-policy shows has every right that
this takes, and none to change anything. Setup does not install it.`,
		Example: `  recvault audit setup --print-policy | vault policy write comparisons -
  recvault audit setup > drift-report.txt
  recvault audit setup --keys 100000 --expect-policy administrators --output json`,
		Args: noArgs,
	}
	var (
		options     transitcheck.DriftOptions
		storeID     string
		printPolicy bool
	)
	cmd.Flags().StringVar(&storeID, "store-id", "", "the `ID` of the bucket and prefix; default that of the bucket in the settings, if there is one")
	cmd.Flags().DurationVar(&options.MaxGrantTTL, "max-grant-ttl", 0, "the longest lifetime of a grant that was chosen at setup; 0 accepts any")
	cmd.Flags().IntVar(&options.ExpectedPatients, "expected-patients", 0, "`number` of keys in memory that was chosen at setup; 0 accepts any")
	cmd.Flags().IntVar(&options.MaxEntities, "max-entities", 100_000, "`number` of Vault's entities up to which their aliases are listed, 300 bytes each")
	cmd.Flags().IntVar(&options.Keys, "keys", transitcheck.DefaultDriftKeys, "`number` of patients' keys to read")
	cmd.Flags().IntVar(&options.Tokens, "tokens", transitcheck.DefaultDriftTokens, "`number` of Vault's tokens to look up")
	cmd.Flags().StringArrayVar(&options.Expected, "expect-policy", nil, "`name` of a policy that is meant to reach this far; can be repeated")
	var job metrics
	job.addFlag(cmd.Flags())
	cmd.Flags().BoolVar(&printPolicy, "print-policy", false, "print the policy for this comparison, and do nothing")
	cmd.RunE = c.measured(&job, everything, func(cmd *cobra.Command, _ []string) error {
		where := c.transitOptions()
		options.Mount, options.Prefix = where.Mount, where.Prefix
		if printPolicy {
			text, err := transitcheck.DriftPolicy(where)
			if err != nil {
				return usagef("%v", err)
			}
			return c.print(policyResult{text})
		}
		directory, err := c.directory()
		switch {
		case err != nil:
			return err
		case directory != "":
			return usagef("audit setup compares a Vault, and a directory has none")
		case options.Keys < 1 || options.Tokens < 1:
			return usagef("--keys and --tokens must be at least 1")
		}
		options.Store = keys.StoreID(storeID)
		if _, err := transit.SetupCalls(transit.SetupOptions{
			Mount: options.Mount, Prefix: options.Prefix, Store: options.Store, MaxGrantTTL: options.MaxGrantTTL,
			ExpectedPatients: options.ExpectedPatients, MaxEntities: options.MaxEntities,
		}); err != nil {
			return usagef("%v", err)
		}
		if storeID == "" && c.bucket() != "" {
			if options.Store, err = c.readStoreID(cmd.Context()); err != nil {
				return err
			}
		}
		return c.findDrift(cmd.Context(), options)
	})
	return cmd
}

// readStoreID returns the ID of the bucket and prefix, which setup has made.
func (c *cli) readStoreID(ctx context.Context) (keys.StoreID, error) {
	o, err := c.openObjects()
	if err != nil {
		return "", err
	}
	id, err := o.StoreID(ctx)
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: the bucket and prefix have no ID (run setup, or name one with --store-id)", err)
	}
	return id, err
}

func (c *cli) findDrift(ctx context.Context, options transitcheck.DriftOptions) error {
	client, err := c.vaultClient()
	if err != nil {
		return err
	}
	if _, err := c.authenticate(ctx, client, "auditor, or better the policy of \"recvault audit setup --print-policy\""); err != nil {
		return err
	}
	report, err := transitcheck.FindDrift(ctx, client, options)
	if err != nil {
		return err
	}
	result := driftResult{
		Recvault: thisVersion(), VaultAddress: withoutPassword(client.Address()), DriftReport: report,
		Drifts: report.Drifts(), Unchecked: report.Unchecked(), Limits: transitcheck.Limits(),
	}
	switch {
	case result.Drifts > 0:
		err = fmt.Errorf("%w: %s", errDrift, counted(result.Drifts, "difference"))
	case result.Unchecked > 0:
		err = fmt.Errorf("%w: no difference was found, but %s", errIncomplete, counted(result.Unchecked, "thing")+" not checked")
	}
	return errors.Join(c.print(result), err)
}

// counted writes a number and a noun.
func counted(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// writeText writes the page to sign.
func (r driftResult) writeText(w io.Writer) {
	fmt.Fprintln(w, "COMPARISON OF VAULT WITH WHAT RECVAULT'S SETUP MAKES")
	fmt.Fprintln(w)
	table(w, [][]string{
		{"Vault", r.VaultAddress + ", version " + printable(r.VaultVersion)},
		{"cluster", printable(r.ClusterID + " (" + r.ClusterName + ")")},
		{"namespace", printable(r.Namespace)},
		{"mount", r.Mount},
		{"policies", r.Prefix + "-*"},
		{"began", humanTime(r.Began)},
		{"ended", humanTime(r.Ended)},
		{"made by", "recvault " + r.Recvault.Version + ", revision " + orDash(r.Recvault.Revision)},
	})
	left := "nothing was left out"
	if r.Unchecked > 0 {
		left = counted(r.Unchecked, "thing") + " not checked"
	}
	fmt.Fprintf(w, "\nRESULT: %s; %s\n", counted(r.Drifts, "difference"), left)
	r.writeDrifts(w)
	r.writeLists(w, "NOT CHECKED", func(c transitcheck.Comparison) []string { return c.Unchecked })
	fmt.Fprintln(w, "\nWHAT WAS COMPARED")
	fmt.Fprintln(w)
	rows := [][]string{}
	for _, c := range r.Comparisons {
		outcome := "as it should be"
		switch n := len(c.Drifts) + c.More; {
		case n > 0:
			outcome = counted(n, "difference")
		case len(c.Unchecked) > 0 && c.Compared != "":
			outcome = "not all checked"
		case len(c.Unchecked) > 0:
			outcome = "not checked"
		}
		rows = append(rows, []string{"  " + printable(c.Name), outcome, printable(c.Compared)})
	}
	table(w, rows)
	r.writeLists(w, "NOTES: no differences, for the reader to judge", func(c transitcheck.Comparison) []string { return c.Notes })
	fmt.Fprintln(w, "\nWHAT THIS COMPARISON CANNOT SEE")
	fmt.Fprintln(w)
	for _, limit := range r.Limits {
		fmt.Fprintln(w, "  - "+limit)
	}
	line := strings.Repeat("_", 40)
	fmt.Fprintf(w, "\nI have read this page.\n\n  Name       %s\n\n  Date       %s\n\n  Signature  %s\n", line, line, line)
}

func (r driftResult) writeDrifts(w io.Writer) {
	if r.Drifts == 0 {
		return
	}
	fmt.Fprintln(w, "\nDIFFERENCES")
	n := 0
	for _, c := range r.Comparisons {
		for _, drift := range c.Drifts {
			n++
			fmt.Fprintf(w, "\n  %d. %s: %s\n     expected  %s\n     found     %s\n", n, printable(c.Name), printable(drift.What),
				printable(drift.Expected), printable(drift.Found))
		}
		if c.More > 0 {
			fmt.Fprintf(w, "\n  and %d more in %s\n", c.More, printable(c.Name))
		}
	}
}

// writeLists writes lines of each comparison under a title, if there are any.
func (r driftResult) writeLists(w io.Writer, title string, of func(transitcheck.Comparison) []string) {
	for _, c := range r.Comparisons {
		for _, line := range of(c) {
			if title != "" {
				fmt.Fprintf(w, "\n%s\n\n", title)
				title = ""
			}
			fmt.Fprintf(w, "  - %s: %s\n", printable(c.Name), printable(line))
		}
	}
}
