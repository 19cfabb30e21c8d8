package transit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/recvault/recvault/keys"
)

// SetupOptions say what [Setup] makes. The zero SetupOptions are good for most.
type SetupOptions struct {
	// Mount and Prefix are those of [Options], with the same defaults.
	Mount  string
	Prefix string

	// MaxGrantTTL is the longest that a grant can last, whatever is asked for, from
	// [keys.MinGrantTTL] to [keys.MaxGrantTTL] in whole seconds. Default 4 h.
	MaxGrantTTL time.Duration

	// ExpectedPatients bounds the number of envelope keys that Vault keeps in its memory, about 8 KiB
	// each. 0 leaves the bound alone; Vault's own default is none, and it forgets no key it has used.
	// The node that is asked applies a new bound at once, other nodes of a cluster when they next load
	// the mount. Vault with disable_cache has no such setting.
	ExpectedPatients int

	// DryRun has Setup read everything and write nothing: the Report tells what it would change. What
	// Vault would refuse, such as an engine at a path above another's or a write that the token may not
	// make, only Setup finds out. SetupCalls does not look at it.
	DryRun bool
}

// Report is what [Setup] changed in Vault, or would have changed.
type Report struct {
	Changes []Change
}

// Change is one thing that was made or mended, or would have been.
type Change struct {
	What   string // such as "policy recvault-writer"
	Before string // "absent" if there was none
	After  string
}

// String returns one line per change.
func (r Report) String() string {
	if len(r.Changes) == 0 {
		return "nothing to change"
	}
	lines := make([]string, len(r.Changes))
	for i, change := range r.Changes {
		lines[i] = change.String()
	}
	return strings.Join(lines, "\n")
}

// String returns the change as "what: before -> after".
func (c Change) String() string { return c.What + ": " + c.Before + " -> " + c.After }

// Setup prepares Vault for a [Keyring]: the Transit engine at its own path, tuned so that the audit
// log shows bindings in clear; no creation of keys by encrypting; the key that makes pseudonyms; the
// policies; the token role of grants. The client's token must hold the policy of the role "setup"
// (see [Policies]), or more.
//
// It reads first and writes only what differs, so that it can be run again at any time: after an
// interruption, after an upgrade, or to mend what was changed by hand. The Report tells what it did,
// also beside an error. It never replaces or deletes a key, nor unmounts anything.
//
// It does not enable an audit device, without which nothing is logged, and hands out no tokens: how
// each service gets one with its role's policy is up to the deployment's auth methods. The policies
// do not let a token renew itself; Vault's policy "default" does.
//
// Errors: [keys.ErrDenied], [keys.ErrUnavailable], [ErrNotSetUp] where something else is in the way.
func Setup(ctx context.Context, client *api.Client, options SetupOptions) (Report, error) {
	s, err := newSetup(client, options)
	if err != nil {
		return Report{}, err
	}
	if err := s.run(ctx); err != nil {
		return s.report, fmt.Errorf("transit: set up: %w", err)
	}
	return s.report, nil
}

// setup is one run of Setup, or of SetupCalls, which has no Vault.
type setup struct {
	vault   settings
	token   string
	where   Options // the mount and the prefix
	options SetupOptions
	report  Report
}

// settings are what Setup reads and writes: Vault's.
type settings interface {
	read(ctx context.Context, token, path string) (*api.Secret, error)
	write(ctx context.Context, token, path string, data map[string]any) (*api.Secret, error)
}

// minCacheSize is the least that Transit accepts as a bound.
const minCacheSize = 10

func newSetup(client *api.Client, options SetupOptions) (*setup, error) {
	if client == nil {
		return nil, errors.New("transit: no client")
	}
	options, where, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	vault, err := newRequester(client, where.Timeout, where.MaxRetries)
	if err != nil {
		return nil, err
	}
	s := &setup{vault: vault, token: client.Token(), where: where, options: options}
	if options.DryRun {
		s.vault = &rehearsal{vault: vault, mount: where.Mount}
	}
	return s, nil
}

// withDefaults returns the options of the keyring, too.
func (o SetupOptions) withDefaults() (SetupOptions, Options, error) {
	where, err := Options{Mount: o.Mount, Prefix: o.Prefix}.withDefaults()
	if err != nil {
		return SetupOptions{}, Options{}, err
	}
	if o.MaxGrantTTL == 0 {
		o.MaxGrantTTL = 4 * time.Hour
	}
	switch {
	case o.MaxGrantTTL < keys.MinGrantTTL || o.MaxGrantTTL > keys.MaxGrantTTL ||
		o.MaxGrantTTL%time.Second != 0:
		return SetupOptions{}, Options{}, fmt.Errorf("transit: MaxGrantTTL %v is not in whole seconds between %v and %v",
			o.MaxGrantTTL, keys.MinGrantTTL, keys.MaxGrantTTL)
	case o.ExpectedPatients < 0:
		return SetupOptions{}, Options{}, errors.New("transit: a negative number of expected patients")
	}
	return o, where, nil
}

func (s *setup) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.mount, s.auditTuning, s.upsert, s.cache, s.pseudonymKey, s.policies, s.tokenRole,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// auditKey is the request parameter that the audit log shows in clear: the binding.
const auditKey = "context"

const absent = "absent"

func (s *setup) mount(ctx context.Context) error {
	path := "sys/mounts/" + s.where.Mount
	engine := struct {
		Type string `json:"type"`
	}{absent}
	err := s.read(ctx, path, &engine)
	if err != nil && !(badRequest(err) && strings.Contains(reason(err), "No secret engine mount")) {
		return err
	}
	if engine.Type != "transit" && engine.Type != absent {
		return fmt.Errorf("%w: the engine at %s is %s, not transit", ErrNotSetUp, s.where.Mount, engine.Type)
	}
	return s.change(ctx, "engine at "+s.where.Mount, engine.Type, "transit", path, map[string]any{
		"type":        "transit",
		"description": "recvault: envelope keys",
	})
}

func (s *setup) auditTuning(ctx context.Context) error {
	path := "sys/mounts/" + s.where.Mount + "/tune"
	var tuning struct {
		Shown []string `json:"audit_non_hmac_request_keys"`
	}
	if err := s.read(ctx, path, &tuning); err != nil {
		return err
	}
	shown := tuning.Shown
	if !slices.Contains(shown, auditKey) {
		shown = append(slices.Clone(shown), auditKey)
	}
	return s.change(ctx, "request parameters in clear in the audit log", fmt.Sprint(tuning.Shown), fmt.Sprint(shown), path,
		map[string]any{"audit_non_hmac_request_keys": shown})
}

func (s *setup) upsert(ctx context.Context) error {
	path := s.where.Mount + "/config/keys"
	var config struct {
		Disabled bool `json:"disable_upsert"`
	}
	if err := s.read(ctx, path, &config); err != nil {
		return err
	}
	return s.change(ctx, "disable_upsert", fmt.Sprint(config.Disabled), "true", path, map[string]any{"disable_upsert": true})
}

func (s *setup) cache(ctx context.Context) error {
	if s.options.ExpectedPatients == 0 {
		return nil
	}
	path := s.where.Mount + "/cache-config"
	var config struct {
		Size int `json:"size"`
	}
	if err := s.read(ctx, path, &config); err != nil {
		return err
	}
	size := max(s.options.ExpectedPatients, minCacheSize)
	return s.change(ctx, "keys in Vault's memory", fmt.Sprint(config.Size), fmt.Sprint(size), path, map[string]any{"size": size})
}

func (s *setup) pseudonymKey(ctx context.Context) error {
	path := s.where.Mount + "/keys/" + pseudonymKey
	key := struct {
		Type       string `json:"type"`
		Exportable bool   `json:"exportable"`
		Backup     bool   `json:"allow_plaintext_backup"`
	}{Type: absent}
	if err := s.read(ctx, path, &key); err != nil && !missing(err) {
		return err
	}
	if key.Type != "hmac" && key.Type != absent {
		return fmt.Errorf("%w: the key %q is of type %s, not hmac", ErrNotSetUp, pseudonymKey, key.Type)
	}
	if key.Exportable || key.Backup {
		return fmt.Errorf("%w: the key %q can be taken out of Vault", ErrNotSetUp, pseudonymKey)
	}
	return s.change(ctx, "key "+pseudonymKey, key.Type, "hmac", path, map[string]any{"type": "hmac", "key_size": hmacKeySize})
}

// authPath lists the auth methods, that of tokens among them.
const authPath = "sys/auth"

func (s *setup) policies(ctx context.Context) error {
	var mounts map[string]struct {
		Accessor string `json:"accessor"`
	}
	if err := s.read(ctx, authPath, &mounts); err != nil {
		return err
	}
	policies, err := Policies(s.where, mounts["token/"].Accessor)
	if err != nil {
		return err
	}
	for _, policy := range policies {
		if policy.Role == "setup" {
			continue // whoever holds it could widen it
		}
		path := "sys/policies/acl/" + policy.Name
		var installed struct {
			Text string `json:"policy"`
		}
		before := "another text"
		switch err := s.read(ctx, path, &installed); {
		case missing(err):
			before = absent
		case err != nil:
			return err
		case installed.Text == policy.HCL:
			continue
		}
		if err := s.change(ctx, "policy "+policy.Name, before, "as it should be", path, map[string]any{"policy": policy.HCL}); err != nil {
			return err
		}
	}
	return nil
}

func (s *setup) tokenRole(ctx context.Context) error {
	name := s.where.Prefix + "-grant"
	path := "auth/token/roles/" + name
	want := map[string]any{
		"allowed_policies":        []string{name},
		"allowed_policies_glob":   []string{},
		"allowed_entity_aliases":  []string{"*"}, // KeyIDs; that no alias is a wildcard is seen to by the policy
		"orphan":                  true,          // a grant outlives the granter's token
		"renewable":               false,
		"token_explicit_max_ttl":  int(s.options.MaxGrantTTL.Seconds()),
		"token_no_default_policy": true,
		"token_period":            0,
		"token_type":              "service", // the other type, batch, cannot be revoked
	}
	var have map[string]any
	err := s.read(ctx, path, &have)
	if missing(err) {
		return s.change(ctx, "token role "+name, absent, "as it should be", path, want)
	}
	if err != nil {
		return err
	}
	var before, after []string
	for _, field := range slices.Sorted(maps.Keys(want)) {
		is, shouldBe := inJSON(have[field]), inJSON(want[field])
		if is != shouldBe {
			before, after = append(before, field+"="+is), append(after, field+"="+shouldBe)
		}
	}
	return s.change(ctx, "token role "+name, strings.Join(before, " "), strings.Join(after, " "), path, want)
}

// inJSON makes values comparable that were read with those that would be written.
func inJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic("transit: internal error: a setting that cannot be encoded: " + err.Error())
	}
	return string(text)
}

func (s *setup) read(ctx context.Context, path string, into any) error {
	secret, err := s.vault.read(ctx, s.token, path)
	if err == nil {
		err = decode(secret, into)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// change writes a setting unless it is as it should be, and reports it.
func (s *setup) change(ctx context.Context, what, before, after, path string, data map[string]any) error {
	if before == after {
		return nil
	}
	if _, err := s.vault.write(ctx, s.token, path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	s.report.Changes = append(s.report.Changes, Change{what, before, after})
	return nil
}
