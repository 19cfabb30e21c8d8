package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault/upkeep"
)

type verifyResult struct {
	upkeep.VerifyReport
	Complete    bool `json:"complete"`
	Interrupted bool `json:"interrupted"`
}

func (c *cli) verify() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "verify",
		Short:   "Tell what is damaged",
		GroupID: groupChecks,
		Long: `verify checks what is there and changes nothing. Of every recording it checks
that envelope and media are there and that the media has a size that media can
have; of those in the sample also that the envelope is one and the recording's
own, that the media begins as media does, and that the key version still
unwraps. That takes no key, and cannot tell media that was altered.

With grants, one to a line of the grant file, the sampled recordings of their
patients are read to the end, which authenticates every byte. Each takes a use
of the grant.

The code is 6 if anything was found.

Role: auditor; with --no-keyring none, and key versions are not checked.` + scopeHelp,
		Example: `  recvault verify --all
  recvault verify --all --sample 0.01 --output json
  recvault verify --key-id "$key_id" --grant-file grant`,
		Args: noArgs,
	}
	var (
		flags     scopeFlags
		options   upkeep.VerifyOptions
		grantFile string
		noKeyring bool
	)
	flags.add(cmd)
	cmd.Flags().Float64Var(&options.Sample, "sample", 1, "the `fraction` of recordings to look into, over 0 and up to 1")
	cmd.Flags().Uint64Var(&options.Seed, "seed", 0, "`number` that picks the sample; drawn at random unless given")
	cmd.Flags().StringVar(&grantFile, "grant-file", "", "`file` with grants, one to a line, - for standard input (RECVAULT_GRANT: one grant)")
	cmd.Flags().BoolVar(&noKeyring, "no-keyring", false, "do not ask Vault whether key versions still unwrap")
	cmd.Flags().IntVar(&options.Concurrency, "concurrency", upkeep.DefaultConcurrency, "how `many` recordings are worked on at a time")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if !cmd.Flags().Changed("seed") {
			options.Seed = rand.Uint64()
		}
		s, err := flags.scope(ctx, c, c.pseudonyms(ctx))
		if err != nil {
			return err
		}
		if err := c.verifyGrants(ctx, grantFile, &options); err != nil {
			return err
		}
		var versions upkeep.KeyVersions
		if !noKeyring {
			if versions, err = c.openKeyring(ctx); err != nil {
				return err
			}
		}
		store, err := c.openStore()
		if err != nil {
			return err
		}
		p := c.startProgress("verify")
		options.Prefix, options.Progress = c.prefix(), p.job()
		report, err := upkeep.Verify(ctx, versions, store, s, options)
		p.end()
		if report.Started.IsZero() {
			return err // the options were wrong
		}
		result := verifyResult{report, err == nil && report.Complete(), err != nil && ctx.Err() != nil}
		printErr := c.print(result)
		if err == nil && !result.Complete {
			err = fmt.Errorf("%w: verify found problems", errIncomplete)
		}
		return errors.Join(err, printErr)
	}
	return cmd
}

// verifyGrants has recordings read to the end as far as there are grants.
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
	fmt.Fprintf(w, "verify, %s, in %v\n", r.Scope, r.Finished.Sub(r.Started).Round(time.Millisecond))
	asked := "checked"
	if !r.KeysAsked {
		asked = "not checked"
	}
	table(w, [][]string{
		{"recordings", fmt.Sprint(r.Recordings)},
		{"looked into", fmt.Sprintf("%d (sample %v, seed %d)", r.Checked, r.Sample, r.Seed)},
		{"read to the end", fmt.Sprintf("%d, %s", r.Read, humanBytes(r.BytesRead))},
		{"key versions", asked},
		{"media without an envelope", tally(r.Uncommitted)},
	})
	writeFindings(w, r.Findings)
	switch {
	case r.Interrupted:
		fmt.Fprintln(w, "\ninterrupted: run it again")
	case r.Complete:
		fmt.Fprintln(w, "\nnothing is wrong")
	}
}
