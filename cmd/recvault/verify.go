package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/upkeep"
)

// verifyResult is a report, and whether anything needs attention.
type verifyResult struct {
	upkeep.VerifyReport
	Complete    bool `json:"complete"`
	Interrupted bool `json:"interrupted"`
}

func (c *cli) verify() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Check recordings for damage",
		GroupID: groupChecks,
		Long: `Check recordings for damage, and change nothing. verify checks that every
envelope has its media, and that the size of the media is possible. For the
recordings in the sample it also checks that the envelope is well formed and
belongs to the recording, that the media begins with a valid header, and that
Vault can still use both wrapped keys. These checks need no key, and cannot
detect media that was altered.

With the right to re-wrap (role rotator), Vault proves each wrapped key, and the
results are thrown away. With the role auditor, only the version in the label of
each wrapped key is compared with the versions that the key has. That is no
proof: a label can be edited, and it is wrong after a restore of Vault from
before a rotation. The report says how many were proved.

With grants, verify reads the sampled recordings of the grants' patients to the
end, which authenticates every byte. The grant file has one grant per line. Each
recording takes up to two uses of its grant.

The exit code is 6 if there are any findings, except recordings that need a
newer release: these are counted as unsupported, and are not damaged. It is also
6 if fewer recordings are found than --expect-min: a wrong bucket or prefix has
none. If Vault or the store refuses or does not answer ten times in a row, or
every time, verify ends at once, with 3 or 5.

Role: rotator, or auditor to compare labels only. With --no-keyring none: keys
are not checked then.` + scopeHelp,
		Example: `  recvault verify --all --expect-min 10000
  recvault verify --all --sample 0.01 --output json
  recvault verify --key-id "$key_id" --grant-file grant`,
		Args: noArgs,
	}
	var (
		flags     scopeFlags
		options   upkeep.VerifyOptions
		grantFile string
		noKeyring bool
		expected  expectation
	)
	flags.add(cmd)
	expected.add(cmd)
	cmd.Flags().Float64Var(&options.Sample, "sample", 1, "`fraction` of the recordings to check closely, over 0 and up to 1")
	cmd.Flags().Uint64Var(&options.Seed, "seed", 0, "`number` that picks the sample; random by default")
	cmd.Flags().StringVar(&grantFile, "grant-file", "", "`file` with grants, one per line, - for standard input (RECVAULT_GRANT: one grant)")
	cmd.Flags().BoolVar(&noKeyring, "no-keyring", false, "do not ask Vault whether it can still use the wrapped keys")
	cmd.Flags().IntVar(&options.Concurrency, "concurrency", upkeep.DefaultConcurrency, "check `n` recordings at a time")
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if cmd.Flags().Changed("sample") && options.Sample == 0 {
			return usagef("a sample of 0 checks nothing closely: set --sample to a fraction over 0 and up to 1")
		}
		if !cmd.Flags().Changed("seed") {
			options.Seed = rand.Uint64()
		}
		s, err := flags.scope(ctx, c, c.keyringLater(ctx))
		if err != nil {
			return err
		}
		if err := c.verifyGrants(ctx, grantFile, &options); err != nil {
			return err
		}
		var versions upkeep.KeyVersions
		if !noKeyring {
			if versions, err = c.openKeyring(ctx, "rotator or auditor"); err != nil {
				return err
			}
		}
		store, err := c.openStore()
		if err != nil {
			return err
		}
		p := c.startProgress("verify")
		options.Prefix, options.Progress = c.prefix(), expected.watch(p.job())
		report, err := upkeep.Verify(ctx, versions, store, s, options)
		p.end()
		flags.metrics.note(report.Report, unknown)
		if report.Started.IsZero() {
			return err // the options are not valid
		}
		interrupted := err != nil && ctx.Err() != nil
		if err == nil {
			err = expected.check()
			if !report.Complete() {
				err = errors.Join(err, fmt.Errorf("%w: problems were found: %s", errIncomplete, findingCounts(report.Findings)))
			}
		}
		return errors.Join(err, c.print(verifyResult{report, err == nil, interrupted}))
	})
	return cmd
}

// verifyGrants reads the grants. With any, the recordings of their patients are read to the end.
func (c *cli) verifyGrants(ctx context.Context, file string, options *upkeep.VerifyOptions) error {
	grants := map[keys.KeyID]keys.Grant{}
	add := func(text string) error {
		g, err := keys.ParseGrant(text)
		grants[g.KeyID()] = g
		return err
	}
	if file != "" {
		if err := c.eachLine(ctx, file, "grants", "--grant-file", add); err != nil {
			return err
		}
	} else if one := new(grantFlag); one.given(c) {
		g, err := one.read(ctx, c)
		if err != nil {
			return err
		}
		grants[g.KeyID()] = g
	}
	if len(grants) == 0 {
		return nil
	}
	var err error
	options.Vault, err = c.openGrantVault()
	options.Grant = func(id keys.KeyID) (keys.Grant, bool) {
		g, ok := grants[id]
		return g, ok
	}
	return err
}

func (r verifyResult) writeText(w io.Writer) {
	writeHeading(w, r.Report)
	table(w, [][]string{
		{"recordings", fmt.Sprint(r.Recordings)},
		{"checked closely", fmt.Sprintf("%d (sample %v, seed %d)", r.Checked, r.Sample, r.Seed)},
		{"wrapped keys", r.wrappedKeys()},
		{"read to the end", fmt.Sprintf("%d, %s", r.Read, humanBytes(r.BytesRead))},
		{"unsupported", fmt.Sprint(r.Unsupported)},
		{"media without an envelope", tally(r.Uncommitted)},
	})
	writeFindings(w, r.Findings)
	switch {
	case r.Interrupted:
		fmt.Fprintln(w, "\ninterrupted: not everything was checked")
	case r.Recordings == 0:
		fmt.Fprintln(w, noRecordings)
	case r.Complete && r.labelsOnly():
		fmt.Fprintln(w, "\nno problems found, but wrapped keys were not proved")
	case r.Complete:
		fmt.Fprintln(w, "\nno problems found")
	}
	if r.Unsupported > 0 {
		fmt.Fprintln(w, unsupportedLine(r.Unsupported))
	}
}

// labelsOnly reports whether the versions in labels were compared, and the keyring proved nothing.
func (r verifyResult) labelsOnly() bool {
	return r.Compared > 0 && r.Proved == 0
}

// wrappedKeys says how far the wrapped keys were checked.
func (r verifyResult) wrappedKeys() string {
	switch {
	case !r.KeysAsked:
		return "not checked"
	case r.labelsOnly():
		return "0 proved: only the versions in their labels were compared, which is no proof (the role rotator can prove them)"
	}
	text := fmt.Sprintf("%d of %d proved by the keyring", r.Proved, r.Checked)
	if r.Compared > 0 {
		text += "; of the others, only the versions in their labels were compared"
	}
	return text
}
