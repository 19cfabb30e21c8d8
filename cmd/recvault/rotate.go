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
	"github.com/recvault/recvault/vault/job"
	"github.com/recvault/recvault/vault/rotation"
	"github.com/recvault/recvault/vault/scope"
)

// rotationResult is a report, and whether anything needs attention.
type rotationResult struct {
	rotation.Report
	Complete    bool      `json:"complete"`
	Interrupted bool      `json:"interrupted"`
	OlderThan   time.Time `json:"older_than,omitzero"` // for rotate: the value of --older-than that resumes this run
}

// rotationFlags are the flags of plan, rotate, rewrap, retire and trim.
type rotationFlags struct {
	scopeFlags
	options  rotation.Options
	expected expectation
}

func (f *rotationFlags) add(cmd *cobra.Command) {
	f.scopeFlags.add(cmd)
	f.expected.add(cmd)
	flags := cmd.Flags()
	flags.IntVar(&f.options.Concurrency, "concurrency", 8, "at most `n` requests at a time, and n writes at the same time")
	flags.Float64Var(&f.options.KeyringRate, "keyring-rate", 0, "at most `n` requests to Vault per second, 0 for no limit")
	flags.Float64Var(&f.options.StorageRate, "storage-rate", 0, "at most `n` lists, reads and writes of objects per second, 0 for no limit")
}

// addGrace adds the grace period and the writers' settings that it depends on.
func (f *rotationFlags) addGrace(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&f.options.Grace, "grace", 15*time.Minute, "the least age of the newest version")
	flags.DurationVar(&f.options.Freshness, "freshness", vault.DefaultFreshness, "the longest freshness window of any writer")
	flags.DurationVar(&f.options.CommitTimeout, "commit-timeout", vault.DefaultCommitTimeout, "the longest commit timeout of any writer")
	flags.DurationVar(&f.options.ClockSkew, "clock-skew", time.Minute, "the greatest difference between clocks")
}

const scopeHelp = `

Select the patients with --all, as a share (--shard, --shards), or one by one.`

const resumeHelp = scopeHelp + `
After an interruption or a crash, run the same command again: it does what is
left.`

func (c *cli) rotate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rotate",
		Short:   "Add a version to envelope keys",
		GroupID: groupRotation,
		Long: `Add a version to the envelope key of every selected patient who has recordings.
New recordings use the new version. Older ones stay readable, and "recvault
rewrap" moves them.

A second run rotates again, unless --older-than excludes the keys that were
rotated since. To resume an interrupted run, set it to the time at which that
run began, which rotate prints. In a job that runs regularly, set it to an age.

Role: rotator.` + scopeHelp,
		Example: `  recvault rotate --all --older-than 720h --keyring-rate 500
  recvault rotate --shards 16 --older-than 2026-03-01T00:00:00Z   # in a Kubernetes Indexed Job`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	olderThan := cmd.Flags().String("older-than", "", "skip keys rotated since this `time` (RFC 3339), or within this age (720h)")
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		begun := time.Now().UTC().Truncate(time.Second) // Vault may report whole seconds
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
	})
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
		return time.Time{}, usagef("--older-than must be a time such as 2026-03-01T00:00:00Z or an age such as 720h")
	}
	return t, nil
}

func (c *cli) rewrap() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rewrap",
		Short:   "Move recordings to the newest version of their patient's key",
		GroupID: groupRotation,
		Long: `Move recordings to the newest version of their patient's envelope key: Vault
decrypts each wrapped key and encrypts it again under the newest version. rewrap
sees no key and touches no media.

Role: rotator.` + resumeHelp,
		Example: `  recvault rewrap --all --storage-rate 500
  recvault rewrap --shard 3/16 --output json`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		return c.runRotation(cmd.Context(), &flags, "rewrap", (*rotation.Rotation).Rewrap, time.Time{})
	})
	return cmd
}

func (c *cli) retire() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "retire",
		Short:   "Stop the use of old key versions that no recording needs",
		GroupID: groupRotation,
		Long: `Stop the use of old key versions, so that they no longer unwrap. retire reads
every envelope of each selected patient. It retires the patient's old versions
if every envelope is at the newest version, and if that version is older than
the grace period. Otherwise it changes nothing for the patient, and the report
says why. "recvault reinstate" undoes it.

The grace period must be at least as long as the writers' freshness window and
commit timeout and the clock skew together.

Role: retirer.` + resumeHelp,
		Example: `  recvault retire --all
  recvault retire --all --dry-run`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	flags.addGrace(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		return c.runRotation(cmd.Context(), &flags, "retire", (*rotation.Rotation).Retire, time.Time{})
	})
	return cmd
}

func (c *cli) trim() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "trim",
		Short:   "Destroy retired key versions for good",
		GroupID: groupRotation,
		Long: `Destroy retired key versions for good. This cannot be undone: only a backup of
Vault has the versions afterwards. Before trim destroys a patient's versions, it
reads every envelope of the patient to make sure that none needs them.

Copies of envelopes from before the rewrap, in backups and older object
versions, can no longer be opened.

Role: trimmer.` + resumeHelp,
		Example: `  recvault trim --all --dry-run
  recvault trim --all`,
		Args: noArgs,
	}
	var flags rotationFlags
	flags.add(cmd)
	flags.addGrace(cmd)
	dryRunVar(cmd, &flags.options.DryRun)
	cmd.RunE = c.measured(&flags.metrics, flags.label, func(cmd *cobra.Command, _ []string) error {
		if !flags.options.DryRun {
			c.note("trim destroys key versions, which cannot be undone; --dry-run shows which")
		}
		return c.runRotation(cmd.Context(), &flags, "trim", (*rotation.Rotation).Trim, time.Time{})
	})
	return cmd
}

// roleOf has the role that each verb needs.
var roleOf = map[string]string{"plan": "rotator", "rotate": "rotator", "rewrap": "rotator", "retire": "retirer", "trim": "trimmer"}

// rotation returns a Rotation with the options of the flags, and the scope to run a verb on. The caller calls end
// after the run.
func (c *cli) rotation(
	ctx context.Context, flags *rotationFlags, verb string,
) (r *rotation.Rotation, s scope.Scope, end func(), err error) {
	k, err := c.openKeyring(ctx, roleOf[verb])
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	s, err = flags.scope(ctx, c, func() (keys.Wrapper, error) { return k, nil })
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	store, err := c.openStore()
	if err != nil {
		return nil, scope.Scope{}, nil, err
	}
	p := c.startProgress(verb)
	flags.options.Prefix = c.prefix()
	flags.options.Progress = flags.expected.watch(p.job())
	r, err = rotation.New(k, store, flags.options)
	return r, s, p.end, err
}

// runRotation runs a verb and prints its report. For rotate, olderThan is the value of --older-than that resumes it.
func (c *cli) runRotation(
	ctx context.Context, flags *rotationFlags, verb string,
	run func(*rotation.Rotation, context.Context, scope.Scope) (rotation.Report, error), olderThan time.Time,
) error {
	r, s, end, err := c.rotation(ctx, flags, verb)
	if err != nil {
		return err
	}
	if !olderThan.IsZero() && flags.options.OlderThan.IsZero() && !flags.options.DryRun {
		c.note("%s: to resume this run after an interruption, use --older-than %s", verb, olderThan.Format(time.RFC3339))
	}
	report, err := run(r, ctx, s)
	end()
	done := report.Patients.Changed + report.Patients.Unchanged + report.Patients.Erased
	flags.metrics.note(report.Report, report.Patients.Seen-done)
	interrupted := err != nil && ctx.Err() != nil
	if err == nil {
		err = errors.Join(flags.expected.check(), needsAttention(report.Complete(), report.Findings))
	}
	return errors.Join(err, c.print(rotationResult{report, err == nil, interrupted, olderThan}))
}

// needsAttention returns the error of a plan or a run that is not complete.
func needsAttention(complete bool, f job.Findings) error {
	if complete {
		return nil
	}
	return fmt.Errorf("%w: some patients and recordings need attention: %s", errIncomplete, findingCounts(f))
}

func (r rotationResult) writeText(w io.Writer) {
	writeHeading(w, r.Report.Report)
	rows := [][]string{
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
			{"unsupported", r.Envelopes.Unsupported},
			{"failed", r.Envelopes.Failed},
		})},
		{"versions", versionCounts(r.Before) + " -> " + versionCounts(r.After)},
		{"requests", fmt.Sprintf("%d to the keyring, %d lists, %d reads, %d writes",
			r.Requests.Keyring, r.Requests.Lists, r.Requests.Reads, r.Requests.Writes)},
	}
	if !r.Keys.Oldest.IsZero() {
		rows = append(rows, []string{"keys", keyAges(r.Report.Report)})
	}
	table(w, rows)
	writeFindings(w, r.Findings)
	if r.Envelopes.Unsupported > 0 {
		fmt.Fprintln(w, "\n"+unsupportedLine(int64(r.Envelopes.Unsupported)))
	}
	if r.Patients.Seen == 0 && !r.Interrupted {
		fmt.Fprintln(w, noRecordings)
	}
	if r.Interrupted {
		resume := ""
		if !r.OlderThan.IsZero() {
			resume = " with --older-than " + r.OlderThan.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "\ninterrupted: run the same command again%s to do what is left\n", resume)
	}
}

type count struct {
	what string
	n    int
}

// counts returns a total and its parts that are not zero.
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

// versionCounts returns how many there are of each version.
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
	DryRun    bool       `json:"dry_run"`
	Oldest    int        `json:"oldest"`
	KeyID     keys.KeyID `json:"key_id"`
	Usable    int        `json:"oldest_usable"`    // the oldest version that unwraps
	Available int        `json:"oldest_available"` // the oldest that exists, and can be reinstated
	Latest    int        `json:"latest"`
	Rotated   time.Time  `json:"rotated"` // when the newest version was made
}

func (c *cli) reinstate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "reinstate --oldest VERSION",
		Short:   "Undo a retirement",
		GroupID: groupRotation,
		Long: `Undo a retirement: the versions from --oldest on unwrap again. Use reinstate for
recordings that still need them, such as those restored from a backup. Versions
that were trimmed are gone. reinstate names the oldest version that is left, and
the age of the key.

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
	cmd.Flags().IntVar(&oldest, "oldest", 0, "the oldest `version` to unwrap again; required")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if oldest < 1 {
			return usagef("no version: set --oldest, which counts from 1")
		}
		k, err := c.openKeyring(ctx, "retirer")
		if err != nil {
			return err
		}
		id, err := patient.findKeyID(ctx, c, func() (keys.Wrapper, error) { return k, nil })
		if err != nil {
			return err
		}
		var reinstateErr error
		if !*dryRun {
			if reinstateErr = k.Reinstate(ctx, id, oldest); reinstateErr != nil && !errors.Is(reinstateErr, keys.ErrInvalidVersion) {
				return reinstateErr
			}
		}
		v, err := k.Versions(ctx, id)
		if err != nil {
			return errors.Join(reinstateErr, err)
		}
		if oldest < v.MinAvailable || oldest > v.Latest {
			reinstateErr = keys.ErrInvalidVersion
		}
		if reinstateErr != nil {
			return fmt.Errorf("%w: the key has the versions %d to %d", reinstateErr, v.MinAvailable, v.Latest)
		}
		return c.print(reinstateResult{*dryRun, oldest, id, min(oldest, v.MinDecryption), v.MinAvailable, v.Latest, v.Rotated.UTC()})
	}
	return cmd
}

func (r reinstateResult) writeText(w io.Writer) {
	verb := "reinstated"
	if r.DryRun {
		verb = "would reinstate"
	}
	fmt.Fprintf(w, "%s %s: versions from %d on unwrap\n", verb, r.KeyID, r.Usable)
	fmt.Fprintf(w, "the key has the versions %d to %d, the newest made %s\n", r.Available, r.Latest, humanTime(r.Rotated))
}
