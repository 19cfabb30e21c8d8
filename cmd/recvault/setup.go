package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/storecheck"
)

// setupResult is what setup changed, or would change.
type setupResult struct {
	DryRun  bool          `json:"dry_run"`
	Changes []setupChange `json:"changes"`

	// What a stolen granter's token could use.
	Foreign           []foreignAlias `json:"foreign_aliases,omitempty"`
	MoreForeign       int            `json:"more_foreign_aliases,omitempty"`
	UncheckedEntities int            `json:"unchecked_entities,omitempty"`

	Problems []doctorCheck `json:"problems,omitempty"` // the doctor's checks that failed
}

type foreignAlias struct {
	Alias    string   `json:"alias"`
	EntityID string   `json:"entity_id"`
	Policies []string `json:"policies"`
	Groups   int      `json:"groups"`
	Logins   int      `json:"logins"` // aliases of the entity at other auth methods
}

type setupChange struct {
	What   string `json:"what"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// setupPlan is what setup does in a Vault where nothing is set up.
type setupPlan struct {
	DryRun   bool           `json:"dry_run"`
	Calls    []transit.Call `json:"calls"`
	Policies []setupPolicy  `json:"policies"`
}

type setupPolicy struct {
	Role string `json:"role"`
	Name string `json:"name"`
	HCL  string `json:"hcl"`
}

func (c *cli) setup() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "setup",
		Short:   "Prepare Vault, or a directory",
		GroupID: groupSetUp,
		Long: `Prepare Vault for recvault: mount the Transit engine at a path of its own, and
create the key for pseudonyms, a policy for each role and the token role for
grants. setup reads first and changes only what differs. Run it again at any
time: after an upgrade, or to repair what was changed by hand. It never replaces
or deletes a key. It issues no tokens, and it enables no audit device: without
one, Vault logs nothing.

--print shows every API call and policy, so that they can be reviewed or applied
by other means. It needs neither Vault nor a token. --dry-run reads Vault and
shows what setup would change. It cannot show what Vault would refuse.

setup also records which bucket and prefix the keys are for. Writers and retire
and trim refuse any other: give each bucket and prefix a mount of its own. setup
identifies the bucket and prefix by the object store-id there, and creates it if
it is missing. An administrator of Vault who has no access to the bucket gives the
ID that "recvault store-id" prints with --store-id.

At the end, setup looks for entity aliases of Vault's token mount that a stolen
granter's token could use, lists them and ends with code 6. It removes none. It
does not look if Vault has more entities than --max-entities.

Then setup checks the store and Vault as "recvault doctor --quick" does, which
takes about a second, shows what failed and ends with code 6. --no-doctor leaves
that out.

With --dir, setup creates the directory, to try things out.

Role: setup, or more. --print shows its policy. At the store: read, write; to
check it also list, delete.`,
		Example: `  recvault setup --print
  recvault setup --dry-run
  recvault setup --max-grant-ttl 1h --expected-patients 50000
  recvault setup --dir ./demo`,
		Args: noArgs,
	}
	var (
		printOnly bool
		noDoctor  bool
		storeID   string
		options   transit.SetupOptions
		dryRun    = dryRunFlag(cmd)
	)
	cmd.Flags().BoolVar(&printOnly, "print", false, "show every API call and policy, and do nothing")
	cmd.Flags().DurationVar(&options.MaxGrantTTL, "max-grant-ttl", 4*time.Hour, "the longest lifetime of a grant")
	cmd.Flags().IntVar(&options.ExpectedPatients, "expected-patients", 0, "`number` of keys that Vault keeps in memory, 8 KiB each; 0 leaves the limit unchanged")
	cmd.Flags().StringVar(&storeID, "store-id", "", "the `ID` of the bucket and prefix, without access to the bucket")
	cmd.Flags().IntVar(&options.MaxEntities, "max-entities", 100_000, "`number` of Vault's entities up to which setup lists their aliases, 300 bytes each")
	cmd.Flags().BoolVar(&noDoctor, "no-doctor", false, "do not check the store and Vault at the end")
	cmd.MarkFlagsMutuallyExclusive("print", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		directory, err := c.directory()
		if err != nil {
			return err
		}
		if directory != "" {
			return c.setUpDirectory(directory, printOnly || *dryRun)
		}
		where := c.transitOptions()
		options.Mount, options.Prefix, options.DryRun = where.Mount, where.Prefix, *dryRun
		options.Store = keys.StoreID(storeID)
		if printOnly {
			return c.printSetup(options)
		}
		if storeID == "" {
			if options.Store, err = c.storeID(cmd.Context(), *dryRun); err != nil {
				return err
			}
		}
		return c.setUpVault(cmd.Context(), options, !noDoctor && !*dryRun)
	}
	return cmd
}

// setUpDirectory creates the directory that replaces the servers.
func (c *cli) setUpDirectory(directory string, dryRun bool) error {
	result := setupResult{DryRun: dryRun, Changes: []setupChange{}}
	for _, part := range []string{keysDir, objectsDir} {
		path := filepath.Join(directory, part)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			result.Changes = append(result.Changes, setupChange{path, "absent", "directory"})
		} else if err != nil {
			return err
		}
	}
	if !dryRun {
		if err := os.MkdirAll(directory, 0o700); err != nil {
			return err
		}
		keyring, err := local.Open(filepath.Join(directory, keysDir), local.Options{})
		if err != nil {
			return err
		}
		c.closers = append(c.closers, keyring.Close)
		store, err := dir.Open(filepath.Join(directory, objectsDir))
		if err != nil {
			return err
		}
		c.closers = append(c.closers, store.Close)
	}
	return c.print(result)
}

// storeID returns the ID of the bucket and prefix, and makes it if there is none. A dry run draws one in its place.
func (c *cli) storeID(ctx context.Context, dryRun bool) (keys.StoreID, error) {
	if c.bucket() == "" {
		return "", usagef("setup records the bucket that the keys are for: set RECVAULT_BUCKET or --bucket, or --store-id")
	}
	o, err := c.openObjects()
	if err != nil {
		return "", err
	}
	if !dryRun {
		return o.MakeStoreID(ctx)
	}
	id, err := o.StoreID(ctx)
	if errors.Is(err, storage.ErrNotFound) {
		return keys.NewStoreID(), nil
	}
	return id, err
}

// setUpVault sets up Vault, or shows what would change. Then it makes the doctor's quick checks if it is asked to.
func (c *cli) setUpVault(ctx context.Context, options transit.SetupOptions, check bool) error {
	client, err := c.vaultClient()
	if err != nil {
		return err
	}
	if _, err := c.authenticate(ctx, client, "setup"); err != nil {
		return err
	}
	report, err := transit.Setup(ctx, client, options)
	if err != nil && len(report.Changes) == 0 {
		return err // not "nothing to change"
	}
	result := setupResult{DryRun: options.DryRun, Changes: []setupChange{}}
	for _, change := range report.Changes {
		result.Changes = append(result.Changes, setupChange{change.What, change.Before, change.After})
	}
	for _, alias := range report.Foreign {
		result.Foreign = append(result.Foreign, foreignAlias(alias))
	}
	result.MoreForeign, result.UncheckedEntities = report.MoreForeign, report.UncheckedEntities
	if err == nil && len(result.Foreign) > 0 {
		err = fmt.Errorf("%w: Vault has entity aliases that a stolen granter's token could use", errIncomplete)
	}
	if err == nil && check {
		result.Problems, err = c.problems(ctx, client.Token())
	}
	return errors.Join(c.print(result), err)
}

// problems makes the doctor's quick checks and returns those that failed.
func (c *cli) problems(ctx context.Context, token string) ([]doctorCheck, error) {
	found, err := c.diagnose(ctx, token, doctorOptions{quick: true})
	if err != nil {
		return nil, err
	}
	if first := found.Checks[0]; first.Of == "store" && first.Status == string(storecheck.Failed) {
		// setup has read and written store-id: these credentials may be for that alone.
		c.note("the store was not checked (%s): run \"recvault doctor\" with the credentials of a service", first.Detail)
		found.Checks = slices.DeleteFunc(found.Checks, func(check doctorCheck) bool { return check.Of == "store" })
	}
	failed := slices.DeleteFunc(found.Checks, func(check doctorCheck) bool {
		return check.Status != string(storecheck.Failed) || check.Name == "set-up" // setup has just reported that itself
	})
	return failed, doctorResult{Failed: len(failed)}.err()
}

// printSetup shows what setup does in a Vault where nothing is set up. It needs no Vault.
func (c *cli) printSetup(options transit.SetupOptions) error {
	calls, err := transit.SetupCalls(options)
	if err != nil {
		return usagef("%v", err)
	}
	policies, err := transit.Policies(transit.Options{Mount: options.Mount, Prefix: options.Prefix}, transit.TokenAccessor)
	if err != nil {
		return usagef("%v", err)
	}
	plan := setupPlan{DryRun: true, Calls: calls}
	for _, policy := range policies {
		plan.Policies = append(plan.Policies, setupPolicy(policy))
	}
	return c.print(plan)
}

func (r setupResult) writeText(w io.Writer) {
	r.writeChanges(w)
	if len(r.Foreign) > 0 {
		fmt.Fprintln(w, "\nforeign entity aliases of the token mount:")
		rows := [][]string{{"ALIAS", "ENTITY", "POLICIES", "GROUPS"}}
		for _, alias := range r.Foreign {
			rows = append(rows, []string{fmt.Sprintf("%q", alias.Alias), alias.EntityID, strings.Join(alias.Policies, ","), strconv.Itoa(alias.Groups)})
		}
		table(w, rows)
	}
	if len(r.Problems) > 0 {
		fmt.Fprintln(w, "\nchecks that failed:")
		writeChecks(w, r.Problems)
	}
	if r.MoreForeign > 0 {
		fmt.Fprintf(w, "and %d more\n", r.MoreForeign)
	}
	if r.UncheckedEntities > 0 {
		fmt.Fprintf(w, "\nentity aliases were not checked: Vault has %d entities (--max-entities)\n", r.UncheckedEntities)
	}
}

func (r setupResult) writeChanges(w io.Writer) {
	if len(r.Changes) == 0 {
		fmt.Fprintln(w, "nothing to change")
		return
	}
	if r.DryRun {
		fmt.Fprintln(w, "would change:")
	}
	rows := [][]string{{"WHAT", "BEFORE", "AFTER"}}
	for _, change := range r.Changes {
		rows = append(rows, []string{change.What, change.Before, change.After})
	}
	table(w, rows)
}

// writeText shows the calls in order, and each policy as a file and not as a JSON string.
func (p setupPlan) writeText(w io.Writer) {
	fmt.Fprintf(w, "# What setup does in a Vault where nothing is set up, in this order, below /v1/.\n"+
		"# %s stands for the accessor that GET sys/auth returns.\n", transit.TokenAccessor)
	if strings.Contains(fmt.Sprint(p.Calls), transit.StorePlaceholder) {
		fmt.Fprintf(w, "# %s stands for the ID that \"recvault store-id\" prints.\n", transit.StorePlaceholder)
	}
	for _, call := range p.Calls {
		fmt.Fprintf(w, "\n%s %s\n", call.Method, call.Path)
		if text, ok := call.Body["policy"].(string); ok && len(call.Body) == 1 {
			fmt.Fprintf(w, "%s\n", indent(text))
		} else if len(call.Body) > 0 {
			body, _ := json.MarshalIndent(call.Body, "  ", "  ") // of strings, numbers, booleans and lists
			fmt.Fprintf(w, "  %s\n", body)
		}
	}
	for _, policy := range p.Policies {
		if policy.Role == "setup" {
			fmt.Fprintf(w, "\n# The policy of the role setup. Setup does not install it, because whoever has it could widen it.\n\n%s\n", indent(policy.HCL))
		}
	}
}

func indent(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = "  " + line
		}
	}
	return strings.Join(lines, "\n")
}
