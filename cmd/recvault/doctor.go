package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/transit/transitcheck"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/storecheck"
)

// doctorResult is what the doctor found.
type doctorResult struct {
	Checks []doctorCheck `json:"checks"`
	Failed int           `json:"failed"`
}

type doctorCheck struct {
	Of     string `json:"of"` // "store" or "keyring"
	Name   string `json:"name"`
	Status string `json:"status"` // "ok", "note", "failed" or "skipped"
	Detail string `json:"detail,omitempty"`
}

// doctorOptions are the doctor's flags.
type doctorOptions struct {
	endpoints  []string
	roleTokens []string
	quick      bool
}

func (c *cli) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Check the store and Vault before they are trusted",
		GroupID: groupSetUp,
		Long: `Check the store and Vault before they are trusted with recordings, through every
proxy and gateway that stands between. Run it after setup, after an upgrade of a
server, and with the credentials of the services.

Store: of 8 concurrent writers with If-None-Match or If-Match one wins, with
single requests and at the end of uploads in parts; what was written is read and
listed at once; byte ranges, checksums and the order of listings are right; writes
that fail leave nothing. Versioning, lifecycle rules and object lock are shown.
doctor writes below recvault-doctor/ and removes what it wrote. It moves about
450 MiB, and uses 300 MiB of memory; --quick leaves out what is large. In a bucket
with versioning, 50 MiB of noncurrent versions remain until a rule removes them.

Vault: it answers, is unsealed, and its clock differs by at most a minute; it has
audit devices; setup has nothing to change; the mount serves this bucket and
prefix. With --role-token, a role's token has the rights of its role and no
others. What the token in VAULT_TOKEN may not read is skipped, and so is Vault
without VAULT_ADDR, or the store without RECVAULT_BUCKET.

It ends with code 6 if a check failed. "skipped" and "note" are no failures.

Role: none, and better setup or an administrator's. At the store: list, read,
write, delete.`,
		Example: `  recvault doctor --role-token writer=/run/secrets/writer --role-token granter=/run/secrets/granter
  recvault doctor --also-endpoint https://minio2.example.org --also-endpoint https://minio3.example.org
  recvault doctor --quick --output json`,
		Args: noArgs,
	}
	var options doctorOptions
	cmd.Flags().StringArrayVar(&options.roleTokens, "role-token", nil, "`role=file`: check the rights of the token in the file; can be repeated")
	cmd.Flags().StringArrayVar(&options.endpoints, "also-endpoint", nil, "`URL` of another endpoint of the same store; can be repeated")
	cmd.Flags().BoolVar(&options.quick, "quick", false, "leave out what sends much data")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		token, err := c.doctorToken(cmd.Context())
		if err != nil {
			return err
		}
		result, err := c.diagnose(cmd.Context(), token, options)
		if err != nil {
			return err
		}
		return errors.Join(c.print(result), result.err())
	}
	return cmd
}

// doctorToken returns the token of a login, or the one that the settings give, or "".
func (c *cli) doctorToken(ctx context.Context) (string, error) {
	method, err := c.loginMethod()
	switch {
	case err != nil:
		return "", err
	case method != nil:
		client, err := c.vaultClient()
		if err != nil {
			return "", err
		}
		_, err = c.authenticate(ctx, client, "setup")
		return client.Token(), err
	case c.settings.tokenFile != "" || c.getenv("VAULT_TOKEN") != "":
		return c.vaultToken(ctx)
	}
	return "", nil
}

// diagnose runs all checks, with a token of Vault or "".
func (c *cli) diagnose(ctx context.Context, token string, options doctorOptions) (doctorResult, error) {
	directory, err := c.directory()
	if err != nil {
		return doctorResult{}, err
	}
	if directory != "" && len(options.roleTokens)+len(options.endpoints) > 0 {
		return doctorResult{}, usagef("a directory has no roles and no endpoints: leave out --role-token and --also-endpoint")
	}
	if directory == "" && c.vaultAddr() == "" && c.bucket() == "" {
		return doctorResult{}, usagef("nothing to check: set VAULT_ADDR or --vault-addr, or RECVAULT_BUCKET or --bucket, or use --dir")
	}
	tokens, err := c.roleTokens(ctx, options.roleTokens)
	if err != nil {
		return doctorResult{}, err
	}
	result := doctorResult{Checks: []doctorCheck{}}
	var storeID keys.StoreID
	if directory == "" && c.bucket() == "" {
		result.add("store", "store", "skipped", "no bucket: RECVAULT_BUCKET or --bucket")
	} else if storeID, err = c.diagnoseStore(ctx, options, &result); err != nil {
		return doctorResult{}, err
	}
	switch {
	case directory != "":
		result.add("keyring", "keyring", "skipped", "the keys are in a directory")
	case c.vaultAddr() == "":
		result.add("keyring", "keyring", "skipped", "no Vault: VAULT_ADDR or --vault-addr")
	default:
		err = c.diagnoseVault(ctx, token, tokens, storeID, &result)
	}
	return result, err
}

// diagnoseStore checks the store, and returns its ID if it has one.
func (c *cli) diagnoseStore(ctx context.Context, options doctorOptions, result *doctorResult) (keys.StoreID, error) {
	store, err := c.openStore()
	if err != nil {
		return "", err
	}
	var others []storage.Store
	for _, endpoint := range options.endpoints {
		other, err := c.openBucket(endpoint)
		if err != nil {
			return "", err
		}
		others = append(others, other)
	}
	o, err := objects.New(store, c.prefix())
	if err != nil {
		return "", usagef("RECVAULT_PREFIX or --prefix: %v", err)
	}
	checks, err := storecheck.Run(ctx, store, storecheck.Options{Prefix: c.prefix(), Others: others, Quick: options.quick})
	if err != nil {
		return "", err
	}
	for _, check := range checks {
		result.add("store", check.Name, string(check.Status), check.Detail)
	}
	if checks[0].Status == storecheck.Failed || c.vaultAddr() == "" {
		return "", nil // asking again would take as long as the first check; or no keyring serves the store
	}
	id, err := o.StoreID(ctx)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		result.add("store", "store-id", string(storecheck.Failed), "the bucket and prefix have no ID: run setup")
	case err != nil:
		result.add("store", "store-id", string(storecheck.Failed), oneLine(err))
	}
	return id, ctx.Err()
}

// roleTokens reads the tokens that the pairs of role and file name.
func (c *cli) roleTokens(ctx context.Context, pairs []string) (map[string]string, error) {
	tokens := map[string]string{}
	for _, pair := range pairs {
		role, file, ok := strings.Cut(pair, "=")
		if !ok || file == "" || !slices.Contains(transitcheck.Roles(), role) {
			return nil, usagef("--role-token needs role=file, with a role of %s", strings.Join(transitcheck.Roles(), ", "))
		}
		if tokens[role] != "" {
			return nil, usagef("--role-token names the role %s twice", role)
		}
		token, err := c.secret(ctx, "token of the role "+role, file, "--role-token", "")
		if err != nil {
			return nil, err
		}
		tokens[role] = token
	}
	return tokens, nil
}

// diagnoseVault checks Vault, and the tokens of roles.
func (c *cli) diagnoseVault(
	ctx context.Context, token string, tokens map[string]string, store keys.StoreID, result *doctorResult,
) error {
	client, err := c.vaultClient()
	if err != nil {
		return err
	}
	client.SetToken(token)
	where := c.transitOptions()
	checks, err := transitcheck.Run(ctx, client, transitcheck.Options{
		Mount: where.Mount, Prefix: where.Prefix, Store: store, Tokens: tokens,
	})
	if err != nil {
		return err
	}
	for _, check := range checks {
		result.add("keyring", check.Name, string(check.Status), check.Detail)
	}
	return nil
}

func (r *doctorResult) add(of, name, status, detail string) {
	r.Checks = append(r.Checks, doctorCheck{of, name, status, printable(detail)})
	if status == string(storecheck.Failed) {
		r.Failed++
	}
}

// err returns an error if a check failed.
func (r doctorResult) err() error {
	if r.Failed == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d checks failed", errIncomplete, r.Failed)
}

func (r doctorResult) writeText(w io.Writer) {
	writeChecks(w, r.Checks)
	if r.Failed == 0 {
		fmt.Fprintln(w, "\nno check failed")
	} else {
		fmt.Fprintf(w, "\n%d checks failed\n", r.Failed)
	}
}

func writeChecks(w io.Writer, checks []doctorCheck) {
	rows := [][]string{{"OF", "CHECK", "RESULT", "DETAIL"}}
	for _, check := range checks {
		rows = append(rows, []string{check.Of, check.Name, check.Status, check.Detail})
	}
	table(w, rows)
}
