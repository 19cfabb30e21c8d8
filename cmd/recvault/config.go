package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// configurable are the settings of the configuration file: flags about the deployment and none about a single run. A flag
// and the variables take precedence over the file. An empty default is the command's own.
var configurable = []setting{
	{"dir", []string{"RECVAULT_DIR"}, ""},
	{"vault-addr", []string{"VAULT_ADDR"}, ""},
	{"vault-namespace", []string{"VAULT_NAMESPACE"}, ""},
	{"vault-cacert", []string{"VAULT_CACERT"}, ""},
	{"token-file", []string{"VAULT_TOKEN"}, ""},
	{"mount", []string{"RECVAULT_MOUNT"}, "recordings"},
	{"policy-prefix", []string{"RECVAULT_POLICY_PREFIX"}, "recvault"},
	{"endpoint", []string{"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "MINIO_ENDPOINT"}, "Amazon S3"},
	{"region", []string{"AWS_REGION", "AWS_DEFAULT_REGION"}, ""},
	{"bucket", []string{"RECVAULT_BUCKET"}, ""},
	{"prefix", []string{"RECVAULT_PREFIX"}, ""},
	{"s3-cacert", []string{"AWS_CA_BUNDLE"}, ""},
	{"path-style", nil, "false"},
	{"events-file", []string{"RECVAULT_EVENTS_FILE"}, ""},
	{"output", []string{"RECVAULT_OUTPUT"}, "text"},
	{"operator", []string{"RECVAULT_OPERATOR"}, ""},
	{"concurrency", nil, ""},
	{"keyring-rate", nil, ""},
	{"storage-rate", nil, ""},
	{"grace", nil, ""},
	{"freshness", nil, ""},
	{"commit-timeout", nil, ""},
	{"clock-skew", nil, ""},
}

// setting is a flag, the variables that stand for it, and its default.
type setting struct {
	flag      string
	variables []string
	standard  string
}

const configHelp = `Settings of a deployment can be in a file in YAML, which --config or
RECVAULT_CONFIG names. No file is read by default. Each line is the name of a
flag and its value:

    vault-addr: https://vault.example.org:8200
    token-file: /run/recvault/token
    endpoint: https://minio.example.org:9000
    bucket: recordings
    keyring-rate: 500

A flag takes precedence over its environment variable, and both over the file.
The file can have the flags of "recvault help settings" but --shards, and
--output, --operator, --concurrency, --keyring-rate, --storage-rate, --grace,
--freshness, --commit-timeout and --clock-skew. A command ignores those that it
does not have. Credentials cannot be in it, nor what a single run is about.

"recvault config show" shows each value and where it came from.`

// configured is a value of the configuration file.
type configured struct {
	value string
	line  int
}

// configure reads the configuration file, and gives its values to the flags that are not set and have no variable.
func (c *cli) configure(ctx context.Context, flags *pflag.FlagSet) error {
	name := c.setting(c.configFile, "RECVAULT_CONFIG")
	if name == "" {
		return nil
	}
	text, err := c.readSmallFile(ctx, name, "configuration", "--config")
	if err != nil {
		return usagef("read the configuration (--config or RECVAULT_CONFIG): %v", err)
	}
	if c.config, err = parseConfig(text); err != nil {
		return err
	}
	c.leaveOutOtherKind(flags)
	if c.setting(c.settings.login, "RECVAULT_LOGIN") != "" {
		delete(c.config, "token-file") // a login is another source of the token
	}
	for _, s := range configurable {
		flag := flags.Lookup(s.flag)
		entry, ok := c.config[s.flag]
		if !ok || flag == nil {
			continue
		}
		if c.source(flags, s.flag, s.variables) != sourceFile {
			delete(c.config, s.flag) // so that nobody takes the value for the file's
			continue
		}
		if err := flag.Value.Set(entry.value); err != nil {
			return usagef("line %d of the configuration: the value of %s is not of type %s", entry.line, s.flag, flag.Value.Type())
		}
	}
	return nil
}

// leaveOutOtherKind forgets the file's servers if the run is in a directory, and the file's directory if it is on servers.
func (c *cli) leaveOutOtherKind(flags *pflag.FlagSet) {
	for _, s := range configurable {
		given := c.source(flags, s.flag, s.variables)
		if given == sourceFile || given == sourceDefault {
			continue
		}
		switch s.flag {
		case "dir":
			for _, server := range []string{"vault-addr", "endpoint", "bucket"} {
				delete(c.config, server)
			}
		case "vault-addr", "endpoint", "bucket":
			delete(c.config, "dir")
		}
	}
}

var yamlLine = regexp.MustCompile(`line \d+`)

// parseConfig reads the text of a configuration file. Its errors repeat no value.
func parseConfig(text []byte) (map[string]configured, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, usagef("the configuration is not YAML: see %s", cmp.Or(yamlLine.FindString(err.Error()), "the file"))
	}
	config := map[string]configured{}
	if len(document.Content) == 0 {
		return config, nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, usagef("the configuration is not a list of names and values: see \"recvault help config\"")
	}
	for i := 0; i < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		known := slices.ContainsFunc(configurable, func(s setting) bool { return s.flag == name.Value })
		_, twice := config[name.Value]
		switch {
		case !known:
			return nil, usagef("line %d of the configuration has a name that is no setting: see \"recvault help config\"", name.Line)
		case twice:
			return nil, usagef("line %d of the configuration sets %s again", name.Line, name.Value)
		case value.Kind != yaml.ScalarNode || value.Value == "":
			return nil, usagef("line %d of the configuration: %s has no value", name.Line, name.Value)
		}
		config[name.Value] = configured{value.Value, name.Line}
	}
	if _, ok := config["dir"]; ok {
		for _, server := range []string{"vault-addr", "endpoint", "bucket"} {
			if _, ok := config[server]; ok {
				return nil, usagef("the configuration has both dir, which replaces the servers, and %s", server)
			}
		}
	}
	return config, nil
}

const (
	sourceFile    = "file"
	sourceDefault = "default"
)

// source returns where the value of a setting comes from: its flag, a variable, sourceFile or sourceDefault.
func (c *cli) source(flags *pflag.FlagSet, flag string, variables []string) string {
	if flags.Changed(flag) {
		return "--" + flag
	}
	for _, variable := range variables {
		if c.getenv(variable) != "" {
			return variable
		}
	}
	if _, ok := c.config[flag]; ok {
		return sourceFile
	}
	return sourceDefault
}

type configResult struct {
	Settings []settingResult `json:"settings"`
}

type settingResult struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"` // a flag, a variable, "file" or "default"
	Line   int    `json:"line,omitempty"`
}

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Show the settings, and where each came from",
		GroupID: groupSetUp,
		Long:    configHelp,
		Args:    cobra.ArbitraryArgs,
		RunE:    needsSubcommand,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "show",
		Short: "Show each setting and where its value came from",
		Long: `Show the value of each setting, and where it came from: a flag, an environment
variable, a line of the configuration file, or the default. Secrets are hidden.
The settings of single commands, such as --grace, are shown as far as the file
has them. show opens nothing, and needs no role.`,
		Example: `  recvault config show --config /etc/recvault/config.yaml
  recvault config show --output json | jq -r '.settings[] | select(.name == "bucket") | .value'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.print(c.showConfig(cmd.Flags())) },
	})
	return cmd
}

const hidden = "(hidden)"

func (c *cli) showConfig(flags *pflag.FlagSet) configResult {
	var result configResult
	for _, s := range configurable {
		shown := settingResult{Name: s.flag, Value: s.standard, Source: c.source(flags, s.flag, s.variables)}
		switch {
		case shown.Source == "VAULT_TOKEN":
			shown.Value = hidden
		case shown.Source == sourceFile:
			shown.Value, shown.Line = c.config[s.flag].value, c.config[s.flag].line
		case flags.Changed(s.flag):
			shown.Value = flags.Lookup(s.flag).Value.String()
		case shown.Source != sourceDefault:
			shown.Value = c.getenv(shown.Source)
		}
		shown.Value = withoutPassword(shown.Value)
		result.Settings = append(result.Settings, shown)
	}
	found := settingResult{Name: "S3 credentials", Source: sourceDefault}
	for _, pair := range s3Variables {
		if c.getenv(pair[0]) != "" && c.getenv(pair[1]) != "" {
			found.Value, found.Source = hidden, pair[0]
			break
		}
	}
	result.Settings = append(result.Settings, found)
	return result
}

// withoutPassword hides the password in a URL, where none belongs.
func withoutPassword(value string) string {
	if u, err := url.Parse(value); err == nil && u.User != nil {
		return u.Redacted()
	}
	return value
}

func (r configResult) writeText(w io.Writer) {
	rows := [][]string{{"SETTING", "VALUE", "SOURCE"}}
	for _, s := range r.Settings {
		source := s.Source
		if s.Line > 0 {
			source = fmt.Sprintf("file, line %d", s.Line)
		}
		rows = append(rows, []string{s.Name, orDash(printable(s.Value)), source})
	}
	table(w, rows)
}
