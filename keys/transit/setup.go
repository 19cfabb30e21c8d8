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

// SetupOptions set what [Setup] makes. Most callers can leave them at zero.
type SetupOptions struct {
	// Mount and Prefix are as in [Options], with the same defaults.
	Mount  string
	Prefix string

	// Store is the store whose recordings the keyring serves: see vault.StoreID. Until Setup has recorded it, writers,
	// retirers and trimmers get [keys.ErrForeignStore]. It cannot be changed later. "" leaves the record as it is.
	Store keys.StoreID

	// MaxGrantTTL is the longest TTL of any grant, from [keys.MinGrantTTL] to [keys.MaxGrantTTL] in
	// whole seconds. Grants that ask for more are shortened to it. Default 4 h.
	MaxGrantTTL time.Duration

	// ExpectedPatients is how many envelope keys Vault keeps in its memory at most, about 8 KiB each.
	// 0 leaves Vault's setting as it is; by default Vault keeps every key that it has used. The
	// node that receives the request applies a new number at once, and other nodes of a cluster when
	// they next load the mount. Vault with disable_cache has no such setting.
	ExpectedPatients int

	// MaxEntities is the largest number of entities in Vault's identity store with which Setup looks for
	// foreign aliases. For that, Vault lists all aliases in one answer: about 320 bytes each, more in its
	// memory, and 640 in the audit log. Default 100,000.
	MaxEntities int

	// DryRun makes Setup read everything and write nothing. The Report shows what Setup would change.
	// A dry run does not detect what Vault would refuse, such as an engine at a path above another's,
	// or a write that the token may not make. SetupCalls ignores DryRun.
	DryRun bool
}

// Report is what [Setup] changed in Vault, or would change.
type Report struct {
	Changes []Change

	// Foreign has at most 100 aliases that are no patient's, or whose patient's entity has an alias at another
	// auth method. Of the other patients' entities Setup reads 100, and reports those that have rights. Issue refuses grants for the others that have.
	Foreign     []ForeignAlias
	MoreForeign int // foreign aliases that are not in Foreign

	// UncheckedEntities is how many entities Vault has, if they are more than MaxEntities. Setup has then not
	// looked for foreign aliases.
	UncheckedEntities int
}

// Change is one setting that was made or corrected, or would be.
type Change struct {
	What   string // such as "policy recvault-writer"
	Before string // "absent" if it did not exist
	After  string
}

// String returns one line per change and foreign alias.
func (r Report) String() string {
	var lines []string
	for _, change := range r.Changes {
		lines = append(lines, change.String())
	}
	if len(lines) == 0 {
		lines = append(lines, "nothing to change")
	}
	for _, alias := range r.Foreign {
		lines = append(lines, alias.String())
	}
	if r.MoreForeign > 0 {
		lines = append(lines, fmt.Sprintf("and %d foreign entity aliases more", r.MoreForeign))
	}
	if r.UncheckedEntities > 0 {
		lines = append(lines, fmt.Sprintf("entity aliases not checked: Vault has %d entities", r.UncheckedEntities))
	}
	return strings.Join(lines, "\n")
}

// String returns the change as "what: before -> after".
func (c Change) String() string { return c.What + ": " + c.Before + " -> " + c.After }

// Setup prepares Vault for a [Keyring]. It makes or corrects:
//   - the Transit engine at its own path, with bindings in clear in the audit log
//   - the engine's setting that encrypting does not create keys
//   - the key that makes pseudonyms
//   - the policies of the roles
//   - the token roles of grants
//   - the record of the one store that the keyring serves, in the description of the mount
//
// The client's token needs the policy of the role "setup" (see [Policies]), or more.
//
// Setup reads every setting first and writes only what differs. It can be run again at any time: after
// an interruption, after an upgrade, or to correct what was changed by hand. The Report shows what was
// changed, also if there is an error. Setup never replaces or deletes a key, and unmounts nothing.
//
// Setup does not enable an audit device; without one, Vault logs nothing. It creates no tokens:
// services get theirs, with their role's policy, through the auth methods of the deployment. The
// policies do not let a token renew itself; Vault's policy "default" does.
//
// At the end Setup looks for entity aliases that a stolen granter's token could use ([ForeignAlias]), and
// reports them. It removes none, because Vault's identity store does not belong to recvault.
//
// Errors: [keys.ErrDenied], [keys.ErrUnavailable], [ErrNotSetUp] if Vault has something else at the
// mount or at the pseudonym key, [keys.ErrForeignStore] if the keyring serves another store than Store.
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

// setup is one run of Setup or SetupCalls.
type setup struct {
	vault   settings
	own     credential
	where   Options // the mount and the prefix
	options SetupOptions
	report  Report

	tokenAccessor string // of the token mount
}

// settings reads and writes Vault's settings. For SetupCalls it is a freshVault, for a dry run a
// dryVault, and otherwise a requester.
type settings interface {
	read(ctx context.Context, by credential, path string) (*api.Secret, error)
	write(ctx context.Context, by credential, path string, data map[string]any) (*api.Secret, error)
	list(ctx context.Context, by credential, path string, each func(details []byte) error) error
}

// minCacheSize is the smallest cache size that Transit accepts.
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
	s := &setup{vault: vault, own: credential{token: client.Token}, where: where, options: options}
	if options.DryRun {
		s.vault = &dryVault{vault: vault, mount: where.Mount}
	}
	return s, nil
}

// withDefaults returns the options, and those of a keyring with the same mount and prefix.
func (o SetupOptions) withDefaults() (SetupOptions, Options, error) {
	where, err := Options{Mount: o.Mount, Prefix: o.Prefix}.withDefaults()
	if err != nil {
		return SetupOptions{}, Options{}, err
	}
	if o.MaxGrantTTL == 0 {
		o.MaxGrantTTL = 4 * time.Hour
	}
	if o.MaxEntities == 0 {
		o.MaxEntities = 100_000
	}
	switch {
	case o.MaxGrantTTL < keys.MinGrantTTL || o.MaxGrantTTL > keys.MaxGrantTTL ||
		o.MaxGrantTTL%time.Second != 0:
		return SetupOptions{}, Options{}, fmt.Errorf("transit: MaxGrantTTL %v is not in whole seconds between %v and %v",
			o.MaxGrantTTL, keys.MinGrantTTL, keys.MaxGrantTTL)
	case o.ExpectedPatients < 0 || o.MaxEntities < 0:
		return SetupOptions{}, Options{}, errors.New("transit: a negative number of expected patients or entities")
	}
	if o.Store != "" {
		if _, err := keys.ParseStoreID(string(o.Store)); err != nil {
			return SetupOptions{}, Options{}, fmt.Errorf("transit: %w", err)
		}
	}
	return o, where, nil
}

func (s *setup) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.mount, s.store, s.auditTuning, s.upsert, s.cache, s.pseudonymKey, s.policies, s.tokenRoles, s.aliases,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// auditKey is the request parameter that the audit log shows in clear: the binding.
const auditKey = "context"

// secretParameters are request parameters that hold a key, or the identifier of a patient.
var secretParameters = []string{"plaintext", "input", "batch_input"}

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
		"description": mountDescription,
	})
}

const mountDescription = "recvault: envelope keys"

// store records the store. It comes first among the settings, so nothing is changed at the mount of another store.
func (s *setup) store(ctx context.Context) error {
	if s.options.Store == "" {
		return nil
	}
	path := tunePath(s.where.Mount)
	mount := struct {
		Description string `json:"description"`
	}{mountDescription}
	if err := s.read(ctx, path, &mount); err != nil {
		return err
	}
	recorded := RecordedStore(mount.Description)
	if recorded != "" {
		return s.options.Store.Served(recorded)
	}
	return s.change(ctx, "store that the keyring serves", "none", string(s.options.Store), path,
		map[string]any{"description": withStore(mount.Description, s.options.Store)})
}

func (s *setup) auditTuning(ctx context.Context) error {
	path := tunePath(s.where.Mount)
	var tuning struct {
		Shown        []string `json:"audit_non_hmac_request_keys"`
		ShownAnswers []string `json:"audit_non_hmac_response_keys"`
	}
	if err := s.read(ctx, path, &tuning); err != nil {
		return err
	}
	// Neither Setup nor a dry run calls a mount sound that writes keys or patients' identifiers to the log in clear.
	for _, key := range tuning.Shown {
		if slices.Contains(secretParameters, key) {
			return fmt.Errorf("%w: the mount's audit_non_hmac_request_keys has %q, so the audit log has secrets in clear: remove it", ErrNotSetUp, key)
		}
	}
	if len(tuning.ShownAnswers) > 0 {
		return fmt.Errorf("%w: the mount's audit_non_hmac_response_keys is not empty, so the audit log may have secrets in clear: empty it", ErrNotSetUp)
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

// authPath lists the auth methods, including that of tokens.
const authPath = "sys/auth"

// tokenMount reads the accessor of the token mount.
func (s *setup) tokenMount(ctx context.Context) error {
	var mounts map[string]struct {
		Accessor string `json:"accessor"`
	}
	err := s.read(ctx, authPath, &mounts)
	s.tokenAccessor = mounts["token/"].Accessor
	return err
}

func (s *setup) policies(ctx context.Context) error {
	if err := s.tokenMount(ctx); err != nil {
		return err
	}
	policies, err := Policies(s.where, s.tokenAccessor)
	if err != nil {
		return err
	}
	for _, policy := range policies {
		if policy.Role == "setup" {
			continue // a token that may write its own policy could widen it
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

func (s *setup) tokenRoles(ctx context.Context) error {
	for _, kind := range []string{"grant", "describe"} {
		if err := s.tokenRole(ctx, s.where.Prefix+"-"+kind); err != nil {
			return err
		}
	}
	return nil
}

func (s *setup) tokenRole(ctx context.Context, name string) error {
	path := "auth/token/roles/" + name
	want := map[string]any{
		"allowed_policies":        []string{name},
		"allowed_policies_glob":   []string{},
		"allowed_entity_aliases":  []string{"*" + kekSuffix}, // never a wildcard in a policy's path, which it ends
		"orphan":                  true,                      // a grant does not end with the granter's token
		"renewable":               false,
		"token_explicit_max_ttl":  int(s.options.MaxGrantTTL.Seconds()),
		"token_no_default_policy": true,
		"token_period":            0,
		"token_type":              "service", // batch tokens cannot be revoked
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

// inJSON returns a value as JSON, so that a value read from Vault can be compared with one to write.
func inJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic("transit: internal error: a setting that cannot be encoded: " + err.Error())
	}
	return string(text)
}

func (s *setup) read(ctx context.Context, path string, into any) error {
	secret, err := s.vault.read(ctx, s.own, path)
	if err == nil {
		err = decode(secret, into)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// change writes a setting and reports the change, unless before and after are the same.
func (s *setup) change(ctx context.Context, what, before, after, path string, data map[string]any) error {
	if before == after {
		return nil
	}
	if _, err := s.vault.write(ctx, s.own, path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	s.report.Changes = append(s.report.Changes, Change{what, before, after})
	return nil
}
