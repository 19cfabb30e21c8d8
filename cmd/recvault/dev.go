package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/spf13/cobra"

	"github.com/recvault/recvault/internal/devserver"
	"github.com/recvault/recvault/internal/testserver/binary"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

const (
	devBucket    = "consultations"
	devRegion    = "us-east-1" // MinIO's default
	devAccessKey = "recvault"
	devTokenLife = 30 * 24 * time.Hour // renewed at each start
	devPoll      = 200 * time.Millisecond
)

func (c *cli) dev() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a real Vault and a real MinIO to develop with",
		GroupID: groupSetUp,
		Long: `Run a real Vault and a real MinIO on this machine, to develop with. dev unseals
Vault, sets it up as setup does, makes a bucket and a token for each role, and
prints the settings for each process. Ctrl-C stops both servers. The next start
finds keys, recordings and tokens as they were.

The programs are those named by RECVAULT_VAULT_BIN and RECVAULT_MINIO_BIN, those
on PATH, or those that "make servers" builds. Inside recvault's source, dev
builds what is missing, which takes a few minutes, once.

The directory has the unseal key, the root token and all others in files that
only you can read. Vault listens on the loopback interface, without TLS. None of
this is for real patients.

With --vault-addr and --endpoint, dev starts nothing. It initialises and sets up
servers that run already, prints the settings and ends. The credentials of the
S3 server are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. compose.yaml does
this with the official images. dev refuses a Vault that it did not initialise.

Role: none.`,
		Example: `  recvault dev
  recvault dev --data /var/tmp/recvault`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&data, "data", "recvault-dev", "`directory` of the servers' data and of the token files")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(c.config) > 0 {
			return usagef("dev takes no configuration file, which may name a deployment: unset RECVAULT_CONFIG, or leave out --config")
		}
		flags := c.settings
		if flags != (settings{vaultAddr: flags.vaultAddr, endpoint: flags.endpoint, bucket: flags.bucket}) {
			return usagef("of the settings, dev takes --vault-addr, --endpoint and --bucket only")
		}
		if (flags.vaultAddr == "") != (flags.endpoint == "") {
			return usagef("--vault-addr and --endpoint are for servers that run already: set both, or leave both out")
		}
		dir, err := filepath.Abs(data)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, tokensDir), 0o700); err != nil {
			return err
		}
		d := &development{cli: c, dir: dir, bucket: cmp.Or(flags.bucket, devBucket), vaultAddr: flags.vaultAddr, endpoint: flags.endpoint}
		if flags.vaultAddr != "" {
			return d.adopt(cmd.Context())
		}
		return d.serve(cmd.Context())
	}
	return cmd
}

// development is a Vault and an S3 server for a developer.
type development struct {
	*cli
	dir                  string
	bucket               string
	vaultAddr, endpoint  string // URLs
	accessKey, secretKey string
	auditLog             string // a path on Vault's machine, or stdout
	adopting             bool   // servers that run already
}

// The files in the directory of a development.
const (
	tokensDir   = "tokens"        // one file for each role, and adminToken
	adminToken  = "admin"         // Vault's root token
	s3SecretKey = "s3-secret-key" // of devAccessKey
	vaultKeys   = "vault-keys.json"
)

// adopt sets up servers that run already.
func (d *development) adopt(ctx context.Context) error {
	d.accessKey, d.secretKey = d.getenv("AWS_ACCESS_KEY_ID"), d.getenv("AWS_SECRET_ACCESS_KEY")
	if d.accessKey == "" || d.secretKey == "" {
		return usagef("no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	d.auditLog, d.adopting = "stdout", true
	if err := os.Remove(d.tokenFile(s3SecretKey)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	result, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	return d.print(result)
}

// serve starts the servers, sets them up, and stops them when the context ends.
func (d *development) serve(ctx context.Context) (err error) {
	d.accessKey = devAccessKey
	if d.secretKey, err = d.keep(s3SecretKey, rand.Text()); err != nil {
		return err
	}
	vaultServer, err := d.start(ctx, binary.Vault)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vaultServer.Stop()) }()
	minioServer, err := d.start(ctx, binary.MinIO)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, minioServer.Stop()) }()
	d.vaultAddr, d.endpoint = vaultServer.URL(), minioServer.URL()
	d.auditLog = filepath.Join(vaultServer.Dir, "audit.log")
	result, err := d.prepare(ctx)
	if err != nil {
		return err
	}
	if err := d.print(result); err != nil {
		return err
	}
	d.note("Ctrl-C stops both servers. Their data stays in %s.", d.dir)
	for {
		if err := errors.Join(vaultServer.Ended(), minioServer.Ended()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(devPoll):
		}
	}
}

// start starts a server on its directory.
func (d *development) start(ctx context.Context, program binary.Program) (*devserver.Server, error) {
	path, err := program.Obtain(ctx, func() { d.note("building %s: this takes a few minutes, once", program) })
	if errors.Is(err, binary.ErrMissing) {
		return nil, fmt.Errorf("%w; name the program in %s, or run this inside recvault's source", err, program.Variable())
	}
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(d.dir, string(program))
	if program == binary.Vault {
		return devserver.StartVault(ctx, path, dir)
	}
	return devserver.StartMinIO(ctx, path, dir, d.accessKey, d.secretKey)
}

// keep returns the content of a file of the directory without its line break, and writes the file if there is none.
func (d *development) keep(name, content string) (string, error) {
	path := filepath.Join(d.dir, tokensDir, name)
	file, err := createFile(path)
	if err == nil {
		return content, file.commit([]byte(content + "\n"))
	}
	if !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	kept, err := os.ReadFile(path)
	return string(trimLineBreak(kept)), err
}

// prepare sets up both servers, and changes nothing that is as it should be.
func (d *development) prepare(ctx context.Context) (devResult, error) {
	if _, err := d.keep(s3SecretKey, d.secretKey); err != nil {
		return devResult{}, err
	}
	storeClient, err := s3.NewClient(s3.Config{
		Endpoint: d.endpoint, Region: devRegion, Credentials: credentials.NewStaticV4(d.accessKey, d.secretKey, ""),
	})
	if err != nil {
		return devResult{}, err
	}
	err = storeClient.MakeBucket(ctx, d.bucket, minio.MakeBucketOptions{Region: devRegion})
	if err != nil && minio.ToErrorResponse(err).Code != minio.BucketAlreadyOwnedByYou {
		return devResult{}, fmt.Errorf("make bucket %s: %w", d.bucket, err)
	}
	store, err := s3.New(storeClient, d.bucket)
	if err != nil {
		return devResult{}, err
	}
	storeID, err := vault.StoreID(ctx, store, "")
	if err != nil {
		return devResult{}, err
	}
	admin, err := d.openVault(ctx)
	if err != nil {
		return devResult{}, err
	}
	if _, err := transit.Setup(ctx, admin, transit.SetupOptions{Store: storeID}); err != nil {
		return devResult{}, err
	}
	result := devResult{
		VaultAddr: d.vaultAddr, Endpoint: d.endpoint, Region: devRegion, Bucket: d.bucket,
		AccessKey: d.accessKey, SecretKeyFile: d.tokenFile(s3SecretKey), TokenFiles: map[string]string{},
	}
	policies, err := transit.Policies(transit.Options{}, transit.TokenAccessor)
	if err != nil {
		return devResult{}, err
	}
	for _, policy := range policies {
		switch policy.Role {
		case "setup", "grant", "describe":
			continue // not the role of a process
		}
		if err := d.issue(ctx, admin, policy); err != nil {
			return devResult{}, fmt.Errorf("token of role %s: %w", policy.Role, err)
		}
		result.TokenFiles[policy.Role] = d.tokenFile(policy.Role)
	}
	result.TokenFiles[adminToken] = d.tokenFile(adminToken)
	return result, nil
}

func (d *development) tokenFile(name string) string { return filepath.Join(d.dir, tokensDir, name) }

// openVault initialises Vault at the first start, unseals it, and returns a client with the root token.
func (d *development) openVault(ctx context.Context) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.AgentAddress = d.vaultAddr, "" // not those of the developer's environment
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearToken()
	client.ClearNamespace()
	initialised, err := client.Sys().InitStatusWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if !initialised {
		if err := d.initialise(ctx, client); err != nil {
			return nil, err
		}
	}
	var keys api.InitResponse
	text, err := os.ReadFile(filepath.Join(d.dir, vaultKeys))
	if err == nil {
		err = json.Unmarshal(text, &keys)
	}
	if err != nil || len(keys.KeysB64) == 0 {
		return nil, fmt.Errorf("the unseal key of Vault at %s is not in %s: if it is in no other directory (--data), remove this one, with all data, and start again",
			d.vaultAddr, d.dir)
	}
	if _, err := client.Sys().UnsealWithContext(ctx, keys.KeysB64[0]); err != nil {
		return nil, fmt.Errorf("unseal Vault: %w", err)
	}
	client.SetToken(keys.RootToken)
	if _, err := d.keep(adminToken, keys.RootToken); err != nil {
		return nil, err
	}
	devices, err := client.Sys().ListAuditWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if len(devices) == 0 {
		err = client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
			Type: "file", Options: map[string]string{"file_path": d.auditLog},
		})
	}
	return client, err
}

// initialise initialises Vault, and keeps its keys in the directory. What is left there of a Vault whose data is gone is
// removed.
func (d *development) initialise(ctx context.Context, client *api.Client) error {
	path := filepath.Join(d.dir, vaultKeys)
	_, err := os.Stat(path)
	if _, dataErr := os.Stat(filepath.Join(d.dir, string(binary.Vault))); err == nil && dataErr == nil && d.adopting {
		return fmt.Errorf("%s has the unseal key of a Vault that dev runs itself: use another directory (--data)", d.dir)
	}
	for _, old := range []string{path, d.tokenFile(adminToken)} {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	file, err := createFile(path) // before there is anything to lose
	if err != nil {
		return err
	}
	made, err := client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		file.discard()
		return err
	}
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return file.commit(text)
}

// issue makes a role's token, or renews the one that its file has.
func (d *development) issue(ctx context.Context, admin *api.Client, policy transit.Policy) error {
	path := d.tokenFile(policy.Role)
	if kept, err := os.ReadFile(path); err == nil {
		if _, err := admin.Auth().Token().RenewWithContext(ctx, string(trimLineBreak(kept)), 0); err == nil {
			return nil
		}
		if err := os.Remove(path); err != nil { // it expired
			return err
		}
	}
	secret, err := admin.Auth().Token().CreateOrphanWithContext(ctx, &api.TokenCreateRequest{
		Policies: []string{policy.Name}, NoDefaultPolicy: true, Period: devTokenLife.String(), DisplayName: policy.Role,
	})
	if err != nil {
		return err
	}
	_, err = d.keep(policy.Role, secret.Auth.ClientToken)
	return err
}

// devResult is where the servers are, and where their secrets.
type devResult struct {
	VaultAddr     string            `json:"vault_addr"`
	Endpoint      string            `json:"endpoint"`
	Region        string            `json:"region"`
	Bucket        string            `json:"bucket"`
	AccessKey     string            `json:"access_key"`
	SecretKeyFile string            `json:"secret_key_file"`
	TokenFiles    map[string]string `json:"token_files"` // by role; "admin" is the root token
}

func (r devResult) writeText(w io.Writer) {
	fmt.Fprintf(w, `# For every process:
export VAULT_ADDR=%s
export AWS_ENDPOINT_URL=%s
export AWS_REGION=%s
export AWS_ACCESS_KEY_ID=%s
export AWS_SECRET_ACCESS_KEY=$(cat %s)
export RECVAULT_BUCKET=%s

# And one of these, for what the process does:
`, r.VaultAddr, r.Endpoint, r.Region, shellQuote(r.AccessKey), shellQuote(r.SecretKeyFile), r.Bucket)
	var rows [][]string
	for _, process := range []struct{ role, does string }{
		{"enroller", "registers patients"},
		{"writer", "records consultations"},
		{"granter", "decides who may see what, after a login"},
		{"rotator", "rotates keys; every other role has such a file, too"},
		{adminToken, "may do everything, as the examples must"},
	} {
		rows = append(rows, []string{"export VAULT_TOKEN=$(cat " + shellQuote(r.TokenFiles[process.role]) + ")", "# " + process.does})
	}
	table(w, append(rows, []string{"unset VAULT_TOKEN", "# plays recordings: a grant is the only right that it has"}))
	fmt.Fprintln(w)
}

// shellQuote quotes a text for a POSIX shell, if it needs that.
func shellQuote(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:", r)
	}) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
