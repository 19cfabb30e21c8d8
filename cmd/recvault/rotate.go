package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/vault"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// rotationResult is a report and what follows of it.
type rotationResult struct {
	rotation.Report
	Complete    bool      `json:"complete"`
	Interrupted bool      `json:"interrupted"`
	OlderThan   time.Time `json:"older_than,omitzero"` // for rotate: with it, --older-than resumes this run
}

// rotationFlags are those that the commands which work through many patients share.
type rotationFlags struct {
	scopeFlags
	options rotation.Options
}

func (f *rotationFlags) add(cmd *cobra.Command) {
	f.scopeFlags.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&f.options.Concurrency, "concurrency", 8, "how `many` requests are under way at a time; as many writes beside them")
	flags.Float64Var(&f.options.KeyringRate, "keyring-rate", 0, "at most so `many` requests a second to Vault, 0 for no bound")
	flags.Float64Var(&f.options.StorageRate, "storage-rate", 0, "at most so `many` reads and writes a second of objects, 0 for no bound")
}

// addGrace adds what the writers are configured with, for the commands that wait for them.
func (f *rotationFlags) addGrace(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&f.options.Grace, "grace", 15*time.Minute, "how old the newest version must be")
	flags.DurationVar(&f.options.Freshness, "freshness", vault.DefaultFreshness, "the longest freshness window of any writer")
	flags.DurationVar(&f.options.CommitTimeout, "commit-timeout", vault.DefaultCommitTimeout, "the longest commit timeout of any writer")
	flags.DurationVar(&f.options.ClockSkew, "clock-skew", time.Minute, "how far clocks may be apart")
}

const scopeHelp = `

Which patients must be said: --all, a share of them, or some by name.`

const resumeHelp = scopeHelp + ` A run
that was interrupted, or killed, is just run again: it does what is left.`

func (c *cli) rotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rotate",
		Short:   "Add a version to envelope keys",
		GroupID: groupRotation,
		Long: `rotate adds a version to the envelope key of every patient in the scope who has
recordings. New recordings use it; older ones stay readable and are moved by
"recvault rewrap".

Run again, it would rotate again. --older-than leaves alone the keys that were
rotated since: give the time at which the first run began to resume it, which
is printed when it begins, or an age, as in a job that runs regularly.

Role: rotator.` + scopeHelp,
		Example: `  recvault rotate --all --older-than 720h --keyring-rate 500
  recvault rotate --shards 16 --older-than 2026-03-01T00:00:00Z   # in a Kubernetes Indexed Job`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	olderThan := cmd.Flags().String("older-than", "", "leave alone keys rotated since this `time` (RFC 3339), or within this age (720h)")
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		begun := time.Now().UTC().Truncate(time.Second) // Vault's clock may tell no more
		since, err := parseOlderThan(*olderThan, begun)
		if err != nil {
			return err
		}
		flags.options.OlderThan = since
		resume := since
		if since.IsZero() {
			resume = begun
		}
		return c.runRotation(cmd.Context(), &flags, "rotate", (*rotation.Rotation).Rotate, resume)
	}
	return cmd
}

// parseOlderThan reads a time or an age.
func parseOlderThan(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usagef("--older-than is neither a time such as 2026-03-01T00:00:00Z nor an age such as 720h")
	}
	return t, nil
}

func (c *cli) rewrap() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rewrap",
		Short:   "Move recordings to the newest version of their patient's key",
		GroupID: groupRotation,
		Long: `rewrap has the wrapped key of every recording in the scope encrypted anew under
the newest version of its patient's envelope key. It sees no key and touches no
media.

Role: rotator.` + resumeHelp,
		Example: `  recvault rewrap --all --storage-rate 500
  recvault rewrap --shard 3/16 --output json`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.runRotation(cmd.Context(), &flags, "rewrap", (*rotation.Rotation).Rewrap, time.Time{})
	}
	return cmd
}

func (c *cli) retire() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "retire",
		Short:   "End the use of old key versions that no recording needs",
		GroupID: groupRotation,
		Long: `retire reads every envelope of each patient in the scope. If all are at the
newest version, and that is older than the grace period, older versions no
longer unwrap. Others are left, and the report says why. "recvault reinstate"
takes it back.

The grace period must be longer than freshness window, commit timeout and clock
skew together, which are those of the writers.

Role: retirer.` + resumeHelp,
		Example: `  recvault retire --all
  recvault retire --all --dry-run`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	flags.addGrace(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.runRotation(cmd.Context(), &flags, "retire", (*rotation.Rotation).Retire, time.Time{})
	}
	return cmd
}

func (c *cli) trim() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trim",
		Short:   "Destroy retired key versions for good",
		GroupID: groupRotation,
		Long: `trim destroys the versions that were retired, once it has read every envelope
of the patient and found none that needs them. This cannot be undone: nothing
brings a version back but a backup of Vault. Copies of envelopes from before
their rewrap, in backups and older object versions, open nothing any more.

Role: trimmer.` + resumeHelp,
		Example: `  recvault trim --all --dry-run
  recvault trim --all`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	flags.addGrace(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !flags.options.DryRun {
			c.note("trim: this destroys key versions and cannot be undone; --dry-run shows what it would do")
		}
		return c.runRotation(cmd.Context(), &flags, "trim", (*rotation.Rotation).Trim, time.Time{})
	}
	return cmd
}

// rotation makes what the commands run, and what they run it on. The caller calls end when it has run.
func (c *cli) rotation(ctx context.Context, flags *rotationFlags, verb string) (*rotation.Rotation, scope.Scope, func(), error) {
	k, err := c.openKeyring(ctx)
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	s, err := flags.scope(ctx, c, func() (keys.Wrapper, error) { return k, nil })
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	store, err := c.openStore()
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	p := c.startProgress(verb)
	flags.options.Prefix = c.prefix()
	flags.options.Progress = p.job()
	r, err := rotation.New(k, store, flags.options)
	return r, s, p.end, err
}

// runRotation runs a verb and prints its report. olderThan is what resumes it, for rotate.
func (c *cli) runRotation(
	ctx context.Context, flags *rotationFlags, verb string,
	run func(*rotation.Rotation, context.Context, scope.Scope) (rotation.Report, error), olderThan time.Time,
) error {
	r, s, end, err := c.rotation(ctx, flags, verb)
	if err != nil {
		return err
	}
	if !olderThan.IsZero() && flags.options.OlderThan.IsZero() && !flags.options.DryRun {
		c.note("%s: to resume this run after an interruption, add --older-than %s", verb, olderThan.Format(time.RFC3339))
	}
	report, err := run(r, ctx, s)
	end()
	complete := err == nil && report.Complete()
	interrupted := err != nil && ctx.Err() != nil
	printErr := c.print(rotationResult{report, complete, interrupted, olderThan})
	if err == nil && !complete {
		err = fmt.Errorf("%w: some patients and recordings need attention: %s", errIncomplete, findingCounts(report.Findings))
	}
	return errors.Join(err, printErr)
}

func (r rotationResult) writeText(w io.Writer) {
	what := r.Verb
	if r.DryRun {
		what += " (dry run: what is counted as changed would be)"
	}
	fmt.Fprintf(w, "%s, %s, in %v\n", what, r.Scope, r.Finished.Sub(r.Started).Round(time.Millisecond))
	table(w, [][]string{
		{"patients", counts(r.Patients.Seen, []count{
			{"changed", r.Patients.Changed},
			{"unchanged", r.Patients.Unchanged},
			{"unresolved", r.Patients.Unresolved},
			{"erased", r.Patients.Erased},
			{"not enrolled", r.Patients.NotEnrolled},
			{"failed", r.Patients.Failed},
		})},
		{"envelopes", counts(r.Envelopes.Seen, []count{
			{"rewrapped", r.Envelopes.Rewrapped},
			{"current", r.Envelopes.Current},
			{"older", r.Envelopes.Older},
			{"changed by others", r.Envelopes.Superseded},
			{"deleted by others", r.Envelopes.Deleted},
			{"without a key", r.Envelopes.Keyless},
			{"damaged", r.Envelopes.Damaged},
			{"failed", r.Envelopes.Failed},
		})},
		{"versions", versionCounts(r.Before) + " -> " + versionCounts(r.After)},
		{"requests", fmt.Sprintf("%d to the keyring, %d reads, %d writes", r.Requests.Keyring, r.Requests.Reads, r.Requests.Writes)},
	})
	writeFindings(w, r.Findings)
	if r.Interrupted {
		resume := ""
		if !r.OlderThan.IsZero() {
			resume = " with --older-than " + r.OlderThan.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "\ninterrupted: run it again%s to do what is left\n", resume)
	}
}

type count struct {
	what string
	n    int
}

// counts is a total and those of its parts that are there.
func counts(total int, parts []count) string {
	text := fmt.Sprint(total)
	separator := ": "
	for _, part := range parts {
		if part.n > 0 {
			text += fmt.Sprintf("%s%d %s", separator, part.n, part.what)
			separator = ", "
		}
	}
	return text
}

// versionCounts is how many there are of each version.
func versionCounts(versions map[int]int) string {
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		parts = append(parts, fmt.Sprintf("v%d: %d", version, versions[version]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

type reinstateResult struct {
	DryRun bool       `json:"dry_run"`
	Oldest int        `json:"oldest"`
	KeyID  keys.KeyID `json:"key_id"`
}

func (c *cli) reinstate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "reinstate --oldest VERSION",
		Short:   "Take a retirement back",
		GroupID: groupRotation,
		Long: `reinstate has the versions from --oldest on unwrap again: for recordings that
turn out to need them, such as those restored from a backup. What was trimmed
is gone.

Role: retirer.`,
		Example: `  recvault reinstate --oldest 3 --key-id "$key_id"`,
		Args:    noArgs,
	}
	var (
		patient patientFlag
		oldest  int
		dryRun  = dryRunFlag(cmd)
	)
	patient.addKeyID(cmd)
	cmd.Flags().IntVar(&oldest, "oldest", 0, "the oldest `version` that is to unwrap; required")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if oldest < 1 {
			return usagef("say from which version on: --oldest, which counts from 1")
		}
		k, err := c.openKeyring(ctx)
		if err != nil {
			return err
		}
		id, err := patient.pseudonym(ctx, c, func() (keys.Wrapper, error) { return k, nil })
		if err != nil {
			return err
		}
		if !*dryRun {
			if err := k.Reinstate(ctx, id, oldest); err != nil {
				return err
			}
		} else {
			versions, err := k.Versions(ctx, id)
			if err != nil {
				return err
			}
			if oldest < versions.MinAvailable || oldest > versions.Latest {
				return keys.ErrInvalidVersion
			}
		}
		return c.print(reinstateResult{*dryRun, oldest, id})
	}
	return cmd
}

func (r reinstateResult) writeText(w io.Writer) {
	verb := "reinstated"
	if r.DryRun {
		verb = "would reinstate"
	}
	fmt.Fprintf(w, "%s %s: versions from %d on unwrap\n", verb, r.KeyID, r.Oldest)
}
