package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/hashicorp/vault/api"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/spf13/pflag"

	"github.com/recvault/recvault/internal/objects"
	"github.com/recvault/recvault/keys"
	"github.com/recvault/recvault/keys/local"
	"github.com/recvault/recvault/keys/transit"
	"github.com/recvault/recvault/storage"
	"github.com/recvault/recvault/storage/dir"
	"github.com/recvault/recvault/storage/s3"
	"github.com/recvault/recvault/vault"
)

const settingsHelp = `A flag takes precedence over its environment variable. Credentials have no flag,
because every user of a machine can see arguments: see "recvault help secrets".

A configuration file (--config, RECVAULT_CONFIG) comes after both: see "recvault
help config".

Keys, in HashiCorp Vault:

    --vault-addr        VAULT_ADDR
    --vault-namespace   VAULT_NAMESPACE
    --vault-cacert      VAULT_CACERT
    --token-file        VAULT_TOKEN            the token itself
    --login             RECVAULT_LOGIN         approle, kubernetes or jwt
    --login-role        RECVAULT_LOGIN_ROLE    the role; the role ID of an AppRole
    --login-file        RECVAULT_LOGIN_FILE    the secret ID or JWT; default the
                                               token of the pod's service account
    --login-mount       RECVAULT_LOGIN_MOUNT   default as --login
    --mount             RECVAULT_MOUNT         default "recordings"
    --policy-prefix     RECVAULT_POLICY_PREFIX default "recvault"

  The token must have the role that the command's help page names. It comes from
  one of --token-file, VAULT_TOKEN and --login. A token file is read again when it
  changes, as Vault Agent changes it. With --login, the command logs in to Vault,
  renews its token and logs in again, so a job may take longer than a token lives.

  The other variables of Vault's own command (VAULT_CLIENT_CERT,
  VAULT_CLIENT_KEY, VAULT_TLS_SERVER_NAME, VAULT_PROXY_ADDR, ...) work as well.
  ~/.vault-token is not read.

Recordings, on an S3 server:

    --endpoint          AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, MINIO_ENDPOINT;
                        default Amazon S3
    --region            AWS_REGION, AWS_DEFAULT_REGION
    --bucket            RECVAULT_BUCKET
    --prefix            RECVAULT_PREFIX        of all object names; ends in "/"
    --s3-cacert         AWS_CA_BUNDLE
    --path-style                               bucket name in the path of URLs

  The credentials are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
  AWS_SESSION_TOKEN, or MINIO_ACCESS_KEY and MINIO_SECRET_KEY, or what AWS
  programs use: ~/.aws/credentials, or the identity of the machine or pod.

Keys and recordings in a directory, to try things out and for single hosts:

    --dir               RECVAULT_DIR

  The directory replaces both servers. --dir cannot be combined with flags that
  name a server, and variables that name one are ignored. RECVAULT_DIR together
  with such a variable is an error.

Jobs split over several processes:

    --shards            RECVAULT_SHARDS        the number of shares
                        JOB_COMPLETION_INDEX   the share of this process, which
                                               Kubernetes sets in an Indexed Job

Others:

    --events-file       RECVAULT_EVENTS_FILE   append what was opened, changed and
                                               refused, as JSON lines
    --output            RECVAULT_OUTPUT        text or json
    --operator          RECVAULT_OPERATOR      the account responsible for an
                                               erasure or a hold`

// settings are the flags for the location of keys and recordings.
type settings struct {
	dir string

	vaultAddr, vaultNamespace, vaultCACert  string
	tokenFile                               string
	login, loginRole, loginFile, loginMount string
	mount, policyPrefix                     string

	endpoint, region, bucket, prefix, s3CACert string
	pathStyle                                  bool

	eventsFile string
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.dir, "dir", "", "keep keys and recordings in this `directory`, without servers (RECVAULT_DIR)")
	flags.StringVar(&s.vaultAddr, "vault-addr", "", "Vault's `URL` (VAULT_ADDR)")
	flags.StringVar(&s.vaultNamespace, "vault-namespace", "", "Vault's `namespace` (VAULT_NAMESPACE)")
	flags.StringVar(&s.vaultCACert, "vault-cacert", "", "`file` with the CA certificate of Vault (VAULT_CACERT)")
	flags.StringVar(&s.tokenFile, "token-file", "", "`file` with the Vault token, - for standard input (VAULT_TOKEN: the token itself)")
	flags.StringVar(&s.login, "login", "", "log in to Vault by this `method`: approle, kubernetes or jwt (RECVAULT_LOGIN)")
	flags.StringVar(&s.loginRole, "login-role", "", "`role` of the login, or role ID of an AppRole (RECVAULT_LOGIN_ROLE)")
	flags.StringVar(&s.loginFile, "login-file", "", "`file` with the secret ID or JWT, default the pod's service account (RECVAULT_LOGIN_FILE)")
	flags.StringVar(&s.loginMount, "login-mount", "", "`path` of the auth method in Vault, default as --login (RECVAULT_LOGIN_MOUNT)")
	flags.StringVar(&s.mount, "mount", "", "`path` of the Transit engine in Vault, default recordings (RECVAULT_MOUNT)")
	flags.StringVar(&s.policyPrefix, "policy-prefix", "", "`prefix` of policy names in Vault, default recvault (RECVAULT_POLICY_PREFIX)")
	flags.StringVar(&s.endpoint, "endpoint", "", "the S3 server's `URL`, default Amazon S3 (AWS_ENDPOINT_URL)")
	flags.StringVar(&s.region, "region", "", "the bucket's `region` (AWS_REGION)")
	flags.StringVar(&s.bucket, "bucket", "", "`bucket` with the recordings (RECVAULT_BUCKET)")
	flags.StringVar(&s.prefix, "prefix", "", "`prefix` of all object names, ends in / (RECVAULT_PREFIX)")
	flags.StringVar(&s.s3CACert, "s3-cacert", "", "`file` with the CA certificate of the S3 server (AWS_CA_BUNDLE)")
	flags.StringVar(&s.eventsFile, "events-file", "", "append what was opened, changed and refused to this `file`, as JSON lines (RECVAULT_EVENTS_FILE)")
	flags.BoolVar(&s.pathStyle, "path-style", false, "always put the bucket name into the path of URLs")
}

// setting returns the flag's value or, if it is empty, that of the first variable that is set.
func (c *cli) setting(flag string, variables ...string) string {
	for _, variable := range variables {
		flag = cmp.Or(flag, c.getenv(variable))
	}
	return flag
}

func (c *cli) vaultAddr() string { return c.setting(c.settings.vaultAddr, "VAULT_ADDR") }

func (c *cli) bucket() string { return c.setting(c.settings.bucket, "RECVAULT_BUCKET") }

func (c *cli) endpoint() string {
	return c.setting(c.settings.endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MINIO_ENDPOINT")
}

func (c *cli) prefix() string { return c.setting(c.settings.prefix, "RECVAULT_PREFIX") }

func (c *cli) transitOptions() transit.Options {
	return transit.Options{
		Mount:  c.setting(c.settings.mount, "RECVAULT_MOUNT"),
		Prefix: c.setting(c.settings.policyPrefix, "RECVAULT_POLICY_PREFIX"),
	}
}

// directory returns the directory that replaces the servers, or "" if servers are used. It returns a usage error if the
// settings name both: a trial must not reach the servers that the environment happens to name, nor the reverse.
func (c *cli) directory() (string, error) {
	flags := cmp.Or(c.settings.vaultAddr, c.settings.endpoint, c.settings.bucket) != ""
	variables := cmp.Or(c.vaultAddr(), c.bucket()) != ""
	switch {
	case c.settings.dir != "" && flags:
		return "", usagef("--dir replaces the servers: use either it or --vault-addr, --endpoint and --bucket")
	case c.settings.dir != "":
		return c.settings.dir, nil
	case flags || c.getenv("RECVAULT_DIR") == "":
		return "", nil
	case variables:
		return "", usagef("RECVAULT_DIR replaces the servers, but VAULT_ADDR or RECVAULT_BUCKET is set as well: choose with --dir, or with --vault-addr and --bucket")
	}
	return c.getenv("RECVAULT_DIR"), nil
}

// openKeyring opens the keyring with the operator's own token, which should have the role.
func (c *cli) openKeyring(ctx context.Context, role string) (keys.Keyring, error) {
	return c.keyringWith(func(client *api.Client) (refresh, error) { return c.authenticate(ctx, client, role) })
}

// keyringWith opens the keyring: in Vault after a function has given the client its token, or in a directory.
func (c *cli) keyringWith(authenticate func(*api.Client) (refresh, error)) (keys.Keyring, error) {
	directory, err := c.directory()
	if err != nil {
		return nil, err
	}
	if directory != "" {
		return c.openLocal(directory)
	}
	client, err := c.vaultClient()
	if err != nil {
		return nil, err
	}
	options := c.transitOptions()
	if options.Refresh, err = authenticate(client); err != nil {
		return nil, err
	}
	k, err := transit.New(client, options)
	if err != nil {
		return nil, usagef("%v (RECVAULT_MOUNT or --mount, RECVAULT_POLICY_PREFIX or --policy-prefix)", err)
	}
	return k, nil
}

// keyringLater returns a function that opens the keyring. It is called only for patients who are named by their
// identifiers: by KeyID, no keyring is needed.
func (c *cli) keyringLater(ctx context.Context) func() (keys.Wrapper, error) {
	return func() (keys.Wrapper, error) { return c.openKeyring(ctx, "writer, enroller, granter or eraser") }
}

// openGrantKeyring opens the keyring without a token, so that a grant is the only right in use.
func (c *cli) openGrantKeyring() (keys.Keyring, error) {
	return c.keyringWith(func(*api.Client) (refresh, error) { return nil, nil })
}

// openGrantVault opens a vault without a token, so that a grant is the only right in use.
func (c *cli) openGrantVault() (*vault.Vault, error) {
	k, err := c.openGrantKeyring()
	if err != nil {
		return nil, err
	}
	return c.openVault(k)
}

// vaultClient returns a client of Vault without a token.
func (c *cli) vaultClient() (*api.Client, error) {
	address := c.vaultAddr()
	if address == "" {
		return nil, usagef("no keyring: set VAULT_ADDR or --vault-addr, or use a directory with RECVAULT_DIR or --dir")
	}
	file := c.setting(c.settings.vaultCACert, "VAULT_CACERT")
	if file != "" {
		if err := checkCAFile(file); err != nil {
			return nil, usagef("%v (VAULT_CACERT or --vault-cacert)", err)
		}
	}
	config := api.DefaultConfig() // from the environment, for settings without a flag here
	if config.Error != nil {
		return nil, usagef("Vault's settings in the environment (VAULT_*) are not valid")
	}
	config.Address = address
	if _, fromFile := c.config["vault-addr"]; c.settings.vaultAddr != "" && !fromFile {
		config.AgentAddress = "" // from VAULT_AGENT_ADDR, which would override the flag
	}
	if transport, ok := config.HttpClient.Transport.(*http.Transport); ok {
		// Jobs make more requests at a time than the default keeps connections.
		transport.MaxIdleConnsPerHost = transport.MaxIdleConns
	}
	if file != "" {
		if err := config.ConfigureTLS(&api.TLSConfig{CACert: file}); err != nil {
			return nil, usagef("VAULT_CACERT or --vault-cacert: %v", err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, usagef("VAULT_ADDR or --vault-addr is not a URL such as https://vault.example.org:8200")
	}
	client.ClearToken()
	client.ClearNamespace()
	if namespace := c.setting(c.settings.vaultNamespace, "VAULT_NAMESPACE"); namespace != "" {
		client.SetNamespace(namespace)
	}
	return client, nil
}

// checkCAFile returns an error, which names the file, unless it has a certificate. Vault's client does not say which of
// its settings in the environment is wrong.
func checkCAFile(path string) error {
	pem, err := os.ReadFile(path)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		err = fmt.Errorf("the CA file %s contains no certificate", path)
	}
	return err
}

// The parts of a directory that replaces the servers.
const (
	keysDir    = "keys"
	objectsDir = "objects"
)

// openLocal opens the keyring in a directory.
func (c *cli) openLocal(directory string) (*local.Keyring, error) {
	if err := checkDirectory(directory); err != nil {
		return nil, err
	}
	k, err := local.Open(filepath.Join(directory, keysDir), local.Options{})
	if err == nil {
		c.closers = append(c.closers, k.Close)
	}
	return k, err
}

// checkDirectory returns a usage error if the directory has no keyring. Opening a misspelt path would create one.
func checkDirectory(directory string) error {
	_, err := os.Stat(filepath.Join(directory, keysDir))
	if errors.Is(err, fs.ErrNotExist) {
		return usagef("there is no keyring in the directory of --dir or RECVAULT_DIR: create one with \"recvault setup --dir\"")
	}
	return err
}

// openStore opens the store of recordings.
func (c *cli) openStore() (storage.Store, error) {
	directory, err := c.directory()
	if err != nil {
		return nil, err
	}
	if directory != "" {
		if err := checkDirectory(directory); err != nil {
			return nil, err
		}
		store, err := dir.Open(filepath.Join(directory, objectsDir))
		if err == nil {
			c.closers = append(c.closers, store.Close)
		}
		return store, err
	}
	return c.openBucket(c.endpoint())
}

// openBucket opens the bucket at an endpoint.
func (c *cli) openBucket(endpoint string) (storage.Store, error) {
	bucket := c.bucket()
	if bucket == "" {
		return nil, usagef("no store: set RECVAULT_BUCKET or --bucket (and AWS_ENDPOINT_URL or --endpoint), or use a directory with RECVAULT_DIR or --dir")
	}
	client, err := s3.NewClient(s3.Config{
		Endpoint:    endpoint,
		Region:      c.setting(c.settings.region, "AWS_REGION", "AWS_DEFAULT_REGION"),
		PathStyle:   c.settings.pathStyle,
		CAFile:      c.setting(c.settings.s3CACert, "AWS_CA_BUNDLE"),
		Credentials: c.s3Credentials(),
	})
	if err != nil {
		return nil, usagef("%v (AWS_ENDPOINT_URL, MINIO_ENDPOINT or --endpoint; AWS_CA_BUNDLE or --s3-cacert)", err)
	}
	store, err := s3.New(client, bucket)
	if err != nil {
		return nil, usagef("%v (RECVAULT_BUCKET or --bucket)", err)
	}
	return store, nil
}

// s3Variables are the pairs of variables that hold credentials. The first pair that is set counts.
var s3Variables = [][2]string{
	{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
	{"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"},
	{"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"},
}

// s3Credentials returns the credentials in the environment, or nil for those that AWS programs find elsewhere.
func (c *cli) s3Credentials() *credentials.Credentials {
	for _, pair := range s3Variables {
		id, secret := c.getenv(pair[0]), c.getenv(pair[1])
		if id != "" && secret != "" {
			session := ""
			if pair[0] == "AWS_ACCESS_KEY_ID" {
				session = c.getenv("AWS_SESSION_TOKEN")
			}
			return credentials.NewStaticV4(id, secret, session)
		}
	}
	return nil
}

// openObjects opens the recordings' objects in the store. It needs no keyring.
func (c *cli) openObjects() (*objects.Objects, error) {
	store, err := c.openStore()
	if err != nil {
		return nil, err
	}
	o, err := objects.New(store, c.prefix())
	if err != nil {
		return nil, usagef("RECVAULT_PREFIX or --prefix: %v", err)
	}
	return o, nil
}
